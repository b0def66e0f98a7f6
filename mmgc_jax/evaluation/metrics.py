"""Multi-label metrics over whole splits, in plain numpy.

Every function takes `labels` <bool>[movies, genres] and, unless it says otherwise, `scores`
<float>[movies, genres] in which a larger value means that the genre is more likely. A
ranking metric is not defined for a genre (or a movie) without both a positive and a negative: it is
then NaN. Macro and weighted averages, of F1 too, leave such a genre out; over the others, all
figures equal scikit-learn's.
"""

from collections.abc import Sequence

import numpy as np


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties counting half.

    Computed from mean ranks (Mann-Whitney U; Hanley and McNeil 1982).

    Args:
      labels: <bool>[n].
      scores: <float>[n].

    Returns:
      A value in [0, 1]; NaN if there is no positive or no negative.
    """
    labels = np.asarray(labels, bool)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse.ravel()][labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Average precision: the sum over thresholds of precision times the gain in recall.

    Args:
      labels: <bool>[n].
      scores: <float>[n].

    Returns:
      A value in [0, 1]; NaN if there is no positive.
    """
    labels = np.asarray(labels, bool)
    scores = np.asarray(scores)
    if not labels.any():
        return float("nan")
    _, hits, predicted = _by_threshold(labels, scores)
    return float(np.sum(np.diff(hits, prepend=0) * hits / predicted) / hits[-1])


def _by_threshold(labels, scores):
    """The distinct scores, falling; the positives at or above each; the movies at or above each."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    # Equal scores share one threshold: keep the last position of each run of ties.
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return scores[order][last], hits[last], last + 1


def tune_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """For each genre, the threshold with the best F1, in O(n log n) for n movies.

    The candidates are the genre's own probabilities, as in a precision-recall curve. Of those
    equally good the highest is taken, with which the genre is predicted least often.

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
        candidates, hits, predicted = _by_threshold(labels[:, genre], probabilities[:, genre])
        best = np.argmax(f1(hits, predicted - hits, hits[-1] - hits))
        thresholds[genre] = candidates[best]
    return thresholds


def f1(true_positives, false_positives, false_negatives) -> np.ndarray:
    """F1 from counts, 0 where it is 0 / 0."""
    denominator = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / np.maximum(denominator, 1)


def _counts(labels, predictions, axis):
    return (
        np.sum(labels & predictions, axis=axis),
        np.sum(~labels & predictions, axis=axis),
        np.sum(labels & ~predictions, axis=axis),
    )


