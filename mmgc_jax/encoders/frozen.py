"""Frozen layers of a network: computed once for each movie, with activations cached on disk."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import locks, parallel, preemption, tensors
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.training import checkpoints

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Frozen layers as a jitted function of a batch.

    The parameters are an argument of the jitted function. If it closed over them instead, they
    would become constants of its HLO: 59 MB for VGG16, and again in each copy of the program.

    Attributes:
      function: jitted function `function(params, batch)`, which returns arrays by name, with one
        row for each row of the batch.
      params: the parameters, replicated over all devices.
    """

    function: Callable[[Any, dict], dict[str, jax.Array]]
    params: Any

    @classmethod
    def of(
        cls,
        function: Callable[[Any, dict], dict[str, jax.Array]],
        params: Any,
        compiler_options: Mapping[str, bool] | None = None,
    ) -> "Frozen":
        """Jits `function(params, batch)`, and replicates the parameters over the devices.

        Args:
          function: see the attributes.
          params: see the attributes.
          compiler_options: options of `jax.jit`; see `Kernels.compiler_options`.
        """
        jitted = jax.jit(function, compiler_options=compiler_options)
        return cls(jitted, parallel.replicate(params, parallel.data_mesh()))

    def __call__(self, batch: dict) -> dict[str, jax.Array]:
        return self.function(self.params, batch)

    def shapes(self, batch: dict) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of the outputs for a batch, without computing them."""
        return jax.eval_shape(self.function, self.params, batch)


@dataclasses.dataclass(frozen=True)
class ActivationExamples:
    """Makes batches of cached activations, `{name: <dtype>[batch, ...]}`.

    Attributes:
      file: the `.npy` file that `cache` wrote.
      row_of: the row of each movie in the file, <int64>[movies of the corpus].
      dtype: dtype of the activations.
      name: name of the array in a batch.
    """

    file: pathlib.Path
    row_of: np.ndarray
    dtype: str
    name: str

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        del batch  # all rows have the same shape, so there is no padding
        rows = _memory_map(self.file).view(jnp.dtype(self.dtype))
        return {self.name: rows[self.row_of[indices]]}


@functools.lru_cache(maxsize=16)
def _memory_map(file: pathlib.Path) -> np.ndarray:
    """Opens a memory map, once: opening it for each batch takes longer than a training step."""
    return np.load(file, mmap_mode="r")


def save(workdir: Path, name: str, params: Any) -> None:
    """Saves the frozen parameters of an encoder into its working directory, for prediction."""
    checkpoints.save(_frozen_folder(workdir, name), 0, params)


def restore(workdir: Path, name: str) -> Any:
    """Reads the frozen parameters of an encoder that `save` wrote.

    Raises:
      InputError: if they are missing or damaged.
    """
    if (exported := workdir / tensors.FILE).is_file():
        return tensors.load(exported, f"{name}/frozen")
    folder = _frozen_folder(workdir, name)
    if (restored := checkpoints.restore(folder)) is None:
        raise InputError(f"{folder}, with the frozen parameters of {name}, is missing.")
    return restored


def _frozen_folder(workdir: Path, name: str) -> Path:
    return workdir / "checkpoints" / name / "frozen"


def key_of(params, **settings) -> str:
    """Computes the key of cached activations: a hash of all that they depend on.

    Args:
      params: frozen parameters, a tree of arrays.
      **settings: settings that change activations, such as image size, colour and dtype.

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
    frozen: Frozen,
    name: str,
    batches: pipeline.Batches,
    workers: int = 0,
    dtype: str = "float32",
) -> ActivationExamples:
    """Computes the activations of the movies in `batches` and caches them in a file.

    If the file exists already, nothing is computed. The write is atomic: the file gets its name
    when it is complete. An interrupted run resumes after its last complete batch. With several
    processes this is a collective: all devices share the work, and one process on each disk writes.
    If another experiment is writing to the same folder, this one waits until it has finished.

    Args:
      file: path of a `.npy` file, which gets one row for each movie.
      frozen: the frozen layers.
      name: name of the array to keep, <dtype>[batch, ...].
      batches: one unshuffled epoch.
      workers: number of processes that prepare batches; 0 uses threads.
      dtype: dtype of the activations.

    Returns:
      The activations as examples, under the same name.

    Raises:
      Interrupted: after a batch, if a stop was requested (SIGTERM or Ctrl-C).
    """
    row_of = np.zeros(batches.num_movies_in_corpus, np.int64)
    row_of[batches.order] = np.arange(batches.num_movies)
    if parallel.any_of(not file.exists()):
        with _only_writer(file.parent) as writes:
            # Another experiment may have written the file in the meantime.
            if parallel.any_of(not file.exists()):
                _write(file, frozen, name, batches, workers, writes)
    else:
        logger.info("Using the cached activations of frozen layers: %s", file)
    return ActivationExamples(file, row_of, dtype, name)


@contextlib.contextmanager
def _only_writer(folder: pathlib.Path) -> Iterator[bool]:
    """Locks a folder on each disk; a collective. Yields whether this process holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    writes = parallel.is_first_of_disk(folder)
    with locks.machine_lock(folder) if writes else contextlib.nullcontext():
        yield writes


def _write(
    file: pathlib.Path,
    frozen: Frozen,
    name: str,
    batches: pipeline.Batches,
    workers: int,
    writes: bool,
) -> None:
    """Writes a temporary file batch by batch, and renames it when it is complete.

    Args:
      file, frozen, name, batches, workers: see `cache`.
      writes: whether this process writes, or only computes.
    """
    activations = frozen.shapes(batches[0])[name]
    size, *shape = activations.shape
    header = _header(activations.dtype, (batches.num_movies, *shape))
    row_bytes = math.prod(shape) * activations.dtype.itemsize
    mesh = parallel.data_mesh()
    # The file is appended to: with a memory map, a full disk would crash the process.
    partial = file.with_suffix(".rows")
    batches_done = _whole_batches(partial, len(header), size * row_bytes)
    logger.info("Computing activations of frozen layers for %d movies (%d already done): %s",
                batches.num_movies, batches_done * size, file)  # fmt: skip
    with open(partial if writes else os.devnull, "ab") as rows:
        if writes:
            done = len(header) + batches_done * size * row_bytes
            rows.truncate(done if batches_done else 0)
        if not batches_done:
            rows.write(header)
        left = pipeline.iterate(batches, batches_done, workers)
        steps = progress_bar(left, total=len(batches), initial=batches_done,
                             desc="activations", unit="batch",
                             shown=parallel.is_first())  # fmt: skip
        of_name = parallel.outputs_of_movies(lambda batch: frozen(batch)[name], steps, mesh)
        for outputs, _ in of_name:
            rows.write(outputs.tobytes())
            rows.flush()
            preemption.raise_if_requested()
    if writes:
        os.replace(partial, file)
    parallel.any_of(False)  # a barrier: all processes wait until every disk has the file


def _whole_batches(partial: pathlib.Path, header_bytes: int, batch_bytes: int) -> int:
    """Returns the number of complete batches that all disks have; a collective."""
    written = partial.stat().st_size - header_bytes if partial.exists() else 0
    return parallel.minimum(max(0, written) // batch_bytes)


def _header(dtype, shape: tuple[int, ...]) -> bytes:
    """Makes the header of a `.npy` file."""
    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        header, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
