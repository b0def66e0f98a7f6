"""Tests that encoders count the words of a plot that they know."""

import ml_collections
import numpy as np
import pytest

from mmgc_jax.data import vocabulary_file
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.data.text import Vocabulary
from mmgc_jax.encoders import plot_bag_of_words, plot_lstm
from mmgc_jax.encoders.base import KnownWords
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.training import checkpoints
from mmgc_jax.training.run import encoder_folder


def load(module, workdir, **settings):
    """Loads an encoder `plot` of a kind, whose two folds have parameters of zeros."""
    config = ml_collections.ConfigDict({"folds": 2, "plot": module.default_settings()})
    config.plot.update(settings)
    tree = {"kernel": np.zeros((1, 24), np.float32)}
    for fold in range(2):
        checkpoints.save(workdir / "checkpoints" / f"plot/fold_{fold}" / "trained", 0, tree)
    return module.load(config, workdir, "plot", 24, Kernels())


@pytest.mark.parametrize(
    ("plot", "known", "total"),
    [
        ("A heist; the HEIST's spies, a heist!", 3, 8),
        ("New York, new heist", 2, 3),  # the phrase counts as one word
        ("unknown", 0, 1),
        ("heist " * 10, 8, 8),  # cut to max_length
        ("?", 0, 0),
        ("", 0, 0),
        ("heist\x00heist", 2, 2),
    ],
)
def test_lstm(tmp_path, plot, known, total):
    file = encoder_folder(tmp_path, "plot") / "vocabulary.json"
    vocabulary_file.save(file, Vocabulary(["heist", "new_york", "city"]))
    encoder = load(plot_lstm, tmp_path, max_length=8, vectorisation="one_hot")
    assert encoder.known_words(plot) == KnownWords(known, total, vocabulary=3)


@pytest.mark.parametrize(
    ("plot", "known", "with_stems", "total"),
    [
        ("A heist; the HEIST's spies, a heist!", 3, 3, 8),
        ("heistful heis heistx", 0, 2, 3),
        ("heist*", 1, 1, 1),
        ("new york", 0, 0, 2),  # only the phrase has a weight
        ("...", 0, 0, 0),
    ],
)
def test_bag_of_words(tmp_path, plot, known, with_stems, total):
    words = ("heist", "heist*", "new york", "city")
    for stem_length, expected in ((0, known), (5, with_stems)):
        tfidf = TfIdf(words, np.ones(4), "words", stem_length, 2)
        tfidf.save(encoder_folder(tmp_path, "plot") / "bag_of_words.json")
        encoder = load(plot_bag_of_words, tmp_path)
        assert encoder.known_words(plot) == KnownWords(expected, total, vocabulary=2)
