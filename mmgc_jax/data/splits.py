"""Splits movies into two parts or into folds, stratified by several labels."""

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit


def hold_out(
    labels: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits movies into two parts by iterative stratification (Sechidis et al. 2011).

    Args:
      labels: <float32>[movies, labels], 0 or 1: genres, and other properties to distribute evenly.
      fraction: fraction of the movies in the second part, above 0 and below 1. With few movies, a
        part may be empty.
      seed: random seed, from 0 to 2**32 - 1.
      groups: the group of each movie, <int64>[movies]; a group is never split. None: each movie is
        a group of its own.

    Returns:
      The indices of the movies in the first and in the second part, <int64>, ascending.

    Raises:
      ValueError: if fraction or seed is out of range, or there are too few movies.
    """
    if not isinstance(fraction, float) or not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction!r}, not a number above 0 and below 1")
    _check_seed(seed)
    split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
    labels, group_of_row = _of_groups(labels, groups)
    first, second = next(split.split(np.zeros(len(labels)), labels))
    return tuple(np.flatnonzero(np.isin(group_of_row, part)) for part in (first, second))


def assign_folds(
    labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Assigns movies to folds of equal size by iterative stratification (Sechidis et al. 2011).

    Args:
      labels: see `hold_out`.
      folds: number of folds, from 2 to the number of groups.
      seed: see `hold_out`.
      groups: see `hold_out`.

    Returns:
      The fold of each movie, <int64>[movies], from 0 to folds - 1.

    Raises:
      ValueError: if folds or seed is out of range.
    """
    _check_seed(seed)
    labels, group_of_row = _of_groups(labels, groups)
    assigned = np.zeros(len(labels), np.int64)
    split = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, members) in enumerate(split.split(np.zeros(len(labels)), labels)):
        assigned[members] = fold
    return assigned[group_of_row]


def _of_groups(labels: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels that any movie of a group has, and the group of each movie, from 0 on."""
    if groups is None:
        return labels, np.arange(len(labels))
    _, group_of_row = np.unique(groups, return_inverse=True)
    of_groups = np.zeros((group_of_row.max(initial=-1) + 1, labels.shape[1]), labels.dtype)
    np.maximum.at(of_groups, group_of_row, labels)
    return of_groups, group_of_row


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 1 << 32:  # None would mean a random seed
        raise ValueError(f"seed is {seed!r}, not a whole number from 0 to 2**32 - 1")
