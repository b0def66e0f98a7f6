"""The plot encoder of the talk: words, their vectors, an LSTM."""

import functools
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import word_vectors
from mmgc_jax.encoders.base import Encoder, load_params, plots_of
from mmgc_jax.models import PlotLSTM
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import loop
from mmgc_jax.training.cross_fit import Experiment, Recipe, fold_names

_INPUTS = ("tokens", "lengths")


def prepare(experiment: Experiment, stage: str) -> Recipe:
    """Makes ready what the encoder's training needs."""
    config, corpus = experiment.config, experiment.corpus
    with parallel.first_process_first():
        vocabulary, table = word_vectors.prepare(
            config, experiment.workdir, corpus, experiment.cache / "word_vectors"
        )
    examples = _examples(config, vocabulary, map(corpus.plot, range(len(corpus.ids))))
    vector_size = None if table is None else table.shape[1]
    model = _model(config, len(corpus.genres), len(vocabulary), vector_size)
    params = model.init(
        jax.random.key(experiment.seed_of(stage)),
        np.zeros((1, 8), np.int32),
        np.ones(1, np.int32),
    )["params"]
    params["genres"]["bias"] = experiment.initial_bias
    training = config.plot.training
    if table is not None:
        params["words"]["embedding"] = table
        training = training.copy_and_resolve_references().unlock()
        training.learning_rate_scale.words = config.plot.vectors.learning_rate_scale
    apply = loop.make_apply(model, _INPUTS)

    def fit_fold(fit, name, indices):
        return fit(name, indices, examples, apply, params, training)

    return Recipe(examples, apply, fit_fold, training.batch_size)


def trainings(config: ml_collections.ConfigDict, stage: str) -> list[str]:
    """The trainings whose parameters predict, one for each fold."""
    return fold_names(config, stage)


def load(config: ml_collections.ConfigDict, workdir: Path, stage: str, num_genres: int) -> Encoder:
    """Reads what training left behind."""
    vocabulary = text.Vocabulary.load(workdir / "vocabulary.json")
    params = load_params(workdir, trainings(config, stage))
    words = params[0].get("words")
    vector_size = None if words is None else words["embedding"].shape[1]
    # Movies are predicted anywhere, whatever they were trained on.
    model = _model(config, num_genres, len(vocabulary), vector_size).clone(lstm="scan")
    read = functools.partial(_read, config, vocabulary)
    return Encoder(read, loop.make_apply(model, _INPUTS), params)


def _read(config, vocabulary, movies: Sequence[Movie]) -> tuple[pipeline.PlotExamples, np.ndarray]:
    plots, present = plots_of(movies)
    return _examples(config, vocabulary, plots), present


def _examples(config, vocabulary, plots) -> pipeline.PlotExamples:
    settings = config.plot
    tokenize = text.TOKENIZERS[settings.tokens]
    return pipeline.PlotExamples(
        [vocabulary.encode(tokenize(plot), settings.max_length) for plot in plots],
        settings.bucket,
    )


def _model(config, num_genres, vocabulary_size, vector_size) -> PlotLSTM:
    """The model; vector_size is None where no word vectors were given."""
    one_hot = config.plot.vectorisation == "one_hot"
    return PlotLSTM(
        vocabulary_size=vocabulary_size,
        embedding_dim=None if one_hot else vector_size or config.plot.vectors.dim,
        num_genres=num_genres,
        dtype=config.plot.dtype,
        **config.plot.model,
    )
