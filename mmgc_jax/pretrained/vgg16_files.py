"""Reads VGG16's weights from the files that Keras, torchvision, timm and this project write.

The format is recognised by the content, whatever the name:

- Keras's HDF5: the files that Keras publishes, `model.save("x.h5")` of Keras 2 and 3, and
  `model.save_weights("x.weights.h5")` of Keras 3. Their first kernel takes BGR, 0 to 255, minus
  ImageNet's means; it is reversed to take RGB.
- safetensors with torchvision's names or timm's. The preprocessing is the one of
  torchvision's IMAGENET1K_V1: RGB, 0 to 1, standardised.
- This project's `.npz` with the arrays `block1_conv1/kernel` and so on, and the preprocessing. A
  file without the preprocessing is taken to have Keras's, BGR included.

Nothing is unpickled, links to other files are refused, and no array is read before its shape has
been checked, however large the file says that it is. That is why neither Keras nor `np.load` alone
reads the files.
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

# torchvision's VGG16_Weights.IMAGENET1K_V1.transforms, in pixels from 0 to 255.
TORCHVISION_MEAN = tuple(255 * mean for mean in (0.485, 0.456, 0.406))
TORCHVISION_STD = tuple(255 * std for std in (0.229, 0.224, 0.225))

_TORCHVISION_TOP = {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
_TIMM_TOP = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "predictions": "head.fc"}

# Limits on objects and on the depth of groups; an HDF5 file of Keras has far fewer.
_MOST_OBJECTS, _DEEPEST = 100_000, 20


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A file that is open for reading.

    Attributes:
      names: of the arrays in the file.
      get: name -> the array, perhaps not read yet, but with its `shape` and `dtype`.
      sources: of the parameters, by name.
      preprocessing: parameters of the preprocessing, if they follow from the format alone.
    """

    names: Collection[str]
    get: Callable[[str], "np.ndarray | h5py.Dataset | _InNpz"]
    sources: dict[str, port.Source]
    preprocessing: dict[str, np.ndarray]


def read(file: pathlib.Path, network: VGG16) -> dict:
    """Reads the parameters of a network; other arrays of the file are ignored.

    Args:
      file: in one of the formats above.
      network: begins with block 1, in colour.

    Returns:
      The parameters, <float32>.

    Raises:
      InputError: if the file is none of these or is damaged, or an array is missing, has another
        shape than the network's, or holds a value that is not a finite float.
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
        raise InputError(f"{file}: preprocessing/std holds values that are not above 0.")
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def _existing_source(file: pathlib.Path, opened: _Opened, name: str) -> port.Source:
    """The source of a parameter; an error says what kind of file it is that lacks it."""
    source = opened.sources[name]
    if source.name in opened.names:
        return source
    if not name.startswith(("block", "preprocessing")):
        what = "VGG16 without its dense layers"
    elif any(source.name in opened.names for source in opened.sources.values()):
        what = "not all of VGG16's weights"
    else:
        what = "no VGG16 weights"
    raise InputError(f"{file} lacks {source.name}: it holds {what}.")


def _format_of(file: pathlib.Path) -> Callable:
    """Returns the function that opens a file, judging by the first bytes."""
    with file.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _open_keras
    if start[8:] == b"{":  # after the length of the header
        return _open_safetensors
    pickled = start.startswith(b"\x80")  # as PyTorch wrote before its version 1.6
    if start.startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:
            pickled = any(name.endswith(".pkl") for name in archive.namelist())
        if not pickled:
            return _open_npz
    if pickled:
        raise InputError(
            f"{file} is a pickle, which could run any program, and so it is not read. The same "
            "weights as safetensors: model.safetensors of "
            "https://huggingface.co/timm/vgg16.tv_in1k, which "
            "python -m mmgc_jax.pretrained.vgg16 --source=torchvision --output=FILE.npz gets."
        )
    raise InputError(
        f"{file} is none of the files that VGG16's weights are read from: Keras's .h5, "
        ".safetensors with PyTorch's names, .npz."
    )


@contextlib.contextmanager
def _open_keras(file, shapes, depths) -> Iterator[_Opened]:
    with h5py.File(file) as stored:
        parts = _keras_parts(stored)
        sources = {}
        for name, shape in shapes.items():
            layer, part = name.split("/")
            # By order, since the names of kernel and bias differ between versions of Keras.
            found = dict(zip(("kernel", "bias"), parts.get(layer, ())))
            sources[name] = port.Source(found.get(part, name), shape)
        yield _Opened(
            {path for paths in parts.values() for path in paths},
            lambda path: _dataset(stored, path),
            _from_bgr(sources),
            _preprocessing(KERAS_MEAN, KERAS_STD),
        )


def _dataset(stored: h5py.File, path: str) -> h5py.Dataset:
    """Returns an array of the file, after checks that no link or chunk leads out of it."""
    for prefix in itertools.accumulate(path.split("/"), "{}/{}".format):
        link = stored.get(prefix, getlink=True)
        if not isinstance(link, h5py.HardLink | None):
            raise OSError(f"{prefix} is a link, perhaps to another file")
    item = stored[path]
    if not isinstance(item, h5py.Dataset):
        raise OSError(f"{path} is no array")
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
            raise OSError(f"more than {_MOST_OBJECTS} objects or {_DEEPEST} groups in each other")
        if "weight_names" in item.attrs:  # of model.save and of what Keras publishes
            for name in item.attrs["weight_names"]:
                whole = f"{path}/{_as_text(name)}"
                parts[whole.split("/")[-2]].append(whole)
        elif path.split("/")[-1] == "vars" and "name" in item.attrs:  # of model.save_weights
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
    """An array whose header alone is read until numpy converts it; `np.load` reads all of it."""

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
    """Returns the same sources with the first kernel reversed along BGR, to take RGB."""
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
    """Returns the modules of torchvision and timm, by our layers."""
    modules, number = {}, 0
    for block, depth in enumerate(depths, start=1):
        for layer in range(1, depth + 1):
            modules[f"block{block}_conv{layer}"] = f"features.{number}"
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    return modules


def _torch_kernel(layer: str, shape: tuple[int, ...], is_timm: bool) -> tuple[tuple, Callable]:
    """Returns the shape that a kernel has in PyTorch, and the function from there to ours."""
    if layer.startswith("block"):
        height, width, channels, out = shape
        return (out, channels, height, width), lambda kernel: kernel.transpose(2, 3, 1, 0)
    # PyTorch flattens feature maps channels first; timm has convolutions for the dense layers.
    rows, out = shape
    side = TOP_SIDE if layer == "fc1" else 1
    channels_first = (out, rows // side**2, side, side)

    def to_param(kernel):
        return kernel.reshape(channels_first).transpose(2, 3, 1, 0).reshape(shape)

    return (channels_first if is_timm and layer != "predictions" else (out, rows)), to_param
