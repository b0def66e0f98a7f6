"""Trees of arrays in `.safetensors` files; the name of an array is its path: `plot/fold_0/bias`."""

import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, is_address, write_atomically

# In a folder that `mmgc export` wrote, in place of the folder `checkpoints`.
FILE = "model.safetensors"


def save(file: Path, tree: Mapping[str, Any]) -> None:
    """Writes a tree, nested dictionaries of arrays, atomically."""
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in flat.items()}
    )
    write_atomically(file, lambda stream: stream.write(content))


def load(file: Path, branch: str) -> dict[str, Any]:
    """Reads a branch of a tree that `save` wrote, such as `plot`, and no other arrays.

    Raises:
      InputError: if the file is missing or damaged, or has no such branch.
    """
    prefix = f"{branch}/"
    try:
        if is_address(file):
            arrays = safetensors.numpy.load(file.read_bytes())
        else:
            with safetensors.safe_open(os.fspath(file), "np") as opened:
                names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
                arrays = {name: opened.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{file} cannot be read: {error}. Write the folder again, or restore it from a copy."
        ) from error
    arrays = {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}
    if not arrays:
        raise InputError(f"{file} has no parameters of {branch}.")
    return flax.traverse_util.unflatten_dict(arrays, sep="/")
