"""The vocabulary of an LSTM encoder and, where they are given, its word vectors."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from mmgc_jax.data import movies, text
from mmgc_jax.data.text import FIRST_WORD_ID, Vocabulary
from mmgc_jax.encoders.checks import Checker
from mmgc_jax.pretrained import vector_file
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, write_atomically, write_text
from mmgc_jax.training import word2vec
from mmgc_jax.training.run import Experiment, encoder_folder

logger = logging.getLogger(__name__)


def default_settings() -> ml_collections.ConfigDict:
    """Makes the part of a config that says where word vectors come from."""
    settings = ml_collections.ConfigDict()
    # A file in word2vec's format, see mmgc_jax.pretrained.vector_file; empty: none.
    settings.file = ""
    # Whether words in a row that the file knows as one (new_york) become one word.
    settings.phrases = True
    # Factor of the learning rate for the given vectors; 0 freezes them. In joint training
    # fusion.joint_training.learning_rate_scale counts, by encoder.
    settings.learning_rate_scale = 0.1
    # Vectors trained on the plots; where a file is given too, concatenated with its vectors.
    settings.train = True
    # More plots to train vectors on: CSV files with the columns index,year,title,plot. On the
    # command line: "('one.csv', 'two.csv')".
    settings.unlabelled = ()
    settings.dim = 100
    # In words, on either side.
    settings.window = 5
    settings.min_count = 2
    # Skip-gram, or continuous bag of words.
    settings.skip_gram = True
    # Negative samples for each word.
    settings.negative = 5
    settings.epochs = 10
    return settings


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    """The files that are read, by field."""
    places = {"file": settings.file} if settings.file else {}
    if settings.train and settings.unlabelled:
        places["unlabelled"] = tuple(settings.unlabelled)
    return places


def problems(settings: ml_collections.ConfigDict, used: bool) -> list[str]:
    """All mistakes in the settings.

    Args:
      settings: the part of the config, `vectors`.
      used: whether vectors are wanted; without it files are not looked at.
    """
    checker = Checker(settings)
    checker.at_least(1, "dim", "window", "min_count", "negative", "epochs")
    checker.at_least(0.0, "learning_rate_scale")
    found = [f"vectors.{problem}" for problem in checker.problems]
    if not used:
        return found
    if not settings.file and not settings.train:
        found.append("vectors has no file and train=False: no word vectors")
    for field, read in (("file", vector_file.dimension), ("unlabelled", _read_tables)):
        if places := inputs(settings).get(field):
            try:
                read(places)
            except InputError as error:
                found.append(f"vectors.{field}: {error}")
    return found


def _read_tables(tables: Sequence[str]) -> None:
    for table in tables:
        movies.read_csv(table)


def prepare(experiment: Experiment, name: str) -> tuple[Vocabulary, np.ndarray | None]:
    """Makes vocabulary and word vectors, or reads them if they were made before.

    Args:
      experiment: its corpus's training part alone is looked at. Vectors that are trained are kept
        in its cache, for other experiments too.
      name: of the encoder. Its folder gets `vocabulary.json`, and where vectors are given
        `word_vectors.npy` and `word_coverage.json` (see `coverage`, by origin: `file` or
        `trained`).

    Returns:
      The vocabulary, and <float32>[len(vocabulary), dim], or None if words are learned from
      scratch.

    Raises:
      InputError: if a file is not usable or knows no word of the plots.
    """
    settings, corpus = experiment.config[name], experiment.corpus
    folder = encoder_folder(experiment.workdir, name)
    given = settings.vectorisation == "word2vec"
    vocabulary_file, table_file = folder / "vocabulary.json", folder / "word_vectors.npy"
    if vocabulary_file.exists():  # it is written last
        vocabulary = Vocabulary.load(vocabulary_file)
        return vocabulary, _read_table(table_file, len(vocabulary)) if given else None

    plots = _Tokenized(
        lambda: (corpus.plot(row) for row in corpus.split["train"]),
        text.TOKENIZERS[settings.tokens],
    )
    if given:
        cache = experiment.cache / "word_vectors"
        vocabulary, table, covered = _look_up(settings, plots, experiment.config.seed, cache)
        write_text(folder / "word_coverage.json", json.dumps(covered, indent=2))
        for line in coverage_lines(folder):
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
    """The words and phrases of plots, read and tokenized anew by each iteration."""

    plots: Callable[[], Iterable[str]]
    tokenize: Callable[[str], list[str]]
    phrases: Collection[str] = ()

    def __iter__(self) -> Iterator[list[str]]:
        return (text.join_phrases(self.tokenize(plot), self.phrases) for plot in self.plots())


def _vocabulary(settings, counts) -> Vocabulary:
    return Vocabulary.from_counts(counts, settings.min_count, settings.max_vocabulary)


def _look_up(
    encoder: ml_collections.ConfigDict, plots: _Tokenized, seed: int, cache: pathlib.Path
) -> tuple[Vocabulary, np.ndarray, dict]:
    """The vocabulary, its vectors, and what those of each origin cover."""
    settings, vectors = encoder.vectors, {}
    if settings.file:
        counts = text.count_words(plots, settings.phrases)
        frequent = [word for word, count in counts.items() if count >= encoder.min_count]
        vectors["file"] = vector_file.read(settings.file, frequent)
        known_phrases = frozenset(word for word in vectors["file"] if "_" in word)
        plots = dataclasses.replace(plots, phrases=known_phrases)
    counts = text.count_words(plots)
    vocabulary = _vocabulary(encoder, counts)
    if settings.train:

        def with_unlabelled() -> Iterator[str]:
            yield from plots.plots()
            for table in settings.unlabelled:
                yield from (movie.plot for movie in movies.read_csv(table) if movie.plot)

        all_plots = dataclasses.replace(plots, plots=with_unlabelled)
        trained = word2vec.load_or_train(all_plots, settings, seed, cache)
        vectors["trained"] = vector_file.read(trained, vocabulary.words)
    return vocabulary, *_line_up(vectors, vocabulary, counts, seed)


def _line_up(vectors, vocabulary, counts, seed) -> tuple[np.ndarray, dict]:
    """The vectors of each origin, concatenated, and what they cover."""
    tables, covered = [], {}
    for origin, of_words in vectors.items():
        table, known = word2vec.embedding_table(of_words, vocabulary, seed)
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


def coverage_lines(folder: Path) -> list[str]:
    """A sentence on the coverage of each origin of word vectors; none where words are learned."""
    file = folder / "word_coverage.json"
    if not file.exists():
        return []
    return [
        f"Word vectors ({origin}) cover {found['tokens']:.1%} of the training plots' words, and "
        f"{found['types']:.1%} of the vocabulary's {found['words']:,} (phrases: "
        f"{found['phrases']:,})."
        for origin, found in json.loads(file.read_text()).items()
    ]
