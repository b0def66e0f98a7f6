"""Tests each format of weights against numpy networks in the layout of that format."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import h5py
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mmgc_jax.models import VGG16
from mmgc_jax.pretrained import vgg16
from mmgc_jax.runtime.errors import InputError

NETWORK = VGG16(widths=(3, 4, 5, 6, 7), num_classes=8, top_widths=(11, 9))
CONVOLUTIONS = (3, 3), (4, 4), (5, 5, 5), (6, 6, 6), (7, 7, 7)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
KERAS_LAYERS = [
    f"block{b}_conv{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)
]
KERAS_TOP = ["fc1", "fc2", "predictions"]
# Indices of the convolutions in torch.nn.Sequential vgg16().features, in timm and torchvision.
TORCHVISION_LAYERS = [f"features.{n}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]
TORCHVISION_TOP = ["classifier.0", "classifier.3", "classifier.6"]
TIMM_TOP = ["pre_logits.fc1", "pre_logits.fc2", "head.fc"]


def random_layers():
    """Returns random weights in PyTorch's layout: [out, in, height, width] or [out, in], biases."""
    rng = np.random.default_rng(1)
    shapes, channels = [], 3
    for width in (width for block in CONVOLUTIONS for width in block):
        shapes.append((width, channels, 3, 3))
        channels = width
    shapes += [(11, channels * 49), (9, 11), (8, 9)]
    return [
        (
            rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32),
            rng.normal(size=shape[0]).astype(np.float32),
        )
        for shape in shapes
    ]


def channels_first_logits(layers, x):
    """Computes VGG16 in PyTorch's layout, from <float64>[batch, 3, height, width] to [batch, 8]."""
    layers = iter(layers)
    for block in CONVOLUTIONS:
        for _ in block:
            kernel, bias = next(layers)
            padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
            x = np.einsum("bchwyx,ocyx->bohw", windows, np.float64(kernel), optimize=True)
            x = np.maximum(x + bias[:, None, None], 0)
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    x = x.reshape(len(x), -1)
    (kernel1, bias1), (kernel2, bias2), (kernel3, bias3) = layers
    x = np.maximum(x @ kernel1.T + bias1, 0)
    x = np.maximum(x @ kernel2.T + bias2, 0)
    return x @ kernel3.T + bias3


def assert_logits(file, expected, bound=1e-5):
    @jax.jit
    def logits(params):
        with jax.default_matmul_precision("highest"):
            return NETWORK.apply({"params": params}, IMAGES)["logits"]

    error = logits(vgg16.load(file, NETWORK)) - expected
    assert np.linalg.norm(error) < bound * np.linalg.norm(expected)


def refusal(file, network=NETWORK):
    with pytest.raises(InputError) as caught:
        vgg16.load(file, network)
    assert str(file) in str(caught.value)
    return str(caught.value)


# Safetensors with PyTorch's names.


def torch_arrays(top=TORCHVISION_TOP):
    arrays = {}
    for name, (kernel, bias) in zip(TORCHVISION_LAYERS + top, random_layers()):
        if name == "pre_logits.fc1":
            kernel = kernel.reshape(11, 7, 7, 7)
        if name == "pre_logits.fc2":
            kernel = kernel.reshape(9, 11, 1, 1)
        arrays |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    return arrays


def torchvision_logits(layers):
    # torchvision's transforms: scale to 0 to 1, then standardise.
    x = IMAGES.transpose(0, 3, 1, 2) / 255
    x = x - np.array([0.485, 0.456, 0.406])[:, None, None]
    return channels_first_logits(layers, x / np.array([0.229, 0.224, 0.225])[:, None, None])


@pytest.mark.parametrize("top", [TORCHVISION_TOP, TIMM_TOP])
def test_safetensors(tmp_path, top):
    safetensors.numpy.save_file(torch_arrays(top), tmp_path / "weights")
    assert_logits(tmp_path / "weights", torchvision_logits(random_layers()))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_safetensors_in_16_bit_floats(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in torch_arrays().items()}
    safetensors.numpy.save_file(arrays, tmp_path / "weights")
    rounded = [[np.float32(array.astype(dtype)) for array in layer] for layer in random_layers()]
    assert_logits(tmp_path / "weights", torchvision_logits(rounded))


