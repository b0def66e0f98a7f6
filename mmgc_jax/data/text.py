"""Plots: tokens, phrases, vocabulary, padding and length buckets."""

import collections
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import as_path, read_json, write_text

PADDING_ID, UNKNOWN_ID, FIRST_WORD_ID = 0, 1, 2

_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
# In words.
_LONGEST_PHRASE = 3


def tokenize(plot: str) -> list[str]:
    """Lowercase words and numbers; punctuation is dropped, an apostrophe inside a word stays."""
    return _TOKEN.findall(plot.lower().replace("’", "'"))


# What MM-IMDb's makers replace before they split a plot at its blanks, in this order.
_MMIMDB_RULES = (
    (re.compile(r"<br />"), " "),
    (re.compile(r"^https?://.*[\r\n]*", re.MULTILINE), " L "),
    (re.compile(r"[~*+^`_#\[\]|]"), " "),
    (re.compile(r"[0-9]+"), " N "),
    (re.compile(r"([/'\-.?!()\",:;])"), r" \1 "),
)


def tokenize_mmimdb(plot: str) -> list[str]:
    """Lowercase words, N for each number, L for a line that is a link, and each punctuation mark.

    The tokens of arXiv 1702.01992 (github.com/johnarevalo/gmu-mmimdb, make_dataset.py).
    """
    plot = plot.lower()
    for pattern, replacement in _MMIMDB_RULES:
        plot = pattern.sub(replacement, plot).strip()
    return plot.split()


TOKENIZERS = {"words": tokenize, "mmimdb": tokenize_mmimdb}


def count_words(plots: Iterable[Sequence[str]], phrases: bool = False) -> collections.Counter:
    """How often each word occurs in tokenized plots.

    Args:
      plots: tokens of each plot.
      phrases: whether two or three words in a row, joined by underscores, are counted too.
    """
    return collections.Counter(
        "_".join(plot[start : start + length])
        for plot in plots
        for length in range(1, (_LONGEST_PHRASE if phrases else 1) + 1)
        for start in range(len(plot) - length + 1)
    )


def join_phrases(tokens: Sequence[str], phrases: Collection[str]) -> list[str]:
    """Joins words that form a phrase: `new york` becomes `new_york`.

    Args:
      tokens: of a plot.
      phrases: words joined by underscores; from the left, the longest that fits is taken.
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
    """Words and their ids: 0 is padding, 1 any unknown word, 2 the most frequent one, and so on.

    A word with an underscore is a phrase (a token never has one): `encode` looks for it.
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self.phrases = frozenset(word for word in self.words if "_" in word)
        self._ids = {word: number for number, word in enumerate(self.words, start=FIRST_WORD_ID)}

    def __len__(self) -> int:
        return len(self.words) + FIRST_WORD_ID

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int, max_size: int) -> "Vocabulary":
        """The most frequent words; equally frequent ones in alphabetical order.

        Args:
          counts: how often each word occurs, in the training part only.
          min_count: rarer words are left out.
          max_size: the largest number of ids, the two special ones included.
        """
        kept = sorted((-n, word) for word, n in counts.items() if n >= min_count)
        return cls([word for _, word in kept[: max_size - FIRST_WORD_ID]])

    @classmethod
    def load(cls, path) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
          InputError: if the file is missing, no JSON, or no list of different words.
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
        """The ids of a plot's first `max_length` words and phrases, <int32>[at most max_length]."""
        words = join_phrases(tokens, self.phrases)[:max_length]
        return np.array([self._ids.get(word, UNKNOWN_ID) for word in words], np.int32)


def pad(
    sequences: Sequence[np.ndarray], bucket: int, longest: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences of ids to one length, a multiple of `bucket`, so that few shapes occur.

    Args:
      sequences: <int32>[length] each.
      bucket: the result's length is the smallest multiple of it that holds the longest sequence.
      longest: the length of another sequence that it is to hold.

    Returns:
      tokens <int32>[batch, length] and the true lengths <int32>[batch].
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    padded_length = max(1, -(-int(lengths.max(initial=longest)) // bucket)) * bucket
    tokens = np.full((len(sequences), padded_length), PADDING_ID, np.int32)
    for row, sequence in zip(tokens, sequences):
        row[: len(sequence)] = sequence
    return tokens, lengths
