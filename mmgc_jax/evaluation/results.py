"""The figures of an experiment: cross-validation, validation, test, missing modalities."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.calibration import Calibration


def headline(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The figures that are watched in training: `auc_macro` and `auc_micro`."""
    figures = metrics.evaluate(labels, scores, genres=range(labels.shape[1]))
    return {name: figures[name] for name in ("auc_macro", "auc_micro")}


def fill_absent(scores: np.ndarray, present: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Puts the genres' frequencies where a modality is absent.

    Args:
      scores: <float32>[movies, genres].
      present: <bool>[movies].
      frequencies: <float32>[genres], of the genres in the training part.
    """
    return np.where(present[:, None], scores, frequencies).astype(np.float32)


def evaluate_stages(
    corpus: pipeline.Corpus,
    folds: np.ndarray,
    scores: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    modalities: Sequence[str],
    calibrations: Mapping[str, Calibration],
) -> dict:
    """The figures of `results.json`; see the README for its layout.

    `cross_validation` is the training part, where each movie is predicted by models that did not
    train on it: every figure is the mean over the folds, and beside it `<figure>_std` is the
    standard deviation. The other splits' figures are of calibrated probabilities, and
    `ece_uncalibrated` says how it was before; those of F1 at the calibration's thresholds are named
    `f1_..._tuned`.

    Args:
      corpus: the movies.
      folds: the fold of each movie, <int>[movies of the corpus], -1 where it is in none.
      scores: of each stage, probabilities <float32>[movies of the corpus, genres].
      present: of each stage, which movies it can say something about, <bool>[movies].
      modalities: the stages without which a movie does not count as having both modalities.
      calibrations: of each stage.
    """
    both = np.all([present[stage] for stage in modalities], axis=0)
    everything = np.ones(len(both), bool)
    results = {}
    for split, indices in corpus.split.items():
        name = "cross_validation" if split == "train" else split
        results[name] = {}
        for suffix, where in (("", everything), ("_both", both)):
            for stage, stage_scores in scores.items():
                rows = indices[(where & present[stage])[indices]]
                if split == "train":
                    figures = _over_folds(corpus, folds, stage_scores, rows)
                else:
                    figures = _calibrated(corpus, stage_scores, rows, calibrations[stage])
                results[name][stage + suffix] = figures
    return results


def _over_folds(corpus, folds, scores, rows) -> dict:
    of_folds = [
        metrics.evaluate(corpus.labels[members], scores[members], corpus.genres)
        for members in (rows[folds[rows] == fold] for fold in range(folds.max() + 1))
    ]
    figures = {
        "movies": len(rows),
        "genres_counted": min(figures["genres_counted"] for figures in of_folds),
        "genres_counted_most": max(figures["genres_counted"] for figures in of_folds),
    }
    for name, value in of_folds[0].items():
        if isinstance(value, float):
            values = [figures[name] for figures in of_folds]
            figures |= {name: float(np.mean(values)), f"{name}_std": float(np.std(values, ddof=1))}
    return figures


def _calibrated(corpus, scores, rows, calibration) -> dict:
    labels, raw = corpus.labels[rows], scores[rows]
    calibrated = calibration(raw)
    figures = metrics.evaluate(labels, calibrated, corpus.genres)
    tuned = metrics.f1_averages(labels, calibrated, calibration.thresholds)
    return (
        figures
        | {f"{name}_tuned": value for name, value in tuned.items()}
        | {
            "ece": metrics.expected_calibration_error(labels, calibrated),
            "ece_uncalibrated": metrics.expected_calibration_error(labels, raw),
            "thresholds": dict(zip(corpus.genres, calibration.thresholds.tolist())),
        }
    )


# The shares of movies that lose a modality, for `missing_modalities`.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def missing_modalities(
    labels: np.ndarray, folds: np.ndarray, whole: np.ndarray, without: np.ndarray, seed: int
) -> list[float]:
    """Macro AUC of a fusion when a share of the movies lacks a modality that it was given.

    Args:
      labels: <float32>[movies, genres], of movies with both modalities.
      folds: of these movies, <int>[movies]; each figure is the mean over the folds, as movies of
        different folds have been judged by different models.
      whole: probabilities <float32>[movies, genres] with both.
      without: likewise, without one of them.
      seed: decides which movies lose it; a movie that lost it at one share has lost it at the next.

    Returns:
      One figure for each of `SHARES`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    figures = []
    for share in SHARES:
        lost = np.isin(np.arange(len(labels)), order[: round(share * len(labels))])
        scores = np.where(lost[:, None], without, whole)
        of_folds = [
            headline(labels[folds == fold], scores[folds == fold])["auc_macro"]
            for fold in np.unique(folds)
        ]
        figures.append(float(np.mean(of_folds)))
    return figures
