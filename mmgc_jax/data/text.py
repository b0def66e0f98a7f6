"""Converts plots to padded sequences of word ids: tokens, phrases, vocabulary, padding.

This file imports NumPy and the standard library alone: `mmgc export` copies it into the folders
that it writes, so that plots become the same arrays there. Functions named `open_...` are called
there; see `encoders.base.Portable`.
"""

import collections
import functools
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

PADDING_ID, UNKNOWN_ID, FIRST_WORD_ID = 0, 1, 2

_LONGEST_PHRASE = 3  # words

# The token of a number. The talk's plots have `N` for each run of digits.
_NUMBER = "n"

# Replacements, in this order, by which `tokenize` brings a lowercase plot to one form.
_RULES = (
    # Invisible characters within words: soft hyphens, joiners, marks of direction.
    (re.compile("[\u00ad\u200c-\u200f\u2060\ufeff]"), ""),
    # Letters that are used as apostrophes. Apostrophes proper are punctuation.
    (re.compile("[\u02b9-\u02bd\ua78b\ua78c]"), "'"),
    # `do n't`, as in the Penn Treebank, also with blanks around the apostrophe, becomes `don't`.
    (re.compile(r"(?<=[^\W\d_])\s+n\s*['’`]\s*t\b"), "n't"),
    (re.compile(r"\d+"), f" {_NUMBER} "),
)

# Control characters except tabs and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

# Whole texts that stand for a missing plot, as tokens joined by blanks: `n a` is `N/A`.
_PLACEHOLDERS = frozenset({
    "n a", "na", "nan", "nil", "none", "null", "tba", "tbd", "unknown", "plot unknown", "untitled",
    "add a plot", "missing", "not available", "not yet available", "coming soon", "no plot",
    "no plot available", "no overview", "no overview found", "no overview available",
    "no description", "no description available", "no summary", "no summary available",
    "no synopsis", "no synopsis available",
})  # fmt: skip


def clean(words: str) -> str:
    """Replaces characters that other libraries cannot handle.

    Control characters except tabs and line ends become blanks. Lone surrogates, which JSON and
    command lines can contain but UTF-8 cannot, become question marks.
    """
    return _CONTROL.sub(" ", words).encode(errors="replace").decode()


def tokenize(plot: str) -> list[str]:
    """Splits a plot into lowercase words.

    Plots that people write and plots that are tokenized already, as the talk's are, get the same
    tokens: apostrophes separate words, a run of digits becomes `n`, and other punctuation is
    dropped. Different numbers are therefore the same word. Combining marks belong to their letters.

    >>> tokenize("It's 1984: the 3rd don’t-panic film.")
    ['it', 's', 'n', 'the', 'n', 'rd', 'don', 't', 'panic', 'film']
    >>> tokenize("it ' s  N  :  the  N rd don ' t  -  panic film .")
    ['it', 's', 'n', 'the', 'n', 'rd', 'don', 't', 'panic', 'film']
    >>> tokenize("It 's 1984 : the 3rd do n't - panic film .")
    ['it', 's', 'n', 'the', 'n', 'rd', 'don', 't', 'panic', 'film']
    """
    plot = unicodedata.normalize("NFC", plot.lower())
    for pattern, replacement in _RULES:
        plot = pattern.sub(replacement, plot)
    return _word_pattern().findall(plot)


@functools.cache
def _word_pattern() -> re.Pattern:
    """Makes the pattern of a word: letters and their combining marks, which `\\w` lacks."""
    # Unicode has no combining marks outside of these ranges.
    code_points = itertools.chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0))
    marks = [c for c in map(chr, code_points) if unicodedata.category(c).startswith("M")]
    # A class of characters is slow if it has any that does not fit into 16 bits.
    short, long = (
        "".join(c for c in marks if (c < "\U00010000") == fits) for fits in (True, False)
    )
    mark = rf"(?![\0-\x7f])(?:[{short}]|[{long}])"
    return re.compile(rf"[^\W\d_]+(?:(?:{mark})+[^\W\d_]*)*")


