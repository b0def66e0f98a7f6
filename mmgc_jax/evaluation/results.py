"""Computes the figures of an experiment: of each split, and for missing modalities.

A model is an encoder or a fusion and is identified by its name. Fusions are named `fusion` and
`fusion_...`; all other names are those of encoders.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.calibration import Calibration


def is_fusion(name: str) -> bool:
    """Returns whether a model is a fusion: `fusion`, or `fusion_...` of a comparison."""
    return name == "fusion" or name.startswith("fusion_")


def fill_absent(
    probabilities: np.ndarray, present: np.ndarray, frequencies: np.ndarray
) -> np.ndarray:
    """Replaces the probabilities of movies without a modality by the frequencies of the genres.

    Args:
      probabilities: <float32>[movies, genres].
      present: <bool>[movies].
      frequencies: share of training movies that have the genre, <float32>[genres].

    Returns:
      <float32>[movies, genres].
    """
    return np.where(present[:, None], probabilities, frequencies).astype(np.float32)


def calibrate(
    corpus: Corpus, probabilities: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
) -> dict[str, Calibration]:
    """Fits the calibration of each model to out-of-fold probabilities of the training movies.

    Args:
      corpus: the movies.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, whether a movie has its modality, <bool>[movies of the corpus].

    Returns:
      The calibration of each model.
    """
    train = corpus.split["train"]
    calibrations = {}
    for name, of_movies in probabilities.items():
        rows = train[present[name][train]]
        calibrations[name] = Calibration.fit(corpus.labels[rows], of_movies[rows], corpus.genres)
    return calibrations


class Calibrated(NamedTuple):
    """Calibrated probabilities of one model for all movies of a corpus, and their thresholds.

    Attributes:
      probabilities: <float32>[movies of the corpus, genres].
      thresholds: <float64>[movies of the corpus, genres].
    """

    probabilities: np.ndarray
    thresholds: np.ndarray


def cross_calibrate(
    corpus: Corpus,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    calibrations: Mapping[str, Calibration],
) -> dict[str, Calibrated]:
    """Calibrates each movie with movies other than itself.

    The training movies of a fold are calibrated as those of the other folds demand; all other
    movies as all training movies demand, which is how new movies are calibrated.

    Args:
      corpus: the movies.
      folds: the fold of each movie, <int>[movies of the corpus]; -1 for movies in no fold.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, whether a movie has its modality, <bool>[movies of the corpus].
      calibrations: as returned by `calibrate`.

    Returns:
      The calibrated probabilities and the thresholds of each model.
    """
    calibrated = {}
    for name, of_movies in probabilities.items():
        whole = calibrations[name]
        result = Calibrated(whole(of_movies), np.tile(whole.thresholds, (len(of_movies), 1)))
        for fold in range(folds.max() + 1):
            others = np.flatnonzero((folds >= 0) & (folds != fold) & present[name])
            of_fold = Calibration.fit(corpus.labels[others], of_movies[others], corpus.genres)
            members = folds == fold
            result.probabilities[members] = of_fold(of_movies[members])
            result.thresholds[members] = of_fold.thresholds
        calibrated[name] = result
    return calibrated


class Predictions(NamedTuple):
    """Predictions of one model for some movies, from which tables and figures are computed.

    Attributes:
      labels: <float32>[movies, genres], 0 or 1.
      probabilities: calibrated, <float32>[movies, genres].
      uncalibrated: <float32>[movies, genres].
      thresholds: tuned to calibrated probabilities, <float64>[movies, genres].
      folds: the fold of out-of-fold predictions, <int>[movies], for AUC within folds; None if one
        model has predicted all movies.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    uncalibrated: np.ndarray
    thresholds: np.ndarray
    folds: np.ndarray | None = None


def predictions_of_split(
    corpus: Corpus,
    split: str,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    calibrated: Mapping[str, Calibrated],
) -> dict[str, Predictions]:
    """Selects the predictions of one split.

    Arguments that are not listed are those of `evaluate_models`.

    Args:
      split: a key of `corpus.split`.

    Returns:
      `{model: predictions}`; a model appears as `<model>`, on the movies that have its modality,
      and as `<model>_both`, on the movies with both modalities.
    """
    indices = corpus.split[split]
    both = with_both(present, fused)
    predictions = {}
    for suffix, where in (("", np.ones_like(both)), ("_both", both)):
        for name, of_movies in probabilities.items():
            rows = indices[(where & present[name])[indices]]
            predictions[name + suffix] = Predictions(
                corpus.labels[rows],
                calibrated[name].probabilities[rows],
                of_movies[rows],
                calibrated[name].thresholds[rows],
                folds[rows] if split == "train" else None,
            )
    return predictions


