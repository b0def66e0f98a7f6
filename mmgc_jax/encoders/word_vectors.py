"""Prepares the vocabulary of an LSTM encoder and its pretrained or trained word vectors."""

import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from mmgc_jax.data import table, text, vocabulary_file
from mmgc_jax.data.text import FIRST_WORD_ID, Vocabulary
from mmgc_jax.encoders.checks import Checker
from mmgc_jax.pretrained import vector_file
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, write_atomically, write_text
from mmgc_jax.training import word2vec
from mmgc_jax.training.run import Experiment, encoder_folder

logger = logging.getLogger(__name__)


def default_settings() -> ml_collections.ConfigDict:
    """Makes the section `vectors` of an LSTM encoder, with default values."""
    settings = ml_collections.ConfigDict()
    # File of pretrained word vectors, in word2vec's binary or text format; see
    # mmgc_jax.pretrained.vector_file. Empty for none.
    settings.file = ""
    # Whether consecutive words that the file knows as a phrase, such as new_york, become one word.
    settings.phrases = True
    # Factor of the learning rate for word vectors while the LSTM is trained; 0 freezes them. Joint
    # training uses fusion.joint_training.learning_rate_scale instead.
    settings.learning_rate_scale = 0.1
    # Whether to train word vectors on the plots with Word2Vec. With a file as well, the two vectors
    # of a word are concatenated.
    settings.train = True
    # Tables with more plots for Word2Vec. Written as "('one.csv', 'two.csv')" on the command line.
    settings.unlabelled = ()
    # Size of the trained vectors, and of those that the LSTM learns with unique_map.
    settings.dim = 100
    # Word2Vec: number of context words on either side.
    settings.window = 5
    # Word2Vec: words that occur fewer times in its plots are left out.
    settings.min_count = 2
    # Word2Vec: True for skip-gram, False for continuous bag of words.
    settings.skip_gram = True
    # Word2Vec: number of negative samples for each word.
    settings.negative = 5
    # Word2Vec: number of epochs.
    settings.epochs = 10
    return settings


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    """Returns the paths or addresses of the files that are read, by field."""
    places = {"file": settings.file} if settings.file else {}
    if settings.train and settings.unlabelled:
        places["unlabelled"] = tuple(settings.unlabelled)
    return places


def problems(settings: ml_collections.ConfigDict, used: bool) -> list[str]:
    """Finds all mistakes in the settings.

    Args:
      settings: the section `vectors`.
      used: whether the encoder uses these vectors; if not, its files are not checked.

    Returns:
      A sentence for each mistake, which begins with the field's name.
    """
    checker = Checker(settings)
    checker.at_least(1, "dim", "window", "min_count", "negative", "epochs")
    checker.at_least(0.0, "learning_rate_scale")
    found = [f"vectors.{problem}" for problem in checker.problems]
    if not used:
        return found
    if not settings.file and not settings.train:
        found.append("vectors: without a file, and with train=False, there are no word vectors")
    for field, read in (("file", vector_file.dimension), ("unlabelled", _read_tables)):
        if places := inputs(settings).get(field):
            try:
                read(places)
            except InputError as error:
                found.append(f"vectors.{field}: {error}")
    return found


def _read_tables(places: Sequence[str]) -> None:
    """Raises `InputError` if a table of movies has a mistake."""
    for place in places:
        table.read(place, table.TableSettings(), labelled=False)


def prepare(experiment: Experiment, name: str) -> tuple[Vocabulary, np.ndarray | None]:
    """Makes the vocabulary and the embedding table, or reads them if they exist already.

    Only the training movies are used. The folder of the encoder gets `vocabulary.json` and, with
    word vectors, `word_vectors.npy` and `word_coverage.json`: the result of `coverage` for each
    origin of vectors, `file` or `trained`. Vectors trained by Word2Vec are kept in the experiment's
    cache, where other experiments find them.

    Args:
      experiment: the experiment.
      name: name of the encoder.

    Returns:
      The vocabulary, and the embedding table <float32>[len(vocabulary), dim]; None instead of the
      table if the LSTM learns its word vectors from scratch or reads one-hot vectors.

    Raises:
      InputError: if a file cannot be read, or has a vector for no word of the plots.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C).
    """
    settings, corpus = experiment.config[name], experiment.corpus
    folder = encoder_folder(experiment.workdir, name)
    given = settings.vectorisation == "word2vec"
    words_file, table_file = folder / "vocabulary.json", folder / "word_vectors.npy"
    if words_file.exists():  # this file is written last, so the others are complete
        vocabulary = vocabulary_file.load(words_file, settings.tokens)
        return vocabulary, _read_table(table_file, len(vocabulary)) if given else None

    tokenize = text.TOKENIZERS[settings.tokens]
    plots = _tokenized(map(corpus.plot, corpus.split["train"]), tokenize)
    if given:
        cache = experiment.cache / "word_vectors"
        vocabulary, table, covered = _look_up(settings, plots, experiment.config.seed, cache)
        write_text(folder / "word_coverage.json", json.dumps(covered, indent=2))
        for line in coverage_lines(folder):
            logger.info(line)
        write_atomically(table_file, lambda stream: np.save(stream, table))
    else:
        vocabulary, table = _vocabulary(settings, text.count_words(plots)), None
    vocabulary_file.save(words_file, vocabulary)
    return vocabulary, table


