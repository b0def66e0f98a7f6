"""Tests reading and writing .npz files of weights, and the command line that converts weights."""

import pathlib
import subprocess
import sys
import zipfile

import flax.traverse_util
import jax
import numpy as np
import pytest

from mmgc_jax.models import VGG16
from mmgc_jax.pretrained import download, vgg16
from mmgc_jax.runtime.errors import InputError

NETWORK = VGG16(widths=(2, 3, 4, 5, 6))
KERNEL = "block1_conv1/kernel"


def arrays(network=NETWORK):
    """Returns random weights of a narrow VGG16, by their names in a file."""
    rng = np.random.default_rng(0)
    image = np.zeros((1, 224, 224, 3), np.uint8)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    return {
        name: rng.normal(size=like.shape).astype(np.float32) ** 2
        for name, like in flax.traverse_util.flatten_dict(shapes, sep="/").items()
    }


def refusal(file, network=NETWORK):
    with pytest.raises(InputError) as caught:
        vgg16.load(file, network)
    assert str(file) in str(caught.value)
    return str(caught.value)


def assert_equal(params, stored):
    params = flax.traverse_util.flatten_dict(params, sep="/")
    assert params.keys() == stored.keys()
    for name, array in params.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, stored[name])


@pytest.mark.parametrize("top", [False, True])
def test_saved_parameters_are_loaded_with_their_preprocessing(tmp_path, top):
    network = NETWORK.clone(num_classes=8, top_widths=(10, 9)) if top else NETWORK
    stored = arrays(network)
    vgg16.save(tmp_path / "weights", flax.traverse_util.unflatten_dict(stored, sep="/"))
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert_equal(vgg16.load(tmp_path / "weights", network), stored)


def test_a_file_without_preprocessing_is_read_as_bgr_of_keras(tmp_path):
    stored = arrays()
    del stored["preprocessing/mean"], stored["preprocessing/std"]
    np.savez(tmp_path / "weights.npz", **stored)
    stored["preprocessing/mean"] = np.float32([123.68, 116.779, 103.939])
    stored["preprocessing/std"] = np.ones(3, np.float32)
    stored[KERNEL] = stored[KERNEL][:, :, ::-1]
    assert_equal(vgg16.load(tmp_path / "weights.npz", NETWORK), stored)


@pytest.mark.parametrize("part", ["mean", "std"])
def test_preprocessing_with_mean_or_std_only_is_refused(tmp_path, part):
    stored = arrays()
    del stored[f"preprocessing/{part}"]
    np.savez(tmp_path / "weights.npz", **stored)
    with pytest.raises(InputError, match=f"lacks preprocessing/{part}: it has not all"):
        vgg16.load(tmp_path / "weights.npz", NETWORK)


def test_grey_sums_the_first_kernel_over_its_channels(tmp_path):
    stored = arrays()
    np.savez(tmp_path / "weights.npz", **stored)
    params = vgg16.load(tmp_path / "weights.npz", NETWORK.clone(grey=True))
    red, green, blue = np.moveaxis(stored[KERNEL], 2, 0)
    kernel = params["block1_conv1"]["kernel"]
    np.testing.assert_allclose(kernel[:, :, 0], red + green + blue, rtol=1e-6, atol=1e-6)
    assert_equal(params, stored | {KERNEL: kernel})


def test_dense_layers_that_the_network_lacks_are_ignored(tmp_path):
    stored = arrays(NETWORK.clone(num_classes=8, top_widths=(10, 9)))
    np.savez(tmp_path / "weights.npz", **stored)
    blocks = {name: stored[name] for name in stored if name.startswith(("block", "pre_", "prepro"))}
    assert_equal(vgg16.load(tmp_path / "weights.npz", NETWORK), blocks)


def test_missing_dense_layers_are_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", **arrays())
    message = refusal(tmp_path / "weights.npz", NETWORK.clone(num_classes=8))
    assert "lacks fc1/bias: it has VGG16 without its dense layers" in message


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "nowhere.npz")
    assert "no such file" in message and "python -m mmgc_jax.pretrained.vgg16" in message


def test_folder_in_place_of_a_file(tmp_path):
    refusal(tmp_path)


@pytest.mark.parametrize("name", ["block3_conv2/bias", "preprocessing/std"])
def test_missing_array(tmp_path, name):
    stored = arrays()
    del stored[name]
    np.savez(tmp_path / "weights.npz", **stored)
    assert f"lacks {name}" in refusal(tmp_path / "weights.npz")