def evaluate_models(
    corpus: Corpus,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    calibrated: Mapping[str, Calibrated],
    best_reachable: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Computes the figures of `results.json`.

    `cross_validation` is computed from out-of-fold probabilities of the training movies, with AUC
    within folds. All figures are those of calibrated probabilities, except `ece_uncalibrated`, the
    calibration error before calibration. `f1_..._tuned`, and `f1_tuned` of each genre, are F1 at
    the calibration's thresholds.

    Args:
      corpus: the movies.
      folds: the fold of each movie, <int>[movies of the corpus]; -1 for movies in no fold.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, whether a movie has its modality, <bool>[movies of the corpus].
      fused: names of the fused encoders; a movie has both modalities if it has that of each of
        them.
      calibrated: as returned by `cross_calibrate`.
      best_reachable: for some models, the true probabilities of synthetic movies, <float>[movies
        of the corpus, genres]. Their macro AUC is the best that the model could reach.

    Returns:
      `{split: {model: figures}}`; a model appears as `<model>`, on the movies that have its
      modality, and as `<model>_both`, on the movies with both modalities.
    """
    results = {}
    for split, indices in corpus.split.items():
        predictions = predictions_of_split(
            corpus, split, folds, probabilities, present, fused, calibrated
        )
        figures = evaluate_predictions(predictions, corpus.genres)
        for name, of_movies in (best_reachable or {}).items():
            rows = indices[present[name][indices]]
            auc = metrics.auc_macro(corpus.labels[rows], of_movies[rows])
            figures[name]["best_reachable_auc_macro"] = auc
        results["cross_validation" if split == "train" else split] = figures
    return results


def evaluate_predictions(
    predictions: Mapping[str, Predictions], genres: Sequence[str]
) -> dict[str, dict]:
    """Computes the figures of calibrated predictions.

    Args:
      predictions: of each model; also of `<model>_both`.
      genres: the names of the columns.

    Returns:
      `{model: figures}`, the figures of one split of `results.json`.
    """
    return {name: _figures(of_model, genres) for name, of_model in predictions.items()}


def with_both(present: Mapping[str, np.ndarray], fused: Sequence[str]) -> np.ndarray:
    """Returns whether each movie has the modality of every fused encoder, <bool>[movies]."""
    return np.all([present[name] for name in fused], axis=0)


def _figures(predictions: Predictions, genres: Sequence[str]) -> dict:
    labels, calibrated, uncalibrated, thresholds, folds = predictions
    figures = metrics.evaluate(labels, calibrated, genres, folds=folds)
    for of_genre, f1 in zip(
        figures["per_genre"].values(), metrics.f1_per_genre(labels, calibrated, thresholds)
    ):
        of_genre["f1_tuned"] = float(f1)
    tuned = metrics.f1_averages(labels, calibrated, thresholds)
    # Those of new movies are in calibration.json; in cross-validation each fold has its own.
    middle = np.median(thresholds, axis=0) if len(thresholds) else np.full(len(genres), np.nan)
    return (
        figures
        | {f"{name}_tuned": value for name, value in tuned.items()}
        | {
            "ece": metrics.expected_calibration_error(labels, calibrated),
            "ece_uncalibrated": metrics.expected_calibration_error(labels, uncalibrated),
            "thresholds": dict(zip(genres, middle.tolist())),
        }
    )


# Shares of movies that lose a modality, for `missing_modalities`.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def evaluate_missing(
    corpus: Corpus,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    without: Mapping[str, Mapping[str, np.ndarray]],
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    seed: int,
) -> dict[str, dict[str, list[float]]]:
    """Computes out-of-fold macro AUC if training movies with both modalities lose one of them.

    Args:
      corpus: the movies.
      folds: the fold of each movie, <int>[movies of the corpus]; -1 for movies in no fold.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      without: `{modality: {model: probabilities without it}}`, <float32>[movies of the corpus,
        genres]; equal to `probabilities[model]` for an encoder of the other modality.
      present: for each model, whether a movie has its modality, <bool>[movies of the corpus].
      fused: names of the fused encoders; a movie has both modalities if it has that of each of
        them.
      seed: see `missing_modalities`.

    Returns:
      `{modality: {model: aucs}}`, with a macro AUC for each of `SHARES`.
    """
    train = corpus.split["train"]
    rows = train[with_both(present, fused)[train]]
    return {
        modality: {
            name: missing_modalities(
                corpus.labels[rows], folds[rows], probabilities[name][rows], of_movies[rows], seed
            )
            for name, of_movies in of_models.items()
        }
        for modality, of_models in without.items()
    }


def missing_modalities(
    labels: np.ndarray, folds: np.ndarray, whole: np.ndarray, without: np.ndarray, seed: int
) -> list[float]:
    """Computes macro AUC of a model if a share of the movies loses a modality.

    Args:
      labels: <float32>[movies, genres], of movies with both modalities.
      folds: <int>[movies], for AUC within folds.
      whole: probabilities with both modalities, <float32>[movies, genres].
      without: probabilities without one of them, <float32>[movies, genres].
      seed: chooses the movies that lose the modality. Movies that lose it at one share also lose it
        at larger shares.

    Returns:
      A macro AUC for each of `SHARES`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    figures = []
    for share in SHARES:
        lost = np.isin(np.arange(len(labels)), order[: round(share * len(labels))])
        scores = np.where(lost[:, None], without, whole)
        figures.append(metrics.auc_macro(labels, scores, folds))
    return figures
