"""Tests tokens, phrases, vocabularies and padding."""

import csv
import itertools
import pathlib
import re
import sys
import time
import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from mmgc_jax.data import text, vocabulary_file
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.data.text import Vocabulary


@pytest.mark.parametrize(
    ("plot", "tokens"),
    [
        ("A serial killer, 47, decides .", ["a", "serial", "killer", "n", "decides"]),
        ("don't say 'no'", ["don", "t", "say", "no"]),
        ("four-year-old snake_case", ["four", "year", "old", "snake", "case"]),
        ("Der Fürst von ÖSTERREICH — 七人の侍", ["der", "fürst", "von", "österreich", "七人の侍"]),
        (" ... \n", []),
        ("", []),
    ],
)
def test_tokens(plot, tokens):
    assert text.tokenize(plot) == tokens


# Texts as the talk's file has them, and the same texts as people write them.
SAME = {
    "it ' s a boy ' s life": (
        "It's a boy's life.", "It’s a boy’s life", "it`s a boy´s life", "itʼs a boyʼs life",
        "it 's a boy 's life", "IT＇S A BOY＇S LIFE!", "it' s a boy' s life",
    ),
    "the brothers '   house": ("The brothers' house", "the ‘brothers’ house"),
    "he doesn ' t ,  won ' t ,  can ' t": (
        "He doesn't, won't, can't!", "he doesn’t won’t can’t", "he does n't , wo n't , ca n't",
        "he does n’t , wo n’t , ca n’t", "he does  n't ,  wo  n ' t ,  ca n` t",
    ),
    "rock ' n ' roll": ("Rock 'n' Roll", "rock ’n’ roll"),
    "in  N  ,  the  N rd of  N s": (
        "In 1984, the 3rd of 1990s", "in 12, the 3rd of 80s", "In １９８４, the ٣rd of ९०s",
    ),
    "$ N  ,  N  ,   N  .  N  %  of  N  /  N": ("$10,000, 3.5% of 9/11",),
    "a  N  -  year  -  old": ("A 12-year-old", "a 12‐year‐old", "a 12–year–old"),
    'they say  " no "  .': ("They say “no”.", "they say «no»…", "they say ``no''"),
    "a killer": ("a kil\u00adler", "\ufeffa killer", "a\u200b killer", "a\xa0killer", "a_killer"),
}  # fmt: skip


@pytest.mark.parametrize(("plot", "same"), [(a, b) for a, texts in SAME.items() for b in texts])
def test_plots_as_people_write_them_have_the_tokens_of_the_talks_file(plot, same):
    assert text.tokenize(same) == text.tokenize(plot) != []


_WORD = st.sampled_from(["ghost", "o'brien", "don't", "it's", "they'll", "naïve", "well-known"])
_PART = st.one_of(_WORD, st.from_regex(r"(19\d\ds|\d{1,2}th|\d{1,3}(,\d{3})?)", fullmatch=True))
_END = st.sampled_from([" ", ", ", ". ", "! ", "; ", ' "', '" ', " (", ") ", " - ", "/"])


def as_in_the_talks_file(plot):
    """Rewrites a plot as in the talk's file: marks and numbers stand apart, numbers are N."""
    plot = re.sub(r"\d+", " N ", plot.lower())
    return re.sub(r"""([/'\-.?!()",:;])""", r" \1 ", plot)


@hypothesis.given(
    st.lists(st.tuples(_PART, _END), min_size=1).map(lambda p: "".join(map("".join, p)))
)
def test_rewritten_plots_have_the_same_tokens(plot):
    tokens = text.tokenize(as_in_the_talks_file(plot))
    for form in (str, str.upper, str.title):
        assert text.tokenize(form(plot)) == tokens
    for quote in "’‘ʼ`´＇":
        assert text.tokenize(plot.replace("'", quote)) == tokens
    assert text.tokenize(unicodedata.normalize("NFD", plot)) == tokens


def test_plots_of_the_talk_keep_their_tokens_when_people_write_them(request):
    file = request.config.rootpath.parent / "shared/data/talk/train/movies.csv"
    if not file.is_file():
        pytest.skip(f"no movies: {file} does not exist")
    with file.open(encoding="utf-8") as stream:
        plots = [row["plot"] for row in itertools.islice(csv.DictReader(stream), 1000)]
    for plot in plots:
        written = re.sub(r"(\w) ' (s|t|re|ll|ve|d|m)\b", r"\1’\2", plot)
        written = re.sub(r"\s+([.,;:?!)])", r"\1", written).replace("( ", "(")
        written = re.sub(r"\bN(?: (th|s|st|nd|rd)\b)?", r"1984\1", written)
        written = re.sub(r"  +", " ", written.replace(" - ", "-")).capitalize()
        assert text.tokenize(unicodedata.normalize("NFD", written)) == text.tokenize(plot)


@hypothesis.given(st.text())
def test_canonically_equivalent_texts_have_the_same_tokens(plot):
    tokens = text.tokenize(plot)
    for form in ("NFC", "NFD"):
        assert text.tokenize(unicodedata.normalize(form, plot)) == tokens
    assert [text.tokenize(token) for token in tokens] == [[token] for token in tokens]


