"""The frozen part of a network: run one time for each movie, its activations kept on disk."""

import dataclasses
import functools
import hashlib
import io
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.training import checkpoints

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A jitted function of a batch, and its parameters.

    They are an argument of the jitted function. It could close over them, but they would then be
    constants of its HLO: 59 MB for VGG16, and as much again in each copy of the program.

    Attributes:
      function: jitted, (params, batch) -> arrays by name, a row for each of the batch's rows.
      params: on all devices.
    """

    function: Callable[[Any, dict], dict[str, jax.Array]]
    params: Any

    @classmethod
    def of(cls, function: Callable[[Any, dict], dict[str, jax.Array]], params: Any) -> "Frozen":
        """Jits the function, and puts the parameters on all devices."""
        return cls(jax.jit(function), parallel.replicate(params, parallel.data_mesh()))

    def __call__(self, batch: dict) -> dict[str, jax.Array]:
        return self.function(self.params, batch)


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
    name: str

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        del batch  # rows have one size
        rows = _memory_map(self.file).view(jnp.dtype(self.dtype))
        return {self.name: rows[self.row_of[indices]]}


@functools.lru_cache(maxsize=16)
def _memory_map(file: pathlib.Path) -> np.ndarray:
    """The file's memory map; to open it for each batch takes longer than a step of a head."""
    return np.load(file, mmap_mode="r")


def save(workdir: Path, name: str, params: Any) -> None:
    """Saves the frozen parameters of an encoder, for predictions."""
    checkpoints.save(_frozen_folder(workdir, name), 0, params, {})


def restore(workdir: Path, name: str) -> Any:
    """Reads what `save` wrote.

    Raises:
      InputError: if there is nothing, or it is damaged.
    """
    folder = _frozen_folder(workdir, name)
    if (restored := checkpoints.restore(folder)) is None:
        raise InputError(f"{folder} is missing: the frozen parameters of {name}.")
    return restored[0]


def _frozen_folder(workdir: Path, name: str) -> Path:
    return workdir / "checkpoints" / name / "frozen"


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
    frozen: Callable[[dict], dict[str, jax.Array]],
    name: str,
    batches: pipeline.Batches,
    workers: int = 0,
    dtype: str = "float32",
) -> ActivationExamples:
    """Writes the activations of all movies of `batches`, one row each, in their fixed order.

    A run that was interrupted continues after the last whole batch. The file appears under its name
    when it is whole. The devices of all processes share the work, and on each disk one of them
    writes.

    Args:
      file: a `.npy` file; nothing is computed if it is there.
      frozen: batch on the devices -> arrays.
      name: of the array to keep, <dtype>[batch, ...].
      batches: one unshuffled epoch.
      workers: processes that prepare batches.
      dtype: of the activations.

    Returns:
      The activations as examples, under the same name.

    Raises:
      Interrupted: after a batch, if the process was asked to stop.
    """
    row_of = np.zeros(batches.num_movies_in_corpus, np.int64)
    row_of[batches.order] = np.arange(batches.num_movies)
    if parallel.any_of(not file.exists()):
        _write(file, lambda batch: frozen(batch)[name], batches, workers)
    else:
        logger.info("Frozen activations found: %s", file)
    return ActivationExamples(file, row_of, dtype, name)


def _write(
    file: pathlib.Path, frozen: Callable[[dict], jax.Array], batches: pipeline.Batches, workers: int
) -> None:
    """Writes the file beside its place, batch by batch, and renames it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    activations = jax.eval_shape(frozen, batches[0])
    size, *shape = activations.shape
    header = _header(activations.dtype, (batches.num_movies, *shape))
    row_bytes = math.prod(shape) * activations.dtype.itemsize
    mesh, writes = parallel.data_mesh(), parallel.is_first_of_disk(file.parent)
    # Appended to and not mapped into memory, where a full disk would crash the process.
    partial = file.with_suffix(".rows")
    batches_done = _whole_batches(partial, len(header), size * row_bytes)
    logger.info("Frozen activations of %d movies, %d of them done: %s",
                batches.num_movies, batches_done * size, file)  # fmt: skip
    with open(partial if writes else os.devnull, "ab") as rows:
        if writes:
            done = len(header) + batches_done * size * row_bytes
            rows.truncate(done if batches_done else 0)
        if not batches_done:
            rows.write(header)
        left = pipeline.iterate(batches, batches_done, workers)
        for batch in progress_bar(left, total=len(batches), initial=batches_done,
                                  desc="activations", unit="batch",
                                  shown=parallel.is_first()):  # fmt: skip
            found, _ = parallel.outputs_of_movies(frozen, batch, mesh)
            rows.write(found.tobytes())
            rows.flush()
            preemption.raise_if_requested()
    if writes:
        os.replace(partial, file)
    parallel.any_of(False)  # a barrier: no process continues before all disks have the file


def _whole_batches(partial: pathlib.Path, header_bytes: int, batch_bytes: int) -> int:
    """How many whole batches every disk has; a collective."""
    written = partial.stat().st_size - header_bytes if partial.exists() else 0
    return parallel.minimum(max(0, written) // batch_bytes)


def _header(dtype, shape: tuple[int, ...]) -> bytes:
    """The first bytes of a `.npy` file."""
    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        header, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
