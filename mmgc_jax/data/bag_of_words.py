"""Plots as bags of weighted words: TF-IDF, as scikit-learn computes it, kept without pickle."""

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
    """The words of the training plots, and how much each of them tells.

    A word that occurs n times in a plot weighs (1 + ln n) * idf there, and a plot's weights are
    divided by the root of the sum of their squares. Words that are not known have no weight.

    Attributes:
      words: a word's id is its place. A stem ends with *, which no token does; a phrase is its
        words with blanks between them.
      idf: <float64>[words], 1 + ln((1 + plots) / (1 + plots with the word)).
      tokens: which of `text.TOKENIZERS` splits plots.
      stem_length: a word with more letters counts as its first ones as well: of 4, `spies` as
        `spies` and `spie*`. Through this crude stem the forms of a word share what is learned. 0
        for none.
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
        """Finds the words of plots.

        Args:
          plots: of the training part only.
          tokens: see above.
          stem_length: see above.
          longest_phrase: see above.
          min_plots: words, stems and phrases in fewer plots are left out.

        Raises:
          InputError: if no word occurs in as many plots.
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
        """The weights of each plot's words, <float32>[plots, words], ids ascending in each row.

        Args:
          plots: any; one without a known word has an empty row.
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
        """Reads what `save` wrote.

        Raises:
          InputError: if the file is missing, no JSON, or holds something else.
        """
        content = read_json(file, "Run the experiment again to have it written anew.")
        wrong = _what_is_wrong(content)
        if wrong:
            raise InputError(f"{file} does not hold the words of an experiment: {wrong}.")
        idf = content.pop("idf")
        return cls(tuple(idf), np.array(list(idf.values()), np.float64), **content)

    def save(self, file: Path) -> None:
        """Writes one JSON file: the settings by name, and `{"idf": {word: idf}}`."""
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


def _what_is_wrong(content) -> str:
    """Why JSON is not what `TfIdf.save` writes; empty if it is."""
    names = ("tokens", "stem_length", "longest_phrase", "idf")
    if not isinstance(content, dict) or set(content) != set(names):
        return f"{', '.join(names)} are expected"
    if content["tokens"] not in tuple(text.TOKENIZERS):
        return f"tokens is {content['tokens']!r}, not one of {', '.join(text.TOKENIZERS)}"
    for name, least in (("stem_length", 0), ("longest_phrase", 1)):
        if type(content[name]) is not int or content[name] < least:
            return f"{name} is {content[name]!r}, not a number from {least} on"
    idf = content["idf"]
    if not isinstance(idf, dict) or not idf:
        return "idf holds no words"
    for word, value in idf.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            return f"the idf of {word!r} is {value!r}, not a number above 0"
    return ""
