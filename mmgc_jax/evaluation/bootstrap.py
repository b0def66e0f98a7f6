"""Confidence intervals by the percentile bootstrap over movies (Efron 1979).

Movies are drawn with replacement, as many as there are, and each figure is computed of every draw,
a *resample*. An interval of 95 % lies between the 2.5th and the 97.5th percentile. It covers the
chance in which movies were judged. It does not cover the chance in training: another seed.

Scores are sorted only once. A resample is a vector of counts, how often each movie was drawn, and
all figures are sums weighted by them: 1,000 resamples of 5,000 movies with 24 genres take less than
a second for one model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmgc_jax.evaluation import metrics

if TYPE_CHECKING:
    from scipy import sparse  # slow to import

RESAMPLES = 1000
LEVEL = 0.95
LEAST_MOVIES = 30  # for an interval that is shown; see `is_shown`
# The figures that get intervals; with thresholds also those of F1 at them, `<figure>_tuned`.
FIGURES = (
    "auc_macro", "auc_steady", "auc_micro", "map", "f1_micro", "f1_macro", "f1_weighted",
    "f1_samples",
)  # fmt: skip
# Numbers of a block of resamples that are in memory together.
_BLOCK_SIZE = 4_000_000
_MOST_AT_ONCE = 64  # resamples; the counts of 5,000 movies then fit into a cache of 2 MB


class Resampled:
    """Computes the figures of one model on resampled movies.

    For a resample that draws each movie once, they equal those of `metrics.evaluate`. As there,
    macro and weighted averages run over the genres that have a positive and a negative in the
    resample.

    Attributes:
      movies: number of movies.
    """

    def __init__(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        thresholds: np.ndarray | None = None,
        folds: np.ndarray | None = None,
    ):
        """Sorts the probabilities.

        Args:
          labels: <bool>[movies, genres], or 0/1 numbers.
          probabilities: <float>[movies, genres].
          thresholds: <float>[genres] or [movies, genres]; None leaves out F1 at tuned thresholds.
          folds: the fold of each movie, <int>[movies], for AUC within folds; see `metrics`.
        """
        labels, probabilities = np.asarray(labels).astype(bool), np.asarray(probabilities)
        self.movies = len(labels)
        parts = [slice(None)] if folds is None else [folds == fold for fold in np.unique(folds)]
        self._parts = [(rows, _Rankings(labels[rows], probabilities[rows])) for rows in parts]
        self._whole = self._parts[0][1] if folds is None else _Rankings(labels, probabilities)
        self._steady = metrics.is_steady(labels)
        self._positives = _count(*np.nonzero(labels.T), labels.T.shape)
        self._decisions = {"": _Decisions(labels, probabilities >= 0.5)}
        if thresholds is not None:
            self._decisions["_tuned"] = _Decisions(labels, probabilities >= thresholds)

    @property
    def block(self) -> int:
        """Number of resamples to compute at once."""
        return int(np.clip(_BLOCK_SIZE // max(self._positives.nnz, 1), 1, _MOST_AT_ONCE))

    def __call__(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Computes figures.

        Args:
          counts: how often each movie is drawn, <int32>[movies, resamples].

        Returns:
          `{figure: values}`, <float64>[resamples], or [genres, resamples] for `auc_per_genre`;
          undefined values are NaN.
        """
        pairs = [rankings.pairs(counts[rows]) for rows, rankings in self._parts]
        auc, micro = (_ratio(*np.sum(of_parts, axis=0)) for of_parts in zip(*pairs))
        defined, positives = np.isfinite(auc), self._positives @ counts
        counted = (positives > 0) & (positives < counts.sum(axis=0))
        figures = {
            "auc_per_genre": auc,
            "auc_macro": _mean(auc, defined),
            "auc_steady": _mean(auc, defined & self._steady[:, None]),
            "auc_micro": micro,
            "map": _mean(self._whole.precision(counts), counted),
        }
        for suffix, decisions in self._decisions.items():
            f1 = decisions.f1_averages(counts, positives, counted)
            figures |= {f"{name}{suffix}": values for name, values in f1.items()}
        return figures


