"""Tests tokens, phrases, vocabularies and padding."""

import numpy as np
import pytest

from mmgc_jax.data import text
from mmgc_jax.data.text import Vocabulary
from mmgc_jax.runtime.errors import InputError


@pytest.mark.parametrize(
    ("plot", "tokens"),
    [
        ("A serial killer, 47, decides .", ["a", "serial", "killer", "47", "decides"]),
        ("don't say 'no'", ["don't", "say", "no"]),
        ("four-year-old snake_case", ["four", "year", "old", "snake", "case"]),
        ("Der Fürst von ÖSTERREICH — 七人の侍", ["der", "fürst", "von", "österreich", "七人の侍"]),
        (" ... \n", []),
        ("", []),
    ],
)
def test_tokens(plot, tokens):
    assert text.tokenize(plot) == tokens


def test_typographic_apostrophes_stay_inside_words():
    assert len(text.tokenize("don’t")) == 1


PLOTS = (("b", "a", "c", "a"), ("c", "d", "a"), ("b", "e"))
COUNTS = {"a": 3, "b": 2, "c": 2, "d": 1, "e": 1}


def test_words_are_counted():
    assert text.count_words(PLOTS) == COUNTS
    assert text.count_words([]) == {}


def test_phrases_of_two_and_three_words_are_counted_too():
    counts = text.count_words([("new", "york", "city", "new", "york"), ("new", "york")], True)
    assert counts == {
        "new": 3, "york": 3, "city": 1, "new_york": 3, "york_city": 1, "city_new": 1,
        "new_york_city": 1, "york_city_new": 1, "city_new_york": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "joined"),
    [
        ("in new york", "in new_york"),
        ("new york city hall", "new_york_city hall"),  # the longest
        ("york new york", "york new_york"),
        ("a b c", "a_b c"),  # from the left
        ("new", "new"),
        ("", ""),
    ],
)
def test_words_of_a_phrase_are_joined(tokens, joined):
    phrases = {"new_york", "new_york_city", "a_b", "b_c"}
    assert text.join_phrases(tokens.split(), phrases) == joined.split()
    assert text.join_phrases(tokens.split(), set()) == tokens.split()


def test_frequent_words_first_then_alphabetical_order():
    vocabulary = Vocabulary.from_counts(COUNTS, min_count=1, max_size=100)
    assert vocabulary.words == ("a", "b", "c", "d", "e")
    assert len(vocabulary) == 7
    reordered = dict(reversed(COUNTS.items()))
    assert Vocabulary.from_counts(reordered, 1, 100).words == vocabulary.words


def test_rare_words_are_left_out():
    assert Vocabulary.from_counts(COUNTS, min_count=2, max_size=100).words == ("a", "b", "c")


def test_max_size_includes_the_special_ids():
    vocabulary = Vocabulary.from_counts(COUNTS, min_count=1, max_size=4)
    assert vocabulary.words == ("a", "b")
    assert len(vocabulary) == 4


def test_encode():
    ids = Vocabulary(("a", "b")).encode(["b", "never", "a", "a"], max_length=3)
    assert ids.dtype == np.int32
    assert ids.tolist() == [3, text.UNKNOWN_ID, 2]
    assert Vocabulary(("a",)).encode([], max_length=3).shape == (0,)


def test_phrases_of_the_vocabulary_are_encoded_as_one_word():
    vocabulary = Vocabulary(("the", "new_york", "new"))
    assert vocabulary.phrases == {"new_york"}
    assert vocabulary.encode(["the", "new", "york", "new"], max_length=3).tolist() == [2, 3, 4]


def test_every_id_is_below_the_size():
    vocabulary = Vocabulary.from_counts(COUNTS, min_count=1, max_size=6)
    ids = np.concatenate([vocabulary.encode(plot, 10) for plot in PLOTS])
    assert set(ids.tolist()) == {1, 2, 3, 4, 5} and len(vocabulary) == 6


def test_save_and_load(tmp_path):
    file = tmp_path / "vocabulary.json"
    vocabulary = Vocabulary(("the", "l'été", "七", "\u2028"))
    vocabulary.save(file)
    loaded = Vocabulary.load(file)
    assert loaded.words == vocabulary.words
    assert loaded.encode(["七"], 1).tolist() == vocabulary.encode(["七"], 1).tolist() == [4]


@pytest.mark.parametrize(
    ("longest", "padded"), [(0, 8), (1, 8), (8, 8), (9, 16), (16, 16), (17, 24)]
)
def test_padded_length_is_the_smallest_multiple_that_fits(longest, padded):
    sequences = [np.arange(2, 2 + longest), np.array([], np.int32)]
    tokens, lengths = text.pad(sequences, pad_to_multiple_of=8)
    assert tokens.shape == (2, padded)
    assert lengths.tolist() == [longest, 0]


def test_padding_is_after_the_words():
    tokens, lengths = text.pad([np.array([5, 6, 7]), np.array([8])], pad_to_multiple_of=4)
    assert tokens.tolist() == [[5, 6, 7, text.PADDING_ID], [8, 0, 0, 0]]
    assert (tokens.dtype, lengths.dtype) == (np.int32, np.int32)


def test_no_sequences():
    tokens, lengths = text.pad([], pad_to_multiple_of=4)
    assert tokens.shape == (0, 4) and lengths.shape == (0,)


@pytest.mark.parametrize(
    ("plot", "tokens"),
    [
        ("In 1945, two men", "in N , two men"),
        ("It's a well-known plot.", "it ' s a well - known plot ."),
        ("A line<br />and another", "a line and another"),
        ("see\nhttp://example.org/a?b=1\nfor more", "see L for more"),
        ("see http://x.y", "see http : / / x . y"),  # only at the beginning of a line
        ("snake_case *and* [2]", "snake case and N"),
        ('"Why?" (he asks): no; yes!', '" why ? " ( he asks ) : no ; yes !'),
        ("L and N", "l and n"),
        (" ~ \n", ""),
        ("“Curly” – dash…", "“curly” – dash…"),
    ],
)
def test_tokens_of_mmimdb(plot, tokens):
    assert text.tokenize_mmimdb(plot) == tokens.split()


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', '["a", 1]', '["a", "a"]', "[" * 100_000])
def test_damaged_vocabulary(tmp_path, content):
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(InputError, match=r"vocabulary\.json"):
        Vocabulary.load(tmp_path / "vocabulary.json")
