"""Tests the corpus, examples of each kind of input, and batches."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from absl import flags

from mmgc_jax.configs import default
from mmgc_jax.data import builder, pipeline
from mmgc_jax.data.pipeline import (
    ArrayExamples,
    BagOfWordsExamples,
    Batches,
    PlotExamples,
    PosterExamples,
)
from mmgc_jax.runtime.errors import InputError
from tests.conftest import forty_movies, write_talk


@pytest.fixture(scope="module")
def data_config(tmp_path_factory):
    config = default.get_config().data
    config.path = str(write_talk(tmp_path_factory.mktemp("talk"), *forty_movies()))
    config.update(poster_height=64, poster_width=32, validation_fraction=0.25)
    return config


@pytest.fixture(scope="module")
def dataset(data_config, tmp_path_factory):
    return builder.build(data_config, tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def corpus(dataset, data_config):
    return pipeline.load_corpus(dataset, data_config)


class TestCorpus:
    def test_validation_part_is_held_out(self, corpus):
        train, validation = corpus.split["train"], corpus.split["validation"]
        assert set(corpus.split) == {"train", "validation"}
        assert sorted([*train, *validation]) == list(range(40))
        assert len(validation) == pytest.approx(10, abs=1)
        # 10 comedies, 4 war movies and 8 movies without a poster: a quarter of each is held out.
        comedies, war = corpus.labels[validation][:, [4, 22]].sum(axis=0)
        assert 2 <= comedies <= 3 and war == 1
        assert 1 <= (~corpus.has_poster[validation]).sum() <= 3

    def test_nothing_is_held_out_unless_it_is_asked_for(self, dataset, data_config, corpus):
        config = default.get_config().data
        config.path = data_config.path
        split = pipeline.load_corpus(dataset, config).split
        assert list(split) == ["train"] and split["train"].tolist() == list(range(40))
        config.test_fraction = 0.25
        split = pipeline.load_corpus(dataset, config).split
        assert set(split) == {"train", "test"} and len(split["test"]) == len(
            corpus.split["validation"]
        )
        assert sorted([*split["train"], *split["test"]]) == list(range(40))

    def test_the_split_depends_on_its_seed(self, dataset, data_config, corpus):
        def held_out(seed):
            config = data_config.copy_and_resolve_references()
            config.split_seed = seed
            return pipeline.load_corpus(dataset, config).split["validation"].tolist()

        assert held_out(0) == corpus.split["validation"].tolist()
        assert held_out(0) != held_out(1)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"validation_fraction": 1.5}, "fraction is 1.5, not a number above 0 and below 1"),
            ({"validation_fraction": float("nan")}, "fraction is nan, not a number"),
            ({"split_seed": -1}, "seed is -1, not a whole number"),
            ({"split_seed": None}, "seed is None, not a whole number"),
        ],
    )
    def test_no_validation_part_can_be_held_out(self, dataset, data_config, fields, reason):
        config = data_config.copy_and_resolve_references()
        config.update(fields)
        with pytest.raises(InputError) as caught:
            pipeline.load_corpus(dataset, config)
        message = str(caught.value)
        assert reason in message
        assert all(f"config.data.{field}={value!r}" in message for field, value in fields.items())

    @pytest.mark.parametrize(
        ("genres", "reason"),
        [
            (["['War']"], "1 movies .*: With n_samples=1"),
            # No two movies share a genre, so all of them go to the larger part.
            (["['War']", "['Drama']", "['Comedy']"], "3 movies .*: one of them would be empty"),
        ],
    )
    def test_too_few_movies_to_split(self, tmp_path, genres, reason):
        rows = [(number, 2000, "T", "p", of_movie, 5) for number, of_movie in enumerate(genres)]
        config = default.get_config().data
        config.validation_fraction = 0.15
        config.path = str(write_talk(tmp_path / "talk", rows, {}))
        dataset = builder.build(config, tmp_path / "shards")
        with pytest.raises(InputError, match=rf"data\.validation_fraction=0\.15 .* {reason}"):
            pipeline.load_corpus(dataset, config)

    def test_missing_plots_and_posters(self, corpus):
        assert np.flatnonzero(~corpus.has_plot).tolist() == [0]
        assert np.flatnonzero(~corpus.has_poster).tolist() == list(range(0, 40, 5))

    def test_splits_of_the_source_are_kept(self, tmp_path):
        config = default.get_config().data
        config.update(source="synthetic", poster_height=64, poster_width=32)
        config.synthetic.update({"train": 7, "validation": 3, "test": 4})
        corpus = pipeline.load_corpus(builder.build(config, tmp_path), config)
        for name, size in config.synthetic.items():
            ids = [corpus.ids[index] for index in corpus.split[name]]
            assert ids == [f"{name}-{number}" for number in range(size)]
            of_records = [corpus.records[index]["id"].decode() for index in corpus.split[name]]
            assert of_records == ids
        assert len(corpus.ids) == len(corpus.records) == 14


class TestExamples:
    def test_posters(self, corpus):
        images = PosterExamples(corpus.records, 64, 32)(np.array([36, 0, 2]))["images"]
        assert (images.shape, images.dtype) == ((3, 64, 32, 3), np.uint8)
        # The n-th movie's poster has the colour (5 n, 250 - 5 n, 40); the first movie has none.
        expected = np.array([(180, 70, 40), (0, 0, 0), (10, 240, 40)])
        assert np.abs(images.astype(int) - expected[:, None, None]).max() <= 6

    def test_plots(self):
        plots = [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 0, 5)]
        batch = PlotExamples(plots, pad_to_multiple_of=4)(np.array([2, 1]))
        assert batch["tokens"].tolist() == [[2, 3, 4, 5, 6, 0, 0, 0], [0] * 8]
        assert batch["lengths"].tolist() == [5, 0]

    def test_bags_of_words(self):
        weights = np.zeros((4, 9), np.float32)
        weights[1, [0, 2, 8]] = 0.5, 0.25, 1
        weights[2, 3] = 2
        weights[3, 4:] = 3
        examples = BagOfWordsExamples(scipy.sparse.csr_matrix(weights), pad_to_multiple_of=4)
        assert examples.lengths.tolist() == [0, 3, 1, 5]
        batch = examples(np.array([2, 0, 1, 1]))
        words = [0, 2, 8, 0]
        assert batch["tokens"].tolist() == [[3, 0, 0, 0], [0] * 4, words, words]
        numbers = [0.5, 0.25, 1, 0]
        assert batch["weights"].tolist() == [[2, 0, 0, 0], [0] * 4, numbers, numbers]
        assert (batch["tokens"].dtype, batch["weights"].dtype) == (np.int32, np.float32)
        assert examples(np.array([3]))["tokens"].shape == (1, 8)

    def test_movies_with_similar_numbers_of_words_share_batches(self):
        counts = np.random.default_rng(0).permutation(50)
        weights = scipy.sparse.csr_matrix(np.arange(50) < counts[:, None], dtype=np.float32)
        batches = Batches(BagOfWordsExamples(weights, 8), LABELS, INDICES, 4)
        found = all_of(batches)
        assert sorted(seen(found)) == INDICES.tolist()
        lengths = [counts[movie] for movie in seen(found)]
        assert lengths == sorted(lengths)
        for batch in found:
            assert ((batch["weights"] > 0).sum(axis=1) == counts[batch["indices"]]).all()

    def test_arrays(self):
        batch = ArrayExamples({"a": np.arange(5), "b": np.eye(5)})(np.array([3, 3]))
        assert batch["a"].tolist() == [3, 3]
        np.testing.assert_array_equal(batch["b"], np.eye(5)[[3, 3]])


LABELS = np.eye(24, dtype=np.float32)[np.arange(50) % 24]
INDICES = np.arange(3, 49, 2)  # 23 movies


def array_batches(batch_size=4, **settings):
    """Batches of an array that contains the index of each movie."""
    examples = ArrayExamples({"number": np.arange(50)})
    return Batches(examples, LABELS, INDICES, batch_size, **settings)


def plot_batches(batch_size=4, movies=INDICES, **settings):
    """Batches of plots of 0 to 49 words; every word id of a plot is the movie's index plus 2."""
    rng = np.random.default_rng(0)
    plots = [np.full(length, n + 2, np.int32) for n, length in enumerate(rng.permutation(50))]
    examples = PlotExamples(plots, pad_to_multiple_of=8)
    return Batches(examples, LABELS, movies, batch_size, **settings)


