"""Tests of the vocabulary and the word vectors of an encoder."""

import json
import types

import gensim
import numpy as np
import pytest

from mmgc_jax.data import text
from mmgc_jax.data.text import FIRST_WORD_ID, Vocabulary
from mmgc_jax.encoders import word_vectors
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training.run import Experiment
from tests import tiny

PLOTS = (
    "A detective in New York hunts a serial-killer .",
    "The detective of New York meets a killer .",
    "A serial killer meets the detective 's widow in 1957 .",
    "Only validation plots speak of zebras . Zebras ! zebras",
)


@pytest.fixture
def corpus():
    return types.SimpleNamespace(plot=PLOTS.__getitem__, split={"train": np.arange(3)})


@pytest.fixture
def config(tmp_path):
    config = tiny.get_config()
    config.plot.min_count = 1
    config.plot.vectors.min_count = 1
    config.plot.vectors.train = False
    config.plot.vectors.file = str(tmp_path / "vectors.bin")
    keys = ["the", "Detective", "new", "york", "New_York", "serial_killer", "killer", "zebras",
            "N", "never_met"]  # fmt: skip
    vectors = gensim.models.KeyedVectors(3)
    vectors.add_vectors(keys, np.random.default_rng(0).normal(size=(len(keys), 3)).astype("f4"))
    vectors.save_word2vec_format(config.plot.vectors.file, binary=True)
    return config


def prepare(config, tmp_path, corpus, workdir="run"):
    folds = np.zeros(len(PLOTS), int)
    experiment = Experiment(config, tmp_path / workdir, corpus, folds, tmp_path / "cache")
    return word_vectors.prepare(experiment, "plot")


def folder_of(tmp_path):
    return tmp_path / "run/encoders/plot"


def test_phrases_of_the_file_become_words(config, tmp_path, corpus):
    vocabulary, table = prepare(config, tmp_path, corpus)
    assert vocabulary.phrases == {"new_york", "serial_killer"}
    assert "zebras" not in vocabulary.words and "new" not in vocabulary.words
    assert table.shape == (len(vocabulary), 3)
    encoded = vocabulary.encode(text.tokenize(PLOTS[0]), 100)
    assert [vocabulary.words[number - FIRST_WORD_ID] for number in encoded] == [
        "a", "detective", "in", "new_york", "hunts", "a", "serial_killer",
    ]  # fmt: skip


def test_phrases_can_be_turned_off(config, tmp_path, corpus):
    config.plot.vectors.phrases = False
    vocabulary, _ = prepare(config, tmp_path, corpus)
    assert not vocabulary.phrases
    assert {"new", "york"} <= set(vocabulary.words)


def test_coverage_by_hand(config, tmp_path, corpus):
    prepare(config, tmp_path, corpus)
    # With a vector: the 2, detective 3, new_york 2, serial_killer 2, killer 1, n (1957) 1: 11 of 23
    # words. Without a vector: a 4, in 2, meets 2, hunts, of, s, widow.
    found = json.loads((folder_of(tmp_path) / "word_coverage.json").read_text())
    assert set(found) == {"file"}
    assert found["file"]["words"] == 13 and found["file"]["phrases"] == 2
    assert found["file"]["types"] == pytest.approx(6 / 13)
    assert found["file"]["tokens"] == pytest.approx(11 / 23)
    (line,) = word_vectors.coverage_lines(folder_of(tmp_path))
    assert "47.8% of the words in the training plots" in line
    assert "46.2% of the vocabulary (13 words, 2 of them phrases)." in line


def test_tokens_outside_the_vocabulary_are_not_covered():
    counts = {"a": 6, "b": 3, "c": 1}
    vocabulary = Vocabulary.from_counts(counts, min_count=2, max_size=100)
    known = np.array([False, False, True, False])
    assert word_vectors.coverage(vocabulary, known, counts) == {
        "types": 0.5, "tokens": 0.6, "words": 2, "phrases": 0,
    }  # fmt: skip


def test_trained_vectors_are_concatenated_with_those_of_the_file(config, tmp_path, corpus):
    config.plot.vectors.train = True
    vocabulary, table = prepare(config, tmp_path, corpus)
    assert table.shape == (len(vocabulary), 3 + config.plot.vectors.dim)
    assert len(word_vectors.coverage_lines(folder_of(tmp_path))) == 2
    assert len(list((tmp_path / "cache/word_vectors").iterdir())) == 1


