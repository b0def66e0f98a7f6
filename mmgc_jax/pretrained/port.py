"""Ports arrays from a file of pretrained weights to a network's parameters, checked one by one.

Shared by the readers of VGG16 and of BERT. Flax reads only its own checkpoints and safetensors only
returns arrays, so what a reader must find out about an array is checked here: its shape, that it
holds floats, and that they are finite in float32.
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
    """Returns the shapes of a network's parameters, by names such as `block1_conv1/kernel`.

    Nothing is computed.

    Args:
      network: the network.
      inputs: arrays, or `jax.ShapeDtypeStruct`, that it can be applied to.
    """
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {name: array.shape for name, array in flat.items()}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a parameter comes from.

    Attributes:
      name: of the array in the file.
      shape: of the array in the file.
      to_param: turns the array into the parameter: transposes, flips or reshapes it.
    """

    name: str
    shape: tuple[int, ...]
    to_param: Callable[[np.ndarray], np.ndarray] = lambda array: array


def read_param(file: os.PathLike, source: Source, get: Callable[[str], Any]) -> np.ndarray:
    """Reads one parameter.

    Args:
      file: named in errors.
      source: where the parameter comes from; its name must exist in the file.
      get: name -> the array in the file. It need not be read yet: `shape` and `dtype` are looked at
        before it is converted to a numpy array.

    Returns:
      The parameter, <float32>, contiguous.

    Raises:
      InputError: if the array has another shape, does not hold floats, or holds a value that is not
        finite or overflows float32.
    """
    array = get(source.name)
    if array.shape != source.shape:
        raise InputError(f"{file}: {source.name} has the shape {array.shape}, not {source.shape}.")
    if not jnp.issubdtype(array.dtype, np.floating):
        raise InputError(f"{file}: {source.name} holds {array.dtype}, not floats.")
    with np.errstate(over="ignore"):  # a large float64 becomes infinite, which is refused below
        param = np.ascontiguousarray(source.to_param(np.asarray(array)), np.float32)
    if not np.isfinite(param).all():
        raise InputError(f"{file}: {source.name} holds values that are not finite in float32.")
    return param


@contextlib.contextmanager
def library_errors(file: os.PathLike) -> Iterator[None]:
    """Raises what a library raises for a damaged file as an `InputError` that names the file.

    h5py, safetensors, tokenizers and numpy raise many kinds of exceptions, and which ones is not
    documented. An `InputError` passes as it is, and so does a lack of memory.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{file} cannot be read: {error}") from error
