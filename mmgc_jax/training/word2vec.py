"""Trains word vectors with gensim, and makes embedding tables from word vectors.

gensim is imported where it is used: predictions import this module, but train nothing.
"""

import hashlib
import json
import logging
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import ml_collections
import numpy as np
from tqdm import tqdm

from mmgc_jax.data.text import FIRST_WORD_ID, PADDING_ID, Vocabulary
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_atomically
from mmgc_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
    import gensim

logger = logging.getLogger(__name__)


def load_or_train(
    plots: Iterable[Sequence[str]],
    settings: ml_collections.ConfigDict,
    seed: int,
    folder: pathlib.Path,
) -> pathlib.Path:
    """Trains word vectors, unless the same training was done before, and returns their file.

    Args:
      plots: the tokens of each plot; see `train`.
      settings: the settings of Word2Vec; see `train`.
      seed: seed of the training.
      folder: folder of the files of vectors. The name of a file is a hash of the plots, the
        settings, the seed and gensim's version.

    Returns:
      The path of a file in word2vec's binary format.

    Raises:
      InputError: if no word occurs `min_count` times.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C); the training then starts again.
    """
    import gensim

    chosen = {name: settings[name] for name in _SETTINGS} | {"seed": seed}
    digest = hashlib.sha256(json.dumps([gensim.__version__, chosen], sort_keys=True).encode())
    for plot in plots:
        digest.update(json.dumps(plot).encode())
    file = folder / f"{digest.hexdigest()[:16]}.bin"
    if file.exists():
        logger.info("Word2Vec: using the vectors trained before: %s", file)
    else:
        vectors = train(plots, settings, seed)
        # gensim takes the name of a file and opens it itself.
        write_atomically(
            file, lambda stream: vectors.save_word2vec_format(stream.name, binary=True)
        )
    return file


_SETTINGS = ("dim", "window", "min_count", "skip_gram", "negative", "epochs")


def train(
    plots: Iterable[Sequence[str]], settings: ml_collections.ConfigDict, seed: int
) -> "gensim.models.KeyedVectors":
    """Trains Word2Vec (arXiv 1301.3781) with gensim.

    One thread does all the work, so that the result can be reproduced.

    Args:
      plots: the tokens of each plot, over which it iterates `epochs + 1` times.
      settings: `dim`, `window`, `min_count`, `skip_gram`, `negative` and `epochs`, as in
        `mmgc_jax.encoders.word_vectors.default_settings`.
      seed: seed of the initial vectors and of the negative samples.

    Returns:
      gensim's vectors, <float32>[dim] for each word.

    Raises:
      InputError: if no word occurs `min_count` times.
      Interrupted: after an epoch, if a stop was requested (SIGTERM or Ctrl-C); finished epochs are
        lost.
    """
    import gensim

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
            f"No word occurs {settings.min_count} times in the plots: no word vectors can be "
            "trained. Lower vectors.min_count."
        )
    logger.info("Word2Vec: training on %d plots.", model.corpus_count)
    with progress_bar(total=model.epochs, desc="Word2Vec", unit="epoch") as bar:
        model.train(
            plots,
            total_examples=model.corpus_count,
            epochs=model.epochs,
            callbacks=[_progress_callback(bar)],
        )
    return model.wv


def _progress_callback(bar: tqdm) -> "gensim.models.callbacks.CallbackAny2Vec":
    """Makes a callback that updates a bar after each epoch, and stops if a stop was requested."""
    from gensim.models.callbacks import CallbackAny2Vec

    class Progress(CallbackAny2Vec):
        def on_epoch_end(self, model) -> None:
            bar.update()
            preemption.raise_if_requested_locally()

    return Progress()


def embedding_table(
    vectors: Mapping[str, np.ndarray], vocabulary: Vocabulary, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes the embedding table of a vocabulary from word vectors.

    The vectors are centred, because directions that all words share separate them badly
    (arXiv 1702.01417), and scaled to a root mean square of 1. A word without a vector gets a random
    one, drawn in each dimension from a normal distribution with the standard deviation of the known
    vectors. The row of padding is zero.

    Args:
      vectors: the vector of each known word, <float32>[dim].
      vocabulary: the vocabulary; the id of a word is its row in the table.
      seed: seed of the random vectors.

    Returns:
      The table, <float32>[len(vocabulary), dim], and whether `vectors` has a vector for each row,
      <bool>[len(vocabulary)].

    Raises:
      InputError: if no word of the vocabulary has a vector, or if values are so large that their
        squares overflow in float32.
    """
    rows = {
        row: vectors[word]
        for row, word in enumerate(vocabulary.words, start=FIRST_WORD_ID)
        if word in vectors
    }
    if not rows:
        raise InputError("The word vectors cover no word of the plots. Is it the same language?")
    known = np.zeros(len(vocabulary), bool)
    known[list(rows)] = True
    known_vectors = np.stack(list(rows.values()))
    with np.errstate(over="ignore", invalid="ignore"):
        known_vectors = known_vectors - known_vectors.mean(axis=0)
        scale = np.sqrt(np.mean(known_vectors**2))
    if not np.isfinite(scale):
        raise InputError(
            f"The word vectors have values up to {np.abs(known_vectors).max():.0e}: too large."
        )
    known_vectors /= scale if scale > 0 else 1

    table = np.zeros((len(vocabulary), known_vectors.shape[1]), np.float32)
    table[known] = known_vectors
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((int((~known).sum()), table.shape[1]))
    table[~known] = spread * known_vectors.std(axis=0)
    table[PADDING_ID] = 0
    return table, known
