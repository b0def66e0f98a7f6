"""Reads VGG16's weights from the file formats of Keras, torchvision, timm and this project.

The format is detected from the content, not from the file's name:

- Keras's HDF5: the files that Keras publishes, `model.save("x.h5")` of Keras 2 and 3, and
  `model.save_weights("x.weights.h5")` of Keras 3. Their first kernel takes BGR pixels from 0 to 255
  minus ImageNet's means; it is reversed so that it takes RGB.
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
import itertools
import pathlib
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
            pickled = any(name.endswith(".pkl") for name in archive.namelist())
        if not pickled:
            return _open_npz
    if pickled:
        raise InputError(
            f"{file} is a pickle, which is not read because it could run any code. The same "
            "weights as safetensors are at https://huggingface.co/timm/vgg16.tv_in1k; to download "
            "and convert them, run: "
            "python -m mmgc_jax.pretrained.vgg16 --source=torchvision --output=FILE.npz"
        )
    raise InputError(
        f"{file} is not in a supported format. VGG16's weights can be read from Keras's .h5, "
        ".safetensors of torchvision or timm, and .npz files."
    )


@contextlib.contextmanager
def _open_keras(file, shapes, depths) -> Iterator[_Opened]:
    with h5py.File(file) as stored:
        parts = _keras_parts(stored)
        sources = {}
        for name, shape in shapes.items():
            layer, part = name.split("/")
            # Found by their order, since versions of Keras name kernel and bias differently.
            found = dict(zip(("kernel", "bias"), parts.get(layer, ())))
            sources[name] = port.Source(found.get(part, name), shape)
        yield _Opened(
            {path for paths in parts.values() for path in paths},
            lambda path: _dataset(stored, path),
            _from_bgr(sources),
            _preprocessing(KERAS_MEAN, KERAS_STD),
        )


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


def _keras_parts(stored: h5py.File) -> dict[str, list[str]]:
    """Returns the paths of each layer's arrays, in the order of `layer.weights`."""
    parts = collections.defaultdict(list)

    visited = itertools.count()

    def visit(path, item):
        if next(visited) > _MOST_OBJECTS or path.count("/") > _DEEPEST:
            raise OSError(f"more than {_MOST_OBJECTS} objects or {_DEEPEST} nested groups")
        if "weight_names" in item.attrs:  # model.save, and the files that Keras publishes
            for name in item.attrs["weight_names"]:
                whole = f"{path}/{_as_text(name)}"
                parts[whole.split("/")[-2]].append(whole)
        elif path.split("/")[-1] == "vars" and "name" in item.attrs:  # model.save_weights
            parts[_as_text(item.attrs["name"])] += [f"{path}/{name}" for name in sorted(item)]

    stored.visititems(visit)
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
