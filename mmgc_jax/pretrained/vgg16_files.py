"""Reads VGG16's weights from the file formats of Keras, torchvision, timm and this project.

The format is detected from the content, not from the file's name:

- Keras's HDF5 and `.keras`: the files that Keras publishes, `model.save("x.h5")` of Keras 1 to 3,
  `model.save("x.keras")` of Keras 2 and 3, and `model.save_weights("x.weights.h5")` of Keras 3.
  VGG16 may be a part of a larger model; layers are found by their names. Their first kernel takes
  BGR pixels from 0 to 255 minus ImageNet's means; it is reversed so that it takes RGB.
- safetensors with the names of torchvision or timm. They get the preprocessing of torchvision's
  IMAGENET1K_V1: RGB pixels from 0 to 1, standardised.
- This project's `.npz`, with arrays such as `block1_conv1/kernel` and `preprocessing/mean`. A file
  without preprocessing arrays is assumed to follow Keras, including BGR.

The files need not be trusted: pickles and links to other files are refused, and an array is read
only after its declared shape has been checked. Keras and `np.load` do not guarantee this.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Collection, Iterator

import flax.traverse_util
import h5py
import jax
import numpy as np
import safetensors

from mmgc_jax.models.vgg16 import BLOCKS, KERAS_MEAN, KERAS_STD, TOP_SIDE, VGG16
from mmgc_jax.pretrained import port
from mmgc_jax.runtime.errors import InputError

# From torchvision's VGG16_Weights.IMAGENET1K_V1.transforms, scaled to pixels from 0 to 255.
TORCHVISION_MEAN = tuple(255 * mean for mean in (0.485, 0.456, 0.406))
TORCHVISION_STD = tuple(255 * std for std in (0.229, 0.224, 0.225))

_TORCHVISION_TOP = {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
_TIMM_TOP = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "predictions": "head.fc"}

# A kernel or bias of Keras 1, such as `block1_conv1_W_1:0`; the number is TensorFlow's.
_KERAS_1_WEIGHT = re.compile(r"(.+)_[Wb](_\d+)?(:\d+)?")

# Members of a .keras archive, and the longest description of a model in bytes.
_KERAS_WEIGHTS, _KERAS_CONFIG, _LONGEST_CONFIG = "model.weights.h5", "config.json", 1 << 26

# Limits on the number of objects and the depth of groups; Keras's HDF5 files have far fewer.
_MOST_OBJECTS, _DEEPEST = 100_000, 20


@dataclasses.dataclass(frozen=True)
class _Opened:
    """An open file of weights.

    Attributes:
      names: names of the arrays in the file.
      get: maps a name to the array. It may be lazy, with `shape` and `dtype`.
      sources: for each parameter, the array that it is made from.
      preprocessing: parameters of the preprocessing if the format determines them, else empty.
    """

    names: Collection[str]
    get: Callable[[str], "np.ndarray | h5py.Dataset | _InNpz"]
    sources: dict[str, port.Source]
    preprocessing: dict[str, np.ndarray]


def read(file: pathlib.Path, network: VGG16) -> dict:
    """Reads the parameters of a network; other arrays in the file are ignored.

    Args:
      file: a file in one of the formats above.
      network: a colour network that begins with block 1.

    Returns:
      The parameters as a nested dictionary of numpy arrays, <float32>.

    Raises:
      InputError: if the file is damaged or in an unknown format, an array is missing or has the
        wrong shape, or a value is not a finite float.
    """
    side = 2 ** len(BLOCKS) * TOP_SIDE
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    shapes = port.parameter_shapes(network, image)
    with port.library_errors(file), _format_of(file)(file, shapes, network.depths) as opened:
        arrays = opened.preprocessing | {
            name: port.read_param(file, _existing_source(file, opened, name), opened.get)
            for name in shapes
            if name not in opened.preprocessing
        }
    if (arrays["preprocessing/std"] <= 0).any():
        raise InputError(f"{file}: preprocessing/std has values that are not positive.")
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def _existing_source(file: pathlib.Path, opened: _Opened, name: str) -> port.Source:
    """Returns a parameter's source; if it is missing, the error says what the file contains."""
    source = opened.sources[name]
    if source.name in opened.names:
        return source
    if not name.startswith(("block", "preprocessing")):
        content = "VGG16 without its dense layers"
    elif any(source.name in opened.names for source in opened.sources.values()):
        content = "not all of VGG16's weights"
    else:
        content = "no VGG16 weights"
    raise InputError(f"{file} lacks {source.name}: it has {content}.")


