"""Turns plots into padded sequences of word ids: tokens, phrases, vocabulary, padding."""

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
    """Splits a plot into lowercase words and numbers, without punctuation but for apostrophes."""
    return _TOKEN.findall(plot.lower().replace("’", "'"))


# Replacements before a plot is split at blanks, in this order, from the code named below.
_MMIMDB_RULES = (
    (re.compile(r"<br />"), " "),
    (re.compile(r"^https?://.*[\r\n]*", re.MULTILINE), " L "),
    (re.compile(r"[~*+^`_#\[\]|]"), " "),
    (re.compile(r"[0-9]+"), " N "),
    (re.compile(r"([/'\-.?!()\",:;])"), r" \1 "),
)


def tokenize_mmimdb(plot: str) -> list[str]:
    """Splits a plot into lowercase words, punctuation marks, N for a number and L for a link.

    These are the tokens of arXiv 1702.01992 (github.com/johnarevalo/gmu-mmimdb, make_dataset.py),
    where only a line that begins with an address is a link.
    """
    plot = plot.lower()
    for pattern, replacement in _MMIMDB_RULES:
        plot = pattern.sub(replacement, plot).strip()
    return plot.split()


TOKENIZERS = {"words": tokenize, "mmimdb": tokenize_mmimdb}


def count_words(plots: Iterable[Sequence[str]], phrases: bool = False) -> collections.Counter:
    """Counts the words of tokenized plots.

    Args:
      plots: tokens of each plot.
      phrases: whether to count sequences of two and three words too, joined by underscores.
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
      tokens: of a plot.
      phrases: words joined by underscores; where several match, the longest is taken.
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
    """Maps words to ids: 0 is padding, 1 any unknown word, 2 the first word, and so on.

    Words with an underscore are phrases (no token has one), which `encode` joins.
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
          counts: of the words in the training part only.
          min_count: words that occur less often are left out.
          max_size: the largest number of ids, including those of padding and unknown words.
        """
        kept = sorted((-n, word) for word, n in counts.items() if n >= min_count)
        return cls([word for _, word in kept[: max_size - FIRST_WORD_ID]])

    @classmethod
    def load(cls, path) -> "Vocabulary":
        """Reads a file that `save` wrote.

        Raises:
          InputError: if the file is missing, or is not a JSON list of different words.
        """
        words = read_json(as_path(path), "Run the experiment again to have it written anew.")
        is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not is_list or len(set(words)) < len(words):
            raise InputError(f"{path} does not hold a list of different words.")
        return cls(words)

    def save(self, path) -> None:
        """Writes the words as a JSON list."""
        write_text(as_path(path), json.dumps(self.words, ensure_ascii=False))

    def encode(self, tokens: Sequence[str], max_length: int) -> np.ndarray:
        """Returns the ids of the first `max_length` words and phrases, <int32>[<= max_length]."""
        words = join_phrases(tokens, self.phrases)[:max_length]
        return np.array([self._ids.get(word, UNKNOWN_ID) for word in words], np.int32)


def pad(
    sequences: Sequence[np.ndarray], pad_to_multiple_of: int, longest: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences of ids to a common length that is a multiple of `pad_to_multiple_of`.

    Rounding up keeps the number of different shapes small, since JAX compiles for each shape.

    Args:
      sequences: <int32>[length] each.
      pad_to_multiple_of: the padded length is the smallest multiple of this number that fits the
        longest sequence; at least 1.
      longest: the length of the longest sequence of the whole batch, of which these may be a part.

    Returns:
      The padded ids, <int32>[batch, padded length], and the lengths, <int32>[batch].
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    multiples = max(1, -(-int(lengths.max(initial=longest)) // pad_to_multiple_of))
    padded_length = multiples * pad_to_multiple_of
    tokens = np.full((len(sequences), padded_length), PADDING_ID, np.int32)
    for row, sequence in zip(tokens, sequences):
        row[: len(sequence)] = sequence
    return tokens, lengths
