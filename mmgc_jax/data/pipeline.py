"""Loads a corpus from shards and makes batches.

An *examples* object converts movie indices to arrays: `examples(indices) -> dict`. There is a class
of examples for each kind of input. If several processes share a batch, each makes only its own
rows; `examples(indices, batch)` then also takes the indices of the whole batch, which determine the
padding.

`Batches` determines which movies form each batch. This depends only on a seed, so step n of a run
has the same batch no matter how often the run was interrupted. Grain only prefetches batches: it
cannot group examples of similar length, it can only batch them in order or pack them.
"""

import bisect
import contextlib
import copy
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import ml_collections
import numpy as np
from absl import flags

from mmgc_jax.data import posters, related, text
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError

# Imported where they are used: predictions do not need them, and start in half the time.
if TYPE_CHECKING:
    import scipy.sparse
    import tensorflow_datasets as tfds

logger = logging.getLogger(__name__)

# After shuffling, movies are sorted by length within chunks of this many batches.
_BATCHES_SORTED_TOGETHER = 16


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All n movies of an experiment. A movie is identified by its index, 0 to n - 1.

    Attributes:
      ids: the movies' ids in their source.
      genres: names of the genres, the columns of `labels`, in alphabetical order.
      labels: <float32>[n, len(genres)], 1 where the movie has the genre, otherwise 0.
      has_plot: <bool>[n], whether the movie has a plot.
      has_poster: <bool>[n], whether the movie has a poster.
      split: indices of the movies in `train` and, in some experiments, `validation` and `test`.
      groups: <int64>[n], the group of each movie. Related movies, such as rows of the same movie,
        are in one group, and never on both sides of a split.
      records: the records in the shards, from which plots and posters are read when needed.
    """

    ids: Sequence[str]
    genres: Sequence[str]
    labels: np.ndarray
    has_plot: np.ndarray
    has_poster: np.ndarray
    split: Mapping[str, np.ndarray]
    groups: np.ndarray
    records: Sequence[Mapping]

    def plot(self, index: int) -> str:
        """Reads the plot of a movie; an empty string if it has none."""
        return self.records[index]["plot"].decode()


def load_corpus(builder: "tfds.core.DatasetBuilder", data: ml_collections.ConfigDict) -> Corpus:
    """Reads ids and labels, and holds out a test and a validation split if the config asks for it.

    Args:
      builder: the builder that `mmgc_jax.data.builder.build` returned.
      data: the section `data` of an experiment's config.

    Raises:
      InputError: if a shard is damaged, or no split can be held out.
    """
    sizes = {name: builder.info.splits[name].num_examples for name in builder.info.splits}
    records = _Records(builder, tuple(sizes))
    genres = tuple(builder.info.features["genres"].feature.names)
    ids, labels = [], np.zeros((len(records), len(genres)), np.float32)
    has_plot, has_poster = [], []
    related_keys, poster_hashes = [], []
    for index in range(len(records)):
        record = records[index]
        ids.append(record["id"].decode())
        labels[index, record["genres"]] = 1
        has_plot.append(text.has_words(record["plot"].decode()))
        has_poster.append(record["has_poster"])
        related_keys.append(record.get("related_keys", ()))
        poster_hashes.append(record.get("poster_hash", 0))

    ends = np.cumsum(list(sizes.values()))
    groups = related.group(related_keys, np.array(poster_hashes, np.int64))
    split = {name: np.arange(end - sizes[name], end) for name, end in zip(sizes, ends)}
    split = _without_related(split, groups)
    strata = np.column_stack([labels, has_poster])
    if "test" not in split and data.test_fraction:
        split |= _hold_out(split["train"], strata, groups, "test", data)
    if "validation" not in split and data.validation_fraction:
        split |= _hold_out(split["train"], strata, groups, "validation", data)
    if data.train_movies:
        order = np.random.default_rng(data.split_seed).permutation(split["train"])
        split["train"] = np.sort(order[: data.train_movies])
    return Corpus(
        ids=ids,
        genres=genres,
        labels=labels,
        has_plot=np.array(has_plot, bool),
        has_poster=np.array(has_poster, bool),
        split=split,
        groups=groups,
        records=records,
    )


def _without_related(split: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, np.ndarray]:
    """Leaves out movies that are related to one of a later split: of test, or of validation."""
    if related_rows := len(groups) - len(np.unique(groups)):
        logger.info(
            "Related to an earlier row, by id, by title and year, or by poster: %s of %s rows. "
            "Related rows are never on both sides of a split.",
            f"{related_rows:,}", f"{len(groups):,}",
        )  # fmt: skip
    kept, later = {}, np.zeros(0, np.int64)
    for name in ("test", "validation", "train"):
        if name in split:
            is_apart = ~np.isin(groups[split[name]], groups[later])
            kept[name] = split[name][is_apart]
            later = np.concatenate([later, split[name]])
            if left_out := np.sum(~is_apart):
                logger.warning(
                    "%d rows of the %s part are left out, because they are related to rows of "
                    "another part.",
                    left_out,
                    name,
                )
    return {name: kept[name] for name in split}


def _hold_out(
    rows: np.ndarray,
    strata: np.ndarray,
    groups: np.ndarray,
    part: str,
    data: ml_collections.ConfigDict,
) -> dict[str, np.ndarray]:
    """Splits the movies `rows` into `train` and `part`.

    Raises:
      InputError: if one of them would be empty.
    """
    from mmgc_jax.data import splits

    field, problem = f"{part}_fraction", None
    try:
        kept, held_out = splits.hold_out(strata[rows], data[field], data.split_seed, groups[rows])
    except ValueError as error:
        problem = error
    else:
        if len(kept) and len(held_out):
            return {"train": rows[kept], part: rows[held_out]}
    raise InputError(
        f"config.data.{field}={data[field]!r} with config.data.split_seed={data.split_seed!r} "
        f"cannot split {len(rows)} movies into a training and a {part} split: "
        f"{problem or 'one of them would be empty'}."
    ) from problem


class _Records:
    """The records of several splits, concatenated."""

    def __init__(self, builder: "tfds.core.DatasetBuilder", names: Sequence[str]):
        import tensorflow_datasets as tfds

        decoders = {"poster": tfds.decode.SkipDecoding()}
        self._folder = builder.data_dir
        with self._damage_as_input_error():
            self._sources = builder.as_data_source(split=list(names), decoders=decoders)
            self._ends = np.cumsum([len(source) for source in self._sources]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping:
        source = bisect.bisect_right(self._ends, index)
        with self._damage_as_input_error():
            return self._sources[source][int(index) - (self._ends[source - 1] if source else 0)]

    @contextlib.contextmanager
    def _damage_as_input_error(self) -> Iterator[None]:
        """Converts a RuntimeError, which array_record raises for bad checksums, to InputError."""
        try:
            yield
        except RuntimeError as error:
            raise InputError(
                f"{self._folder} is damaged: {error}. Delete it; the next run writes it again."
            ) from error


@dataclasses.dataclass(frozen=True)
class PlotExamples:
    """Makes batches of plots: `tokens` <int32>[batch, length] and `lengths` <int32>[batch].

    Attributes:
      plots: word ids <int32>[length] of each movie's plot.
      pad_to_multiple_of: batches are padded to a multiple of this many words.
      name: name of the array of word ids, for models that do not call it `tokens`.
    """

    plots: Sequence[np.ndarray]
    pad_to_multiple_of: int
    name: str = "tokens"

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Number of words in each movie's plot, <int32>[movies]."""
        return np.array([len(plot) for plot in self.plots], np.int32)

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        plots = [self.plots[index] for index in indices]
        longest = self.lengths[indices if batch is None else batch].max()
        tokens, lengths = text.pad(plots, self.pad_to_multiple_of, longest)
        return {self.name: tokens, "lengths": lengths}