def _format_of(file: pathlib.Path) -> Callable:
    """Returns the function that opens a file, chosen by the file's first bytes."""
    with file.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _open_keras
    if start[8:] == b"{":  # after the length of the header
        return _open_safetensors
    pickled = start.startswith(b"\x80")  # the format of PyTorch before version 1.6
    if start.startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
        pickled = any(name.endswith(".pkl") for name in members)
        if not pickled:
            return _open_keras_archive if _KERAS_WEIGHTS in members else _open_npz
    if pickled:
        raise InputError(
            f"{file} is a pickle, which is not read because it could run any code. The same "
            "weights as safetensors are at https://huggingface.co/timm/vgg16.tv_in1k; to download "
            "and convert them, run: "
            "python -m mmgc_jax.pretrained.vgg16 --source=torchvision --output=FILE.npz"
        )
    raise InputError(
        f"{file} is not in a supported format. VGG16's weights can be read from Keras's .h5 "
        "and .keras, .safetensors of torchvision or timm, and .npz files."
    )


@contextlib.contextmanager
def _open_keras(file, shapes, depths) -> Iterator[_Opened]:
    with h5py.File(file) as stored:
        yield _from_keras(file, stored, shapes, {})


@contextlib.contextmanager
def _open_keras_archive(file, shapes, depths) -> Iterator[_Opened]:
    with zipfile.ZipFile(file) as archive:
        # Keras does not compress; unpacking what somebody compressed could need any memory.
        if archive.getinfo(_KERAS_WEIGHTS).compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{file} is compressed, which Keras does not do. Save the model again with "
                f"model.save(FILE), or unpack {_KERAS_WEIGHTS} and read that."
            )
        with archive.open(_KERAS_CONFIG) as stream:
            config = json.loads(stream.read(_LONGEST_CONFIG))
        weights = io.BytesIO(archive.read(_KERAS_WEIGHTS))
    with h5py.File(weights) as stored:
        yield _from_keras(file, stored, shapes, _names_of_groups(config["config"]))


def _from_keras(file, stored: h5py.File, shapes, names_of_groups: dict[str, str]) -> _Opened:
    layers = _keras_layers(file, stored, names_of_groups)
    sources = {}
    for name, shape in shapes.items():
        layer, part = name.split("/")
        found = layers.get(layer, [[]])
        if len(found) > 1 or len(found[0]) > 2:
            raise InputError(
                f"{file} has several layers named {layer}, with the arrays "
                f"{', '.join(itertools.chain(*found))}. Save the wanted model alone."
            )
        # Found by their order, since versions of Keras name kernel and bias differently.
        sources[name] = port.Source(dict(zip(("kernel", "bias"), found[0])).get(part, name), shape)
    return _Opened(
        {path for found in layers.values() for path in itertools.chain(*found)},
        functools.partial(_dataset, stored),
        _from_bgr(sources),
        _preprocessing(KERAS_MEAN, KERAS_STD),
    )


def _names_of_groups(config: dict, prefix: str = "") -> dict[str, str]:
    """Maps the groups of a `.keras` archive's weights to names of layers, by the model's config.

    Groups are numbered by class: `layers/conv2d`, `layers/conv2d_1`. Layers of models within the
    model are included. Later versions of Keras store the names beside the weights, too.
    """
    names, count = {}, collections.Counter()
    for layer in config.get("layers", ()):
        kind = layer["class_name"].lower()
        group = f"{prefix}layers/{kind}" + (f"_{count[kind]}" if count[kind] else "")
        count[kind] += 1
        names |= {group: layer["config"].get("name")} | _names_of_groups(
            layer["config"], f"{group}/"
        )
    return names


def _dataset(stored: h5py.File, path: str) -> h5py.Dataset:
    """Returns an array, after checking for links to other files and oversized chunks."""
    for prefix in itertools.accumulate(path.split("/"), "{}/{}".format):
        link = stored.get(prefix, getlink=True)
        if not isinstance(link, h5py.HardLink | None):
            raise OSError(f"{prefix} is a link, perhaps to another file")
    item = stored[path]
    if not isinstance(item, h5py.Dataset):
        raise OSError(f"{path} is not an array")
    if item.external or item.is_virtual:
        raise OSError(f"{path} lies in another file")
    if item.chunks and any(chunk > size for chunk, size in zip(item.chunks, item.shape)):
        raise OSError(f"{path} has chunks larger than itself")
    return item


