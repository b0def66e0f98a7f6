"""One model for each fold: how every encoder and every fusion is trained.

The training movies are in folds. The model of a fold is trained on the other folds. A movie is
predicted by the models that did not train on it: a training movie by that of its fold, so that what
is said of it is as trustworthy as what is said of a new movie (stacked generalisation, Wolpert
1992); any other movie by all of them, whose probabilities are averaged (bagging with disjoint
parts, cross-validated committees, Parmanto, Munro and Doyle 1996).
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.evaluation import results
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import inference, loop


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What every training of an experiment needs to know.

    Attributes:
      config: as of `configs/default.py`.
      workdir: gets what the experiment leaves behind.
      corpus: the movies.
      folds: of each movie of the corpus, <int64>[movies]; -1 for those that do not train.
      cache: a folder for what other experiments on the same movies can use too.
    """

    config: ml_collections.ConfigDict
    workdir: Path
    corpus: pipeline.Corpus
    folds: np.ndarray
    cache: pathlib.Path

    @property
    def frequencies(self) -> np.ndarray:
        """The share of training movies that have each genre, <float32>[genres]."""
        return self.corpus.labels[self.corpus.split["train"]].mean(axis=0)

    @property
    def initial_bias(self) -> np.ndarray:
        """The genres' log-odds in the training part, <float32>[genres].

        A last layer that begins with this bias knows from the first step how rare each genre is
        (arXiv 1708.02002, section 3.3).
        """
        frequencies = np.clip(self.frequencies, 1e-3, 1 - 1e-3)
        return np.log(frequencies / (1 - frequencies))

    def seed_of(self, name: str) -> int:
        """A seed of its own for each training."""
        return zlib.crc32(f"{self.config.seed}/{name}".encode()) >> 1


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained model and the examples that it takes."""

    examples: Callable[[np.ndarray], dict[str, np.ndarray]]
    apply: loop.ApplyFn
    params: Any


# (name, indices of movies, examples, model, parameters to begin with, settings) -> trained
Fit = Callable[..., Fitted]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
      examples: what its model takes, of every movie.
      apply: the model.
      fit_fold: (fit, name, indices) -> the model trained on these movies; it calls `fit(name,
        indices, examples, apply, params, settings)` once or more.
      batch_size: of predictions.
    """

    examples: Callable[[np.ndarray], dict[str, np.ndarray]]
    apply: loop.ApplyFn
    fit_fold: Callable[[Fit, str, np.ndarray], Fitted]
    batch_size: int


def fold_names(config: ml_collections.ConfigDict, stage: str) -> list[str]:
    """The names of a stage's trainings, `plot/fold_0` and so on."""
    return [f"{stage}/fold_{fold}" for fold in range(config.folds)]


def cross_fit(
    experiment: Experiment,
    stage: str,
    present: np.ndarray,
    recipe: Recipe,
    also: Mapping[str, Callable] | None = None,
) -> dict[str, np.ndarray]:
    """Trains one model for each fold and predicts every movie by those that did not see it.

    Args:
      experiment: the experiment.
      stage: its name.
      present: which movies the stage can say something about, <bool>[movies of the corpus].
      recipe: of the stage.
      also: further examples for the same models to predict, by name.

    Returns:
      `probabilities` <float32>[movies, genres], and those of `also` likewise; rows of movies that
      the stage can say nothing about hold the frequencies of the genres.
    """
    corpus, workers = experiment.corpus, experiment.config.data.workers
    folds = experiment.folds
    validation = corpus.split["validation"]
    validation = validation[present[validation]]

    def predict(fitted: Fitted, indices, size, name="") -> np.ndarray:
        batches = pipeline.Batches(fitted.examples, corpus.labels, indices, size)
        return inference.probabilities(fitted.apply, fitted.params, batches, workers, name)

    def fit(name, indices, examples, apply, params, settings) -> Fitted:
        run = loop.Run(
            name,
            experiment.workdir,
            experiment.seed_of(name),
            workers,
            split_parameters=experiment.config.split_parameters,
            movie=lambda index: corpus.ids[index],
        )
        size = settings.batch_size
        batches = pipeline.Batches(
            examples, corpus.labels, indices, size, shuffle_seed=run.seed, epochs=settings.epochs
        )

        def validate(params):
            scores = predict(Fitted(examples, apply, params), validation, size)
            return results.headline(corpus.labels[validation], scores[validation])

        weights = loop.positive_weights(corpus.labels[indices], settings.class_weight)
        trained = loop.fit(run, apply, params, batches, validate, settings, weights)
        return Fitted(examples, apply, trained)

    sums = {
        name: np.zeros(corpus.labels.shape, np.float32) for name in ("probabilities", *(also or ()))
    }
    for fold, name in enumerate(fold_names(experiment.config, stage)):
        preemption.raise_if_requested()
        others = np.flatnonzero(present & (folds >= 0) & (folds != fold))
        unseen = np.flatnonzero(present & ((folds < 0) | (folds == fold)))
        fitted = recipe.fit_fold(fit, name, others)
        for kind, total in sums.items():
            if kind != "probabilities":
                fitted = dataclasses.replace(fitted, examples=also[kind])
            total[unseen] += predict(fitted, unseen, recipe.batch_size, name)[unseen]
    times = np.where(folds < 0, experiment.config.folds, 1)[:, None]
    return {
        kind: results.fill_absent(total / times, present, experiment.frequencies)
        for kind, total in sums.items()
    }