def test_safetensors_without_dense_layers(tmp_path):
    arrays = {name: array for name, array in torch_arrays().items() if "features" in name}
    safetensors.numpy.save_file(arrays, tmp_path / "weights")
    assert "fc1" not in vgg16.load(tmp_path / "weights", NETWORK.clone(num_classes=None))
    assert "lacks classifier.0.bias: it has VGG16 without" in refusal(tmp_path / "weights")


@pytest.mark.parametrize("top", [TORCHVISION_TOP, TIMM_TOP])
def test_safetensors_with_a_wrong_shape(tmp_path, top):
    arrays = torch_arrays(top)
    name = f"{top[0]}.weight"
    wrong = np.zeros((11, 5, 7, 7) if top is TIMM_TOP else (11, 245), np.float32)
    safetensors.numpy.save_file(arrays | {name: wrong}, tmp_path / "weights")
    expected = f"{name} has the shape {wrong.shape}, not {arrays[name].shape}"
    assert expected in refusal(tmp_path / "weights")


def test_safetensors_of_integers(tmp_path):
    arrays = torch_arrays()
    arrays["features.0.weight"] = arrays["features.0.weight"].astype(np.int8)
    safetensors.numpy.save_file(arrays, tmp_path / "weights")
    assert "features.0.weight holds int8" in refusal(tmp_path / "weights")


def test_safetensors_of_something_else(tmp_path):
    safetensors.numpy.save_file({"layer1.weight": np.zeros(3, np.float32)}, tmp_path / "weights")
    assert "lacks features.0.bias: it has no VGG16 weights" in refusal(tmp_path / "weights")


# Keras's HDF5.


def keras_arrays():
    """Yields names, kernels [height, width, in, out] for BGR, and biases, in Keras's layout."""
    for number, (name, (kernel, bias)) in enumerate(zip(KERAS_LAYERS + KERAS_TOP, random_layers())):
        if number == 0:
            kernel = kernel[:, ::-1]
        if name == "fc1":
            kernel = kernel.reshape(11, 7, 7, 7).transpose(2, 3, 1, 0).reshape(-1, 11)
        else:
            kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        yield name, kernel, bias


@pytest.fixture(scope="module")
def keras_logits():
    x = IMAGES.transpose(0, 3, 1, 2) - np.array([123.68, 116.779, 103.939])[:, None, None]
    return channels_first_logits(random_layers(), x)


def write_published(file, layers):
    """Writes a file in the format that Keras publishes."""
    with h5py.File(file, "w") as stored:
        stored.attrs["layer_names"] = [f"{name}".encode() for name, _, _ in layers]
        for name, kernel, bias in layers:
            group = stored.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = kernel, bias
        stored.create_group("flatten").attrs["weight_names"] = np.zeros(0)


def write_keras_2(file, layers):
    """Writes a file in the format of Keras 2's model.save, with arrays of an optimizer."""
    with h5py.File(file, "w") as stored:
        for name, kernel, bias in layers:
            group = stored.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
            group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, bias
        momenta = stored.create_group("optimizer_weights")
        momenta.attrs["weight_names"] = ["SGD/iter:0", "SGD/block1_conv1/momentum:0"]
        momenta["SGD/iter:0"], momenta["SGD/block1_conv1/momentum:0"] = 3, np.zeros((3, 3, 3, 3))


def write_keras_2_nested(file, layers):
    """Writes a file in the format of Keras 2's model.save, with VGG16 as a layer of the model."""
    with h5py.File(file, "w") as stored:
        group = stored.create_group("model_weights/vgg16")
        group.attrs["weight_names"] = [
            f"{name}/{part}:0" for name, _, _ in layers for part in ("kernel", "bias")
        ]
        for name, kernel, bias in layers:
            group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, bias


def write_keras_3(file, layers):
    """Writes a file in the format of Keras 3's save_weights, with numbered layers."""
    with h5py.File(file, "w") as stored:
        for number, (name, kernel, bias) in enumerate(layers):
            group = stored.create_group(f"layers/layer_{number}/vars")
            group.attrs["name"] = name
            group["0"], group["1"] = kernel, bias


