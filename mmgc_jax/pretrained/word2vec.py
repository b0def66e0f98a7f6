"""Word vectors: trained with gensim or read from a file, and lined up with a vocabulary."""

import logging
import pathlib
import zlib
from collections.abc import Sequence

import gensim
import ml_collections
import numpy as np

from mmgc_jax.data.text import FIRST_WORD_ID, PADDING_ID, Vocabulary
from mmgc_jax.errors import InputError

logger = logging.getLogger(__name__)


def read(file, limit: int | None = None) -> gensim.models.KeyedVectors:
    """Reads word2vec's own formats, gzipped or not.

    Args:
      file: binary if its name contains `.bin`, otherwise text.
      limit: the number of words to read; None reads all.

    Raises:
      InputError: if the file is missing or malformed.
    """
    file = pathlib.Path(file)
    if not file.is_file():
        raise InputError(
            f"config.plot.vectors.file is {str(file)!r}: no such file. It must be in word2vec's "
            "binary (.bin, .bin.gz) or text format, or empty for none."
        )
    try:
        vectors = gensim.models.KeyedVectors.load_word2vec_format(
            str(file), binary=".bin" in file.suffixes, limit=limit
        )
    except (ValueError, OSError, EOFError, MemoryError, zlib.error) as error:
        raise InputError(f"{file} is not in word2vec's format: {error}") from error
    if not np.isfinite(vectors.vectors).all():
        raise InputError(f"{file} holds vectors that are not finite.")
    return vectors


def train(
    plots: Sequence[Sequence[str]], settings: ml_collections.ConfigDict, seed: int
) -> gensim.models.KeyedVectors:
    """Trains Word2Vec (arXiv 1301.3781) with gensim, on one thread, so that it can be repeated.

    Args:
      plots: tokens of each plot.
      settings: `dim`, `window`, `min_count`, `skip_gram`, `negative`, `epochs`.
      seed: of vectors and samples.
    """
    model = gensim.models.Word2Vec(
        vector_size=settings.dim,
        window=settings.window,
        min_count=settings.min_count,
        sg=int(settings.skip_gram),
        negative=settings.negative,
        epochs=settings.epochs,
        seed=seed,
        workers=1,
        hashfxn=lambda word: zlib.crc32(word.encode()),
    )
    model.build_vocab(plots)
    if not len(model.wv):
        raise InputError(
            f"No word occurs {settings.min_count} times in the plots; "
            "lower config.plot.vectors.min_count."
        )
    model.train(plots, total_examples=model.corpus_count, epochs=model.epochs)
    return model.wv


def align(
    vectors: gensim.models.KeyedVectors, vocabulary: Vocabulary, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a vocabulary's words.

    The known vectors' mean is subtracted, which tells words apart better (arXiv 1702.01417), and
    they are scaled to a root mean square of 1. A word without a vector gets a random one from the
    normal distribution that the known ones have in each dimension; padding gets zeros.

    Args:
      vectors: of words.
      vocabulary: decides the order.
      seed: of the random vectors.

    Returns:
      <float32>[len(vocabulary), dim] and <bool>[len(vocabulary)]: which words are known.
    """
    known = np.zeros(len(vocabulary), bool)
    table = np.zeros((len(vocabulary), vectors.vector_size), np.float32)
    for number, word in enumerate(vocabulary.words, start=FIRST_WORD_ID):
        if word in vectors:
            table[number], known[number] = vectors[word], True
    if not known.any():
        raise InputError("The word vectors cover no word of the plots: are they of this language?")
    table -= table[known].mean(axis=0)
    scale = np.sqrt(np.mean(table[known] ** 2))
    table /= scale if scale > 0 else 1
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((int((~known).sum()), table.shape[1]))
    table[~known] = spread * table[known].std(axis=0)
    table[PADDING_ID] = 0
    logger.info("Word vectors know %d of the vocabulary's %d words.",
                 known.sum(), len(vocabulary.words))  # fmt: skip
    return table, known
