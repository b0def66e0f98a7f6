"""The files that VGG16's weights come in, and where each array lies in them.

Recognised by their content, whatever their names:

- Keras's HDF5: the files that Keras publishes, `model.save("x.h5")` of Keras 2 and 3, and
  `model.save_weights("x.weights.h5")` of Keras 3. Their first kernel takes BGR, 0 to 255, minus
  ImageNet's means; it is turned round to take RGB.
- safetensors with torchvision's names or timm's. The preprocessing is the one of
  torchvision's IMAGENET1K_V1: RGB, 0 to 1, standardised.
- Our own `.npz`, `block1_conv1/kernel` and so on, which holds the preprocessing too. Without it
  the preprocessing is Keras's, BGR included.

Nothing is ever unpickled, nothing is read from another file than the one that was given, and of an
array nothing is read before its shape is seen to be right, however large the file says that it is.
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
import jax.numpy as jnp
import numpy as np
import safetensors

from mmgc_jax.models.poster import BLOCKS, KERAS_MEAN, KERAS_STD, TOP_SIDE, VGG16
from mmgc_jax.runtime.errors import InputError

# torchvision's VGG16_Weights.IMAGENET1K_V1.transforms, in pixels from 0 to 255.
TORCHVISION_MEAN = tuple(255 * mean for mean in (0.485, 0.456, 0.406))
TORCHVISION_STD = tuple(255 * std for std in (0.229, 0.224, 0.225))

_TORCHVISION_TOP = {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
_TIMM_TOP = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "predictions": "head.fc"}

# An HDF5 file with more is none of Keras's.
_MOST_OBJECTS, _DEEPEST = 100_000, 20


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where one of our arrays lies in a file.

    Attributes:
      name: in the file.
      shape: in the file.
      to_ours: from the array in the file to ours.
    """

    name: str
    shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray] = lambda array: array


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A file that is open for reading.

    Attributes:
      names: of the arrays in the file.
      get: the array of a name, perhaps not read yet; then its `shape` and `dtype` are known.
      places: of our arrays, by our names.
      preprocessing: our arrays that the file does not hold, since all files of its kind agree.
    """

    names: Collection[str]
    get: Callable[[str], "np.ndarray | h5py.Dataset | _InNpz"]
    places: dict[str, _Place]
    preprocessing: dict[str, np.ndarray]


def read(file: pathlib.Path, network: VGG16) -> dict:
    """Reads the parameters of a network; what else the file holds is left alone.

    Args:
      file: in one of the formats above.
      network: begins with block 1, in colour.

    Returns:
      The parameters, <float32>.

    Raises:
      InputError: if the file is none of these or is damaged, or an array is missing, has another
        shape than the network's, or holds what is no finite float.
    """
    side = 2 ** len(BLOCKS) * TOP_SIDE
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    shapes = {
        name: array.shape
        for name, array in flax.traverse_util.flatten_dict(params, sep="/").items()
    }
    try:
        with _format_of(file)(file, shapes, network.depths) as opened:
            arrays = opened.preprocessing | {
                name: _take(file, opened, name)
                for name in shapes
                if name not in opened.preprocessing
            }
    except (InputError, MemoryError):
        raise
    except Exception as error:  # three libraries, which raise much where a file is damaged
        raise InputError(f"{file} cannot be read: {error}") from error
    if (arrays["preprocessing/std"] <= 0).any():
        raise InputError(f"{file}: preprocessing/std holds values that are not above 0.")
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def _take(file: pathlib.Path, opened: _Opened, name: str) -> np.ndarray:
    """One of our arrays, checked and in our layout."""
    place = opened.places[name]
    if place.name not in opened.names:
        if not name.startswith(("block", "preprocessing")):
            what = "VGG16 without its dense layers"
        elif any(place.name in opened.names for place in opened.places.values()):
            what = "not all of VGG16's weights"
        else:
            what = "no VGG16 weights"
        raise InputError(f"{file} lacks {place.name}: it holds {what}.")
    array = opened.get(place.name)
    if array.shape != place.shape:
        raise InputError(f"{file}: {place.name} has the shape {array.shape}, not {place.shape}.")
    if not jnp.issubdtype(array.dtype, np.floating):
        raise InputError(f"{file}: {place.name} holds {array.dtype}, not floats.")
    with np.errstate(over="ignore"):  # of float64
        array = np.ascontiguousarray(place.to_ours(np.asarray(array)), np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{file}: {place.name} holds values that are not finite.")
    return array


def _format_of(file: pathlib.Path) -> Callable:
    """The function that opens a file; its content decides."""
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
        places = {}
        for name, shape in shapes.items():
            layer, part = name.split("/")
            # Kernel and bias go by their order: their names differ from version to version.
            found = dict(zip(("kernel", "bias"), parts.get(layer, ())))
            places[name] = _Place(found.get(part, name), shape)
        yield _Opened(
            {path for paths in parts.values() for path in paths},
            lambda path: _dataset(stored, path),
            _from_bgr(places),
            _preprocessing(KERAS_MEAN, KERAS_STD),
        )


def _dataset(stored: h5py.File, path: str) -> h5py.Dataset:
    for place in itertools.accumulate(path.split("/"), "{}/{}".format):
        link = stored.get(place, getlink=True)
        if not isinstance(link, h5py.HardLink | None):
            raise OSError(f"{place} is a link, perhaps to another file")
    item = stored[path]
    if not isinstance(item, h5py.Dataset):
        raise OSError(f"{path} is no array")
    if item.external or item.is_virtual:
        raise OSError(f"{path} lies in another file")
    if item.chunks and any(chunk > size for chunk, size in zip(item.chunks, item.shape)):
        raise OSError(f"{path} has chunks larger than itself")
    return item


def _keras_parts(stored: h5py.File) -> dict[str, list[str]]:
    """Where the arrays of each layer lie, in the order of `layer.weights`."""
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
        places = {name: _Place(name, shape) for name, shape in shapes.items()}
        preprocessing = {}
        if not {"preprocessing/mean", "preprocessing/std"} & set(stored.files):
            places, preprocessing = _from_bgr(places), _preprocessing(KERAS_MEAN, KERAS_STD)
        yield _Opened(stored.files, functools.partial(_InNpz.find, stored), places, preprocessing)


@dataclasses.dataclass(frozen=True)
class _InNpz:
    """An array that is read when numpy asks for it, unlike those of `np.load`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def find(cls, stored: np.lib.npyio.NpzFile, name: str) -> "_InNpz":
        """Reads the header alone."""
        with stored.zip.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        return cls(shape, dtype, lambda: stored[name])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.read()