def write_keras_2_15(file, layers):
    """Writes a file in the format of Keras 2.15's model.save, with arrays of an optimizer."""
    write_keras_2(file, layers)
    with h5py.File(file, "a") as stored:
        momenta = stored["optimizer_weights"]
        momenta.attrs["weight_names"] = ["iteration:0", "m/block1_conv1/kernel:0"]
        momenta["m/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 3))


def write_keras_2_of_a_second_model(file, layers):
    """Writes a file in which TensorFlow has numbered the names of weights, not those of layers."""
    with h5py.File(file, "w") as stored:
        for name, kernel, bias in layers:
            group = stored.create_group(name)
            group.attrs["weight_names"] = [f"{name}_1/kernel:0", f"{name}_1/bias:0"]
            group[f"{name}_1/kernel:0"], group[f"{name}_1/bias:0"] = kernel, bias


def write_keras_2_with_a_renamed_copy(file, layers):
    """Writes a file in which copies of the layers have other names, but weights of equal names."""
    copies = [(name, 0 * kernel, 0 * bias) for name, kernel, bias in layers]
    with h5py.File(file, "w") as stored:
        for suffix, part in (("", layers), ("_copy", copies)):
            for name, kernel, bias in part:
                group = stored.create_group(f"model_weights/{name}{suffix}")
                group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
                group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, bias


def write_keras_1_nested(file, layers, end=":0"):
    """Writes a file in the format of Keras 1's model.save, with VGG16 as a layer of the model."""
    with h5py.File(file, "w") as stored:
        group = stored.create_group("model_weights/vgg16")
        names = [f"{name}_{part}{end}" for name, _, _ in layers for part in ("W", "b")]
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, (array for layer in layers for array in layer[1:])):
            group[name] = array


def write_keras_1_nested_of_theano(file, layers):
    write_keras_1_nested(file, layers, end="")


def write_keras_1_nested_numbered(file, layers):
    write_keras_1_nested(file, layers, end="_1:0")


def write_keras_1_without_names_of_weights(file, layers):
    with h5py.File(file, "w") as stored:
        for name, kernel, bias in layers:
            group = stored.create_group(name)
            group.attrs["weight_names"] = [b"param_0", b"param_1"]
            group["param_0"], group["param_1"] = kernel, bias


def config_of(layers, name="vgg16"):
    """Returns the part of a .keras file's config.json that the reader needs."""
    layers = [
        {"class_name": "Dense" if kernel.ndim == 2 else "Conv2D", "config": {"name": name}}
        for name, kernel, _ in layers
    ]
    pooling = {"class_name": "MaxPooling2D", "config": {"name": "block1_pool"}}
    return {
        "class_name": "Functional",
        "config": {"name": name, "layers": [*layers[:2], pooling, *layers[2:]]},
    }


def write_groups_without_names(stored, layers, prefix=""):
    """Writes arrays as Keras 2.15 and 3.3 do, whose groups are numbered by class."""
    counts = {"conv2d": 0, "dense": 0}
    for _, kernel, bias in layers:
        kind = "dense" if kernel.ndim == 2 else "conv2d"
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        group = stored.create_group(f"{prefix}layers/{kind}{number}/vars")
        group["0"], group["1"] = kernel, bias


def write_archive(file, config, write_arrays, compression=zipfile.ZIP_STORED):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as stored:
        write_arrays(stored)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())


def write_keras_archive(file, layers):
    write_archive(
        file, config_of(layers), lambda stored: write_groups_without_names(stored, layers)
    )


def write_keras_archive_nested(file, layers):
    """Writes an archive in which VGG16 is the second of two models within the model."""
    other = ("conv", np.zeros((1, 1, 3, 3), np.float32), np.zeros(3, np.float32))
    models = [config_of([other], "before"), config_of(layers)]

    def write_arrays(stored):
        write_groups_without_names(stored, [other])
        write_groups_without_names(stored, [other], "layers/functional/")
        write_groups_without_names(stored, layers, "layers/functional_1/")

    conv = {"class_name": "Conv2D", "config": {"name": "first"}}
    write_archive(file, {"config": {"layers": [conv, *models]}}, write_arrays)


def write_each_layer_within_a_model(file, layers):
    """Writes a file in which each layer is the only one of a model within the model."""
    with h5py.File(file, "w") as stored:
        for name, kernel, bias in layers:
            group = stored.create_group(f"model_weights/part_of_{name}")
            group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
            group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, bias


