"""A plot encoder beyond the talk: weighted words and a linear model, which is hard to beat."""

import functools
from collections.abc import Sequence

import ml_collections

from mmgc_jax.data import pipeline
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders.base import Encoder, load_params, plots_of
from mmgc_jax.models import PlotBagOfWords
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import checkpoints, loop
from mmgc_jax.training.cross_fit import Experiment, Fitted, Recipe, fold_names
from mmgc_jax.training.logistic import fit_logistic

_WORDS = "bag_of_words.json"
_INPUTS = ("tokens", "weights")
_MOVIES_IN_BATCH = 64


def prepare(experiment: Experiment, stage: str) -> Recipe:
    """Finds the words and weighs them in every plot."""
    del stage  # nothing is random
    settings, corpus = experiment.config.bag_of_words, experiment.corpus
    words = TfIdf.fit(
        map(corpus.plot, corpus.split["train"]),
        settings.tokens,
        settings.stem_length,
        settings.longest_phrase,
        settings.min_plots,
    )
    words.save(experiment.workdir / _WORDS)
    rows = words(map(corpus.plot, range(len(corpus.ids))))
    examples = pipeline.BagOfWordsExamples(rows, settings.bucket)
    apply = _apply(words, len(corpus.genres))

    def fit_fold(fit, name, indices):
        del fit  # convex: solved, not trained step by step
        run = loop.Run(name, experiment.workdir, experiment.seed_of(name))
        if checkpoints.restore(run.checkpoints / "best") is None:
            kernel, bias = fit_logistic(rows[indices], corpus.labels[indices], settings.strength)
            checkpoints.save(run.checkpoints / "best", 0, {"kernel": kernel, "bias": bias}, {})
        return Fitted(examples, apply, loop.restore_best(run))

    return Recipe(examples, apply, fit_fold, _MOVIES_IN_BATCH)


def trainings(config: ml_collections.ConfigDict, stage: str) -> list[str]:
    """The trainings whose parameters predict, one for each fold."""
    return fold_names(config, stage)


def load(config: ml_collections.ConfigDict, workdir: Path, stage: str, num_genres: int) -> Encoder:
    """Reads what training left behind."""
    words = TfIdf.load(workdir / _WORDS)
    params = load_params(workdir, trainings(config, stage))
    read = functools.partial(_read, words, config.bag_of_words.bucket)
    return Encoder(read, _apply(words, num_genres), params)


def _read(words: TfIdf, bucket: int, movies: Sequence[Movie]):
    plots, present = plots_of(movies)
    return pipeline.BagOfWordsExamples(words(plots), bucket), present


def _apply(words: TfIdf, num_genres: int) -> loop.ApplyFn:
    return loop.make_apply(PlotBagOfWords(len(words), num_genres), _INPUTS)
