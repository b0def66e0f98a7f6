"""Multi-label metrics, computed over a whole split.

Unless noted otherwise, functions take `labels` <bool>[movies, genres], or 0/1 numbers, and `scores`
or `probabilities` <float>[movies, genres]; a larger value means that a genre is more likely.

AUC is undefined (NaN) for a genre without a positive or without a negative. Macro and weighted
averages, including those of F1, run over the *counted* genres, which have both. On the counted
genres all metrics equal those of scikit-learn.

AUC of out-of-fold probabilities is computed *within folds*: each fold has a model of its own, with
an offset of its own, so only pairs of movies of the same fold are compared, of all folds together.

scikit-learn is imported where it is used: prediction imports this module but computes no metrics.
"""

from collections.abc import Sequence

import numpy as np

# A genre with fewer positives is not steady: one movie more or less can move its AUC by hundredths.
LEAST_STEADY = 10


def roc_auc(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray | None = None) -> float:
    """Computes the area under the ROC curve: P(positive scored above negative), ties count half.

    It is computed from mean ranks (Mann-Whitney U; Hanley and McNeil 1982), 25 to 35 times as fast
    as scikit-learn's `roc_auc_score` on thousands of movies.

    Args:
      labels: <bool>[n].
      scores: <float>[n].
      folds: <int>[n]; only pairs within a fold are compared. None: all pairs are.

    Returns:
      A value in [0, 1]; NaN if no fold has both a positive and a negative.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores)
    parts = [slice(None)] if folds is None else [folds == fold for fold in np.unique(folds)]
    counts = [_ordered_pairs(labels[part], scores[part]) for part in parts]
    ordered, pairs = np.sum(counts, axis=0) if counts else (0, 0)
    return float(ordered / pairs) if pairs else float("nan")


def _ordered_pairs(labels, scores) -> tuple[float, int]:
    """Counts pairs with the positive above the negative, ties half; and all pairs of both kinds."""
    positives = int(labels.sum())
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse.ravel()][labels].sum()
    return rank_sum - positives * (positives + 1) / 2, positives * (labels.size - positives)


def auc_macro(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray | None = None) -> float:
    """Computes the mean ROC AUC of the counted genres.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      scores: <float>[movies, genres].
      folds: <int>[movies], for AUC within folds; None for one model of all movies.

    Returns:
      A value in [0, 1]; NaN if no genre has both a positive and a negative.

    Raises:
      ValueError: if shapes disagree or a score is not finite.
    """
    labels, scores = _checked(labels, scores)
    aucs = [roc_auc(labels[:, g], scores[:, g], folds) for g in np.flatnonzero(_counted(labels))]
    return _mean(np.array([auc for auc in aucs if np.isfinite(auc)]))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Computes average precision; NaN without a positive, for which scikit-learn returns 0.

    Args:
      labels: <bool>[n].
      scores: <float>[n].

    Returns:
      A value in [0, 1], or NaN.
    """
    from sklearn.metrics import average_precision_score

    labels = np.asarray(labels, bool)
    return float(average_precision_score(labels, scores)) if labels.any() else float("nan")


def f1_averages(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5
) -> dict[str, float]:
    """Computes `f1_micro`, `f1_macro`, `f1_weighted` and `f1_samples`; see `evaluate`."""
    labels = np.asarray(labels).astype(bool)
    predictions = np.asarray(probabilities, np.float64) >= threshold
    genres = {"macro": _counted(labels), "weighted": _counted(labels)}
    return {
        f"f1_{average}": _f1(labels, predictions, average, genres.get(average))
        for average in ("micro", "macro", "weighted", "samples")
    }


def _f1(labels, predictions, average, counted=None):
    """Computes `f1_score` of the counted genres, or of all; NaN if there is nothing to average."""
    from sklearn.metrics import f1_score

    if not len(labels) or (counted is not None and not counted.any()):
        return float("nan")
    genres = None if counted is None else np.flatnonzero(counted)
    labels, predictions = _with_empty_column(labels), _with_empty_column(predictions)
    return float(f1_score(labels, predictions, average=average, labels=genres, zero_division=0))


