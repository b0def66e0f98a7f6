"""Activations of the frozen part of a network: run once per poster, kept on disk."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mmgc_jax import parallel
from mmgc_jax.data import pipeline
from mmgc_jax.files import write_text

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

    A run that was interrupted goes on where it was. The file appears under its name when whole. The
    devices of all processes share the work, and the first process writes.

    Args:
      file: a `.npy` file; nothing is computed if it is there.
      frozen: the jitted frozen part, batch on the devices -> <dtype>[batch, ...].
      batches: one unshuffled epoch.
      workers: processes that prepare batches.
      dtype: of the activations.
      name: of the array in the batches of what is returned.

    Returns:
      The activations as examples.
    """
    row_of = np.zeros(batches.num_movies_in_corpus, np.int64)
    row_of[batches.order] = np.arange(batches.num_movies)
    examples = ActivationExamples(file, row_of, dtype, name)
    if parallel.agree(file.exists()):
        logger.info("Frozen activations found: %s", file)
        return examples
    file.parent.mkdir(parents=True, exist_ok=True)
    partial, progress = file.with_suffix(".partial"), file.with_suffix(".progress")
    done = int(progress.read_text()) if progress.exists() and partial.exists() else 0
    done = parallel.agree(done)
    logger.info("Frozen activations of %d movies, %d of them done: %s",
                 batches.num_movies, done, file)  # fmt: skip

    size, mesh, rows = batches.batch_size, parallel.data_mesh(), None
    if done < batches.num_movies:
        done -= done % size  # whole batches, should their size have changed
    bar = tqdm(total=len(batches), initial=done // size, desc="activations", unit="batch",
               disable=None if parallel.is_first() else True)  # fmt: skip
    left = () if done == batches.num_movies else pipeline.iterate(batches, done // size, workers)
    for batch in left:
        found = parallel.gather(frozen(parallel.shard_batch(batch, mesh)))
        found = found[: batches.num_movies - done]
        if parallel.is_first():
            if rows is None:
                rows = _create(partial, "r+" if done else "w+", found, batches.num_movies)
            rows[done : done + len(found)] = found
            rows.flush()
        done += len(found)
        write_text(progress, str(done))
        bar.update()
    bar.close()
    del rows
    with parallel.first_process_first():
        if parallel.is_first():
            os.replace(partial, file)
            progress.unlink()
    return examples


def _create(file: pathlib.Path, mode: str, like: np.ndarray, movies: int) -> np.ndarray:
    """A `.npy` file with a row for each movie, on the disk."""
    rows = np.lib.format.open_memmap(file, mode, like.dtype, (movies, *like.shape[1:]))
    return rows.view(like.dtype)  # bfloat16 comes back from a file as plain bytes
