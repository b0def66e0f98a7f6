"""Trains word vectors with gensim, and makes embedding tables of vectors."""

import hashlib
import json
import logging
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence

import gensim
import ml_collections
import numpy as np
from gensim.models.callbacks import CallbackAny2Vec
from tqdm import tqdm

from mmgc_jax.data.text import FIRST_WORD_ID, PADDING_ID, Vocabulary
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_atomically
from mmgc_jax.runtime.progress import progress_bar

logger = logging.getLogger(__name__)


def train_once(
    plots: Iterable[Sequence[str]],
    settings: ml_collections.ConfigDict,
    seed: int,
    folder: pathlib.Path,
) -> pathlib.Path:
    """Trains word vectors, or finds those trained on the same plots with equal settings and seed.

    Args:
      plots: as in `train`.
      settings: as in `train`.
      seed: as in `train`.
      folder: keeps the vectors, named by a hash of the plots, the settings, the seed and gensim's
        version.

    Returns:
      A file in word2vec's binary format.
    """
    chosen = {name: settings[name] for name in _SETTINGS} | {"seed": seed}
    digest = hashlib.sha256(json.dumps([gensim.__version__, chosen], sort_keys=True).encode())
    for plot in plots:
        digest.update(json.dumps(plot).encode())
    file = folder / f"{digest.hexdigest()[:16]}.bin"
    if file.exists():
        logger.info("Word2Vec: trained before: %s", file)
    else:
        vectors = train(plots, settings, seed)
        # gensim opens what it writes to by itself, by its name.
        write_atomically(
            file, lambda stream: vectors.save_word2vec_format(stream.name, binary=True)
        )
    return file


_SETTINGS = ("dim", "window", "min_count", "skip_gram", "negative", "epochs")


def train(
    plots: Iterable[Sequence[str]], settings: ml_collections.ConfigDict, seed: int
) -> gensim.models.KeyedVectors:
    """Trains Word2Vec (arXiv 1301.3781) with gensim, on one thread, which makes it repeatable.

    Args:
      plots: tokens of each plot; iterated over epochs + 1 times, so that they need not be in
        memory.
      settings: `dim`, `window`, `min_count`, `skip_gram`, `negative`, `epochs`.
      seed: of the initial vectors and of the samples.

    Raises:
      InputError: if no word is frequent enough.
      Interrupted: after an epoch, if the process was asked to stop; the epochs done are lost.
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
            f"No word occurs {settings.min_count} times in the plots: no word vectors can be "
            "trained. Lower vectors.min_count."
        )
    logger.info("Word2Vec: training on %d plots.", model.corpus_count)
    with progress_bar(total=model.epochs, desc="Word2Vec", unit="epoch") as bar:
        model.train(
            plots,
            total_examples=model.corpus_count,
            epochs=model.epochs,
            callbacks=[_Progress(bar)],
        )
    return model.wv


class _Progress(CallbackAny2Vec):
    """Updates a progress bar after each epoch, and stops if the process was asked to."""

    def __init__(self, bar: tqdm):
        self._bar = bar

    def on_epoch_end(self, model) -> None:
        self._bar.update()
        preemption.raise_if_requested_locally()


def align(
    vectors: Mapping[str, np.ndarray], vocabulary: Vocabulary, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Makes the embedding table of a vocabulary from word vectors.

    The mean of the known vectors is subtracted, which separates words better (arXiv 1702.01417),
    and they are scaled to a root mean square of 1. A word without a vector gets a random one, from
    a normal distribution with the known ones' standard deviation in each dimension. Padding gets
    zeros.

    Args:
      vectors: of words, <float32>[dim].
      vocabulary: its ids are the rows.
      seed: of the random vectors.

    Returns:
      The table, <float32>[len(vocabulary), dim], and which words are known,
      <bool>[len(vocabulary)].

    Raises:
      InputError: if no word is known, or values are too large to be squared in float32.
    """
    rows = {
        number: vectors[word]
        for number, word in enumerate(vocabulary.words, start=FIRST_WORD_ID)
        if word in vectors
    }
    if not rows:
        raise InputError("The word vectors cover no word of the plots: are they of this language?")
    known = np.zeros(len(vocabulary), bool)
    known[list(rows)] = True
    of_known = np.stack(list(rows.values()))
    with np.errstate(over="ignore", invalid="ignore"):
        of_known = of_known - of_known.mean(axis=0)
        scale = np.sqrt(np.mean(of_known**2))
    if not np.isfinite(scale):
        raise InputError(f"The word vectors hold values up to {np.abs(of_known).max():.0e}.")
    of_known /= scale if scale > 0 else 1

    table = np.zeros((len(vocabulary), of_known.shape[1]), np.float32)
    table[known] = of_known
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((int((~known).sum()), table.shape[1]))
    table[~known] = spread * of_known.std(axis=0)
    table[PADDING_ID] = 0
    return table, known
