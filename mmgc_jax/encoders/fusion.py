"""Fusion: a network over the probabilities of the encoders."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.encoders import registry
from mmgc_jax.encoders.base import MODALITIES, load_params, mean_probabilities, training_settings
from mmgc_jax.encoders.checks import Checker
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.models import FUSIONS, FusionOfLogits, LateFusion, drop_modalities
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Recipe, cross_fit
from mmgc_jax.training.run import ApplyFn, Experiment, make_apply

# The section of the config, and the name of the fusion that predicts.
FUSION = "fusion"
LATE = "late"
# The kind that is no module of its own: see `joint`.
JOINT = "joint"
KINDS = (*FUSIONS, JOINT)

_MODEL_INPUTS = ("probabilities", "present")
_TITLES = {
    "late": "late",
    "linear_sum": "linear sum",
    "concat": "maxout",
    "mixture_of_experts": "experts",
    "gated": "gated",
    "low_rank_tensor": "low-rank tensor",
    JOINT: "joint training",
}


def default_settings() -> ml_collections.ConfigDict:
    """Makes the section `fusion` of a config."""
    settings = ml_collections.ConfigDict()
    # The encoders whose probabilities are fused.
    settings.encoders = ("plot", "poster")
    # How: a name in mmgc_jax.models.FUSIONS, or joint: late fusion and the encoders as one network.
    settings.kind = LATE
    # Further kinds, trained for comparison on the same folds; a finished run takes more of them.
    settings.compare = ()
    # The share of movies with both modalities that lose one in training.
    settings.modality_dropout = 0.2
    # Of each kind of fusion.
    settings.model = ml_collections.ConfigDict()
    settings.model.hidden = 64
    settings.model.dropout = 0.3
    # Of late fusion. The decay keeps its correction small: of a genre with few movies it would only
    # be noise, and one modality alone needs none.
    settings.training = training_settings(epochs=40, batch_size=64, learning_rate=1e-3)
    settings.training.weight_decay = 10.0
    # Of the kinds that fuse vectors, which start at random.
    settings.vector_training = training_settings(epochs=40, batch_size=64, learning_rate=1e-3)
    # Of joint, after the encoders are trained.
    settings.joint_training = training_settings(
        epochs=2, batch_size=32, learning_rate=1e-4, scales={FUSION: 10.0}
    )
    return settings


def problems(config: ml_collections.ConfigDict) -> list[str]:
    """All mistakes in the section `fusion`, a sentence for each that begins with the field."""
    checker = Checker(config.fusion)
    checker.some_of("encoders", config.encoders)
    checker.one_of("kind", KINDS)
    checker.some_of("compare", KINDS, least=0)
    checker.at_least(0.0, "modality_dropout")
    checker.require("modality_dropout", lambda share: share <= 1, "at most 1")
    checker.at_least(1, "model.hidden")
    checker.share("model.dropout")
    checker.training("training", "vector_training", "joint_training")
    return checker.problems


def names(config: ml_collections.ConfigDict) -> list[str]:
    """The fusions of an experiment: `fusion`, which predicts, and those to compare with it."""
    return [FUSION, *(f"{FUSION}_{kind}" for kind in config.fusion.compare)]


def titles(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The titles of an experiment's encoders and fusions, in the order of tables."""
    compared = {f"{FUSION}_{kind}": f"Fusion: {_TITLES[kind]}" for kind in config.fusion.compare}
    return registry.titles(config) | {FUSION: "Fusion"} | compared


def kind_of(config: ml_collections.ConfigDict, name: str) -> str:
    """The kind of a fusion of `names`."""
    return config.fusion.kind if name == FUSION else name.removeprefix(f"{FUSION}_")