def has_words(plot: str | None) -> bool:
    """Returns whether a text can be a plot.

    Numbers, punctuation and placeholders such as `N/A` or `No overview found.` are not words.
    """
    plot = (plot or "").strip()
    # The beginning decides about nearly all plots.
    return any(
        set(words) - {_NUMBER} and " ".join(words) not in _PLACEHOLDERS
        for words in map(tokenize, (plot[:100], plot[100:]))
    )


def clean_plots(plots: Iterable[str | None]) -> tuple[list[str], np.ndarray]:
    """Cleans plots; also returns whether each one has words, <bool>[plots].

    A missing plot becomes an empty text. A text without words is no plot.
    """
    cleaned = [clean(plot or "") for plot in plots]
    return cleaned, np.array([has_words(plot) for plot in cleaned], bool)


# Replacements, in this order, before a plot is split at blanks. From make_dataset.py (see below).
_MMIMDB_RULES = (
    (re.compile(r"<br />"), " "),
    (re.compile(r"^https?://.*[\r\n]*", re.MULTILINE), " L "),
    (re.compile(r"[~*+^`_#\[\]|]"), " "),
    (re.compile(r"[0-9]+"), " N "),
    (re.compile(r"([/'\-.?!()\",:;])"), r" \1 "),
)


def tokenize_mmimdb(plot: str) -> list[str]:
    """Splits a plot into tokens as in arXiv 1702.01992 (MM-IMDb).

    Tokens are lowercase words, punctuation marks, N for a number, and L for a line that begins
    with a web address. The rules are those of make_dataset.py in
    github.com/johnarevalo/gmu-mmimdb.
    """
    plot = plot.lower()
    for pattern, replacement in _MMIMDB_RULES:
        plot = pattern.sub(replacement, plot).strip()
    return plot.split()


TOKENIZERS = {"words": tokenize, "mmimdb": tokenize_mmimdb}


def words_and_stems(plot: str, tokens: str, stem_length: int, longest_phrase: int) -> list[str]:
    """Returns the words of a plot for a bag of words; `bag_of_words.TfIdf` has the arguments.

    >>> words_and_stems("Two spies", "words", 4, 2)
    ['two', 'spies', 'two spies', 'spie*']
    """
    words = TOKENIZERS[tokens](plot)
    phrases = [
        " ".join(words[start : start + length])
        for length in range(1, longest_phrase + 1)
        for start in range(len(words) - length + 1)
    ]
    if not stem_length:
        return phrases
    return phrases + [word[:stem_length] + "*" for word in words if len(word) > stem_length]


def count_words(plots: Iterable[Sequence[str]], phrases: bool = False) -> collections.Counter:
    """Counts words in tokenized plots.

    Args:
      plots: the tokens of each plot.
      phrases: whether to also count sequences of two and three words, joined by underscores.
    """
    counts = collections.Counter()
    for plot in plots:
        counts.update(plot)
        for length in range(2, (_LONGEST_PHRASE if phrases else 1) + 1):
            counts.update(map("_".join, zip(*(plot[start:] for start in range(length)))))
    return counts


def join_phrases(tokens: Sequence[str], phrases: Collection[str]) -> list[str]:
    """Joins the words of known phrases, greedily from the left: `new york` becomes `new_york`.

    Args:
      tokens: the tokens of a plot.
      phrases: known phrases, words joined by underscores. The longest match is used.
    """
    joined, start = [], 0
    while start < len(tokens):
        for length in range(_LONGEST_PHRASE if phrases else 1, 0, -1):
            phrase = "_".join(tokens[start : start + length])
            if length == 1 or phrase in phrases:
                joined.append(phrase)
                start += length
                break
    return joined