class _Rankings:
    """The rankings of movies that were predicted by the same model: of each genre, and pooled."""

    def __init__(self, labels, probabilities):
        num_movies, num_genres = labels.shape
        movies = np.arange(num_movies)
        self._genres = [
            _Ranking(labels[:, g], probabilities[:, g], movies, num_movies)
            for g in range(num_genres)
        ]
        self._pooled = _Ranking(
            labels.ravel(), probabilities.ravel(), np.repeat(movies, num_genres), num_movies
        )

    def pairs(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts pairs of a positive and a negative, ordered and all; see `_Ranking.pairs`.

        Returns:
          <float64>[2, genres, resamples] of each genre, and [2, resamples] of all genres pooled.
        """
        return self.pairs_of_genres(counts), np.array(self._pooled.pairs(counts))

    def pairs_of_genres(self, counts: np.ndarray) -> np.ndarray:
        """Counts the pairs of each genre, <float64>[2, genres, resamples]; see `pairs`."""
        return np.moveaxis([ranking.pairs(counts) for ranking in self._genres], 0, 1)

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """Computes average precision of each genre, <float64>[genres, resamples]."""
        return np.array([ranking.precision(counts) for ranking in self._genres])


class _Decisions:
    """Computes averages of F1 of resamples from decisions on genres."""

    def __init__(self, labels, decisions):
        self._true = _count(*np.nonzero((labels & decisions).T), labels.T.shape)
        self._predicted = _count(*np.nonzero(decisions.T), labels.T.shape)
        either = np.sum(labels, axis=1) + np.sum(decisions, axis=1)
        # F1 of each movie over its genres.
        self._of_movies = _ratio(2.0 * np.sum(labels & decisions, axis=1), either, undefined=0.0)

    def f1_averages(self, counts, positives, counted) -> dict[str, np.ndarray]:
        """Computes `f1_micro` and others, as `metrics.f1_averages`, <float64>[resamples] each.

        Args:
          counts: how often each movie is drawn, <int32>[movies, resamples].
          positives: number of movies with each genre, <int32>[genres, resamples].
          counted: which genres macro and weighted averages run over, <bool>[genres, resamples].
        """
        true, either = 2.0 * (self._true @ counts), positives + self._predicted @ counts
        f1 = _ratio(true, either, undefined=0.0)
        return {
            "f1_micro": _ratio(true.sum(axis=0), either.sum(axis=0), undefined=0.0),
            "f1_macro": _mean(f1, counted),
            "f1_weighted": _ratio(
                np.sum(f1 * positives, axis=0, where=counted),
                np.sum(positives, axis=0, where=counted),
            ),
            "f1_samples": _ratio(self._of_movies @ counts, counts.sum(axis=0)),
        }


class _Ranking:
    """Computes AUC and average precision of resamples from scores that are sorted once.

    Both need to know, of each positive, how many entries and how many positives have lower scores.
    Only groups of equal scores that contain a positive are kept apart; the entries between two of
    them are counted together. Counting is a product with a sparse matrix of small whole numbers.
    """

    def __init__(self, labels, scores, movies, num_movies):
        """Sorts entries, each of which is a movie and a genre.

        Args:
          labels: <bool>[entries].
          scores: <float>[entries].
          movies: the movie of each entry, <int>[entries]; each movie has as many entries.
          num_movies: number of movies.
        """
        _, groups = np.unique(scores, return_inverse=True)
        with_positive = np.unique(groups[labels])
        shape = len(with_positive) + 1, num_movies
        # Row k is for the group k that has a positive, and for the entries just below it. The last
        # row, for the entries above all positives, is left out.
        rows = np.searchsorted(with_positive, groups)
        tied = np.isin(groups, with_positive)
        self._positives = _count(rows[labels], movies[labels], shape)[:-1]
        self._tied = _count(rows[tied], movies[tied], shape)[:-1]
        between = _count(rows[~tied], movies[~tied], shape)[:-1]
        # The sum of rows 0 to k is twice the number of entries below group k, plus those in it.
        above = _count(rows[tied] + 1, movies[tied], shape)[:-1]
        self._steps = (2 * between + self._tied + above).tocsr()
        self._entries_of_movie = len(scores) // max(num_movies, 1)

    def pairs(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts pairs of a positive and a negative entry; AUC is the ratio of the results.

        Returns:
          The pairs with the positive above the negative, ties counting half, and all pairs, both
          <float64>[resamples].
        """
        positives = self._positives @ counts
        all_positives = np.float64(positives.sum(axis=0))
        # Pairs of a positive and a lower entry, ties counting half; less those of two positives.
        twice_below = self._twice_below(counts)
        lower = np.einsum("gr,gr->r", positives, twice_below, dtype=np.float64) - all_positives**2
        negatives = self._entries_of_movie * counts.sum(axis=0) - all_positives
        return lower / 2, all_positives * negatives

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """Computes average precision, <float64>[resamples]; NaN where it is undefined."""
        positives, twice_below = self._positives @ counts, self._twice_below(counts)
        all_positives = positives.sum(axis=0)
        # Positives, and twice the entries, with at least the score of each group.
        found = all_positives - np.cumsum(positives, axis=0, dtype=np.int32) + positives
        entries = self._entries_of_movie * counts.sum(axis=0)
        not_below = 2 * entries - twice_below + self._tied @ counts
        precision = np.sum(_ratio(2.0 * positives * found, not_below, undefined=0.0), axis=0)
        return _ratio(precision, all_positives)

    def _twice_below(self, counts: np.ndarray) -> np.ndarray:
        """Counts twice the entries with lower scores than each group, plus those with the same."""
        return np.cumsum(self._steps @ counts, axis=0, dtype=np.int32)


def resamples(movies: int, number: int, seed: int, block: int) -> Iterator[np.ndarray]:
    """Draws resamples in blocks, which do not depend on the size of the blocks.

    Yields:
      How often each movie is drawn, <int32>[movies, at most `block`].
    """
    rng = np.random.default_rng(seed)
    for start in range(0, number, block):
        columns = [
            np.bincount(rng.integers(movies, size=movies), minlength=movies)
            for _ in range(min(block, number - start))
        ]
        yield np.array(columns, np.int32).T.copy()


def figures_of_resamples(
    models: Sequence[Resampled], number: int = RESAMPLES, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Computes the figures of models on the same resamples.

    Args:
      models: which have judged the same movies, in the same order.
      number: number of resamples.
      seed: of the resamples.

    Returns:
      For each model `{figure: values}`, <float64>[resamples], or [genres, resamples].

    Raises:
      ValueError: if there are no movies, or the models have judged different numbers of them.
    """
    if len(movies := {model.movies for model in models}) != 1 or not min(movies):
        raise ValueError(f"the models have judged {sorted(movies)} movies")
    block = min(model.block for model in models)
    blocks: list[list[dict]] = [[] for _ in models]
    for counts in resamples(models[0].movies, number, seed, block):
        for model, done in zip(models, blocks):
            done.append(model(counts))
    return [
        {name: np.concatenate([part[name] for part in done], axis=-1) for name in done[0]}
        for done in blocks
    ]


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Returns the percentile interval of a figure's values on resamples.

    Args:
      values: <float>[resamples]. Resamples on which the figure is not defined are left out.
      level: share of the resamples that lie within the interval.

    Returns:
      The lower and the upper limit; NaN if the figure is defined on less than half of the
      resamples.
    """
    defined = values[np.isfinite(values)]
    if 2 * len(defined) < len(values) or not len(defined):
        return float("nan"), float("nan")
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def is_shown(movies: int, low: float, high: float) -> bool:
    """Returns whether an interval says enough to be printed.

    It does not with fewer than `LEAST_MOVIES` movies, a convention: the fewer movies, the less
    often the percentile bootstrap covers the truth. In trials with normal scores that are one or
    two deviations apart, intervals of 95 % of the AUC of a genre that a fifth of the movies have
    covered it in 64 to 75 % of 1,000 trials with 16 movies, in 80 to 87 % with 30, and in 89 to
    94 % with 100; for the macro AUC of four such genres, in 90 to 94 % with each of these numbers.
    A test repeats the trials with 30.

    Nor does it if both limits are equal, as on movies that are ranked without any mistake: the
    resamples of such movies have no mistakes either, however few movies there are.

    Args:
      movies: number of movies that were drawn from.
      low: lower limit; NaN if it is not defined.
      high: upper limit.
    """
    return movies >= LEAST_MOVIES and low < high


def auc_macro_interval(
    labels: np.ndarray,
    probabilities: np.ndarray,
    folds: np.ndarray | None = None,
    number: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the interval of macro AUC, the same as that of `Resampled`, without other figures.

    Args:
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres].
      folds: the fold of each movie, <int>[movies], for AUC within folds; None for one model.
      number: number of resamples.
      seed: of the resamples.

    Returns:
      As `interval`; NaN if there are no movies.
    """
    labels, probabilities = np.asarray(labels).astype(bool), np.asarray(probabilities)
    if not labels.size:
        return float("nan"), float("nan")
    parts = [slice(None)] if folds is None else [folds == fold for fold in np.unique(folds)]
    rankings = [(rows, _Rankings(labels[rows], probabilities[rows])) for rows in parts]
    values = []
    for counts in resamples(len(labels), number, seed, _MOST_AT_ONCE):
        pairs = [of_part.pairs_of_genres(counts[rows]) for rows, of_part in rankings]
        auc = _ratio(*np.sum(pairs, axis=0))
        values.append(_mean(auc, np.isfinite(auc)))
    return interval(np.concatenate(values))


def with_intervals(
    figures: Mapping,
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    number: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Adds intervals to the figures of one model.

    Args:
      figures: as `results.evaluate_predictions` returns them for a model.
      labels: <bool>[movies, genres], or 0/1 numbers.
      probabilities: <float>[movies, genres].
      thresholds: <float>[genres].
      number: number of resamples.
      seed: of the resamples.

    Returns:
      The figures; `<figure>_interval`, a list of two limits, for each of `FIGURES` and for F1 at
      tuned thresholds; and `auc_interval` for each genre. Limits that are not defined are NaN.
    """
    names = [*FIGURES, *(f"{name}_tuned" for name in FIGURES if name.startswith("f1_"))]
    if not len(labels):
        undefined = [float("nan")] * 2
        of_genres = [undefined] * len(figures["per_genre"])
        intervals = {f"{name}_interval": undefined for name in names}
    else:
        [values] = figures_of_resamples(
            [Resampled(labels, probabilities, thresholds)], number, seed
        )
        of_genres = [list(interval(aucs)) for aucs in values["auc_per_genre"]]
        intervals = {f"{name}_interval": list(interval(values[name])) for name in names}
    per_genre = {
        genre: of_genre | {"auc_interval": limits}
        for (genre, of_genre), limits in zip(figures["per_genre"].items(), of_genres)
    }
    return {**figures, **intervals, "per_genre": per_genre}


def _count(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> "sparse.csr_array":
    """Counts pairs of a row and a column, <int32>[rows, columns]."""
    from scipy import sparse

    return sparse.csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def _ratio(numerator, denominator, undefined: float = float("nan")) -> np.ndarray:
    """Divides; `undefined` where the denominator is 0."""
    result = np.full(np.shape(numerator), undefined)
    return np.divide(numerator, denominator, out=result, where=denominator != 0)


def _mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Returns the mean of the counted genres of [genres, resamples]; NaN if there are none."""
    return _ratio(np.sum(values, axis=0, where=counted), np.float64(counted.sum(axis=0)))
