"""Tests of training word vectors, of reusing them, and of embedding tables."""

import ml_collections
import numpy as np
import pytest

from mmgc_jax.data.text import PADDING_ID, UNKNOWN_ID, Vocabulary
from mmgc_jax.pretrained import vector_file
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import word2vec
from tests.pretrained.test_vector_file import VECTORS, WORDS, keyed


def settings(**changes):
    """Makes the settings of a small training."""
    values = dict(dim=8, window=3, min_count=2, skip_gram=True, negative=5, epochs=5)
    return ml_collections.ConfigDict(values | changes)


def plots(number=60):
    """Makes plots of two kinds that share no word, and a plot with a word that occurs one time."""
    rng = np.random.default_rng(0)
    kinds = (["ghost", "scream", "cellar", "blood"], ["kiss", "wedding", "letter", "paris"])
    return [[str(w) for w in rng.choice(kinds[n % 2], 12)] for n in range(number)] + [["hapax"]]


def test_training_can_be_repeated():
    one, two = (word2vec.train(plots(), settings(), seed=3) for _ in range(2))
    assert one.index_to_key == two.index_to_key
    np.testing.assert_array_equal(one.vectors, two.vectors)

    other = word2vec.train(plots(), settings(), seed=4)
    assert np.abs(other["ghost"] - one["ghost"]).max() > 1e-3


def test_training_follows_its_settings():
    vectors = word2vec.train(plots(), settings(), seed=3)
    assert vectors.vector_size == 8
    assert len(vectors) == 8 and "hapax" not in vectors
    assert "hapax" in word2vec.train(plots(), settings(min_count=1), seed=3)
    bag_of_words = word2vec.train(plots(), settings(skip_gram=False), seed=3)
    assert np.abs(bag_of_words["ghost"] - vectors["ghost"]).max() > 1e-3


def test_words_of_the_same_plots_become_neighbours():
    vectors = word2vec.train(plots(), settings(epochs=60), seed=3)
    neighbours = {word for word, _ in vectors.most_similar("ghost", topn=3)}
    assert neighbours == {"scream", "cellar", "blood"}


def test_training_without_any_frequent_word_is_refused():
    with pytest.raises(InputError, match="min_count"):
        word2vec.train([["each"], ["word"], ["once"]], settings(), seed=3)


class Counted:
    """An iterable of plots that counts its iterations."""

    def __init__(self, plots):
        self.plots, self.times = plots, 0

    def __iter__(self):
        self.times += 1
        return iter(self.plots)


def test_plots_are_streamed():
    streamed = Counted(plots())
    vectors = word2vec.train(streamed, settings(), seed=3)
    assert streamed.times == 6  # words are counted, then 5 epochs
    np.testing.assert_array_equal(
        vectors.vectors, word2vec.train(plots(), settings(), seed=3).vectors
    )


def test_the_same_training_is_not_repeated(tmp_path, monkeypatch):
    first = word2vec.load_or_train(plots(), settings(), 3, tmp_path / "vectors")
    vectors = word2vec.train(plots(), settings(), seed=3)
    found = vector_file.read(first, vectors.index_to_key)
    for word in vectors.index_to_key:
        np.testing.assert_array_equal(found[word], vectors[word])

    # Settings that do not affect the training do not matter.
    monkeypatch.setattr(word2vec, "train", None)
    same = settings(file="other.bin", phrases=False)
    assert word2vec.load_or_train(plots(), same, 3, tmp_path / "vectors") == first
    assert [file.name for file in (tmp_path / "vectors").iterdir()] == [first.name]


@pytest.mark.parametrize(
    "change",
    [*({name: value} for name, value in dict(dim=9, window=2, min_count=1, skip_gram=False,
       negative=4, epochs=4).items()), {"seed": 4}, {"plots": plots()[:-1]}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_affects_the_vectors_changes_their_file_name(tmp_path, monkeypatch, change):
    monkeypatch.setattr(word2vec, "train", lambda *_: keyed())

    def name(plots=plots(), seed=3, **changes):  # noqa: B008 (not changed)
        return word2vec.load_or_train(plots, settings(**changes), seed, tmp_path)

    assert name(**change) != name()


def test_rows_are_in_the_order_of_the_vocabulary():
    vocabulary = Vocabulary(["sank", "iceberg", "the", "ship"])
    table, known = word2vec.embedding_table(keyed(), vocabulary, seed=0)
    assert table.shape == (6, 5) and table.dtype == np.float32
    # Padding, unknown, sank, iceberg, the, ship.
    assert known.tolist() == [False, False, True, False, True, True]
    assert vocabulary.encode(["the"], 1)[0] == 4

    # Centred and scaled to a root mean square of 1.
    mine = VECTORS[[2, 0, 1]]
    centred = mine - mine.mean(axis=0)
    expected = centred / np.sqrt((centred**2).mean())
    np.testing.assert_allclose(table[known], expected, atol=1e-5)
    np.testing.assert_allclose(table[known].mean(axis=0), 0, atol=1e-6)
    assert np.mean(table[known] ** 2) == pytest.approx(1)


def test_padding_is_zero_and_unknown_is_not():
    table, _ = word2vec.embedding_table(keyed(), Vocabulary(WORDS), seed=0)
    assert (table[PADDING_ID] == 0).all()
    assert (table[UNKNOWN_ID] != 0).all()


def test_the_seed_affects_only_the_vectors_of_unknown_words():
    vocabulary = Vocabulary(["sank", "iceberg", "the"])
    (one, known), (two, _), (other, _) = (
        word2vec.embedding_table(keyed(), vocabulary, seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[known], other[known])
    assert (one[3] != other[3]).all()


def test_unknown_words_spread_like_known_ones_in_each_dimension():
    vectors = np.random.default_rng(0).normal(1, [0.1, 1, 4], (400, 3)).astype(np.float32)
    words = [f"known{n}" for n in range(400)]
    strangers = [f"stranger{n}" for n in range(4000)]
    table, known = word2vec.embedding_table(
        keyed(words, vectors), Vocabulary(words + strangers), seed=0
    )
    # With 4,000 draws the standard deviation is within 4 % of its expected value.
    np.testing.assert_allclose(table[402:].std(axis=0), table[known].std(axis=0), rtol=0.04)


def test_vectors_of_another_language_are_refused():
    with pytest.raises(InputError, match="cover no word"):
        word2vec.embedding_table(keyed(), Vocabulary(["navire", "coula"]), seed=0)


def test_a_single_known_word_gives_no_nan():
    try:
        table, _ = word2vec.embedding_table(keyed(), Vocabulary(["ship", "iceberg"]), seed=0)
    except InputError:
        return
    assert np.isfinite(table).all()


def test_finite_vectors_that_are_too_large_are_refused():
    vectors = np.float32([[3e38, 1], [-3e38, 1], [1, 2], [3, 4]])
    with pytest.raises(InputError, match="have values up to"):
        word2vec.embedding_table(keyed(vectors=vectors), Vocabulary(WORDS), seed=0)