def all_of(batches):
    return [batches[step] for step in range(len(batches))]


def seen(batches):
    """Returns the movies in a list of batches, in order, without padding."""
    return [i for batch in batches for i in batch["indices"][batch["mask"] == 1].tolist()]


class TestBatches:
    @pytest.mark.parametrize("make", [array_batches, plot_batches])
    @pytest.mark.parametrize("seed", [None, 0])
    def test_every_movie_occurs_once_per_epoch(self, make, seed):
        batches = make(shuffle_seed=seed, epochs=3)
        assert (batches.num_movies, batches.num_movies_in_corpus) == (23, 50)
        assert (batches.steps_per_epoch, len(batches)) == (6, 18)
        found = all_of(batches)
        for epoch in range(3):
            assert sorted(seen(found[6 * epoch : 6 * epoch + 6])) == INDICES.tolist()

    def test_all_arrays_belong_to_the_same_movies(self):
        for batch in all_of(array_batches(shuffle_seed=0)):
            np.testing.assert_array_equal(batch["number"], batch["indices"])
            np.testing.assert_array_equal(batch["labels"], LABELS[batch["indices"]])
        for batch in all_of(plot_batches(shuffle_seed=0)):
            first = batch["tokens"][:, 0]
            np.testing.assert_array_equal(first[batch["lengths"] > 0] - 2,
                                          batch["indices"][batch["lengths"] > 0])  # fmt: skip

    def test_last_batch_is_padded_with_its_first_movie(self):
        *whole, last = all_of(array_batches())
        assert all((batch["mask"] == 1).all() for batch in whole)
        assert last["mask"].tolist() == [1, 1, 1, 0]
        assert last["indices"].tolist() == [43, 45, 47, 43]
        assert (last["mask"].dtype, last["indices"].dtype) == (np.float32, np.int32)

    def test_fewer_movies_than_a_batch(self):
        (batch,) = all_of(array_batches(batch_size=32, shuffle_seed=0))
        assert batch["mask"].sum() == 23 and len(batch["number"]) == 32

    def test_fixed_order_without_a_seed(self):
        batches = array_batches(epochs=2)
        assert seen(all_of(batches)) == 2 * INDICES.tolist()

    @pytest.mark.parametrize("make", [array_batches, plot_batches])
    def test_the_order_depends_on_the_seed(self, make):
        one, again, other = (seen(all_of(make(shuffle_seed=seed))) for seed in (3, 3, 4))
        assert one == again != other
        assert one != sorted(one)

    @pytest.mark.parametrize("make", [array_batches, plot_batches])
    def test_epochs_differ(self, make):
        orders = seen(all_of(make(shuffle_seed=0, epochs=3)))
        first, second, third = orders[:23], orders[23:46], orders[46:]
        assert first != second != third != first

    def test_batches_can_be_indexed_in_any_order(self):
        in_order = all_of(plot_batches(shuffle_seed=0, epochs=2))
        batches = plot_batches(shuffle_seed=0, epochs=2)
        for step in (11, 0, 6, 5, 11):
            np.testing.assert_array_equal(batches[step]["indices"], in_order[step]["indices"])

    def test_a_step_after_the_end_is_an_index_error(self):
        batches = array_batches(shuffle_seed=0)
        with pytest.raises(IndexError):
            batches[len(batches)]

    @pytest.mark.parametrize("batch_size", [0, -4])
    def test_batches_without_rows(self, batch_size):
        with pytest.raises(ValueError, match=f"batch_size is {batch_size}; it must be at least 1"):
            array_batches(batch_size)

    def test_processes_that_cannot_share_a_batch(self):
        with pytest.raises(ValueError, match="3 processes cannot share batches of 4"):
            array_batches().share(0, 3)

    def test_no_movies(self):
        with pytest.raises(ValueError, match="no movies"):
            Batches(ArrayExamples({}), LABELS, np.array([], int), 4)


