"""Multi-label metrics over whole splits, in plain numpy.

Every function takes `labels` <bool>[movies, genres] and, unless it says otherwise, `scores`
<float>[movies, genres] in which a larger value means that the genre is more likely. The figures
equal scikit-learn's wherever scikit-learn defines them. A ranking metric is not defined for a genre
(or a movie) without both a positive and a negative: it is then NaN, and averages leave it out.
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
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    # Equal scores share one threshold: keep the last position of each run of ties.
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = hits[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


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


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    genres: Sequence[str],
    threshold: float = 0.5,
) -> dict:
    """All figures of one split.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres], in [0, 1].
      genres: the names of the columns.
      threshold: a genre is predicted where its probability is at least this.

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

    positives = labels.sum(axis=0)
    counted = (positives > 0) & (positives < len(labels))
    weights = np.where(counted, positives, 0)
    predictions = probabilities >= threshold

    auc = np.array([roc_auc(labels[:, g], probabilities[:, g]) for g in range(len(genres))])
    precision = np.array(
        [average_precision(labels[:, g], probabilities[:, g]) for g in range(len(genres))]
    )
    f1_of_genre = f1(*_counts(labels, predictions, axis=0))

    def mean(values, where):
        return float(np.mean(values[where])) if where.any() else float("nan")

    def weighted(values):
        total = weights.sum()
        return float(np.sum(np.where(counted, values, 0) * weights) / total) if total else np.nan

    auc_of_movie = np.array([roc_auc(row, p) for row, p in zip(labels, probabilities)])
    return {
        "movies": len(labels),
        "genres_counted": int(counted.sum()),
        "auc_macro": mean(auc, counted),
        "auc_micro": roc_auc(labels.ravel(), probabilities.ravel()),
        "auc_weighted": weighted(auc),
        "auc_samples": mean(auc_of_movie, np.isfinite(auc_of_movie)),
        "map": mean(precision, counted),
        "f1_micro": float(f1(*_counts(labels, predictions, axis=None))),
        "f1_macro": mean(f1_of_genre, counted),
        "f1_weighted": weighted(f1_of_genre),
        "f1_samples": mean(f1(*_counts(labels, predictions, axis=1)), np.ones(len(labels), bool)),
        "hamming_loss": float(np.mean(labels != predictions)) if labels.size else float("nan"),
        "per_genre": {
            genre: {
                "positives": int(positives[g]),
                "auc": float(auc[g]),
                "average_precision": float(precision[g]),
                "f1": float(f1_of_genre[g]),
            }
            for g, genre in enumerate(genres)
        },
    }