@dataclasses.dataclass(frozen=True)
class BagOfWordsExamples:
    """Makes batches of bags of words: `tokens` <int32>[batch, words] and `weights` <float32>.

    Padding has the token 0 and the weight 0.

    Attributes:
      rows: TF-IDF weights, a sparse matrix <float32>[movies, words]; see `TfIdf`.
      pad_to_multiple_of: batches are padded to a multiple of this many words.
    """

    rows: "scipy.sparse.csr_matrix"
    pad_to_multiple_of: int

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Number of distinct known words in each movie's plot, <int32>[movies]."""
        return np.diff(self.rows.indptr).astype(np.int32)

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        rows = self.rows[indices]
        words = np.split(rows.indices, rows.indptr[1:])[:-1]
        longest = self.lengths[indices if batch is None else batch].max()
        tokens, lengths = text.pad(words, self.pad_to_multiple_of, longest)
        weights = np.zeros(tokens.shape, np.float32)
        weights[np.arange(tokens.shape[1]) < lengths[:, None]] = rows.data
        return {"tokens": tokens, "weights": weights}


@dataclasses.dataclass(frozen=True)
class PosterExamples:
    """Makes batches of posters, decoded on the fly: RGB `images` <uint8>[batch, height, width, 3].

    Attributes:
      records: records with the JPEG bytes of a poster.
      height: height of the images in pixels.
      width: width of the images in pixels.
    """

    records: Sequence[Mapping]
    height: int
    width: int

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        del batch  # posters need no padding
        images = [self.records[index]["poster"] for index in indices]
        return {
            "images": np.stack([posters.decode(image, self.height, self.width) for image in images])
        }


@dataclasses.dataclass(frozen=True)
class ArrayExamples:
    """Makes batches of rows of arrays in memory.

    Attributes:
      arrays: arrays [movies, ...] by the names that they have in a batch.
    """

    arrays: Mapping[str, np.ndarray]

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        del batch  # rows need no padding
        return {name: array[indices] for name, array in self.arrays.items()}