def _keras_layers(file, stored: h5py.File, names_of_groups) -> dict[str, list[list[str]]]:
    """Returns the layers of each name: for each layer, the paths of its arrays in their order.

    Raises:
      InputError: if the arrays do not belong to layers with names.
    """
    named, by_weights = collections.defaultdict(list), collections.defaultdict(list)
    nameless = []
    visited = itertools.count()

    def visit(path, item):
        if next(visited) > _MOST_OBJECTS or path.count("/") > _DEEPEST:
            raise OSError(f"more than {_MOST_OBJECTS} objects or {_DEEPEST} nested groups")
        group, _, last = path.rpartition("/")
        if path.startswith("optimizer"):  # its arrays are named like the layers that they train
            return
        if "weight_names" in item.attrs:  # model.save, and the files that Keras publishes
            parts = _by_layer([_as_text(name) for name in item.attrs["weight_names"]], last)
            for layer, names in parts.items():
                arrays = [f"{path}/{name}" for name in names]
                by_weights[layer].append(arrays)
                # A group of several layers is a model in the model, and has the model's name.
                named[layer if len(parts) > 1 else last].append(arrays)
        elif last == "vars" and len(item):  # model.save_weights and .keras
            name = item.attrs.get("name", names_of_groups.get(group))
            arrays = [f"{path}/{number}" for number in sorted(item)]
            nameless.append(path) if name is None else named[_as_text(name)].append(arrays)
        elif last == "param_0":  # before Keras 1
            nameless.append(path)

    stored.visititems(visit)
    layers = by_weights | named
    if nameless and "block1_conv1" not in layers:
        raise InputError(
            f"{file} does not name its layers: {nameless[0]} could be any. With Keras, save the "
            'model by model.save("FILE.keras"), and read that file.'
        )
    return layers


def _by_layer(weights: list[str], group: str) -> dict[str, list[str]]:
    """Groups the names of a group's weights by the layer that their names begin with."""
    parts = collections.defaultdict(list)
    for name in weights:
        match = _KERAS_1_WEIGHT.fullmatch(name)
        layer = name.split("/")[-2] if "/" in name else match[1] if match else group
        parts[layer].append(name)
    return parts


def _as_text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


@contextlib.contextmanager
def _open_npz(file, shapes, depths) -> Iterator[_Opened]:
    with np.load(file, allow_pickle=False) as stored:
        sources = {name: port.Source(name, shape) for name, shape in shapes.items()}
        preprocessing = {}
        if not {"preprocessing/mean", "preprocessing/std"} & set(stored.files):
            sources, preprocessing = _from_bgr(sources), _preprocessing(KERAS_MEAN, KERAS_STD)
        yield _Opened(stored.files, functools.partial(_InNpz.find, stored), sources, preprocessing)


@dataclasses.dataclass(frozen=True)
class _InNpz:
    """A lazy array of an .npz file: only its header is read until numpy converts it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def find(cls, stored: np.lib.npyio.NpzFile, name: str) -> "_InNpz":
        """Reads the header of an array."""
        with stored.zip.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        return cls(shape, dtype, lambda: stored[name])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.read()


def _from_bgr(sources: dict[str, port.Source]) -> dict[str, port.Source]:
    """Returns sources whose first kernel is reversed, so that it takes RGB instead of BGR."""
    first = sources["block1_conv1/kernel"]
    reversed_kernel = dataclasses.replace(first, to_param=lambda kernel: kernel[:, :, ::-1])
    return sources | {"block1_conv1/kernel": reversed_kernel}


def _preprocessing(mean, std) -> dict[str, np.ndarray]:
    return {"preprocessing/mean": np.float32(mean), "preprocessing/std": np.float32(std)}


@contextlib.contextmanager
def _open_safetensors(file, shapes, depths) -> Iterator[_Opened]:
    with safetensors.safe_open(file, framework="numpy") as stored:
        names = set(stored.keys())
        is_timm = "head.fc.weight" in names
        modules = _torch_convolutions(depths) | (_TIMM_TOP if is_timm else _TORCHVISION_TOP)
        sources = {}
        for name, shape in shapes.items():
            layer, part = name.split("/")
            if layer == "preprocessing":
                continue
            if part == "bias":
                sources[name] = port.Source(f"{modules[layer]}.bias", shape)
            else:
                like, to_param = _torch_kernel(layer, shape, is_timm)
                sources[name] = port.Source(f"{modules[layer]}.weight", like, to_param)
        yield _Opened(
            names, stored.get_tensor, sources, _preprocessing(TORCHVISION_MEAN, TORCHVISION_STD)
        )


def _torch_convolutions(depths) -> dict[str, str]:
    """Maps layers to the modules of torchvision and timm, which have the same names."""
    modules, number = {}, 0
    for block, depth in enumerate(depths, start=1):
        for layer in range(1, depth + 1):
            modules[f"block{block}_conv{layer}"] = f"features.{number}"
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    return modules


def _torch_kernel(layer: str, shape: tuple[int, ...], is_timm: bool) -> tuple[tuple, Callable]:
    """Returns a kernel's shape in PyTorch and the function that converts it to Flax's layout."""
    if layer.startswith("block"):
        height, width, channels, out = shape
        return (out, channels, height, width), lambda kernel: kernel.transpose(2, 3, 1, 0)
    # PyTorch flattens maps with channels first. timm's fc1 and fc2 are convolutions.
    rows, out = shape
    side = TOP_SIDE if layer == "fc1" else 1
    channels_first = (out, rows // side**2, side, side)

    def to_param(kernel):
        return kernel.reshape(channels_first).transpose(2, 3, 1, 0).reshape(shape)

    return (channels_first if is_timm and layer != "predictions" else (out, rows)), to_param
