"""Converts plots to bags of words with TF-IDF weights.

scikit-learn computes the weights. It can save a vectorizer only as a pickle, so `TfIdf` saves its
vocabulary and settings as JSON instead.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from mmgc_jax.data import text, vocabulary_file
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json, write_text


@dataclasses.dataclass(frozen=True)
class TfIdf:
    """Computes TF-IDF weights with the vocabulary of the training plots.

    A word that occurs n times in a plot has the weight (1 + ln n) * idf; the weights of a plot are
    then scaled to an L2 norm of 1. Unknown words are ignored.

    Attributes:
      words: the vocabulary; a word's id is its index. Stems end with `*`, and the words of a phrase
        are separated by blanks; no token contains either.
      idf: inverse document frequencies <float64>[words],
        1 + ln((1 + plots) / (1 + plots with the word)).
      tokens: name of the tokenizer in `text.TOKENIZERS`.
      stem_length: words longer than this also count as their prefix of this many letters: with 4,
        `spies` counts as `spies` and `spie*`, so that forms of a word share a weight. 0: no stems.
      longest_phrase: maximum number of words in a phrase; 1: no phrases.
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
        """Builds the vocabulary of some plots and computes its document frequencies.

        Args:
          plots: plots of training movies only.
          tokens: see the attribute.
          stem_length: see the attribute.
          longest_phrase: see the attribute.
          min_plots: words, stems and phrases that occur in fewer plots are left out.

        Raises:
          InputError: if no word occurs in `min_plots` plots.
        """
        vectorizer = _vectorizer(tokens, stem_length, longest_phrase, min_df=min_plots)
        try:
            vectorizer.fit(plots)
        except ValueError as error:  # scikit-learn raises it for an empty vocabulary
            raise InputError(f"no word occurs in {min_plots} plots or more: {error}") from error
        words = tuple(vectorizer.get_feature_names_out().tolist())
        return cls(words, vectorizer.idf_, tokens, stem_length, longest_phrase)

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, plots: Iterable[str]) -> scipy.sparse.csr_matrix:
        """Computes the TF-IDF weights of plots.

        Args:
          plots: raw texts.

        Returns:
          A sparse matrix <float32>[plots, words], with ascending ids in each row. A plot without
          known words has an empty row.
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
          InputError: if the file is missing, not JSON, has unexpected content, or has words that
            its tokenizer does not make.
        """
        content = read_json(file, "Run the experiment again to write it again.")
        if problem := _problem(content):
            raise InputError(f"{file} is not a vocabulary with TF-IDF weights: {problem}.")
        parts = (part for word in content["idf"] for part in word.removesuffix("*").split(" "))
        vocabulary_file.check_words(parts, content["tokens"], file)
        idf = content.pop("idf")
        return cls(tuple(idf), np.array(list(idf.values()), np.float64), **content)

    def save(self, file: Path) -> None:
        """Writes a JSON object with the settings and `"idf": {word: idf}`, atomically."""
        content = {
            "tokens": self.tokens,
            "stem_length": self.stem_length,
            "longest_phrase": self.longest_phrase,
            "idf": dict(zip(self.words, self.idf.tolist())),
        }
        write_text(file, json.dumps(content, indent=0, ensure_ascii=False))


def _vectorizer(tokens: str, stem_length: int, longest_phrase: int, **settings) -> TfidfVectorizer:
    analyze = functools.partial(
        text.words_and_stems,
        tokens=tokens,
        stem_length=stem_length,
        longest_phrase=longest_phrase,
    )
    return TfidfVectorizer(analyzer=analyze, sublinear_tf=True, **settings)


def _problem(content) -> str:
    """Returns what is wrong with the content of a file by `TfIdf.save`; empty if nothing is."""
    names = ("tokens", "stem_length", "longest_phrase", "idf")
    if not isinstance(content, dict) or set(content) != set(names):
        return f"its fields are not {', '.join(names)}"
    if content["tokens"] not in tuple(text.TOKENIZERS):
        return f"tokens is {content['tokens']!r}, not one of {', '.join(text.TOKENIZERS)}"
    for name, least in (("stem_length", 0), ("longest_phrase", 1)):
        if type(content[name]) is not int or content[name] < least:
            return f"{name} is {content[name]!r}, not a whole number of at least {least}"
    idf = content["idf"]
    if not isinstance(idf, dict) or not idf:
        return "idf has no words"
    for word, value in idf.items():
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            return f"the idf of {word!r} is {value!r}, not a positive number"
    return ""
