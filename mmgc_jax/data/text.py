"""Converts plots to padded sequences of word ids: tokens, phrases, vocabulary, padding."""

import collections
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import as_path, read_json, write_text

PADDING_ID, UNKNOWN_ID, FIRST_WORD_ID = 0, 1, 2

_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_LONGEST_PHRASE = 3  # words


def tokenize(plot: str) -> list[str]:
    """Splits a plot into lowercase words and numbers; drops punctuation except apostrophes."""
    return _TOKEN.findall(plot.lower().replace("’", "'"))


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
    def load(cls, path) -> "Vocabulary":
        """Reads a file that `save` wrote.

        Raises:
          InputError: if the file is missing, or is not a JSON list of distinct words.
        """
        words = read_json(as_path(path), "Run the experiment again to write it again.")
        is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not is_list or len(set(words)) < len(words):
            raise InputError(f"{path} is not a list of distinct words.")
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