class Batches:
    """A sequence of batches in which each of some movies occurs once per epoch.

    A batch has the arrays of `examples`, `labels` <float32>[batch, genres], `indices`
    <int32>[batch] and `mask` <float32>[batch], 0 for padding. The last batch of an epoch is padded
    with its first movie. For example, the movies 5, 7 and 9 in batches of 2:

        indices [5, 7]  mask [1, 1]
        indices [9, 9]  mask [1, 0]

    With several processes, each makes only its own rows of a batch; see `share`.

    Attributes:
      batch_size: number of rows in a batch, over all processes.
    """

    def __init__(
        self,
        examples: Callable[..., dict[str, np.ndarray]],
        labels: np.ndarray,
        indices: np.ndarray,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epochs: int = 1,
    ):
        """Stores the arguments; a batch is made when it is indexed.

        Args:
          examples: converts movie indices to arrays. If it has an attribute `lengths`, movies of
            similar length are put into the same batch.
          labels: labels <float32>[movies, genres] of the whole corpus.
          indices: indices of the movies to use, <int>[movies].
          batch_size: number of rows in a batch, over all processes; at least 1.
          shuffle_seed: seed that determines the order in each epoch. None: the same fixed order in
            all epochs.
          epochs: number of passes over the movies.

        Raises:
          ValueError: if there are no movies, or the batch size is less than 1.
        """
        if not len(indices):
            raise ValueError("there are no movies to make batches of")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self._examples = examples
        self._labels = labels
        self._indices = np.asarray(indices)
        self.batch_size = batch_size
        self._rows = slice(0, batch_size)
        self._shuffle_seed = shuffle_seed
        self._epochs = epochs
        self._planned: tuple[int, list[np.ndarray]] | None = None

    def share(self, number: int, count: int) -> "Batches":
        """Returns the same sequence, with only one process's rows in each batch.

        Args:
          number: index of the process.
          count: number of processes; must divide the batch size.

        Raises:
          ValueError: if `count` does not divide the batch size.
        """
        if self.batch_size % count:
            raise ValueError(f"{count} processes cannot share batches of {self.batch_size} rows")
        share = copy.copy(self)
        size = self.batch_size // count
        share._rows = slice(number * size, (number + 1) * size)
        return share

    @property
    def order(self) -> np.ndarray:
        """Indices of the movies in the order of the first epoch, <int64>[movies]."""
        return np.concatenate(self._plan(0))

    @property
    def num_movies(self) -> int:
        """Number of movies in an epoch."""
        return len(self._indices)

    @property
    def num_movies_in_corpus(self) -> int:
        """Number of movies in the whole corpus."""
        return len(self._labels)

    @property
    def num_genres(self) -> int:
        """Number of genres."""
        return self._labels.shape[1]

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self._indices) / self.batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch * self._epochs

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        epoch, position = divmod(int(step), self.steps_per_epoch)
        planned = self._planned  # read only once, because threads share it
        if planned is None or planned[0] != epoch:
            self._planned = planned = (epoch, self._plan(epoch))
        members = planned[1][position]
        missing = self.batch_size - len(members)
        indices = np.concatenate([members, np.repeat(members[:1], missing)])
        mask = np.ones(self.batch_size, np.float32)
        mask[len(members) :] = 0
        own = indices[self._rows]
        return self._examples(own, indices) | {
            "labels": self._labels[own],
            "indices": own.astype(np.int32),
            "mask": mask[self._rows],
        }

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """Returns the indices of the movies of each batch of an epoch."""
        order, size = self._indices, self.batch_size
        lengths = getattr(self._examples, "lengths", None)
        if self._shuffle_seed is None:
            if lengths is not None:
                order = order[np.argsort(lengths[order], kind="stable")]
            return [order[start : start + size] for start in range(0, len(order), size)]

        rng = np.random.default_rng([self._shuffle_seed, epoch])
        order = rng.permutation(order)
        if lengths is not None:
            chunk = size * _BATCHES_SORTED_TOGETHER
            chunks = [order[start : start + chunk] for start in range(0, len(order), chunk)]
            order = np.concatenate([c[np.argsort(lengths[c], kind="stable")] for c in chunks])
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if lengths is not None:
            rng.shuffle(batches)
        return batches


def iterate(batches: Batches, start: int = 0, workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over batches with prefetching; yields only this process's rows of each batch.

    Args:
      batches: the whole sequence, with the rows of all processes.
      start: step to start at; a run that stopped after n steps resumes with start=n.
      workers: number of worker processes that prepare batches; 0: two threads of this process.

    Raises:
      Interrupted: if a worker fails after a stop was requested.
    """
    batches = batches.share(jax.process_index(), jax.process_count())
    if len(batches) - start == 1:  # nothing to prefetch
        yield batches[start]
        return

    import grain

    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=0 if workers else 2, prefetch_buffer_size=0 if workers else 4)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its own flags, also in a notebook
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, preemption.follow_parent)
    try:
        yield from dataset
    except Exception:
        # A stop signal may have killed a worker that was just starting.
        preemption.raise_if_requested_locally()
        raise