def fit(
    experiment: Experiment,
    name: str,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Trains a fusion on the out-of-fold probabilities of the encoders.

    Args:
      experiment: the experiment.
      name: `fusion` for the kind of the config, `fusion_<kind>` for another.
      probabilities: of each encoder, <float32>[movies of the corpus, genres].
      present: of each encoder, whether a movie has what it looks at, <bool>[movies].

    Returns:
      As `cross_fit.cross_fit`; beside `probabilities` there are those without each modality,
      `without_plot` and `without_poster`, where the encoders fused look at both.
    """
    settings, frequencies = experiment.config.fusion, experiment.frequencies
    late = kind_of(experiment.config, name) == LATE
    field = "training" if late else "vector_training"
    stacked = np.stack([probabilities[encoder] for encoder in settings.encoders], axis=1)
    available = np.stack([present[encoder] for encoder in settings.encoders], axis=1)

    def examples(available):
        known = np.where(available[..., None], stacked, frequencies)
        arrays = {"probabilities": known, "present": available.astype(np.float32)}
        return pipeline.ArrayExamples(arrays)

    apply, initial = prepare(experiment, name)

    def fit_fold(fit, fold_name, indices):
        params = calibrated(initial, experiment, probabilities, present, indices)
        return fit(fold_name, indices, examples(available), apply, params, field)

    recipe = Recipe(examples(available), apply, fit_fold, settings[field].batch_size)
    without = {
        variant: examples(left)
        for variant, left in one_missing(experiment.config, available).items()
    }
    return cross_fit(experiment, name, FUSION, available.any(axis=1), recipe, without)


def prepare(experiment: Experiment, name: str) -> tuple[ApplyFn, dict]:
    """Makes the model of a fusion, with modality dropout, and its initial parameters."""
    config, frequencies = experiment.config, experiment.frequencies
    modalities, num_genres = _modalities(config), len(frequencies)

    def augment(key, batch):
        present = drop_modalities(key, batch["present"], modalities, config.fusion.modality_dropout)
        known = jnp.where(present[..., None] > 0, batch["probabilities"], frequencies)
        return batch | {"probabilities": known, "present": present}

    model = _model(config, name, num_genres)
    params = model.init(
        jax.random.key(experiment.seed_of(name)),
        np.zeros((1, len(modalities), num_genres)),
        np.ones((1, len(modalities))),
    )["params"]
    # So that logits start near the genres' log-odds.
    if "prior" in params:
        params["prior"] = experiment.initial_bias
    else:
        bias = params["fusion"]["genres"]["bias"]
        params["fusion"]["genres"]["bias"] = np.broadcast_to(experiment.initial_bias, bias.shape)
    return make_apply(model, _MODEL_INPUTS, augment), params


def one_missing(config: ml_collections.ConfigDict, available: np.ndarray) -> dict[str, np.ndarray]:
    """Drops a modality of every movie, for each modality that leaves others behind.

    Args:
      config: of the experiment.
      available: whether a movie has what an encoder looks at, <bool>[movies, encoders fused].

    Returns:
      `without_<modality>`: what is left, <bool>[movies, encoders fused].
    """
    modalities = np.array(_modalities(config))
    without = {f"without_{m}": available & (modalities != m) for m in MODALITIES}
    return {
        name: left for name, left in without.items() if left.any() and (left != available).any()
    }


def _modalities(config) -> list[str]:
    """The modality of each of the encoders that are fused."""
    return [registry.modality(config, name) for name in config.fusion.encoders]


def calibrated(
    params: dict,
    experiment: Experiment,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    indices: np.ndarray,
) -> dict:
    """Sets parameters of late fusion to the encoders' calibration; leaves other fusions' as given.

    Args:
      params: as of `prepare`.
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
    """Inference with a trained fusion."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path, num_genres: int):
        """Reads what `fit` left behind of the fusion that predicts."""
        self._apply = apply_of(config, FUSION, num_genres)
        self._params = load_params(config, workdir, FUSION)

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
        return mean_probabilities(self._apply, self._params, examples, some, num_genres)


def apply_of(config: ml_collections.ConfigDict, name: str, num_genres: int) -> ApplyFn:
    """The model of a fusion, without modality dropout."""
    return make_apply(_model(config, name, num_genres), _MODEL_INPUTS)


def _model(config: ml_collections.ConfigDict, name: str, num_genres: int) -> nn.Module:
    kind = kind_of(config, name)
    if kind in (LATE, JOINT):
        return LateFusion(num_genres=num_genres, **config.fusion.model)
    return FusionOfLogits(FUSIONS[kind](num_genres=num_genres, **config.fusion.model))