class TestSimilarLengths:
    """There are so few movies that all are sorted by length before they are cut into batches."""

    @pytest.mark.parametrize("seed", [None, 0])
    def test_plots_of_similar_length_share_batches(self, seed):
        spans = sorted(
            (lengths.min(), lengths.max())
            for batch in all_of(plot_batches(shuffle_seed=seed))
            for lengths in [batch["lengths"][batch["mask"] == 1]]
        )
        assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))

    def test_short_plots_do_not_come_first(self):
        first_lengths = {
            int(plot_batches(shuffle_seed=seed)[0]["lengths"].max()) for seed in range(8)
        }
        assert len(first_lengths) > 2

    def test_neighbours_in_length_change_from_epoch_to_epoch(self):
        """With batches of 2, a random 32 of the 50 movies are sorted together in each epoch."""
        found = all_of(plot_batches(2, np.arange(50), shuffle_seed=0, epochs=2))
        pairs = [frozenset(batch["indices"].tolist()) for batch in found]
        assert set(pairs[:25]) != set(pairs[25:])


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


class TestIterate:
    @pytest.mark.parametrize("start", [0, 1, 6, 11, 12])
    def test_starting_at_a_step_gives_the_remaining_batches(self, start):
        batches = plot_batches(shuffle_seed=5, epochs=2)
        found = list(pipeline.iterate(batches, start))
        assert_same(found, all_of(plot_batches(shuffle_seed=5, epochs=2))[start:])

    @pytest.fixture
    def flags_parsed(self):
        """A function that sets whether absl's flags count as parsed, as they do in app.run."""
        before = flags.FLAGS.is_parsed()
        change = {True: flags.FLAGS.mark_as_parsed, False: flags.FLAGS.unparse_flags}
        yield lambda parsed: change[parsed]()
        change[before]()

    @pytest.mark.slow
    def test_worker_processes_give_the_same_batches(self, corpus, flags_parsed):
        flags_parsed(True)
        examples = PosterExamples(corpus.records, 64, 32)
        batches = Batches(examples, corpus.labels, np.arange(40), 7, shuffle_seed=1, epochs=2)
        found = list(pipeline.iterate(batches, start=5, workers=2))
        assert_same(found, all_of(batches)[5:])

    @pytest.mark.slow
    def test_worker_processes_do_not_need_parsed_flags(self, flags_parsed):
        """In a notebook, for example, no command line has been parsed."""
        flags_parsed(False)
        found = list(pipeline.iterate(array_batches(), workers=1))
        assert_same(found, all_of(array_batches()))
