"""Fusion: a network over what the encoders say of a movie."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.encoders.base import MODALITIES, MODALITY, average, load_params
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.models import FUSIONS, FusionOfLogits, LateFusion, drop_modalities
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import loop
from mmgc_jax.training.cross_fit import Experiment, Recipe, cross_fit, fold_names

LATE = "late"
# The kind that is no module of its own: see `joint`.
JOINT = "joint"

_INPUTS = ("probabilities", "present")


def stages(config: ml_collections.ConfigDict) -> list[str]:
    """The fusions of an experiment: `fusion`, which predicts, and those to compare with it."""
    return ["fusion", *(f"fusion_{kind}" for kind in config.fusion.compare)]


def fit(
    experiment: Experiment,
    stage: str,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Trains a fusion on what each encoder says of movies that it did not train on.

    Args:
      experiment: the experiment.
      stage: `fusion` for the kind of the config, `fusion_<kind>` for another.
      probabilities: of each encoder, <float32>[movies of the corpus, genres].
      present: of each encoder, which movies have what it looks at, <bool>[movies].

    Returns:
      As `cross_fit.cross_fit`; beside `probabilities` there are those without each modality,
      `without_plot` and `without_poster`, where the encoders fused look at both.
    """
    settings, frequencies = experiment.config.fusion, experiment.frequencies
    late = kind_of(experiment.config, stage) == LATE
    training = settings.training if late else settings.vector_training
    stacked = np.stack([probabilities[name] for name in settings.encoders], axis=1)
    available = np.stack([present[name] for name in settings.encoders], axis=1)

    def examples(there):
        known = np.where(there[..., None], stacked, frequencies)
        arrays = {"probabilities": known, "present": there.astype(np.float32)}
        return pipeline.ArrayExamples(arrays)

    apply, fresh = prepare(experiment, stage)

    def fit_fold(fit, name, indices):
        params = calibrated(fresh, experiment, probabilities, present, indices)
        return fit(name, indices, examples(available), apply, params, training)

    recipe = Recipe(examples(available), apply, fit_fold, training.batch_size)
    without = {
        name: examples(left) for name, left in one_missing(experiment.config, available).items()
    }
    return cross_fit(experiment, stage, available.any(axis=1), recipe, without)


def prepare(experiment: Experiment, stage: str) -> tuple[loop.ApplyFn, dict]:
    """The model of a fusion and fresh parameters; in training, movies lose modalities."""
    config, frequencies = experiment.config, experiment.frequencies
    modalities, num_genres = _modalities(config), len(frequencies)

    def augment(key, batch):
        there = drop_modalities(key, batch["present"], modalities, config.fusion.modality_dropout)
        known = jnp.where(there[..., None] > 0, batch["probabilities"], frequencies)
        return batch | {"probabilities": known, "present": there}

    model = _model(config, stage, num_genres)
    params = model.init(
        jax.random.key(experiment.seed_of(stage)),
        np.zeros((1, len(modalities), num_genres)),
        np.ones((1, len(modalities))),
    )["params"]
    # So that logits start near the genres' log-odds.
    if "prior" in params:
        params["prior"] = experiment.initial_bias
    else:
        bias = params["fusion"]["genres"]["bias"]
        params["fusion"]["genres"]["bias"] = np.broadcast_to(experiment.initial_bias, bias.shape)
    return loop.make_apply(model, _INPUTS, augment), params


def one_missing(config: ml_collections.ConfigDict, available: np.ndarray) -> dict[str, np.ndarray]:
    """What is left when every movie loses a modality, for each that leaves others behind.

    Args:
      config: of the experiment.
      available: <bool>[movies, encoders fused].

    Returns:
      `without_<modality>`, <bool>[movies, encoders fused] each.
    """
    modalities = np.array(_modalities(config))
    without = {f"without_{m}": available & (modalities != m) for m in MODALITIES}
    return {
        name: left for name, left in without.items() if left.any() and (left != available).any()
    }


def _modalities(config) -> list[str]:
    """What each of the encoders that are fused looks at."""
    return [MODALITY[name] for name in config.fusion.encoders]


def calibrated(
    params: dict,
    experiment: Experiment,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    indices: np.ndarray,
) -> dict:
    """Parameters of late fusion that begin with calibrated encoders; those of others as they are.

    Args:
      params: fresh, as of `prepare`.
      experiment: the experiment.
      probabilities: as of `fit`.
      present: as of `fit`.
      indices: of the training movies to calibrate on.
    """
    if "weights" not in params:
        return params
    corpus = experiment.corpus
    found = []
    for name in experiment.config.fusion.encoders:
        rows = indices[present[name][indices]]
        fit_one = Calibration.fit
        found.append(fit_one(corpus.labels[rows], probabilities[name][rows], corpus.genres))
    return params | {
        "weights": np.float32([calibration.scale for calibration in found]),
        "shifts": np.float32([calibration.shift for calibration in found]),
    }


class Fuser:
    """A trained fusion, for movies that are new."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path, num_genres: int):
        """Reads what `fit` left behind of the stage `fusion`."""
        self._apply = apply_of(config, "fusion", num_genres)
        self._params = load_params(workdir, fold_names(config, "fusion"))

    def __call__(self, probabilities: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Predicts.

        Args:
          probabilities: <float32>[movies, encoders, genres].
          present: <bool>[movies, encoders].

        Returns:
          <float32>[movies, genres], zeros for movies without anything.
        """
        examples = pipeline.ArrayExamples(
            {"probabilities": probabilities, "present": present.astype(np.float32)}
        )
        some, num_genres = present.any(axis=1), probabilities.shape[-1]
        return average(self._apply, self._params, examples, some, num_genres)


def apply_of(config: ml_collections.ConfigDict, stage: str, num_genres: int) -> loop.ApplyFn:
    """The model of a fusion; what it takes is complete."""
    return loop.make_apply(_model(config, stage, num_genres), _INPUTS)


def kind_of(config: ml_collections.ConfigDict, stage: str) -> str:
    """How a stage of `stages` fuses."""
    return config.fusion.kind if stage == "fusion" else stage.removeprefix("fusion_")


def _model(config: ml_collections.ConfigDict, stage: str, num_genres: int) -> nn.Module:
    kind = kind_of(config, stage)
    if kind in (LATE, JOINT):
        return LateFusion(num_genres=num_genres, **config.fusion.model)
    return FusionOfLogits(FUSIONS[kind](num_genres=num_genres, **config.fusion.model))