def test_wrong_shape(tmp_path):
    # PyTorch's order: [out, in, height, width].
    stored = arrays()
    stored["block1_conv2/kernel"] = stored["block1_conv2/kernel"].transpose(3, 2, 0, 1)
    np.savez(tmp_path / "weights.npz", **stored)
    message = refusal(tmp_path / "weights.npz")
    assert "block1_conv2/kernel" in message
    assert "(2, 2, 3, 3)" in message and "(3, 3, 2, 2)" in message


@pytest.mark.parametrize(
    "harm",
    [
        {"block5_conv3/kernel": np.full((3, 3, 6, 6), np.nan)},
        {"block5_conv3/kernel": np.full((3, 3, 6, 6), np.inf)},
        {"block5_conv3/kernel": np.full((3, 3, 6, 6), 1e300)},  # overflows float32
        {"block1_conv1/bias": np.array(["a", "b"])},
        {"block1_conv1/bias": np.array([1, 2])},
        {"preprocessing/std": np.float32([1, 0, 1])},
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_invalid_values_are_refused(tmp_path, harm):
    np.savez(tmp_path / "weights.npz", **arrays() | harm)
    assert next(iter(harm)) in refusal(tmp_path / "weights.npz")


@pytest.mark.parametrize("content", ["", "layer,value\nblock1_conv1,0.5\n"])
def test_text_file(tmp_path, content):
    (tmp_path / "weights.npz").write_text(content)
    assert "not in a supported format" in refusal(tmp_path / "weights.npz")


def test_npy_file(tmp_path):
    np.save(tmp_path / "weights.npy", arrays()[KERNEL])
    refusal(tmp_path / "weights.npy")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: pathlib.Path):
        self.file = file

    def __reduce__(self):
        return pathlib.Path.touch, (self.file,)


def test_pickled_arrays_are_refused_and_not_run(tmp_path):
    trap = np.array([Payload(tmp_path / "created"), None], object)
    np.savez(tmp_path / "weights.npz", **arrays() | {"block1_conv1/bias": trap})
    refusal(tmp_path / "weights.npz")
    assert not (tmp_path / "created").exists()

    with np.load(tmp_path / "weights.npz", allow_pickle=True) as trusting:
        _ = trusting["block1_conv1/bias"]
    assert (tmp_path / "created").exists()  # the payload works


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("harm", ["cut short", "overwritten"])
def test_damaged_file(tmp_path, save, harm):
    file = tmp_path / "weights.npz"
    save(file, **arrays())
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("block1_conv2/kernel.npy").header_offset + 60
    content = bytearray(file.read_bytes())
    if harm == "cut short":
        content = content[: len(content) // 2]
    else:
        content[place : place + 200] = b"\xff" * 200
    file.write_bytes(content)
    refusal(file)


@pytest.mark.parametrize("source", ["keras", "torchvision"])
@pytest.mark.parametrize("top", [False, True])
def test_a_name_is_fetched_from_its_publisher(tmp_path, monkeypatch, source, top):
    fetched = []

    def fetch(published):
        fetched.append(published)
        raise InputError("no network")

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(InputError, match="no network"):
        vgg16.convert(source, tmp_path / "out.npz", top)
    # From keras/src/applications/vgg16.py and the page of timm/vgg16.tv_in1k's file.
    hashes = {
        ("keras", False): "6d6bbae143d832006294945121d1f1fc",
        ("keras", True): "64373286793e3c8b2b4e3219cbf3544b",
    }
    torchvision = "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"
    assert [published.digest for published in fetched] == [hashes.get((source, top), torchvision)]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mmgc_jax.pretrained.vgg16", *arguments],
        capture_output=True,
        text=True,
    )


def test_command_converts_a_file_and_prints_a_summary(tmp_path):
    stored = arrays(VGG16())
    np.savez(tmp_path / "weights.npz", **stored)
    run = command(f"--source={tmp_path / 'weights.npz'}", f"--output={tmp_path / 'out' / 'o.npz'}")
    assert run.returncode == 0, run.stderr
    assert run.stdout == (
        f"{tmp_path / 'out' / 'o.npz'}: VGG16 without top, 14,714,688 parameters, "
        f"from {tmp_path / 'weights.npz'}\n"
    )
    assert_equal(vgg16.load(tmp_path / "out" / "o.npz", VGG16()), stored)


def test_command_ends_without_traceback(tmp_path):
    (tmp_path / "text").write_text("no weights")
    run = command(f"--source={tmp_path / 'text'}", f"--output={tmp_path / 'o.npz'}")
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: {tmp_path / 'text'} is not in a supported format")
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "o.npz").exists()


def test_command_has_a_help_text():
    run = command("--help")
    for words in ("--source=keras --output=", "XDG_CACHE_HOME", "torchvision", "--[no]top"):
        assert words in run.stdout
