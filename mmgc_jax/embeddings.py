"""The vocabulary of an experiment and, where they are given, its word vectors."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping

import ml_collections
import numpy as np

from mmgc_jax.data import movies, pipeline, text
from mmgc_jax.data.text import FIRST_WORD_ID, Vocabulary
from mmgc_jax.files import write_beside, write_text
from mmgc_jax.pretrained import vector_file, word2vec

logger = logging.getLogger(__name__)


def prepare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    corpus: pipeline.Corpus,
    folder: pathlib.Path,
) -> tuple[Vocabulary, np.ndarray | None]:
    """Makes vocabulary and word vectors, or reads them if they were made before.

    Args:
      config: of the experiment.
      workdir: gets `vocabulary.json`, and where vectors are given `word_vectors.npy` and
        `word_coverage.json` (see `coverage`, by origin: `file` or `trained`).
      corpus: the movies, of which only those of the training part are looked at.
      folder: keeps the vectors that are trained, for other experiments too.

    Returns:
      The vocabulary, and <float32>[len(vocabulary), dim], or None if words are learned from
      scratch.

    Raises:
      InputError: if a file is not usable or knows no word of the plots.
    """
    settings = config.plot
    given = settings.vectorisation == "word2vec"
    tokenize = text.TOKENIZERS[settings.tokens]
    vocabulary_file, table_file = workdir / "vocabulary.json", workdir / "word_vectors.npy"
    if vocabulary_file.exists():  # it is written last
        vocabulary = Vocabulary.load(vocabulary_file)
        return vocabulary, np.load(table_file, allow_pickle=False) if given else None

    def training_plots() -> Iterator[str]:
        return (corpus.plot(row) for row in corpus.split["train"])

    from_file = {}
    if given and settings.vectors.file:
        counts = text.count_words(_Tokenized(training_plots, tokenize), settings.vectors.phrases)
        frequent = [word for word, count in counts.items() if count >= settings.min_count]
        from_file = vector_file.read(settings.vectors.file, frequent)
    phrases = frozenset(word for word in from_file if "_" in word)
    counts = text.count_words(_Tokenized(training_plots, tokenize, phrases))
    vocabulary = Vocabulary.from_counts(counts, settings.min_count, settings.max_vocabulary)
    table = None
    if given:
        origins = {"file": from_file} if settings.vectors.file else {}
        if settings.vectors.train:

            def all_plots() -> Iterator[str]:
                yield from training_plots()
                for unlabelled in settings.vectors.unlabelled:
                    yield from (movie.plot for movie in movies.read_csv(unlabelled) if movie.plot)

            trained = word2vec.train_once(
                _Tokenized(all_plots, tokenize, phrases), settings.vectors, config.seed, folder
            )
            origins["trained"] = vector_file.read(trained, vocabulary.words)
        table, covered = _line_up(origins, vocabulary, counts, config.seed)
        write_text(workdir / "word_coverage.json", json.dumps(covered, indent=2))
        for line in report(workdir):
            logger.info(line)
        write_beside(table_file, lambda beside: np.save(beside, table))
    write_beside(vocabulary_file, vocabulary.save)
    return vocabulary, table


@dataclasses.dataclass(frozen=True)
class _Tokenized:
    """The words and phrases of plots, read and tokenized anew each time one goes through them."""

    plots: Callable[[], Iterator[str]]
    tokenize: Callable[[str], list[str]]
    phrases: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[list[str]]:
        return (text.join_phrases(self.tokenize(plot), self.phrases) for plot in self.plots())


def _line_up(origins, vocabulary, counts, seed) -> tuple[np.ndarray, dict]:
    """The vectors of each origin side by side, and what each covers."""
    tables, covered = [], {}
    for origin, vectors in origins.items():
        table, known = word2vec.align(vectors, vocabulary, seed)
        tables.append(table)
        covered[origin] = coverage(vocabulary, known, counts)
    return np.concatenate(tables, axis=1), covered


def coverage(vocabulary: Vocabulary, known: np.ndarray, counts: Mapping[str, int]) -> dict:
    """How much of the training plots word vectors cover.

    Args:
      vocabulary: of the experiment.
      known: <bool>[len(vocabulary)], which words have a vector.
      counts: of all words of the training plots, those outside the vocabulary too.

    Returns:
      `types`: the share of the vocabulary with a vector; `tokens`: the share of the plots' words,
      repetitions counted, with one; `words`: the size of the vocabulary; `phrases`: how many of
      these are phrases.
    """
    covered = sum(
        counts[word] for word, is_known in zip(vocabulary.words, known[FIRST_WORD_ID:]) if is_known
    )
    return {
        "types": float(known[FIRST_WORD_ID:].mean()),
        "tokens": covered / sum(counts.values()),
        "words": len(vocabulary.words),
        "phrases": len(vocabulary.phrases),
    }


def report(workdir: pathlib.Path) -> list[str]:
    """A sentence on the coverage of each origin of word vectors; none where words are learned."""
    file = workdir / "word_coverage.json"
    if not file.exists():
        return []
    return [
        f"Word vectors ({origin}) cover {found['tokens']:.1%} of the training plots' words, and "
        f"{found['types']:.1%} of the vocabulary's {found['words']:,} (phrases: "
        f"{found['phrases']:,})."
        for origin, found in json.loads(file.read_text()).items()
    ]