class Vocabulary:
    """Maps words to ids: 0 is padding, 1 is any unknown word, 2 is the first word, and so on.

    Words with an underscore are phrases, which `encode` joins; tokens never have an underscore.

    Attributes:
      words: the words in the order of their ids, starting with id 2.
      phrases: the words that are phrases.
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self.phrases = frozenset(word for word in self.words if "_" in word)
        self._ids = {word: number for number, word in enumerate(self.words, start=FIRST_WORD_ID)}

    def __len__(self) -> int:
        return len(self.words) + FIRST_WORD_ID

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int, max_size: int) -> "Vocabulary":
        """Makes a vocabulary of the most frequent words; ties are broken alphabetically.

        Args:
          counts: counts of the words in training plots only.
          min_count: words that occur less often are left out.
          max_size: maximum number of ids, including padding and the unknown word.
        """
        kept = sorted((-n, word) for word, n in counts.items() if n >= min_count)
        return cls([word for _, word in kept[: max_size - FIRST_WORD_ID]])

    def encode(self, tokens: Sequence[str], max_length: int) -> np.ndarray:
        """Converts tokens to ids.

        Args:
          tokens: the tokens of a plot.
          max_length: maximum number of ids; the words and phrases after it are dropped.

        Returns:
          <int32>[length], with a length of at most `max_length`.
        """
        words = join_phrases(tokens, self.phrases)[:max_length]
        return np.array([self._ids.get(word, UNKNOWN_ID) for word in words], np.int32)


def pad(
    sequences: Sequence[np.ndarray], pad_to_multiple_of: int, longest: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences of ids to a common length that is a multiple of `pad_to_multiple_of`.

    JAX compiles a program for each shape; rounding up keeps the number of shapes small.

    Args:
      sequences: ids <int32>[length] of each sequence.
      pad_to_multiple_of: the padded length is the smallest multiple of this number that fits the
        longest sequence; at least 1.
      longest: length of the longest sequence in the whole batch, if these are only part of it.

    Returns:
      Padded ids <int32>[batch, padded length], and lengths without padding <int32>[batch].
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    multiples = max(1, -(-int(lengths.max(initial=longest)) // pad_to_multiple_of))
    padded_length = multiples * pad_to_multiple_of
    tokens = np.full((len(sequences), padded_length), PADDING_ID, np.int32)
    for row, sequence in zip(tokens, sequences):
        row[: len(sequence)] = sequence
    return tokens, lengths


Arrays = dict[str, np.ndarray]
_ReadPlots = Callable[[Sequence[str | None]], tuple[Arrays, np.ndarray]]


def open_vocabulary(folder, settings: Mapping) -> _ReadPlots:
    """Opens `vocabulary.json` to read plots for an exported LSTM, padded to `max_length`."""
    vocabulary = Vocabulary(_read_json(folder / "vocabulary.json"))
    tokenize, length = TOKENIZERS[settings["tokens"]], settings["max_length"]

    def read(plots):
        cleaned, present = clean_plots(plots)
        ids = [vocabulary.encode(tokenize(plot), length) for plot in cleaned]
        tokens, lengths = pad(ids, length)
        return {"tokens": tokens, "lengths": lengths}, present

    return read


def open_bag_of_words(folder, settings: Mapping) -> _ReadPlots:
    """Opens `bag_of_words.json` to read plots for an exported bag of words.

    The weights are those of `bag_of_words.TfIdf`, which leaves them to scikit-learn.
    """
    content = _read_json(folder / "bag_of_words.json")
    idf = content.pop("idf")
    ids = {word: number for number, word in enumerate(idf)}

    def weigh(plot):
        counts = collections.Counter(words_and_stems(plot, **content))
        weights = {
            ids[word]: (1 + math.log(count)) * idf[word]
            for word, count in counts.items()
            if word in ids
        }
        norm = math.hypot(*weights.values()) or 1.0
        return {number: weights[number] / norm for number in sorted(weights)}

    def read(plots):
        cleaned, present = clean_plots(plots)
        rows = [weigh(plot) for plot in cleaned]
        tokens, _ = pad(
            [np.array([*row], np.int32) for row in rows], settings["pad_to_multiple_of"]
        )
        weights = np.zeros(tokens.shape, np.float32)
        for padded, row in zip(weights, rows):
            padded[: len(row)] = [*row.values()]
        return {"tokens": tokens, "weights": weights}, present

    return read


def open_tokenizer(folder, settings: Mapping) -> _ReadPlots:
    """Opens `tokenizer.json` to read plots for an exported transformer; needs `tokenizers`."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings["max_length"])

    def read(plots):
        cleaned, present = clean_plots(plots)
        ids = [np.array(tokenizer.encode(plot).ids, np.int32) for plot in cleaned]
        inputs, lengths = pad(ids, settings["max_length"])
        return {"inputs": inputs, "lengths": lengths}, present

    return read


def _read_json(file):
    return json.loads(file.read_text(encoding="utf-8"))
