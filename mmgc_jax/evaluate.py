"""Probabilities of whole splits, and of movies that the model did not train on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mmgc_jax import metrics, parallel
from mmgc_jax.data import pipeline
from mmgc_jax.train import ApplyFn


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(apply: ApplyFn, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.sigmoid(apply(params, batch, None))


def probabilities(
    apply: ApplyFn, params: Any, batches: pipeline.Batches, workers: int = 0, name: str = ""
) -> np.ndarray:
    """Genre probabilities of the movies of `batches`, in the order of their indices given there.

    Args:
      apply: the model.
      params: of the model.
      batches: one epoch, in any order.
      workers: processes that prepare batches.
      name: of the progress bar, which only a person who watches sees; empty for none.

    Returns:
      <float32>[movies of the corpus, genres]; rows of movies not in `batches` are NaN.
    """
    mesh = parallel.data_mesh()
    params = parallel.replicate(params, mesh)
    result = np.full((batches.num_movies_in_corpus, batches.num_genres), np.nan, np.float32)
    steps = tqdm(
        pipeline.iterate(batches, workers=workers),
        total=len(batches),
        desc=name,
        unit="batch",
        disable=None if name else True,
        leave=False,
    )
    for batch in steps:
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "indices", "mask")}
        rows = np.asarray(_probabilities(apply, params, parallel.shard_batch(inputs, mesh)))
        real = batch["mask"] > 0
        result[batch["indices"][real]] = rows[real]
    return result


def headline(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The figures that are watched in training: `auc_macro` and `auc_micro`."""
    figures = metrics.evaluate(labels, scores, genres=range(labels.shape[1]))
    return {name: figures[name] for name in ("auc_macro", "auc_micro")}


def out_of_fold(
    folds: np.ndarray,
    predict_fold: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    num_genres: int,
) -> np.ndarray:
    """Probabilities of every movie from a model that did not see it (Wolpert 1992).

    Args:
      folds: <int>[movies of the corpus], -1 for movies that take no part.
      predict_fold: (fold, indices to train on, indices to predict) -> <float32>[corpus, genres].
      num_genres: number of columns.

    Returns:
      <float32>[movies of the corpus, num_genres]; rows of movies that take no part are NaN.
    """
    result = np.full((len(folds), num_genres), np.nan, np.float32)
    for fold in range(folds.max() + 1):
        members = np.flatnonzero(folds == fold)
        others = np.flatnonzero((folds >= 0) & (folds != fold))
        if len(members):
            result[members] = predict_fold(fold, others, members)[members]
    return result


def fill_absent(scores: np.ndarray, present: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Puts the genres' frequencies where a modality is absent.

    Args:
      scores: <float32>[movies, genres].
      present: <bool>[movies].
      frequencies: <float32>[genres], of the genres in the training part.
    """
    return np.where(present[:, None], scores, frequencies).astype(np.float32)


def evaluate_stages(
    labels: np.ndarray,
    scores: dict[str, np.ndarray],
    present: dict[str, np.ndarray],
    splits: dict[str, np.ndarray],
    modalities: Sequence[str],
    genres: Sequence[str],
) -> dict:
    """The figures of `results.json`; see the README for its layout.

    A threshold for each genre is tuned on the validation movies that a stage can say something
    about. The F1 figures of the other splits at these are named `f1_..._tuned`.

    Args:
      labels: <float32>[movies of the corpus, genres].
      scores: of each stage, <float32>[movies of the corpus, genres].
      present: of each stage, which movies it can say something about, <bool>[movies].
      splits: of `validation` and each other split to report, its indices.
      modalities: the stages without which a movie does not count as having both modalities.
      genres: the names of the columns.
    """
    validation = splits["validation"]
    tuned = {}
    for stage, stage_scores in scores.items():
        rows = validation[present[stage][validation]]
        tuned[stage] = metrics.tune_thresholds(labels[rows], stage_scores[rows])

    both = np.all([present[stage] for stage in modalities], axis=0)
    results = {}
    for split, indices in splits.items():
        results[split] = {}
        for suffix, where in (("", np.ones(len(labels), bool)), ("_both", both)):
            for stage, stage_scores in scores.items():
                rows = indices[(where & present[stage])[indices]]
                figures = metrics.evaluate(labels[rows], stage_scores[rows], genres)
                if split != "validation":
                    f1 = metrics.f1_averages(labels[rows], stage_scores[rows], tuned[stage])
                    figures |= {f"{name}_tuned": value for name, value in f1.items()}
                elif not suffix:
                    figures["thresholds"] = dict(zip(genres, tuned[stage].tolist()))
                results[split][stage + suffix] = figures
    return results