def f1_averages(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5
) -> dict[str, float]:
    """`f1_micro`, `f1_macro`, `f1_weighted` and `f1_samples`, as of `evaluate`."""
    labels = np.asarray(labels).astype(bool)
    predictions = np.asarray(probabilities, np.float64) >= threshold
    of_genre = f1(*_counts(labels, predictions, axis=0))
    of_movie = f1(*_counts(labels, predictions, axis=1))
    return {
        "f1_micro": float(f1(*_counts(labels, predictions, axis=None))) if len(labels) else np.nan,
        "f1_macro": _macro(of_genre, _counted(labels)),
        "f1_weighted": _weighted(of_genre, labels),
        "f1_samples": _macro(of_movie, np.ones(len(labels), bool)),
    }


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> dict:
    """How often what is given a probability is true, in bins of equal width (arXiv 1706.04599).

    Movies and genres are pooled: every probability counts once, of every column. A bin holds its
    upper edge; the first one holds 0, too.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers, or any other shape.
      probabilities: <float> of the same shape, in [0, 1].
      bins: their number.

    Returns:
      `predicted` and `true` <float64>[bins], the mean probability and the share of positives of a
      bin, NaN where it is empty, and `count` <int64>[bins].

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
    """How far probabilities are from the shares of positives (Naeini et al. 2015).

    Of each genre, |mean probability - share of positives| of its bins of equal width, weighted by
    the movies in them (arXiv 1706.04599, section 2; of the positive class, not of the likelier
    one). Of the genres, the mean over those with a positive and a negative: one that never occurs
    is easily right and would hide the others.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres], in [0, 1].
      bins: their number, for each genre.

    Returns:
      A value in [0, 1]; NaN if no genre has both a positive and a negative.

    Raises:
      ValueError: if shapes disagree or a probability of a counted genre is not in [0, 1].
    """
    labels, probabilities = np.asarray(labels).astype(bool), np.asarray(probabilities)
    if labels.shape != probabilities.shape:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} differ")
    errors = np.full(labels.shape[1], np.nan)
    counted = _counted(labels)
    for genre in np.flatnonzero(counted):
        found = reliability(labels[:, genre], probabilities[:, genre], bins)
        gaps = np.abs(found["predicted"] - found["true"]) * found["count"]
        errors[genre] = np.nansum(gaps) / len(labels)
    return _macro(errors, counted)


def _counted(labels):
    """The genres with a positive and a negative, <bool>[genres]."""
    return labels.any(axis=0) & ~labels.all(axis=0)


def _macro(values, where):
    return float(np.mean(values[where])) if where.any() else float("nan")


def _weighted(values, labels):
    counted = _counted(labels)
    weights = labels.sum(axis=0)[counted]
    return float(np.average(values[counted], weights=weights)) if counted.any() else float("nan")


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    genres: Sequence[str],
    threshold: float | np.ndarray = 0.5,
) -> dict:
    """All figures of one split.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres], in [0, 1].
      genres: the names of the columns.
      threshold: a genre is predicted where its probability is at least this; one for all genres,
        or <float>[genres].

    Returns:
      `movies`, `genres_counted` (those with a positive and a negative), `auc_macro`, `auc_micro`,
      `auc_weighted` (by positives), `auc_samples`, `map` (macro average precision), `f1_micro`,
      `f1_macro`, `f1_weighted`, `f1_samples`, `hamming_loss`, and `per_genre`: for each genre
      `positives`, `auc`, `average_precision`, `f1`. Macro and weighted averages run over the
      counted genres; micro and samples figures use every column. Undefined figures are NaN.

    Raises:
      ValueError: if shapes disagree or a probability is not finite.
    """
    labels = np.asarray(labels).astype(bool)
    probabilities = np.asarray(probabilities, np.float64)
    if labels.shape != probabilities.shape or labels.shape[1:] != (len(genres),):
        raise ValueError(
            f"labels {labels.shape}, probabilities {probabilities.shape} and {len(genres)} genres "
            "do not fit together"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities contain NaN or infinity")

    counted = _counted(labels)
    predictions = probabilities >= threshold

    auc = np.array([roc_auc(labels[:, g], probabilities[:, g]) for g in range(len(genres))])
    precision = np.array(
        [average_precision(labels[:, g], probabilities[:, g]) for g in range(len(genres))]
    )
    f1_of_genre = f1(*_counts(labels, predictions, axis=0))

    auc_of_movie = np.array([roc_auc(row, p) for row, p in zip(labels, probabilities)])
    return {
        "movies": len(labels),
        "genres_counted": int(counted.sum()),
        "auc_macro": _macro(auc, counted),
        "auc_micro": roc_auc(labels.ravel(), probabilities.ravel()),
        "auc_weighted": _weighted(auc, labels),
        "auc_samples": _macro(auc_of_movie, np.isfinite(auc_of_movie)),
        "map": _macro(precision, counted),
        **f1_averages(labels, probabilities, threshold),
        "hamming_loss": float(np.mean(labels != predictions)) if labels.size else float("nan"),
        "per_genre": {
            genre: {
                "positives": int(labels[:, g].sum()),
                "auc": float(auc[g]),
                "average_precision": float(precision[g]),
                "f1": float(f1_of_genre[g]),
            }
            for g, genre in enumerate(genres)
        },
    }
