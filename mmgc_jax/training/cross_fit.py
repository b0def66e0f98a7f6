"""Cross-fitting: trains a model for each fold, of an encoder or of a fusion.

The training movies are divided into folds. The model of a fold is trained on all other folds, so
that every movie can be predicted without models that have seen it in training:

- A training movie gets *out-of-fold* probabilities, from the model of its own fold. They have the
  errors of predictions for new movies, which fusion must learn from (stacked generalisation,
  Wolpert 1992).
- A validation or test movie gets the mean of all folds' models (cross-validated committees,
  Parmanto, Munro and Doyle 1996).

A fold can have several models, which differ in their random seeds; their mean stands for the fold.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.evaluation.results import fill_absent
from mmgc_jax.runtime import preemption
from mmgc_jax.training import inference, loop
from mmgc_jax.training.run import ApplyFn, Experiment, names_of_models

# A function from movie indices to the arrays of a batch; see `mmgc_jax.data.pipeline`.
Examples = Callable[..., dict[str, np.ndarray]]
# A function from a random key to initial parameters.
Init = Callable[[jax.Array], Any]
# fit(name, indices, examples, apply, init, field, scales) -> trained parameters; the arguments are
# those of `_Trainer.fit`.
Fit = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training procedure of an encoder or a fusion.

    Attributes:
      examples: the inputs of the trained model, for any movie of the corpus.
      apply: forward pass of the trained model.
      fit_fold: trains the model of one fold. `fit_fold(fit, name, indices)` returns the parameters
        trained on the movies with these indices. It calls `fit(name, indices, examples, apply,
        init, field)` for each phase of training.
      batch_size: number of movies in a batch of inference.
    """

    examples: Examples
    apply: ApplyFn
    fit_fold: Callable[[Fit, str, np.ndarray], Any]
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a training in several phases, such as training the head first.

    Attributes:
      examples: the inputs of the model in this phase.
      apply: forward pass of the model in this phase, from `make_apply`.
      init: makes initial parameters, by top-level name, from a random key; each model has a key of
        its own. Parts trained in earlier phases join them, or replace them.
      name: name of the phase, such as `head`, whose settings are then the section's field
        `head_training`; empty for the field `training`.
      scales: factors of the learning rate by top-level name of the parameters; they override the
        settings' `learning_rate_scale`.
    """

    examples: Examples
    apply: ApplyFn
    init: Init
    name: str = ""
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)


def in_phases(phases: Sequence[Phase], batch_size: int) -> Recipe:
    """Makes a recipe that trains in phases, one after the other.

    Args:
      phases: the phases; the model of the last one is used for inference.
      batch_size: number of movies in a batch of inference.
    """

    def fit_fold(fit, fold_name, indices):
        trained = {}
        for phase in phases:
            name, field = fold_name, "training"
            if phase.name:
                name, field = f"{fold_name}/{phase.name}", f"{phase.name}_training"
            init = functools.partial(_continued, phase.init, trained)
            trained = fit(name, indices, phase.examples, phase.apply, init, field, phase.scales)
        return trained

    return Recipe(phases[-1].examples, phases[-1].apply, fit_fold, batch_size)


def _continued(init: Init, trained: Mapping[str, Any], key: jax.Array) -> dict[str, Any]:
    """Initialises the parameters that are not trained yet."""
    return {**init(key), **trained}


def cross_fit(
    experiment: Experiment,
    name: str,
    section: str,
    present: np.ndarray,
    recipe: Recipe,
    variants: Mapping[str, Examples] | None = None,
) -> dict[str, np.ndarray]:
    """Trains the models of all folds; predicts each movie with models not trained on it.

    Args:
      experiment: the experiment.
      name: name of the encoder or fusion.
      section: name of the config section with its settings.
      present: whether the movie has a modality that the model uses, <bool>[movies of the corpus].
        Movies without one are left out of training.
      recipe: the training procedure.
      variants: other inputs to predict from with the same models, by name, such as
        `without_poster`.

    Returns:
      `probabilities`, and an array for each variant under its name, all <float32>[movies of the
      corpus, genres]. Movies without a modality that the model uses get the genres' frequencies.

    Raises:
      InputError: if a training diverges.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C); finished training runs are kept.
    """
    trainer = _Trainer(experiment, section)
    examples = {"probabilities": recipe.examples} | dict(variants or {})
    sums = {kind: np.zeros(experiment.corpus.labels.shape, np.float32) for kind in examples}
    folds = experiment.folds
    for fold, models in enumerate(names_of_models(experiment.config, name)):
        others = np.flatnonzero(present & (folds >= 0) & (folds != fold))
        unseen = np.flatnonzero(present & ((folds < 0) | (folds == fold)))
        for model in models:
            preemption.raise_if_requested()
            params = recipe.fit_fold(trainer.fit, model, others)
            for kind, total in sums.items():
                predicted = trainer.predict(
                    examples[kind], recipe.apply, params, unseen, recipe.batch_size, model
                )
                total[unseen] += predicted[unseen] / len(models)
    folds_of_movie = np.where(folds < 0, experiment.config.folds, 1)[:, None]
    return {
        kind: fill_absent(total / folds_of_movie, present, experiment.frequencies)
        for kind, total in sums.items()
    }


class _Trainer:
    """Trains models and predicts with them, with the settings of one section of the config."""

    def __init__(self, experiment: Experiment, section: str):
        self._experiment, self._section = experiment, section

    def fit(
        self,
        name: str,
        indices: np.ndarray,
        examples: Examples,
        apply: ApplyFn,
        init: Init,
        field: str = "training",
        scales: Mapping[str, float] | None = None,
    ) -> Any:
        """Trains one model; see `loop.fit`.

        Args:
          name: name of the training run, such as `plot/fold_1`.
          indices: the training movies, as indices into the corpus.
          examples: the inputs of the model.
          apply: forward pass of the model.
          init: makes the initial parameters from a random key.
          field: the section's field with the settings of this training.
          scales: factors of the learning rate that override those of the settings.

        Returns:
          The trained parameters.
        """
        labels = self._experiment.corpus.labels
        settings = self._experiment.config[self._section][field]
        if scales:
            settings = settings.copy_and_resolve_references().unlock()
            settings.learning_rate_scale.update(scales)
        run = self._experiment.training_run(name, f"{self._section}.{field}")
        batches = pipeline.Batches(
            examples,
            labels,
            indices,
            settings.batch_size,
            shuffle_seed=run.seed,
            epochs=settings.epochs,
        )
        return loop.fit(run, apply, init(jax.random.key(run.seed)), batches, settings)

    def predict(
        self,
        examples: Examples,
        apply: ApplyFn,
        params: Any,
        indices: np.ndarray,
        batch_size: int,
        name: str = "",
    ) -> np.ndarray:
        """Predicts the movies with these indices; see `inference.probabilities`."""
        batches = pipeline.Batches(examples, self._experiment.corpus.labels, indices, batch_size)
        workers = self._experiment.config.data.workers
        return inference.probabilities(apply, [params], batches, workers, name)[0]
