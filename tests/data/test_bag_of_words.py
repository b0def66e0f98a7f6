"""Tests TF-IDF weights against scikit-learn, and saving them to a file."""

import json
import math

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from mmgc_jax.data import text
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.runtime.errors import InputError

PLOTS = [
    "A spy, a spy and his cat.",
    "The cat of the SPY's wife",
    "the wife of a sheriff; the spy",
    "alone",
    "",
]


def dense(tfidf, plots):
    return tfidf(plots).toarray()


def test_weights_worked_out_by_hand():
    found = TfIdf.fit(["spy spy cat", "spy", "spy cat dog", "nothing"], min_plots=2)
    assert found.words == ("cat", "spy")
    # Four plots, two with a cat and three with a spy.
    idf = np.array([1 + math.log(5 / 3), 1 + math.log(5 / 4)])
    np.testing.assert_allclose(found.idf, idf)
    raw = idf * [1, 1 + math.log(2)]
    expected = [raw / np.hypot(*raw), idf / np.hypot(*idf), [0, 0]]
    plots = ["a spy and a spy and a cat", "cat spy", "a dog"]
    np.testing.assert_allclose(dense(found, plots), expected, rtol=1e-6)


@pytest.mark.parametrize("tokens", ["words", "mmimdb"])
@pytest.mark.parametrize("min_plots", [1, 2])
def test_rows_equal_scikit_learns(tokens, min_plots):
    tfidf = TfIdf.fit(PLOTS, tokens, stem_length=0, min_plots=min_plots)
    reference = TfidfVectorizer(
        analyzer=text.TOKENIZERS[tokens], sublinear_tf=True, min_df=min_plots, norm="l2"
    ).fit(PLOTS)
    assert tfidf.words == tuple(reference.get_feature_names_out())
    assert len(tfidf) == len(tfidf.words) > 3
    plots = [*PLOTS, "the cat never seen before", "cat " * 30]
    rows, expected = tfidf(plots), reference.transform(plots)
    assert rows.dtype == np.float32 and rows.shape == (7, len(tfidf))
    np.testing.assert_allclose(rows.toarray(), expected.toarray(), rtol=1e-6)


def test_phrases_equal_scikit_learns_ngrams():
    tfidf = TfIdf.fit(PLOTS, stem_length=0, longest_phrase=2, min_plots=2)
    assert "the spy" in tfidf.words and "wife of" not in tfidf.words
    assert {"wife", "of", "the"} < set(tfidf.words)
    tfidf = TfIdf.fit(PLOTS, stem_length=0, longest_phrase=3, min_plots=1)
    assert {"wife of a", "a spy", "alone"} < set(tfidf.words)
    reference = TfidfVectorizer(
        tokenizer=text.tokenize, token_pattern=None, ngram_range=(1, 3), sublinear_tf=True
    ).fit(PLOTS)
    assert tfidf.words == tuple(reference.get_feature_names_out())
    np.testing.assert_allclose(dense(tfidf, PLOTS), reference.transform(PLOTS).toarray(), rtol=1e-6)


def test_a_long_word_also_counts_as_its_stem():
    tfidf = TfIdf.fit(["killer kills", "a killing spree", "spree"], stem_length=5, min_plots=1)
    assert tfidf.words == ("a", "kille*", "killer", "killi*", "killing", "kills", "spree")
    tfidf = TfIdf.fit(["killer kills", "a killing"], stem_length=4, min_plots=2)
    assert tfidf.words == ("kill*",)
    # A word of exactly this length has no stem; an unknown word can have a known stem.
    np.testing.assert_array_equal(dense(tfidf, ["kill", "killjoys", "kin"]), [[0], [1], [0]])


@pytest.mark.parametrize("tokens", ["words", "mmimdb"])
def test_stems_and_phrases_differ_from_words(tokens):
    plots = ["kill* killer kill killer new york * york*"] * 2
    tfidf = TfIdf.fit(plots, tokens, stem_length=4, longest_phrase=2)
    assert len(set(tfidf.words)) == len(tfidf.words)
    words = {word for word in tfidf.words if not word.endswith("*") and " " not in word}
    assert words == {"kill", "killer", "new", "york"}
    assert {word for word in tfidf.words if word.endswith("*")} == {"kill*"}