def f1_per_genre(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5
) -> np.ndarray:
    """Computes F1 of each genre; 0 if it has no positive, or is predicted for none of them.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres], in [0, 1].
      threshold: a genre is predicted if its probability is at least this; one number for all
        genres, <float>[genres], or <float>[movies, genres].

    Returns:
      <float64>[genres].
    """
    from sklearn.metrics import f1_score

    labels = np.asarray(labels).astype(bool)
    predictions = np.asarray(probabilities, np.float64) >= threshold
    if not len(labels):
        return np.zeros(labels.shape[1])
    labels, predictions = _with_empty_column(labels), _with_empty_column(predictions)
    return f1_score(labels, predictions, average=None, zero_division=0)[:-1]


def _with_empty_column(flags):
    """Adds a genre that never occurs, which changes no average used here.

    scikit-learn treats a single column as a problem of two classes and averages the F1 of both.
    """
    return np.pad(flags, ((0, 0), (0, 1)))


def tune_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Finds the threshold with the best F1 for each genre, in O(n log n) for n movies.

    The candidates are the genre's own probabilities, as in a precision-recall curve. If several
    have the same F1, the highest is chosen, which predicts the genre for the fewest movies. F1 is
    computed from counts, so that equal fractions are equal numbers.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres].

    Returns:
      <float64>[genres]; 0.5 for a genre without a positive, whose F1 is 0 at any threshold.
    """
    labels = np.asarray(labels).astype(bool)
    probabilities = np.asarray(probabilities, np.float64)
    thresholds = np.full(labels.shape[1], 0.5)
    for genre in np.flatnonzero(labels.any(axis=0)):
        candidates, hits, predicted = _counts_by_threshold(
            labels[:, genre], probabilities[:, genre]
        )
        f1 = 2 * hits / (predicted + hits[-1])
        thresholds[genre] = candidates[np.argmax(f1)]
    return thresholds


def _counts_by_threshold(labels, scores):
    """Returns the distinct scores, descending, and the positives and movies at or above each."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    # Equal scores share one threshold: keep the last position of each run of ties.
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return scores[order][last], hits[last], last + 1


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> dict:
    """Computes a reliability diagram with equal-width bins (arXiv 1706.04599), genres pooled.

    A bin includes its upper edge; the first one also includes 0. scikit-learn's `calibration_curve`
    does not return the number of probabilities in a bin, which calibration error and figures need.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers, or any other shape.
      probabilities: <float> of the same shape, in [0, 1].
      bins: number of bins.

    Returns:
      `predicted`: the mean probability of each bin, <float64>[bins]; NaN if it is empty.
      `true`: the share of positives of each bin, <float64>[bins]; NaN if it is empty.
      `count`: the number of probabilities in each bin, <int64>[bins].

    Raises:
      ValueError: if shapes disagree or a probability is not in [0, 1].
    """
    labels = np.asarray(labels).astype(bool)
    probabilities = np.asarray(probabilities, np.float64)
    if labels.shape != probabilities.shape:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} differ")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is not in [0, 1]")
    labels, probabilities = labels.ravel(), probabilities.ravel()
    bin_of = np.digitize(probabilities, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(bin_of, minlength=bins)
    divisor = np.where(count, count, np.nan)
    return {
        "predicted": np.bincount(bin_of, weights=probabilities, minlength=bins) / divisor,
        "true": np.bincount(bin_of, weights=labels, minlength=bins) / divisor,
        "count": count,
    }


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
    """Computes the expected calibration error (Naeini et al. 2015), the mean of counted genres.

    The error of a genre is the mean of |mean probability - share of positives| over equal-width
    bins, weighted by their number of movies (arXiv 1706.04599, section 2, but for the positive
    class and not for the more likely one). Genres that never occur are left out: their errors are
    small without any merit of the model, and would hide the other errors.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres], in [0, 1].
      bins: number of bins of each genre.

    Returns:
      A value in [0, 1]; NaN if no genre has both a positive and a negative.

    Raises:
      ValueError: if shapes disagree or a probability of a counted genre is not in [0, 1].
    """
    labels, probabilities = np.asarray(labels).astype(bool), np.asarray(probabilities)
    if labels.shape != probabilities.shape:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} differ")
    errors = []
    for genre in np.flatnonzero(_counted(labels)):
        diagram = reliability(labels[:, genre], probabilities[:, genre], bins)
        gaps = np.abs(diagram["predicted"] - diagram["true"]) * diagram["count"]
        errors.append(np.nansum(gaps) / len(labels))
    return _mean(np.array(errors))


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    genres: Sequence[str],
    threshold: float | np.ndarray = 0.5,
    folds: np.ndarray | None = None,
) -> dict:
    """Computes all metrics of one split.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres], in [0, 1].
      genres: the names of the columns.
      threshold: a genre is predicted if its probability is at least this; one number for all
        genres, <float>[genres], or <float>[movies, genres].
      folds: <int>[movies], for AUC within folds; None for one model of all movies.

    Returns:
      `movies`, `genres_counted` (those with a positive and a negative), `genres_steady` (those with
      at least `LEAST_STEADY` of both), `auc_macro`, `auc_steady` (the mean over the steady genres),
      `auc_micro`, `map` (macro average precision), `f1_micro`, `f1_macro`, `f1_weighted` (by
      positives), `f1_samples` (the mean over the movies), and `per_genre`: for each genre
      `positives`, `auc`, `average_precision`, `f1`. Macro and weighted averages run over the
      counted genres; micro and samples averages use all genres. Undefined values are NaN.

    Raises:
      ValueError: if shapes disagree or a probability is not finite.
    """
    labels, probabilities = _checked(labels, probabilities)
    if labels.shape[1] != len(genres):
        raise ValueError(f"labels {labels.shape} do not fit together with {len(genres)} genres")

    counted, steady = _counted(labels), is_steady(labels)
    columns = range(len(genres))
    auc = np.array([roc_auc(labels[:, g], probabilities[:, g], folds) for g in columns])
    folds_of_pairs = None if folds is None else np.repeat(folds, len(genres))
    precision = np.array([average_precision(labels[:, g], probabilities[:, g]) for g in columns])
    f1 = f1_per_genre(labels, probabilities, threshold)
    return {
        "movies": len(labels),
        "genres_counted": int(counted.sum()),
        "genres_steady": int(steady.sum()),
        "auc_macro": _mean(auc[counted & np.isfinite(auc)]),
        "auc_steady": _mean(auc[steady & np.isfinite(auc)]),
        "auc_micro": roc_auc(labels.ravel(), probabilities.ravel(), folds_of_pairs),
        "map": _mean(precision[counted]),
        **f1_averages(labels, probabilities, threshold),
        "per_genre": {
            genre: {
                "positives": int(labels[:, g].sum()),
                "auc": float(auc[g]),
                "average_precision": float(precision[g]),
                "f1": float(f1[g]),
            }
            for g, genre in enumerate(genres)
        },
    }


