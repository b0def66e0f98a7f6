"""The vocabulary of an experiment and, where they are given, its word vectors."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import ml_collections
import numpy as np

from mmgc_jax.data import movies, pipeline, text
from mmgc_jax.data.text import FIRST_WORD_ID, Vocabulary
from mmgc_jax.pretrained import vector_file, word2vec
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, write_atomically, write_text

logger = logging.getLogger(__name__)


def prepare(
    config: ml_collections.ConfigDict,
    workdir: Path,
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
    vocabulary_file, table_file = workdir / "vocabulary.json", workdir / "word_vectors.npy"
    if vocabulary_file.exists():  # it is written last
        vocabulary = Vocabulary.load(vocabulary_file)
        return vocabulary, _read_table(table_file, len(vocabulary)) if given else None

    plots = _Tokenized(
        lambda: (corpus.plot(row) for row in corpus.split["train"]),
        text.TOKENIZERS[settings.tokens],
    )
    if given:
        vocabulary, table, covered = _look_up(config, plots, folder)
        write_text(workdir / "word_coverage.json", json.dumps(covered, indent=2))
        for line in report(workdir):
            logger.info(line)
        write_atomically(table_file, lambda stream: np.save(stream, table))
    else:
        vocabulary, table = _vocabulary(settings, text.count_words(plots)), None
    vocabulary.save(vocabulary_file)
    return vocabulary, table


def _read_table(file: Path, words: int) -> np.ndarray:
    try:
        with file.open("rb") as stream:
            table = np.load(stream, allow_pickle=False)
        if table.ndim != 2 or len(table) != words or table.dtype != np.float32:
            raise ValueError(f"it holds {table.dtype}{list(table.shape)} for {words} words")
        if not np.isfinite(table).all():
            raise ValueError("a value is not finite")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{file} is damaged: {error}. Delete it and vocabulary.json, and run the experiment "
            "again to have both written anew."
        ) from error
    return table


@dataclasses.dataclass(frozen=True)
class _Tokenized:
    """The words and phrases of plots, read and tokenized anew each time one goes through them."""

    plots: Callable[[], Iterable[str]]
    tokenize: Callable[[str], list[str]]
    phrases: Collection[str] = ()

    def __iter__(self) -> Iterator[list[str]]:
        return (text.join_phrases(self.tokenize(plot), self.phrases) for plot in self.plots())


def _vocabulary(settings, counts) -> Vocabulary:
    return Vocabulary.from_counts(counts, settings.min_count, settings.max_vocabulary)


def _look_up(config, plots: _Tokenized, folder) -> tuple[Vocabulary, np.ndarray, dict]:
    """The vocabulary, its vectors, and what those of each origin cover."""
    settings = config.plot.vectors
    vectors = {}
    if settings.file:
        counts = text.count_words(plots, settings.phrases)
        frequent = [word for word, count in counts.items() if count >= config.plot.min_count]
        vectors["file"] = vector_file.read(settings.file, frequent)
        known_phrases = frozenset(word for word in vectors["file"] if "_" in word)
        plots = dataclasses.replace(plots, phrases=known_phrases)
    counts = text.count_words(plots)
    vocabulary = _vocabulary(config.plot, counts)
    if settings.train:

        def with_unlabelled() -> Iterator[str]:
            yield from plots.plots()
            for table in settings.unlabelled:
                yield from (movie.plot for movie in movies.read_csv(table) if movie.plot)

        all_plots = dataclasses.replace(plots, plots=with_unlabelled)
        trained = word2vec.train_once(all_plots, settings, config.seed, folder)
        vectors["trained"] = vector_file.read(trained, vocabulary.words)
    return vocabulary, *_line_up(vectors, vocabulary, counts, config.seed)


def _line_up(vectors, vocabulary, counts, seed) -> tuple[np.ndarray, dict]:
    """The vectors of each origin side by side, and what they cover."""
    tables, covered = [], {}
    for origin, of_words in vectors.items():
        table, known = word2vec.align(of_words, vocabulary, seed)
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


def report(workdir: Path) -> list[str]:
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