@pytest.mark.parametrize(
    "word",
    [
        "हिन्दी", "फ़िल्म", "कहानी",  # Devanagari
        "người", "việt", "yếu", "n̈goài",  # Vietnamese; the last has no composed letter
        "தமிழ்", "ภาษาไทย", "สัปดาห์", "עִבְרִית", "العَرَبِيَّة", "𞤀𞤣𞤤𞤢𞤥𞥆".lower(),  # and other scripts
    ],
)  # fmt: skip
def test_words_with_combining_marks_stay_whole(word):
    for form in ("NFC", "NFD"):
        plot = f"{unicodedata.normalize(form, word)}, 3 ({word})."
        composed = unicodedata.normalize("NFC", word)
        assert text.tokenize(plot) == [composed, "n", composed]


def test_a_mark_without_a_letter_is_no_word():
    assert text.tokenize("❤\ufe0f 1\ufe0f\u20e3 \u0301 _\u0301") == ["n"]


def test_all_combining_marks_are_known():
    marks = [c for c in map(chr, range(0x110000)) if unicodedata.category(c).startswith("M")]
    lost = [f"{ord(c):x}" for c in marks if len(text.tokenize(f"x{c}y")) != 1]
    assert not lost


def test_long_plots_are_split_in_linear_time():
    for piece in ("a", "1", " ", "'", " n't", "\u0301", "a\u0301", "\u200d"):
        before = time.process_time()
        text.tokenize(piece * (1_000_000 // len(piece)))
        assert time.process_time() - before < 5


@pytest.mark.parametrize(
    "plot",
    [
        None, "", " ", "\n\t\xa0\u3000", "...", "—", "?", "\u200b", "_", "🎬", "❤\ufe0f", "\u0301",
        "N", "1984", "12.5", "3 / 4", "N/A", "n/a", " N/A. ", "n.a.", "(N/A)", "NA", "NaN", "None",
        "null", "Unknown.", "Plot unknown", "Add a Plot »", "No overview found.", "TBA",
        "No plot available." + " " * 200, " " * 200 + "N/A", " " * 98 + "N/A", "." * 300,
    ],
)  # fmt: skip
def test_texts_without_words_are_no_plots(plot):
    assert text.has_words(plot) is False


@pytest.mark.parametrize(
    "plot",
    [
        "x", "ghosts", "Napoli", "N/A is a film about forms", "None of them knew.", "1984 again",
        "七人の侍", "हिन्दी", "Nana", "no plot found by anybody", "." * 300 + "ghost",
        "N/A" + "." * 300 + "ghost", "Unknown soldiers",
    ],
)  # fmt: skip
def test_texts_with_words_are_plots(plot):
    assert text.has_words(plot) is True


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


def test_control_characters_become_blanks_and_lone_surrogates_question_marks():
    assert text.clean("a\x1b[31m\0 \ttab\n\ud800") == "a [31m  \ttab\n?"


def test_the_module_needs_neither_this_package_nor_other_libraries():
    # It is copied into exported folders.
    source = pathlib.Path(text.__file__).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    assert set(imported) - sys.stdlib_module_names == {"numpy"}


MISSING = [None, "", "N/A", "1984"]


def test_exported_plots_have_the_ids_of_the_vocabulary(tmp_path):
    vocabulary = Vocabulary(["the", "heist", "new_york"])
    vocabulary_file.save(tmp_path / "vocabulary.json", vocabulary)
    read = text.open_vocabulary(tmp_path, {"tokens": "words", "max_length": 4})
    arrays, present = read(["The heist\0 in New York", *MISSING, "the " * 9])
    assert arrays["tokens"].shape == (6, 4) and arrays["tokens"].dtype == np.int32
    assert arrays["tokens"][0].tolist() == [2, 3, 1, 4]
    assert arrays["lengths"].tolist() == [4, 0, 0, 2, 1, 4]  # `N/A` has two tokens, and is no plot
    assert present.tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize("tokens", ["words", "mmimdb"])
def test_exported_bags_of_words_have_the_weights_of_tf_idf(tmp_path, tokens):
    plots = ["The heist of two spies, two spies!", "A spy returns to New York", "the end", "spying"]
    words = TfIdf.fit(plots, tokens, stem_length=3, longest_phrase=2, min_plots=1)
    words.save(tmp_path / "bag_of_words.json")
    read = text.open_bag_of_words(tmp_path, {"pad_to_multiple_of": 8})
    asked = [*plots, "spies spies heist", "zebra", *MISSING]
    arrays, present = read(asked)
    assert arrays["tokens"].shape[1] % 8 == 0 and arrays["weights"].dtype == np.float32
    dense = np.zeros((len(asked), len(words)))
    np.add.at(dense, (np.arange(len(asked))[:, None], arrays["tokens"]), arrays["weights"])
    wanted = words([plot or "" for plot in asked]).toarray()
    np.testing.assert_allclose(dense, wanted, atol=1e-7)
    assert wanted[:5].any(axis=1).all() and present.tolist() == [True] * 6 + [False] * 4
