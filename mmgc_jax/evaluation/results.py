"""Figures of an experiment: cross-validation, validation, test, and missing modalities.

A model here is an encoder or a fusion, known by its name. Fusions are named `fusion` and
`fusion_...`; every other name is an encoder's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.calibration import Calibration


def is_fusion(name: str) -> bool:
    """Whether a model is a fusion: `fusion`, or `fusion_...` of a comparison."""
    return name == "fusion" or name.startswith("fusion_")


def fill_absent(
    probabilities: np.ndarray, present: np.ndarray, frequencies: np.ndarray
) -> np.ndarray:
    """Replaces the probabilities of movies without a modality by the genres' frequencies.

    Args:
      probabilities: <float32>[movies, genres].
      present: <bool>[movies].
      frequencies: <float32>[genres], of the genres in the training part.
    """
    return np.where(present[:, None], probabilities, frequencies).astype(np.float32)


def calibrate(
    corpus: Corpus, probabilities: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
) -> dict[str, Calibration]:
    """Fits the calibration of each model on the training movies, predicted out of fold.

    Args:
      corpus: the movies.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, the movies that have its modality, <bool>[movies of the corpus].
    """
    train = corpus.split["train"]
    calibrations = {}
    for name, of_movies in probabilities.items():
        rows = train[present[name][train]]
        calibrations[name] = Calibration.fit(corpus.labels[rows], of_movies[rows], corpus.genres)
    return calibrations


def evaluate_models(
    corpus: Corpus,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    calibrations: Mapping[str, Calibration],
    best_reachable: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Computes the figures of `results.json`; see the README for its layout.

    `cross_validation` is the training part, where each movie is predicted by models that did not
    train on it: every figure is the mean over the folds, and `<figure>_std` its standard deviation
    over them. The figures of the other splits are those of calibrated probabilities;
    `ece_uncalibrated` is the calibration error before, and `f1_..._tuned` is F1 at the
    calibration's thresholds.

    Args:
      corpus: the movies.
      folds: the fold of each movie, <int>[movies of the corpus], -1 where it is in none.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, the movies that have its modality, <bool>[movies of the corpus].
      fused: the encoders that are fused; a movie has both modalities if each of them is present.
      calibrations: for each model.
      best_reachable: the true probabilities <float>[movies of the corpus, genres] for models where
        they are known, as for synthetic movies. Their macro AUC is the best that can be reached.

    Returns:
      For each split, and each model as `<model>` and, on the movies with both modalities, as
      `<model>_both`, its figures.
    """
    both = _with_both(present, fused)
    everything = np.ones(len(both), bool)
    results = {}
    for split, indices in corpus.split.items():
        of_split = results["cross_validation" if split == "train" else split] = {}
        for suffix, where in (("", everything), ("_both", both)):
            for name, of_movies in probabilities.items():
                rows = indices[(where & present[name])[indices]]
                if split == "train":
                    figures = _over_folds(corpus, folds, of_movies, rows)
                else:
                    figures = _calibrated(corpus, of_movies, rows, calibrations[name])
                of_split[name + suffix] = figures
        if split != "train":
            for name, of_movies in (best_reachable or {}).items():
                rows = indices[present[name][indices]]
                auc = metrics.auc_macro(corpus.labels[rows], of_movies[rows])
                of_split[name]["best_reachable_auc_macro"] = auc
    return results


def _with_both(present, fused):
    """The movies that have the modality of every fused encoder, <bool>[movies]."""
    return np.all([present[name] for name in fused], axis=0)


def _over_folds(corpus, folds, probabilities, rows) -> dict:
    of_folds = [
        metrics.evaluate(corpus.labels[members], probabilities[members], corpus.genres)
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


def _calibrated(corpus, probabilities, rows, calibration) -> dict:
    labels, raw = corpus.labels[rows], probabilities[rows]
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


def evaluate_missing(
    corpus: Corpus,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    without: Mapping[str, Mapping[str, np.ndarray]],
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    seed: int,
) -> dict[str, dict[str, list[float]]]:
    """Computes macro AUC out of fold when training movies with both modalities lose one of them.

    Args:
      corpus: the movies.
      folds: the fold of each movie, <int>[movies of the corpus], -1 where it is in none.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      without: for each modality that can be lost and each model to show, the probabilities without
        it, <float32>[movies of the corpus, genres]. They are `probabilities[model]` for an encoder
        of the other modality.
      present: for each model, the movies that have its modality, <bool>[movies of the corpus].
      fused: the encoders that are fused; a movie has both modalities if each of them is present.
      seed: as for `missing_modalities`.

    Returns:
      For each modality and each model, as in `without`, a figure for each of `SHARES`.
    """
    train = corpus.split["train"]
    rows = train[_with_both(present, fused)[train]]
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
    """Computes macro AUC of a model when a share of the movies loses a modality.

    Args:
      labels: <float32>[movies, genres], of movies with both modalities.
      folds: of these movies, <int>[movies]; each figure is the mean over the folds, because movies
        of different folds are predicted by different models.
      whole: probabilities <float32>[movies, genres] with both modalities.
      without: probabilities <float32>[movies, genres] without one of them.
      seed: decides which movies lose the modality; the movies of a share are among those of the
        next larger one.

    Returns:
      One figure for each of `SHARES`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    figures = []
    for share in SHARES:
        lost = np.isin(np.arange(len(labels)), order[: round(share * len(labels))])
        scores = np.where(lost[:, None], without, whole)
        of_folds = [
            metrics.auc_macro(labels[folds == fold], scores[folds == fold])
            for fold in np.unique(folds)
        ]
        figures.append(float(np.mean(of_folds)))
    return figures
