"""The plot encoder of the talk: words, their vectors, an LSTM."""

import functools
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import word_vectors
from mmgc_jax.encoders.base import Encoder, load_params, plots_of, training_settings
from mmgc_jax.encoders.checks import DTYPES, Checker
from mmgc_jax.models import PlotLSTM
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Phase, Recipe, in_phases
from mmgc_jax.training.run import Experiment, encoder_folder, make_apply

MODALITY = "plot"

# How words enter the LSTM, the three ways of the talk, and what titles call them.
_VECTORISATIONS = {
    "word2vec": "LSTM",
    "unique_map": "LSTM, unique map",
    "one_hot": "LSTM, one-hot",
}
_MODEL_INPUTS = ("tokens", "lengths")


def default_settings() -> ml_collections.ConfigDict:
    """Makes the section of a config."""
    settings = ml_collections.ConfigDict()
    settings.kind = "plot_lstm"
    # What counts as a word: see mmgc_jax.data.text.TOKENIZERS; words or mmimdb.
    settings.tokens = "words"
    # Longer plots are cut, in words.
    settings.max_length = 256
    # Padded lengths are multiples of this, in words.
    settings.pad_to_multiple_of = 32
    # Rarer words of the training plots count as unknown.
    settings.min_count = 2
    # Number of word ids, at most; padding and unknown are two of them.
    settings.max_vocabulary = 20_000
    # As given vectors (word2vec), as vectors learned from scratch with the LSTM (unique_map), or as
    # one-hot vectors (one_hot).
    settings.vectorisation = "word2vec"
    # Of word2vec; dim is also the size of unique_map's vectors.
    settings.vectors = word_vectors.default_settings()
    # Of the factors in the LSTM's matrix products: float32, or bfloat16, which is faster on GPU and
    # TPU.
    settings.dtype = "float32"
    # Of mmgc_jax.models.PlotLSTM.
    settings.model = ml_collections.ConfigDict()
    settings.model.hidden = 128
    settings.model.bidirectional = True
    settings.model.pooling = "mean_max"
    # Not with one_hot.
    settings.model.pool_words = False
    settings.model.dropout = 0.5
    settings.model.word_dropout = 0.1
    settings.training = training_settings(epochs=12, batch_size=64, learning_rate=2e-3)
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    return f"Plot ({_VECTORISATIONS[settings.vectorisation]})"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    if settings.vectorisation != "word2vec":
        return {}
    return {
        f"vectors.{field}": places
        for field, places in word_vectors.inputs(settings.vectors).items()
    }


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    del data
    checker = Checker(settings)
    checker.one_of("tokens", text.TOKENIZERS)
    checker.one_of("vectorisation", _VECTORISATIONS)
    checker.one_of("dtype", DTYPES)
    checker.one_of("model.pooling", ("last", "mean", "max", "mean_max"))
    checker.at_least(1, "max_length", "pad_to_multiple_of", "min_count", "model.hidden")
    checker.at_least(3, "max_vocabulary")
    checker.share("model.dropout", "model.word_dropout")
    has_vectors = settings.vectorisation != "one_hot"
    checker.require(
        "model.pool_words",
        lambda pooled: has_vectors or not pooled,
        "one_hot has no vectors to pool",
    )
    checker.training("training")
    return checker.problems + word_vectors.problems(
        settings.vectors, used=settings.vectorisation == "word2vec"
    )


def notes(workdir: Path, name: str) -> list[str]:
    """Lines that stand above the tables: how much of the plots the word vectors cover."""
    return word_vectors.coverage_lines(encoder_folder(workdir, name))


def prepare(experiment: Experiment, name: str) -> Recipe:
    settings, corpus = experiment.config[name], experiment.corpus
    with parallel.first_process_first():
        vocabulary, table = word_vectors.prepare(experiment, name)
    examples = _examples(settings, vocabulary, map(corpus.plot, range(len(corpus.ids))))
    vector_size = None if table is None else table.shape[1]
    model = _model(settings, len(corpus.genres), len(vocabulary), vector_size, experiment.kernels)
    params = model.init(
        jax.random.key(experiment.seed_of(name)), np.zeros((1, 8), np.int32), np.ones(1, np.int32)
    )["params"]
    params["genres"]["bias"] = experiment.initial_bias
    scales = {}
    if table is not None:
        params["words"]["embedding"] = table
        scales = {"words": settings.vectors.learning_rate_scale}
    phase = Phase(examples, make_apply(model, _MODEL_INPUTS), params, scales=scales)
    return in_phases([phase], settings.training.batch_size)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    settings = config[name]
    file = encoder_folder(workdir, name) / "vocabulary.json"
    vocabulary = text.Vocabulary.load(file)
    params = load_params(config, workdir, name)
    words = params[0].get("words")
    vector_size = None
    if words is not None:
        known, vector_size = words["embedding"].shape
        if known != len(vocabulary):
            raise InputError(
                f"{file} has {len(vocabulary)} words, the parameters of {name} have {known}: they "
                "are of different runs. Run the experiment again in a new --workdir."
            )
    model = _model(settings, num_genres, len(vocabulary), vector_size, kernels)
    read = functools.partial(_read, settings, vocabulary)
    return Encoder(read, make_apply(model, _MODEL_INPUTS), params)


def _read(
    settings, vocabulary, movies: Sequence[Movie]
) -> tuple[pipeline.PlotExamples, np.ndarray]:
    plots, present = plots_of(movies)
    return _examples(settings, vocabulary, plots), present


def _examples(settings, vocabulary, plots) -> pipeline.PlotExamples:
    tokenize = text.TOKENIZERS[settings.tokens]
    return pipeline.PlotExamples(
        [vocabulary.encode(tokenize(plot), settings.max_length) for plot in plots],
        settings.pad_to_multiple_of,
    )


def _model(settings, num_genres, vocabulary_size, vector_size, kernels) -> PlotLSTM:
    """The model; vector_size is None where no word vectors were given."""
    one_hot = settings.vectorisation == "one_hot"
    return PlotLSTM(
        vocabulary_size=vocabulary_size,
        embedding_dim=None if one_hot else vector_size or settings.vectors.dim,
        num_genres=num_genres,
        dtype=settings.dtype,
        kernels=kernels,
        **settings.model,
    )
