"""Activations of the frozen part of a network: run once per poster, kept on disk."""

import dataclasses
import functools
import hashlib
import io
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.progress import progress_bar

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ActivationExamples:
    """Batches of activations that are on the disk, under a name: <dtype>[batch, ...].

    Attributes:
      file: as written by `cache`.
      row_of: the row of each movie of the corpus, <int64>[movies].
      dtype: of the activations.
      name: of the array.
    """

    file: pathlib.Path
    row_of: np.ndarray
    dtype: str
    name: str = "images"

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        del batch  # rows have one size
        rows = _open(self.file).view(jnp.dtype(self.dtype))
        return {self.name: rows[self.row_of[indices]]}


@functools.lru_cache(maxsize=16)
def _open(file: pathlib.Path) -> np.ndarray:
    """The file's memory map; to open it for each batch takes longer than a step of a head."""
    return np.load(file, mmap_mode="r")


def key_of(params, **settings) -> str:
    """A hash of the frozen parameters and of all else that decides the activations.

    Args:
      params: tree of arrays.
      **settings: such as image size, colour, dtype and last block.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def cache(
    file: pathlib.Path,
    frozen: Callable[[Mapping], jax.Array],
    batches: pipeline.Batches,
    workers: int = 0,
    dtype: str = "float32",
    name: str = "images",
) -> ActivationExamples:
    """Writes the activations of all movies of `batches`, one row each, in their fixed order.

    A run that was interrupted goes on after the last whole batch. The file appears under its name
    when it is whole. The devices of all processes share the work, and on each disk one of them
    writes.

    Args:
      file: a `.npy` file; nothing is computed if it is there.
      frozen: the jitted frozen part, batch on the devices -> <dtype>[batch, ...].
      batches: one unshuffled epoch.
      workers: processes that prepare batches.
      dtype: of the activations.
      name: of the array in the batches of what is returned.

    Returns:
      The activations as examples.

    Raises:
      Interrupted: after a batch, if the process was asked to stop.
    """
    row_of = np.zeros(batches.num_movies_in_corpus, np.int64)
    row_of[batches.order] = np.arange(batches.num_movies)
    examples = ActivationExamples(file, row_of, dtype, name)
    if not parallel.any_of(not file.exists()):
        logger.info("Frozen activations found: %s", file)
        return examples
    file.parent.mkdir(parents=True, exist_ok=True)
    size, *shape = (first := jax.eval_shape(frozen, batches[0])).shape
    header = _header(first.dtype, (batches.num_movies, *shape))
    row_bytes = math.prod(shape) * first.dtype.itemsize
    mesh, writes = parallel.data_mesh(), parallel.is_first_of_disk(file.parent)
    # Appended to and not mapped into memory, where a full disk would crash the process.
    partial = file.with_suffix(".rows")
    written = partial.stat().st_size - len(header) if partial.exists() else 0
    whole = parallel.minimum(max(0, written) // row_bytes // size)
    done = whole * size
    with open(partial if writes else os.devnull, "ab") as rows:
        logger.info("Frozen activations of %d movies, %d of them done: %s",
                    batches.num_movies, done, file)  # fmt: skip
        if writes:
            rows.truncate(len(header) + done * row_bytes if done else 0)
        if not done:
            rows.write(header)
        left = pipeline.iterate(batches, whole, workers)
        for batch in progress_bar(left, total=len(batches), initial=whole, desc="activations",
                                  unit="batch", shown=parallel.is_first()):  # fmt: skip
            found, _ = parallel.outputs_of_movies(frozen, batch, mesh)
            rows.write(found.tobytes())
            rows.flush()
            preemption.raise_if_requested()
    if writes:
        os.replace(partial, file)
    parallel.any_of(False)  # none goes on before all have theirs
    return examples


def _header(dtype, shape: tuple[int, ...]) -> bytes:
    """What a `.npy` file begins with."""
    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        header, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
