"""Converts arrays from files of pretrained weights to parameters, and checks each of them.

The readers of VGG16 and BERT share this module. Libraries only return arrays, so the checks are
here: the expected shape, a float dtype, and values that are finite in float32.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.runtime.errors import InputError


def parameter_shapes(network: nn.Module, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's parameters by name, such as `block1_conv1/kernel`.

    Nothing is allocated or computed.

    Args:
      network: a Flax module.
      inputs: example inputs, as arrays or `jax.ShapeDtypeStruct`.
    """
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {name: array.shape for name, array in flat.items()}


@dataclasses.dataclass(frozen=True)
class Source:
    """The array in a file from which a parameter is made.

    Attributes:
      name: name of the array in the file.
      shape: expected shape of the array in the file.
      to_param: converts the array to the parameter: transposes, flips or reshapes it.
    """

    name: str
    shape: tuple[int, ...]
    to_param: Callable[[np.ndarray], np.ndarray] = lambda array: array


def read_param(file: os.PathLike, source: Source, get: Callable[[str], Any]) -> np.ndarray:
    """Reads and checks one parameter.

    Args:
      file: the file's path, for error messages.
      source: the array to read; the file must have it.
      get: maps a name to an array of the file. It may return a lazy array: `shape` and `dtype` are
        checked before the values are read.

    Returns:
      The parameter as a contiguous <float32> array.

    Raises:
      InputError: if the array has the wrong shape, is not of a float dtype, or has a value that is
        not finite in float32.
    """
    array = get(source.name)
    if array.shape != source.shape:
        raise InputError(f"{file}: {source.name} has the shape {array.shape}, not {source.shape}.")
    if not jnp.issubdtype(array.dtype, np.floating):
        raise InputError(f"{file}: {source.name} holds {array.dtype}, not floats.")
    with np.errstate(over="ignore"):  # large float64 values become infinite and are refused below
        param = np.ascontiguousarray(source.to_param(np.asarray(array)), np.float32)
    if not np.isfinite(param).all():
        raise InputError(f"{file}: {source.name} holds values that are not finite in float32.")
    return param


@contextlib.contextmanager
def library_errors(file: os.PathLike) -> Iterator[None]:
    """Converts a library's exceptions about a damaged file to an `InputError` that names the file.

    All exceptions are converted except `InputError` and `MemoryError`, because h5py, safetensors,
    tokenizers and numpy do not document which ones they raise.

    Args:
      file: the file's path, for the message.

    Raises:
      InputError: if the block raises an exception.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{file} cannot be read: {error}") from error