@pytest.mark.parametrize(
    "write",
    [
        write_published,
        write_keras_2,
        write_keras_2_nested,
        write_keras_2_15,
        write_keras_2_of_a_second_model,
        write_keras_2_with_a_renamed_copy,
        write_each_layer_within_a_model,
        write_keras_1_nested,
        write_keras_1_nested_of_theano,
        write_keras_1_nested_numbered,
        write_keras_1_without_names_of_weights,
        write_keras_3,
        write_keras_archive,
        write_keras_archive_nested,
    ],
)
def test_hdf5(tmp_path, keras_logits, write):
    write(tmp_path / "weights", list(keras_arrays()))
    assert_logits(tmp_path / "weights", keras_logits)


@pytest.mark.parametrize("write", [write_published, write_keras_3])
def test_hdf5_without_dense_layers(tmp_path, write):
    write(tmp_path / "weights", list(keras_arrays())[:13])
    assert "fc1" not in vgg16.load(tmp_path / "weights", NETWORK.clone(num_classes=None))
    assert "lacks fc1/bias: it has VGG16 without" in refusal(tmp_path / "weights")


def test_hdf5_with_a_wrong_shape(tmp_path):
    layers = list(keras_arrays())
    name, kernel, bias = layers[2]
    layers[2] = name, kernel[..., :2], bias
    write_published(tmp_path / "weights", layers)
    expected = "block2_conv1/block2_conv1_W_1:0 has the shape (3, 3, 3, 2), not (3, 3, 3, 4)"
    assert expected in refusal(tmp_path / "weights")


def test_hdf5_with_a_group_instead_of_an_array(tmp_path):
    layers = list(keras_arrays())
    write_published(tmp_path / "weights", layers)
    with h5py.File(tmp_path / "weights", "a") as stored:
        del stored["block1_conv1/block1_conv1_W_1:0"]
        stored.create_group("block1_conv1/block1_conv1_W_1:0")
    assert "is not an array" in refusal(tmp_path / "weights")


def write_two_models(file, layers, write):
    """Writes two models with equal layer names, as two parts of one model."""
    with h5py.File(file, "w") as stored:
        for number, scale in enumerate((1, 2)):
            part = stored.create_group(f"model_weights/vgg_{number}")
            for name, kernel, bias in layers:
                write(part, name, scale * kernel, scale * bias)


def named_by_weights(part, name, kernel, bias):
    names = [f"{name}/kernel:0", f"{name}/bias:0"]
    part.attrs["weight_names"] = [*part.attrs.get("weight_names", []), *names]
    part[names[0]], part[names[1]] = kernel, bias


def named_by_group(part, name, kernel, bias):
    group = part.create_group(f"layers/{name}/vars")
    group.attrs["name"] = name
    group["0"], group["1"] = kernel, bias


@pytest.mark.parametrize("write", [named_by_weights, named_by_group])
def test_hdf5_of_two_models_with_equal_layer_names(tmp_path, write):
    write_two_models(tmp_path / "weights", list(keras_arrays()), write)
    message = refusal(tmp_path / "weights")
    assert "several layers named block1_conv1" in message and "Save the wanted model" in message
    assert "model_weights/vgg_0/" in message and "model_weights/vgg_1/" in message


def test_hdf5_of_two_models_in_one_group(tmp_path):
    """TensorFlow numbers the second model's weights; Keras 1 writes both to the group."""
    with h5py.File(tmp_path / "weights", "w") as stored:
        group = stored.create_group("models")
        names = []
        for end in (":0", "_1:0"):
            for name, kernel, bias in keras_arrays():
                names += [f"{name}_W{end}", f"{name}_b{end}"]
                group[names[-2]], group[names[-1]] = kernel, bias
        group.attrs["weight_names"] = names
    assert "several layers named block1_conv1" in refusal(tmp_path / "weights")


def test_other_layers_may_have_equal_names(tmp_path, keras_logits):
    write_published(tmp_path / "weights", list(keras_arrays()))
    with h5py.File(tmp_path / "weights", "a") as stored:
        for number in range(2):
            named_by_group(stored.create_group(f"m{number}"), "other", np.zeros(3), np.zeros(3))
    assert_logits(tmp_path / "weights", keras_logits)


def test_keras_archive_of_something_else(tmp_path):
    layers = [("conv1", np.zeros((3, 3, 3, 3), np.float32), np.zeros(3, np.float32))]
    write_keras_archive(tmp_path / "weights", layers)
    assert "lacks block1_conv1/bias: it has no VGG16" in refusal(tmp_path / "weights")