def test_ids_ascend_and_an_empty_plot_has_none():
    rows = TfIdf.fit(PLOTS, min_plots=1)(["wife spy cat a alone", "", "never seen"])
    first = rows.indices[: rows.indptr[1]]
    assert (np.diff(first) > 0).all() and len(first) == 5
    assert rows.indptr.tolist() == [0, 5, 5, 5]


@pytest.mark.parametrize("plots", [[], ["", "..."], ["each word", "only once"]])
def test_plots_without_a_word_in_common_are_refused(plots):
    with pytest.raises(InputError, match="no word occurs in 2 plots or more"):
        TfIdf.fit(plots)


@pytest.mark.parametrize("tokens", ["words", "mmimdb"])
def test_save_and_load(tmp_path, tokens):
    plots = [*PLOTS, "l'été 七人の侍 \u2028 é", "l'été 七人の侍 twice"]
    saved = TfIdf.fit(plots, tokens, stem_length=4, longest_phrase=2, min_plots=1)
    saved.save(tmp_path / "words.json")
    loaded = TfIdf.load(tmp_path / "words.json")
    assert (loaded.words, loaded.tokens) == (saved.words, tokens)
    assert (loaded.stem_length, loaded.longest_phrase) == (4, 2)
    np.testing.assert_array_equal(loaded.idf, saved.idf)
    np.testing.assert_array_equal(dense(loaded, plots), dense(saved, plots))
    assert [file.name for file in tmp_path.iterdir()] == ["words.json"]


CONTENT = {"tokens": "words", "stem_length": 0, "longest_phrase": 1, "idf": {"spy": 1.5}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "is not JSON"),
        ([], "fields are not tokens, stem_length, longest_phrase, idf"),
        ({"tokens": "words"}, "fields are not tokens, stem_length, longest_phrase, idf"),
        (CONTENT | {"tokens": "letters"}, "'letters', not one of words, mmimdb"),
        (CONTENT | {"tokens": ["words"]}, "not one of words, mmimdb"),
        (CONTENT | {"stem_length": -1}, "stem_length is -1"),
        (CONTENT | {"stem_length": True}, "stem_length is True"),
        (CONTENT | {"longest_phrase": 0}, "longest_phrase is 0"),
        (CONTENT | {"longest_phrase": 1.5}, "longest_phrase is 1.5"),
        (CONTENT | {"idf": {}}, "idf has no words"),
        (CONTENT | {"idf": ["spy"]}, "idf has no words"),
        (CONTENT | {"idf": {"spy": "1"}}, "the idf of 'spy' is '1'"),
        (CONTENT | {"idf": {"spy": 0}}, "the idf of 'spy' is 0"),
        (CONTENT | {"idf": {"spy": float("nan")}}, "the idf of 'spy' is nan"),
        (CONTENT | {"idf": {"spy": float("inf")}}, "the idf of 'spy' is inf"),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path, content, reason):
    file = tmp_path / "words.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=reason) as error:
        TfIdf.load(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"words\.json cannot be read: No such file"):
        TfIdf.load(tmp_path / "words.json")


def test_a_vocabulary_of_another_tokenizer_is_refused(tmp_path):
    file = tmp_path / "tfidf.json"
    words = ("don't", "kille*", "ship", "the 1990s", "the ship")
    for tokens in ("words", "mmimdb"):
        TfIdf(words, np.ones(len(words)), tokens, 5, 2).save(file)
        if tokens == "mmimdb":
            assert TfIdf.load(file).words == words
            continue
        with pytest.raises(InputError) as caught:
            TfIdf.load(file)
        assert f"{file} has words that plots are no longer split into: don't, 1990s. It was" in str(
            caught.value
        )