def _read_table(file: Path, words: int) -> np.ndarray:
    """Reads the embedding table <float32>[words, dim]; raises `InputError` if it is damaged."""
    try:
        with file.open("rb") as stream:
            table = np.load(stream, allow_pickle=False)
        if table.ndim != 2 or len(table) != words or table.dtype != np.float32:
            raise ValueError(f"it has {table.dtype}{list(table.shape)} for {words} words")
        if not np.isfinite(table).all():
            raise ValueError("a value is not finite")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{file} is damaged: {error}. Delete it and vocabulary.json, and run the experiment "
            "again, which writes both."
        ) from error
    return table


def _tokenized(plots: Iterable[str], tokenize: Callable[[str], list[str]]) -> list[list[str]]:
    """Splits plots into words. Equal words are one object, which keeps the lists small."""
    return [list(map(sys.intern, tokenize(plot))) for plot in plots]


def _vocabulary(settings, counts) -> Vocabulary:
    return Vocabulary.from_counts(counts, settings.min_count, settings.max_vocabulary)


def _look_up(
    encoder: ml_collections.ConfigDict, plots: list[list[str]], seed: int, cache: pathlib.Path
) -> tuple[Vocabulary, np.ndarray, dict]:
    """Makes the vocabulary, the embedding table, and the coverage of each origin of vectors."""
    settings, vectors, phrases = encoder.vectors, {}, frozenset()
    if settings.file:
        counts = text.count_words(plots, settings.phrases)
        frequent = [word for word, count in counts.items() if count >= encoder.min_count]
        vectors["file"] = vector_file.read(settings.file, frequent)
        phrases = frozenset(word for word in vectors["file"] if "_" in word)
        plots = [text.join_phrases(plot, phrases) for plot in plots]
    counts = text.count_words(plots)
    vocabulary = _vocabulary(encoder, counts)
    if settings.train:
        more = _tokenized(_unlabelled(settings.unlabelled), text.TOKENIZERS[encoder.tokens])
        all_plots = plots + [text.join_phrases(plot, phrases) for plot in more]
        trained = word2vec.load_or_train(all_plots, settings, seed, cache)
        vectors["trained"] = vector_file.read(trained, vocabulary.words)
    return vocabulary, *_concatenate(vectors, vocabulary, counts, seed)


def _unlabelled(places: Sequence[str]) -> Iterator[str]:
    """Reads the plots of tables without genres."""
    for place in places:
        found = table.read(place, table.TableSettings(), labelled=False)
        yield from (movie.plot for movie in found.movies if movie.plot)


def _concatenate(vectors, vocabulary, counts, seed) -> tuple[np.ndarray, dict]:
    """Concatenates the embedding tables of all origins; returns them and their coverage."""
    tables, covered = [], {}
    for origin, word_to_vector in vectors.items():
        table, known = word2vec.embedding_table(word_to_vector, vocabulary, seed)
        tables.append(table)
        covered[origin] = coverage(vocabulary, known, counts)
    return np.concatenate(tables, axis=1), covered


def coverage(vocabulary: Vocabulary, known: np.ndarray, counts: Mapping[str, int]) -> dict:
    """Computes how much of the training plots is covered by word vectors.

    Args:
      vocabulary: the vocabulary.
      known: whether a word has a vector, <bool>[len(vocabulary)].
      counts: number of occurrences of each word in the training plots, including words outside the
        vocabulary.

    Returns:
      `types`: share of the vocabulary's words with a vector; `tokens`: share of all occurrences of
      words with a vector; `words`: number of words in the vocabulary; `phrases`: number of phrases
      among them.
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
    """Returns a sentence on the coverage of each origin of word vectors.

    Args:
      folder: folder of the encoder's files; without `word_coverage.json` the result is empty.
    """
    file = folder / "word_coverage.json"
    if not file.exists():
        return []
    return [
        f"Word vectors ({origin}) cover {found['tokens']:.1%} of the words in the training plots "
        f"and {found['types']:.1%} of the vocabulary ({found['words']:,} words, "
        f"{found['phrases']:,} of them phrases)."
        for origin, found in json.loads(file.read_text()).items()
    ]
