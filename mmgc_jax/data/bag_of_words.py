"""Turns plots into bags of words with TF-IDF weights.

scikit-learn computes the weights. Its own way to save a vectorizer is a pickle, so `TfIdf` is saved
as JSON.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from mmgc_jax.data import text
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json, write_text


@dataclasses.dataclass(frozen=True)
class TfIdf:
    """The words of the training plots with their inverse document frequencies.

    A word that occurs n times in a plot has the weight (1 + ln n) * idf; the weights of a plot are
    then scaled to an L2 norm of 1. Unknown words are ignored.

    Attributes:
      words: their ids are the indices. A stem ends with *, which no token does; a phrase has blanks
        between its words.
      idf: <float64>[words], 1 + ln((1 + plots) / (1 + plots with the word)).
      tokens: the tokenizer, a name in `text.TOKENIZERS`.
      stem_length: a longer word also counts as its prefix of this many letters: with 4, `spies` is
        `spies` and `spie*`. Through this crude stem, forms of a word share a weight. 0 for none.
      longest_phrase: in words; 1 for single words only.
    """

    words: tuple[str, ...]
    idf: np.ndarray
    tokens: str
    stem_length: int
    longest_phrase: int

    @classmethod
    def fit(
        cls,
        plots: Iterable[str],
        tokens: str = "words",
        stem_length: int = 5,
        longest_phrase: int = 1,
        min_plots: int = 2,
    ) -> "TfIdf":
        """Finds the words of plots, and their frequencies.

        Args:
          plots: of the training part only.
          tokens: as the attribute.
          stem_length: as the attribute.
          longest_phrase: as the attribute.
          min_plots: words, stems and phrases that occur in fewer plots are left out.

        Raises:
          InputError: if no word occurs in `min_plots` plots.
        """
        vectorizer = _vectorizer(tokens, stem_length, longest_phrase, min_df=min_plots)
        try:
            vectorizer.fit(plots)
        except ValueError as error:  # how scikit-learn reports an empty vocabulary
            raise InputError(f"no word occurs in {min_plots} plots or more: {error}") from error
        words = tuple(vectorizer.get_feature_names_out().tolist())
        return cls(words, vectorizer.idf_, tokens, stem_length, longest_phrase)

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, plots: Iterable[str]) -> scipy.sparse.csr_matrix:
        """Computes the weights of plots, <float32>[plots, words], ids ascending in each row.

        Args:
          plots: as written. The row of a plot without known words is empty.
        """
        return self._fitted.transform(plots).astype(np.float32)

    @functools.cached_property
    def _fitted(self) -> TfidfVectorizer:
        vectorizer = _vectorizer(
            self.tokens, self.stem_length, self.longest_phrase, vocabulary=self.words
        )
        vectorizer.idf_ = self.idf
        return vectorizer

    @classmethod
    def load(cls, file: Path) -> "TfIdf":
        """Reads a file that `save` wrote.

        Raises:
          InputError: if the file is missing, is not JSON, or has other content.
        """
        content = read_json(file, "Run the experiment again to have it written anew.")
        if problem := _problem(content):
            raise InputError(f"{file} does not hold the words of an experiment: {problem}.")
        idf = content.pop("idf")
        return cls(tuple(idf), np.array(list(idf.values()), np.float64), **content)

    def save(self, file: Path) -> None:
        """Writes a JSON object with the settings by name and `{"idf": {word: idf}}`."""
        content = {
            "tokens": self.tokens,
            "stem_length": self.stem_length,
            "longest_phrase": self.longest_phrase,
            "idf": dict(zip(self.words, self.idf.tolist())),
        }
        write_text(file, json.dumps(content, indent=0, ensure_ascii=False))


def _vectorizer(tokens: str, stem_length: int, longest_phrase: int, **settings) -> TfidfVectorizer:
    tokenize = text.TOKENIZERS[tokens]

    def analyze(plot: str) -> list[str]:
        words = tokenize(plot)
        phrases = [
            " ".join(words[start : start + length])
            for length in range(1, longest_phrase + 1)
            for start in range(len(words) - length + 1)
        ]
        if not stem_length:
            return phrases
        return phrases + [word[:stem_length] + "*" for word in words if len(word) > stem_length]

    return TfidfVectorizer(analyzer=analyze, sublinear_tf=True, **settings)


def _problem(content) -> str:
    """Returns how JSON content differs from what `TfIdf.save` writes; empty if it does not."""
    names = ("tokens", "stem_length", "longest_phrase", "idf")
    if not isinstance(content, dict) or set(content) != set(names):
        return f"{', '.join(names)} are expected"
    if content["tokens"] not in tuple(text.TOKENIZERS):
        return f"tokens is {content['tokens']!r}, not one of {', '.join(text.TOKENIZERS)}"
    for name, least in (("stem_length", 0), ("longest_phrase", 1)):
        if type(content[name]) is not int or content[name] < least:
            return f"{name} is {content[name]!r}, not a whole number of at least {least}"
    idf = content["idf"]
    if not isinstance(idf, dict) or not idf:
        return "idf holds no words"
    for word, value in idf.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            return f"the idf of {word!r} is {value!r}, not a number above 0"
    return ""
