"""Weights from a file: taken as they are, or refused with the file's name."""

import pathlib
import zipfile

import jax
import numpy as np
import pytest

from mmgc_jax.errors import InputError
from mmgc_jax.models import VGG16
from mmgc_jax.pretrained import vgg16

WIDTHS = (2, 3, 4, 5, 6)


def arrays():
    """Random weights of a narrow VGG16 as they lie in a file."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        VGG16(widths=WIDTHS).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8)
    )["params"]
    return {
        f"{layer}/{part}": rng.normal(size=like.shape).astype(np.float32)
        for layer, parts in shapes.items()
        for part, like in parts.items()
    }


def refusal(file):
    with pytest.raises(InputError) as caught:
        vgg16.load(file, widths=WIDTHS)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_the_parameters_are_those_of_the_file(tmp_path):
    stored = arrays()
    np.savez(tmp_path / "weights.npz", **stored)
    params = vgg16.load(tmp_path / "weights.npz", widths=WIDTHS)
    assert {f"{layer}/{part}" for layer in params for part in params[layer]} == set(stored)
    for name, array in stored.items():
        layer, part = name.split("/")
        np.testing.assert_array_equal(params[layer][part], array)
    poster = np.zeros((1, 32, 32, 3), np.uint8)
    pooled = jax.eval_shape(VGG16(widths=WIDTHS).apply, {"params": params}, poster)
    assert pooled["block5_pool"].shape == (1, 1, 1, 6)


def test_grey_sums_the_first_kernel_over_its_channels(tmp_path):
    stored = arrays()
    np.savez(tmp_path / "weights.npz", **stored)
    colour = vgg16.load(tmp_path / "weights.npz", widths=WIDTHS)
    grey = vgg16.load(tmp_path / "weights.npz", grey=True, widths=WIDTHS)
    red, green, blue = np.moveaxis(stored["block1_conv1/kernel"], 2, 0)
    np.testing.assert_allclose(
        grey["block1_conv1"]["kernel"][:, :, 0], red + green + blue, rtol=1e-6, atol=1e-6
    )
    del colour["block1_conv1"]["kernel"], grey["block1_conv1"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, colour, grey)


def test_missing_file(tmp_path):
    message = refusal(tmp_path / "nowhere.npz")
    assert "config.poster.weights" in message and "no such file" in message


def test_folder_in_place_of_a_file(tmp_path):
    refusal(tmp_path)


def test_missing_array(tmp_path):
    stored = arrays()
    del stored["block3_conv2/bias"]
    np.savez(tmp_path / "weights.npz", **stored)
    assert "block3_conv2/bias" in refusal(tmp_path / "weights.npz")


def test_wrong_shape(tmp_path):
    # PyTorch's order: [out, in, height, width].
    stored = arrays()
    stored["block1_conv2/kernel"] = stored["block1_conv2/kernel"].transpose(3, 2, 0, 1)
    np.savez(tmp_path / "weights.npz", **stored)
    message = refusal(tmp_path / "weights.npz")
    assert "block1_conv2/kernel" in message
    assert "(2, 2, 3, 3)" in message and "(3, 3, 2, 2)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite(tmp_path, value):
    stored = arrays()
    stored["block5_conv3/kernel"][1, 1, 0, 0] = value
    np.savez(tmp_path / "weights.npz", **stored)
    assert "block5_conv3/kernel" in refusal(tmp_path / "weights.npz")


@pytest.mark.parametrize("content", ["", "layer,value\nblock1_conv1,0.5\n"])
def test_text_file(tmp_path, content):
    (tmp_path / "weights.npz").write_text(content)
    refusal(tmp_path / "weights.npz")


def test_one_array_alone(tmp_path):
    np.save(tmp_path / "weights.npy", arrays()["block1_conv1/kernel"])
    refusal(tmp_path / "weights.npy")


def test_array_of_words(tmp_path):
    np.savez(tmp_path / "weights.npz", **arrays() | {"block1_conv1/bias": np.array(["a", "b"])})
    assert "block1_conv1/bias" in refusal(tmp_path / "weights.npz")


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, file: pathlib.Path):
        self.file = file

    def __reduce__(self):
        return pathlib.Path.touch, (self.file,)


def test_pickled_arrays_are_refused_and_not_run(tmp_path):
    trap = np.array([Payload(tmp_path / "trodden"), None], object)
    np.savez(tmp_path / "weights.npz", **arrays() | {"block1_conv1/bias": trap})
    refusal(tmp_path / "weights.npz")
    assert not (tmp_path / "trodden").exists()

    with np.load(tmp_path / "weights.npz", allow_pickle=True) as trusting:
        _ = trusting["block1_conv1/bias"]
    assert (tmp_path / "trodden").exists()  # the trap was a real one


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