def _from_bgr(places: dict[str, _Place]) -> dict[str, _Place]:
    """The same places, with a first kernel that is turned round to take RGB."""
    first = places["block1_conv1/kernel"]
    turned = dataclasses.replace(first, to_ours=lambda kernel: kernel[:, :, ::-1])
    return places | {"block1_conv1/kernel": turned}


def _preprocessing(mean, std) -> dict[str, np.ndarray]:
    return {"preprocessing/mean": np.float32(mean), "preprocessing/std": np.float32(std)}


@contextlib.contextmanager
def _open_safetensors(file, shapes, depths) -> Iterator[_Opened]:
    with safetensors.safe_open(file, framework="numpy") as stored:
        names = set(stored.keys())
        is_timm = "head.fc.weight" in names
        modules = _torch_convolutions(depths) | (_TIMM_TOP if is_timm else _TORCHVISION_TOP)
        places = {}
        for name, shape in shapes.items():
            layer, part = name.split("/")
            if layer == "preprocessing":
                continue
            if part == "bias":
                places[name] = _Place(f"{modules[layer]}.bias", shape)
            else:
                like, to_ours = _torch_kernel(layer, shape, is_timm)
                places[name] = _Place(f"{modules[layer]}.weight", like, to_ours)
        yield _Opened(
            names, stored.get_tensor, places, _preprocessing(TORCHVISION_MEAN, TORCHVISION_STD)
        )


def _torch_convolutions(depths) -> dict[str, str]:
    """The names of the convolutions in torchvision and timm, by ours."""
    modules, number = {}, 0
    for block, depth in enumerate(depths, start=1):
        for layer in range(1, depth + 1):
            modules[f"block{block}_conv{layer}"] = f"features.{number}"
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    return modules


def _torch_kernel(layer: str, shape: tuple[int, ...], is_timm: bool) -> tuple[tuple, Callable]:
    """The shape that a kernel of ours has in PyTorch, and the way from there to ours."""
    if layer.startswith("block"):
        height, width, channels, out = shape
        return (out, channels, height, width), lambda kernel: kernel.transpose(2, 3, 1, 0)
    # PyTorch flattens a map channels first. For timm the dense layers are convolutions.
    rows, out = shape
    side = TOP_SIDE if layer == "fc1" else 1
    channels_first = (out, rows // side**2, side, side)

    def to_ours(kernel):
        return kernel.reshape(channels_first).transpose(2, 3, 1, 0).reshape(shape)

    return (channels_first if is_timm and layer != "predictions" else (out, rows)), to_ours