def write_param_arrays(stored, layers):
    """Writes arrays as Keras did before version 1."""
    for number, (_, kernel, bias) in enumerate(layers):
        stored[f"layer_{number}/param_0"], stored[f"layer_{number}/param_1"] = kernel, bias


@pytest.mark.parametrize("write", [write_groups_without_names, write_param_arrays])
def test_hdf5_without_names_of_layers(tmp_path, write):
    with h5py.File(tmp_path / "weights", "w") as stored:
        write(stored, list(keras_arrays()))
    message = refusal(tmp_path / "weights")
    assert "does not name its layers" in message and "model.save" in message


def test_compressed_keras_archive(tmp_path):
    layers = list(keras_arrays())
    write_archive(
        tmp_path / "weights",
        config_of(layers),
        lambda stored: write_groups_without_names(stored, layers),
        zipfile.ZIP_DEFLATED,
    )
    assert "is compressed" in refusal(tmp_path / "weights")


@pytest.mark.parametrize("config", [[], {}, {"config": {"layers": [{}]}}, {"config": 3}, "x"])
def test_keras_archive_with_a_damaged_config(tmp_path, config):
    layers = list(keras_arrays())
    write_archive(
        tmp_path / "weights", config, lambda stored: write_groups_without_names(stored, layers)
    )
    assert "cannot be read" in refusal(tmp_path / "weights")


def test_hdf5_of_something_else(tmp_path):
    with h5py.File(tmp_path / "weights", "w") as stored:
        stored["data"] = np.zeros(3)
    assert "lacks block1_conv1/bias: it has no VGG16" in refusal(tmp_path / "weights")


def test_files_written_by_keras(tmp_path):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    # Zeros, because random initializers take long to compile.
    common = {"activation": "relu", "kernel_initializer": "zeros"}
    layers = [keras.Input((224, 224, 3))]
    for block, widths in enumerate(CONVOLUTIONS, start=1):
        for number, width in enumerate(widths, start=1):
            name = f"block{block}_conv{number}"
            layers.append(keras.layers.Conv2D(width, 3, padding="same", name=name, **common))
        layers.append(keras.layers.MaxPooling2D())
    layers.append(keras.layers.Flatten())
    layers.append(keras.layers.Dense(11, name="fc1", **common))
    layers.append(keras.layers.Dense(9, name="fc2", **common))
    layers.append(keras.layers.Dense(8, name="predictions", kernel_initializer="zeros"))
    model = keras.Sequential(layers, name="vgg16")
    for name, kernel, bias in keras_arrays():
        model.get_layer(name).set_weights([kernel, bias])
    pixels = keras.applications.vgg16.preprocess_input(IMAGES.astype(np.float32))
    expected = model.predict(pixels, verbose=0)
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    model.save(tmp_path / "model.keras")
    assert_logits(tmp_path / "model.h5", expected)
    assert_logits(tmp_path / "model.weights.h5", expected)
    assert_logits(tmp_path / "model.keras", expected)


