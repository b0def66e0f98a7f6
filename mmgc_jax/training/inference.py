"""Inference over many movies."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.training.run import ApplyFn


@functools.lru_cache(maxsize=32)
def _jitted(apply: ApplyFn) -> Callable[[Any, dict[str, jax.Array]], jax.Array]:
    """Jits a forward pass; the models of all folds share the program."""
    return jax.jit(
        lambda params, batch: jax.nn.sigmoid(apply(params, batch, None)),
        compiler_options=apply.compiler_options,
    )


def probabilities(
    apply: ApplyFn,
    models: Sequence[Any],
    batches: pipeline.Batches,
    workers: int = 0,
    name: str = "",
) -> np.ndarray:
    """Predicts genre probabilities of the movies in `batches` with models of one architecture.

    Args:
      apply: forward pass of the models.
      models: the parameters of each model, as NumPy or JAX arrays; sharded ones stay sharded.
      batches: one epoch, in any order.
      workers: number of processes that prepare batches; 0 uses threads.
      name: label of the progress bar; empty for no bar.

    Returns:
      <float32>[models, movies of the corpus, genres], in [0, 1]. Row i of a model belongs to movie
      i of the corpus; rows of movies that are not in `batches` are NaN.

    Raises:
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C).
    """
    mesh = parallel.data_mesh()
    models = [parallel.replicate(params, mesh) for params in models]
    probabilities_of = _jitted(apply)

    def predict(batch):
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "indices", "mask")}
        return [probabilities_of(params, inputs) for params in models]

    shape = len(models), batches.num_movies_in_corpus, batches.num_genres
    result = np.full(shape, np.nan, np.float32)
    steps = progress_bar(
        pipeline.iterate(batches, workers=workers),
        total=len(batches),
        desc=name,
        unit="batch",
        shown=bool(name) and parallel.is_first(),
        leave=False,
    )
    for of_models, indices in parallel.outputs_of_movies(predict, steps, mesh):
        result[:, indices] = of_models
        preemption.raise_if_requested()
    return result


def outputs(
    function: Callable[[dict], dict[str, jax.Array]],
    examples: Callable[..., dict[str, np.ndarray]],
    present: np.ndarray,
    batch_size: int,
) -> pipeline.ArrayExamples:
    """Applies a function to selected movies in batches, and keeps its outputs in memory.

    Args:
      function: function from a batch on the devices to arrays by name, with one row for each row of
        the batch.
      examples: function from movie indices to the arrays of a batch.
      present: which movies to apply the function to, <bool>[movies]; at least one.
      batch_size: number of rows of each batch.

    Returns:
      The outputs by name, with one row for each movie; rows of the other movies are zeros.
    """
    num_movies, indices = len(present), np.flatnonzero(present)
    arrays, mesh = {}, parallel.data_mesh()
    batches = pipeline.Batches(examples, np.zeros((num_movies, 1)), indices, batch_size)
    for found, rows in parallel.outputs_of_movies(function, pipeline.iterate(batches), mesh):
        for name, array in found.items():
            if name not in arrays:
                arrays[name] = np.zeros((num_movies, *array.shape[1:]), array.dtype)
            arrays[name][rows] = array
    return pipeline.ArrayExamples(arrays)