def cooccurrence(flags: np.ndarray) -> np.ndarray:
    """Computes how often genres occur together.

    Args:
      flags: the genres of each movie, true or predicted, <bool>[movies, genres].

    Returns:
      <float64>[genres, genres]: element [i, j] is the share of the movies with genre i that also
      have genre j. It is NaN for i = j, and if no movie has genre i.
    """
    flags = np.asarray(flags, np.float64)
    count = flags.sum(axis=0)
    shares = flags.T @ flags / np.where(count, count, np.nan)[:, None]
    np.fill_diagonal(shares, np.nan)
    return shares


def _checked(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels as <bool>[movies, genres] and scores as <float64>[movies, genres]."""
    labels = np.asarray(labels).astype(bool)
    scores = np.asarray(scores, np.float64)
    if labels.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(
            f"labels {labels.shape} and probabilities {scores.shape} do not fit together as "
            "[movies, genres]"
        )
    if not np.isfinite(scores).all():
        raise ValueError("probabilities contain NaN or infinity")
    return labels, scores


def is_steady(labels: np.ndarray) -> np.ndarray:
    """Returns whether a genre has `LEAST_STEADY` positives and negatives, <bool>[genres].

    Args:
      labels: <bool>[movies, genres].
    """
    positives = labels.sum(axis=0)
    return np.minimum(positives, len(labels) - positives) >= LEAST_STEADY


def _counted(labels):
    """Returns whether each genre has a positive and a negative, <bool>[genres]."""
    return labels.any(axis=0) & ~labels.all(axis=0)


def _mean(values):
    """Returns the mean; NaN of no values, without numpy's warning."""
    return float(np.mean(values)) if len(values) else float("nan")
