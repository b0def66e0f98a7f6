"""Converts plots to padded sequences of word ids: tokens, phrases, vocabulary, padding."""

import collections
import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import as_path, read_json, write_text

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

# Whole texts that stand for a missing plot, as tokens joined by blanks: `n a` is `N/A`.
_PLACEHOLDERS = frozenset({
    "n a", "na", "nan", "nil", "none", "null", "tba", "tbd", "unknown", "plot unknown", "untitled",
    "add a plot", "missing", "not available", "not yet available", "coming soon", "no plot",
    "no plot available", "no overview", "no overview found", "no overview available",
    "no description", "no description available", "no summary", "no summary available",
    "no synopsis", "no synopsis available",
})  # fmt: skip


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


def check_words(words: Iterable[str], tokens: str, file) -> None:
    """Checks that the words of a stored vocabulary are tokens of `tokenize`.

    Earlier versions of `tokenize` had others, such as `don't` and `1984`, which no plot has now.

    Args:
      words: the words, without phrases.
      tokens: name of the tokenizer that the vocabulary belongs to; only `words` is checked.
      file: the vocabulary's file, for the message.

    Raises:
      InputError: if there are other words.
    """
    words = list(words)
    if tokens != "words" or tokenize("\n".join(words)) == words:
        return
    foreign = [word for word in words if tokenize(word) != [word]]
    raise InputError(
        f"{file} has words that plots are no longer split into: {', '.join(foreign[:5])}"
        f"{', ...' if len(foreign) > 5 else ''}. It was written by an earlier version of mmgc_jax. "
        "Run the experiment again in a new --workdir."
    )


def count_words(plots: Iterable[Sequence[str]], phrases: bool = False) -> collections.Counter:
    """Counts words in tokenized plots.

    Args:
      plots: the tokens of each plot.
      phrases: whether to also count sequences of two and three words, joined by underscores.
    """
    return collections.Counter(
        "_".join(plot[start : start + length])
        for plot in plots
        for length in range(1, (_LONGEST_PHRASE if phrases else 1) + 1)
        for start in range(len(plot) - length + 1)
    )


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

    @classmethod
    def load(cls, path, tokens: str) -> "Vocabulary":
        """Reads a file that `save` wrote.

        Args:
          path: path of the file.
          tokens: name of the tokenizer in `TOKENIZERS` that plots are split by.

        Raises:
          InputError: if the file is missing, is not a JSON list of distinct words, or has words
            that the tokenizer does not make.
        """
        words = read_json(as_path(path), "Run the experiment again to write it again.")
        is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not is_list or len(set(words)) < len(words):
            raise InputError(f"{path} is not a list of distinct words.")
        check_words((part for word in words for part in word.split("_")), tokens, path)
        return cls(words)

    def save(self, path) -> None:
        """Writes the words as a JSON list, atomically."""
        write_text(as_path(path), json.dumps(self.words, ensure_ascii=False))

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
