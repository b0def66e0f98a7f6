"""Inference over whole splits with one model."""

import functools
from typing import Any

import jax
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.training.loop import ApplyFn


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(apply: ApplyFn, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.sigmoid(apply(params, batch, None))


def probabilities(
    apply: ApplyFn, params: Any, batches: pipeline.Batches, workers: int = 0, name: str = ""
) -> np.ndarray:
    """Genre probabilities of the movies of `batches`, in the order of their indices given there.

    Args:
      apply: the model.
      params: of the model, anywhere; those that are split over the devices stay split.
      batches: one epoch, in any order.
      workers: processes that prepare batches.
      name: of the progress bar, which only a person who watches sees; empty for none.

    Returns:
      <float32>[movies of the corpus, genres]; rows of movies not in `batches` are NaN.

    Raises:
      Interrupted: if the process was asked to stop.
    """
    mesh = parallel.data_mesh()
    params = parallel.replicate(params, mesh)

    def predict(batch):
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "indices", "mask")}
        return _probabilities(apply, params, inputs)

    result = np.full((batches.num_movies_in_corpus, batches.num_genres), np.nan, np.float32)
    steps = progress_bar(
        pipeline.iterate(batches, workers=workers),
        total=len(batches),
        desc=name,
        unit="batch",
        shown=bool(name) and parallel.is_first(),
        leave=False,
    )
    for batch in steps:
        preemption.raise_if_requested()
        rows, indices = parallel.outputs_of_movies(predict, batch, mesh)
        result[indices] = rows
    return result
