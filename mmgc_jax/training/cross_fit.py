"""Trains one model for each fold, for encoders and fusions alike (cross-fitting).

The training movies are split into folds, and the model of a fold is trained on the other folds. A
movie is predicted by the models that did not train on it: a training movie by that of its fold (its
*out-of-fold* probabilities, which are as trustworthy as those of a new movie; stacked
generalisation, Wolpert 1992), any other movie by all of them, averaged (cross-validated committees,
Parmanto, Munro and Doyle 1996).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.results import fill_absent
from mmgc_jax.runtime import preemption
from mmgc_jax.training import inference, loop
from mmgc_jax.training.run import ApplyFn, Experiment, fold_names

Examples = Callable[..., dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained model and the examples that it takes."""

    examples: Examples
    apply: ApplyFn
    params: Any


# (training name, indices of movies, examples, model, initial parameters, field of the settings,
# factors of the learning rate that replace those of the settings) -> trained
Fit = Callable[..., Fitted]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an encoder or a fusion is trained.

    Attributes:
      examples: what its model takes, of every movie.
      apply: the model.
      fit_fold: (fit, name, indices) -> the model trained on these movies. It calls `fit(name,
        indices, examples, apply, params, field)` as often as it has phases of training.
      batch_size: of predictions.
    """

    examples: Examples
    apply: ApplyFn
    fit_fold: Callable[[Fit, str, np.ndarray], Fitted]
    batch_size: int


def cross_fit(
    experiment: Experiment,
    name: str,
    section: str,
    present: np.ndarray,
    recipe: Recipe,
    variants: Mapping[str, Examples] | None = None,
) -> dict[str, np.ndarray]:
    """Trains one model for each fold and predicts every movie with those that did not see it.

    Args:
      experiment: the experiment.
      name: of the encoder or fusion.
      section: the section of the config that has its settings.
      present: whether a movie has what the model looks at, <bool>[movies of the corpus].
      recipe: how it is trained.
      variants: further examples for the same models to predict, by name.

    Returns:
      `probabilities` <float32>[movies, genres], and those of the variants likewise; rows of movies
      that lack what the model looks at hold the frequencies of the genres.
    """
    trainer = _Trainer(experiment, section, present)
    examples = {"probabilities": recipe.examples} | dict(variants or {})
    sums = {kind: np.zeros(experiment.corpus.labels.shape, np.float32) for kind in examples}
    folds = experiment.folds
    for fold, fold_name in enumerate(fold_names(experiment.config, name)):
        preemption.raise_if_requested()
        others = np.flatnonzero(present & (folds >= 0) & (folds != fold))
        unseen = np.flatnonzero(present & ((folds < 0) | (folds == fold)))
        fitted = recipe.fit_fold(trainer.fit, fold_name, others)
        for kind, total in sums.items():
            if kind != "probabilities":
                fitted = dataclasses.replace(fitted, examples=examples[kind])
            total[unseen] += trainer.predict(fitted, unseen, recipe.batch_size, fold_name)[unseen]
    models = np.where(folds < 0, experiment.config.folds, 1)[:, None]
    return {
        kind: fill_absent(total / models, present, experiment.frequencies)
        for kind, total in sums.items()
    }


class _Trainer:
    """Trains and predicts with the settings of one section of the config."""

    def __init__(self, experiment: Experiment, section: str, present: np.ndarray):
        self._experiment, self._section = experiment, section
        validation = experiment.corpus.split["validation"]
        self._validation = validation[present[validation]]

    def fit(
        self,
        name: str,
        indices: np.ndarray,
        examples: Examples,
        apply: ApplyFn,
        params: Any,
        field: str = "training",
        scales: Mapping[str, float] | None = None,
    ) -> Fitted:
        """Trains one model; see `Fit`."""
        labels = self._experiment.corpus.labels
        settings = self._experiment.config[self._section][field]
        if scales:
            settings = settings.copy_and_resolve_references().unlock()
            settings.learning_rate_scale.update(scales)
        run = self._experiment.run(name, f"{self._section}.{field}")
        size = settings.batch_size
        batches = pipeline.Batches(
            examples, labels, indices, size, shuffle_seed=run.seed, epochs=settings.epochs
        )

        def validate(params) -> float:
            scores = self.predict(Fitted(examples, apply, params), self._validation, size)
            return metrics.auc_macro(labels[self._validation], scores[self._validation])

        trained = loop.fit(run, apply, params, batches, validate, settings)
        return Fitted(examples, apply, trained)

    def predict(self, fitted: Fitted, indices: np.ndarray, size: int, name: str = "") -> np.ndarray:
        """Probabilities, as of `inference.probabilities`."""
        batches = pipeline.Batches(fitted.examples, self._experiment.corpus.labels, indices, size)
        workers = self._experiment.config.data.workers
        return inference.probabilities(fitted.apply, fitted.params, batches, workers, name)