# Damaged and malicious files.


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["hdf5", "safetensors"])
def test_truncated_file(tmp_path, kind, share):
    file = tmp_path / "weights"
    if kind == "hdf5":
        write_published(file, list(keras_arrays()))
    else:
        safetensors.numpy.save_file(torch_arrays(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refusal(file)


def test_hdf5_whose_layer_names_a_missing_array(tmp_path):
    write_published(tmp_path / "weights", list(keras_arrays()))
    with h5py.File(tmp_path / "weights", "a") as stored:
        group = stored["block3_conv2"]
        group.move("block3_conv2_W_1:0", "renamed")
    message = refusal(tmp_path / "weights")
    assert "cannot be read: " in message and "block3_conv2_W_1:0" in message


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_are_refused_and_not_run(tmp_path, zipped):
    file = tmp_path / "vgg16-397923af.pth"
    trap = pickle.dumps(Payload(tmp_path / "created"))
    if zipped:  # the format of torch.save since version 1.6
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("vgg16/data.pkl", trap)
            archive.writestr("vgg16/data/0", bytes(100))
    else:
        file.write_bytes(trap)
    message = refusal(file)
    assert "is a pickle" in message and "https://huggingface.co/timm/vgg16.tv_in1k" in message
    assert not (tmp_path / "created").exists()


def test_hdf5_with_links_to_another_file(tmp_path):
    file, name = tmp_path / "weights", "block1_conv1/block1_conv1_W_1:0"
    private = tmp_path / "private"
    private.write_bytes(bytes(4 * 3 * 3 * 3 * 3))
    write_published(tmp_path / "other", list(keras_arrays()))
    source = h5py.VirtualSource(str(tmp_path / "other"), name, shape=(3, 3, 3, 3))
    layout = h5py.VirtualLayout(shape=(3, 3, 3, 3), dtype="f4")
    layout[:] = source

    def link(stored):
        stored[name] = h5py.ExternalLink(str(tmp_path / "other"), name)

    def link_of_the_group(stored):
        del stored["block1_conv1"]
        stored["block1_conv1"] = h5py.ExternalLink(str(tmp_path / "other"), "block1_conv1")
        group = stored.create_group("vgg16")
        group.attrs["weight_names"] = ["../block1_conv1/block1_conv1_W_1:0", "x"]

    def external(stored):
        stored.create_dataset(name, (3, 3, 3, 3), "f4", external=[(str(private), 0, 324)])

    for change in (link, external, lambda stored: stored.create_virtual_dataset(name, layout)):
        write_published(file, list(keras_arrays()))
        with h5py.File(file, "a") as stored:
            del stored[name]
            change(stored)
        assert "another file" in refusal(file)
    write_published(file, list(keras_arrays()))
    with h5py.File(file, "a") as stored:
        link_of_the_group(stored)
    refusal(file)


def test_hdf5_of_deeply_nested_groups(tmp_path):
    """Listing all paths would take hours."""
    with h5py.File(tmp_path / "weights", "w") as stored:
        group = stored
        for _ in range(3000):
            group = group.create_group("g")
    assert "or 20 nested groups" in refusal(tmp_path / "weights")


def test_hdf5_with_a_chunk_that_unpacks_to_gigabytes(tmp_path):
    name = "block1_conv1/block1_conv1_W_1:0"
    write_published(tmp_path / "weights", list(keras_arrays()))
    with h5py.File(tmp_path / "weights", "a") as stored:
        del stored[name]
        stored.create_dataset(
            name, (3, 3, 3, 3), "f4", chunks=(900, 900, 900, 1), maxshape=(None,) * 4,
            compression="gzip",
        )  # fmt: skip
    assert "chunks larger than itself" in refusal(tmp_path / "weights")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{" * 200_000, "cannot be read"),
        (b'{"features.0.weight":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}', "cannot"),
        (b'{"features.0.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
         b'"features.0.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "cannot be read"),
        (b'{"features.0.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,99]}}', "cannot"),
    ],
)  # fmt: skip
def test_safetensors_with_a_wrong_header(tmp_path, header, reason):
    size = len(header).to_bytes(8, "little")
    (tmp_path / "weights").write_bytes(size + header + bytes(8))
    assert reason in refusal(tmp_path / "weights")
    (tmp_path / "weights").write_bytes((1 << 62).to_bytes(8, "little") + header)
    assert "cannot be read" in refusal(tmp_path / "weights")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_safetensors_that_are_not_finite(tmp_path, value):
    arrays = torch_arrays()
    arrays["features.0.weight"][1, 1, 1, 1] = value
    safetensors.numpy.save_file(arrays, tmp_path / "weights")
    assert "features.0.weight holds values that are not finite" in refusal(tmp_path / "weights")


@pytest.mark.parametrize(
    ("descr", "shape", "reason"),
    [
        ("<f4", (1 << 28,), "has the shape (268435456,)"),
        ("<f4", (1 << 60,), "has the shape"),
        ("|O", (3,), "holds object, not floats"),
        ("<c8", (3,), "holds complex64, not floats"),
    ],
)
def test_npz_with_gigabytes_or_objects(tmp_path, descr, shape, reason):
    with zipfile.ZipFile(tmp_path / "weights", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("block1_conv1/kernel", "block1_conv1/bias"):
            with archive.open(f"{name}.npy", "w") as stream:
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                stream.write(bytes(64 << 20))
    tracemalloc.start()
    try:
        assert f"block1_conv1/bias {reason}" in refusal(tmp_path / "weights")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
