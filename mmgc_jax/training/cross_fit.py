"""Trains one model for each fold, for encoders and fusions alike (cross-fitting).

The training movies are split into folds, and the model of a fold is trained on the other folds. A
movie is predicted by the models that did not train on it: a training movie by that of its fold (its
*out-of-fold* probabilities, which are as trustworthy as those of a new movie; stacked
generalisation, Wolpert 1992), any other movie by all of them, averaged (cross-validated committees,
Parmanto, Munro and Doyle 1996).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.results import fill_absent
from mmgc_jax.runtime import preemption
from mmgc_jax.training import inference, loop
from mmgc_jax.training.run import ApplyFn, Experiment, fold_names

Examples = Callable[..., dict[str, np.ndarray]]


# (training name, indices of movies, examples, model, initial parameters, field of the settings,
# factors of the learning rate that replace those of the settings) -> trained parameters
Fit = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an encoder or a fusion is trained.

    Attributes:
      examples: the inputs of its model, for every movie.
      apply: the model.
      fit_fold: (fit, name, indices) -> the parameters trained on these movies. It calls `fit(name,
        indices, examples, apply, params, field)` for each phase of training.
      batch_size: of predictions.
    """

    examples: Examples
    apply: ApplyFn
    fit_fold: Callable[[Fit, str, np.ndarray], Any]
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Phase:
    """One of several trainings in a row.

    Attributes:
      examples: the inputs of the model in this phase.
      apply: the model in this phase.
      params: its initial parameters; those trained in earlier phases replace theirs.
      name: such as `head`, with the settings `head_training`; empty for `training`.
      scales: factors of the learning rate that replace those of the settings.
    """

    examples: Examples
    apply: ApplyFn
    params: Mapping[str, Any]
    name: str = ""
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)


def in_phases(phases: Sequence[Phase], batch_size: int) -> Recipe:
    """Makes the recipe that trains in phases; the model of the last one predicts."""

    def fit_fold(fit, fold_name, indices):
        trained = {}
        for phase in phases:
            name, field = fold_name, "training"
            if phase.name:
                name, field = f"{fold_name}/{phase.name}", f"{phase.name}_training"
            params = {**phase.params, **trained}
            trained = fit(name, indices, phase.examples, phase.apply, params, field, phase.scales)
        return trained

    return Recipe(phases[-1].examples, phases[-1].apply, fit_fold, batch_size)


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
        params = recipe.fit_fold(trainer.fit, fold_name, others)
        for kind, total in sums.items():
            total[unseen] += trainer.predict(
                examples[kind], recipe.apply, params, unseen, recipe.batch_size, fold_name
            )[unseen]
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
    ) -> Any:
        """Trains one model; see `Fit`."""
        labels = self._experiment.corpus.labels
        settings = self._experiment.config[self._section][field]
        if scales:
            settings = settings.copy_and_resolve_references().unlock()
            settings.learning_rate_scale.update(scales)
        run = self._experiment.training_run(name, f"{self._section}.{field}")
        size = settings.batch_size
        batches = pipeline.Batches(
            examples, labels, indices, size, shuffle_seed=run.seed, epochs=settings.epochs
        )

        def validate(params) -> float:
            scores = self.predict(examples, apply, params, self._validation, size)
            return metrics.auc_macro(labels[self._validation], scores[self._validation])

        return loop.fit(run, apply, params, batches, validate, settings)

    def predict(
        self,
        examples: Examples,
        apply: ApplyFn,
        params: Any,
        indices: np.ndarray,
        batch_size: int,
        name: str = "",
    ) -> np.ndarray:
        """Predicts movies; see `inference.probabilities`."""
        batches = pipeline.Batches(examples, self._experiment.corpus.labels, indices, batch_size)
        workers = self._experiment.config.data.workers
        return inference.probabilities(apply, params, batches, workers, name)
