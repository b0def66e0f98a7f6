"""Which movies train, which validate, and the folds of the training part."""

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits movies in two, each label in the same proportion (Sechidis et al. 2011).

    Args:
      labels: <float32>[movies, labels], 0 or 1: genres, and whatever else should be spread evenly.
      fraction: the share of the second part, in (0, 1).
      seed: of the random choice.

    Returns:
      The indices of the first and of the second part, ascending.
    """
    split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
    first, second = next(split.split(np.zeros(len(labels)), labels))
    return np.sort(first), np.sort(second)


def assign_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each movie, <int64>[movies] in 0..folds-1, each label spread evenly over them."""
    assigned = np.zeros(len(labels), np.int64)
    split = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, members) in enumerate(split.split(np.zeros(len(labels)), labels)):
        assigned[members] = fold
    return assigned