def test_word2vec_is_trained_on_unlabelled_plots_too(config, tmp_path, corpus):
    config.plot.vectors.train = True
    config.plot.vectors.file = ""
    _, without = prepare(config, tmp_path, corpus)
    table = tmp_path / "more.csv"
    table.write_text("index,year,title,plot\n1,1999,T,a detective in zebra land\n2,1999,T,\n")
    config.plot.vectors.unlabelled = (str(table),)
    vocabulary, with_more = prepare(config, tmp_path, corpus, "other")
    assert "zebra" not in vocabulary.words
    assert np.abs(with_more - without).max() > 1e-3
    assert len(list((tmp_path / "cache/word_vectors").iterdir())) == 2


@pytest.mark.parametrize("vectorisation", ["unique_map", "one_hot"])
def test_other_vectorisations_need_no_file(config, tmp_path, corpus, vectorisation):
    config.plot.vectorisation = vectorisation
    config.plot.vectors.file = "/nowhere"
    vocabulary, table = prepare(config, tmp_path, corpus)
    assert table is None and "new" in vocabulary.words
    assert word_vectors.coverage_lines(folder_of(tmp_path)) == []


def test_vectors_are_read_the_second_time(config, tmp_path, corpus, monkeypatch):
    first = prepare(config, tmp_path, corpus)
    monkeypatch.setattr(word_vectors.vector_file, "read", None)
    second = prepare(config, tmp_path, corpus)
    assert second[0].words == first[0].words
    np.testing.assert_array_equal(second[1], first[1])


def test_without_a_vocabulary_all_files_are_written_again(config, tmp_path, corpus):
    first = prepare(config, tmp_path, corpus)
    (folder_of(tmp_path) / "vocabulary.json").unlink()
    np.save(folder_of(tmp_path) / "word_vectors.npy", np.zeros(3))
    np.testing.assert_array_equal(prepare(config, tmp_path, corpus)[1], first[1])


def test_vectors_of_another_language_are_refused(config, tmp_path):
    corpus = types.SimpleNamespace(plot=lambda _: "navire coula", split={"train": [0]})
    with pytest.raises(InputError, match="cover no word"):
        prepare(config, tmp_path, corpus)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: np.save(file, np.zeros((3, 3), np.float32)), r"it has float32\[3, 3\] for"),
        (lambda file: np.save(file, np.zeros((13, 3))), r"it has float64"),
        (lambda file: np.save(file, np.full_like(np.load(file), np.nan)), "not finite"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "reshape|read"),
        (lambda file: file.write_bytes(b""), "No data left|EOF"),
        (lambda file: np.save(file, np.array([{}]), allow_pickle=True), "allow_pickle=False"),
        (lambda file: file.unlink(), "No such file"),
    ],
)
def test_damaged_vectors_are_detected(config, tmp_path, corpus, damage, reason):
    prepare(config, tmp_path, corpus)
    damage(file := folder_of(tmp_path) / "word_vectors.npy")
    with pytest.raises(InputError, match=f"{file} is damaged: .*({reason}).* Delete it and voc"):
        prepare(config, tmp_path, corpus)


def test_inputs_are_the_files_that_are_read(config):
    vectors = config.plot.vectors
    file = vectors.file
    vectors.unlabelled = ("a.csv", "b.csv")
    assert word_vectors.inputs(vectors) == {"file": file}  # Word2Vec is not trained
    vectors.train = True
    assert word_vectors.inputs(vectors) == {"file": file, "unlabelled": ("a.csv", "b.csv")}
    vectors.file = ""
    assert word_vectors.inputs(vectors) == {"unlabelled": ("a.csv", "b.csv")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"dim": 0}, "vectors.dim is 0; a whole number of at least 1 is needed"),
        ({"epochs": 0}, "vectors.epochs is 0; a whole number of at least 1 is needed"),
        ({"learning_rate_scale": -1.0}, "vectors.learning_rate_scale is -1.0; a number of at"),
        ({"file": ""}, "vectors: without a file, and with train=False, there are no word v"),
        ({"file": "/nowhere.bin"}, "vectors.file: /nowhere.bin"),
        ({"train": True, "unlabelled": ("/nowhere.csv",)}, "vectors.unlabelled: /nowhere.csv"),
    ],
)
def test_mistakes_in_the_section(config, changes, expected):
    vectors = config.plot.vectors
    vectors.update(changes)
    found = word_vectors.problems(vectors, used=True)
    assert len(found) == bool(expected)
    assert "".join(found).startswith(expected)


def test_files_of_unused_vectors_are_not_checked(config):
    config.plot.vectors.file = "/nowhere.bin"
    assert word_vectors.problems(config.plot.vectors, used=False) == []
