"""Fusion: a network that combines the genre probabilities of the encoders."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.encoders import registry
from mmgc_jax.encoders.base import MODALITIES, batch_size, load_params, training_settings
from mmgc_jax.encoders.checks import Checker
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.models import FUSIONS, FusionOfLogits, LateFusion, ProbabilityMLP, drop_modalities
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import inference
from mmgc_jax.training.cross_fit import Init, Recipe, cross_fit
from mmgc_jax.training.run import ApplyFn, Experiment, make_apply

# Name of the config section, and of the fusion that makes the experiment's predictions.
FUSION = "fusion"
LATE = "late"
MLP = "mlp"
# The kind that also trains the encoders; see `mmgc_jax.encoders.joint`.
JOINT = "joint"
KINDS = (*FUSIONS, JOINT)

_MODEL_INPUTS = ("probabilities", "present")
_TERMS = ("evidence", "correction")  # outputs of late fusion's network
_TITLES = {
    "late": "late",
    "mlp": "plain network",
    "linear_sum": "linear sum",
    "concat": "maxout",
    "mixture_of_experts": "experts",
    "gated": "gated",
    "low_rank_tensor": "low-rank tensor",
    JOINT: "joint training",
}


def default_settings() -> ml_collections.ConfigDict:
    """Makes the section `fusion` of a config, with default values."""
    settings = ml_collections.ConfigDict()
    # Names of the encoders whose probabilities are fused; at least one.
    settings.encoders = ("plot", "poster")
    # Kind of fusion: late (a network over calibrated probabilities); mlp (a plain network over
    # probabilities, as in the talk); linear_sum, concat, mixture_of_experts, gated or
    # low_rank_tensor (networks over the encoders' logits); or joint (late fusion and the encoders,
    # fine-tuned together as one network).
    settings.kind = LATE
    # Further kinds, trained on the same folds for comparison. A finished experiment can be run
    # again with more of them.
    settings.compare = ()
    # Modality dropout: share of the training movies with several modalities that lose one of them;
    # from 0 to 1.
    settings.modality_dropout = 0.2
    # The network, for every kind of fusion.
    settings.model = ml_collections.ConfigDict()
    # Size of the hidden layer; at least 1.
    settings.model.hidden = 64
    # Dropout rate before and after the hidden layer; at least 0, below 1.
    settings.model.dropout = 0.3
    # Training of the kind late.
    settings.training = training_settings(
        epochs=10, batch_size=64, learning_rate=1e-3, scales={"exponents": 10.0}
    )
    # Weight decay of AdamW. It is strong, to keep the correction that the network learns small:
    # for genres with few movies the correction would be noise, and with a single modality none is
    # needed.
    settings.training.weight_decay = 10.0
    # Training of the kinds mlp, linear_sum, concat, mixture_of_experts, gated and low_rank_tensor.
    settings.vector_training = training_settings(epochs=40, batch_size=64, learning_rate=1e-3)
    # Fine-tuning of the kind joint, after the encoders are trained. Its learning_rate_scale has the
    # names of encoders, and fusion.
    settings.joint_training = training_settings(
        epochs=2, batch_size=32, learning_rate=1e-4, scales={FUSION: 10.0}
    )
    return settings


def problems(config: ml_collections.ConfigDict) -> list[str]:
    """Finds all mistakes in the section `fusion`.

    Returns:
      A sentence for each mistake, which begins with the field's name.
    """
    checker = Checker(config.fusion)
    checker.some_of("encoders", config.encoders)
    checker.one_of("kind", KINDS)
    checker.some_of("compare", KINDS, least=0)
    checker.at_least(0.0, "modality_dropout")
    checker.require("modality_dropout", lambda share: share <= 1, "a number of at most 1 is needed")
    checker.at_least(1, "model.hidden")
    checker.share("model.dropout")
    checker.training("training", "vector_training", "joint_training")
    return checker.problems


def names(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names of an experiment's fusions.

    The first, `fusion`, makes the predictions; `fusion_<kind>` are trained for comparison.
    """
    return [FUSION, *(f"{FUSION}_{kind}" for kind in config.fusion.compare)]


def titles(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the titles of an experiment's encoders and fusions, by name, in table order."""
    compared = {f"{FUSION}_{kind}": f"Fusion: {_TITLES[kind]}" for kind in config.fusion.compare}
    return registry.titles(config) | {FUSION: "Fusion"} | compared


def kind_of(config: ml_collections.ConfigDict, name: str) -> str:
    """Returns the kind of a fusion, given its name."""
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
      name: `fusion` for the kind of the config, or `fusion_<kind>` for another kind.
      probabilities: out-of-fold probabilities of each encoder, <float32>[movies of the corpus,
        genres], by the encoder's name.
      present: whether each movie has the encoder's modality, <bool>[movies of the corpus], by the
        encoder's name.

    Returns:
      Genre probabilities <float32>[movies of the corpus, genres] by name: `probabilities`, and, if
      the encoders have several modalities, `without_plot` and `without_poster`, predicted as if no
      movie had this modality. Movies without any modality get the genres' frequencies.
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

    apply, init = prepare(experiment, name)

    def fit_fold(fit, fold_name, indices):
        def init_calibrated(key):
            return calibrated(init(key), experiment, probabilities, present, indices)

        return fit(fold_name, indices, examples(available), apply, init_calibrated, field)

    recipe = Recipe(examples(available), apply, fit_fold, settings[field].batch_size)
    without = {
        variant: examples(left)
        for variant, left in one_missing(experiment.config, available).items()
    }
    return cross_fit(experiment, name, FUSION, available.any(axis=1), recipe, without)


def prepare(experiment: Experiment, name: str) -> tuple[ApplyFn, Init]:
    """Makes the forward pass of a fusion, with modality dropout, and its initialiser."""
    config, frequencies = experiment.config, experiment.frequencies
    modalities, num_genres = _modalities(config), len(frequencies)

    def augment(key, batch):
        present = drop_modalities(key, batch["present"], modalities, config.fusion.modality_dropout)
        known = jnp.where(present[..., None] > 0, batch["probabilities"], frequencies)
        return batch | {"probabilities": known, "present": present}

    model = _model(config, name, num_genres)

    def init(key):
        inputs = np.zeros((1, len(modalities), num_genres)), np.ones((1, len(modalities)))
        params = model.init(key, *inputs)["params"]
        # Initialised so that the first logits are close to the genres' log-odds.
        if "prior" in params:
            params["prior"] = experiment.initial_bias
        else:
            layer = params.get("fusion", params)["genres"]
            layer["bias"] = np.broadcast_to(experiment.initial_bias, layer["bias"].shape)
        return params

    return make_apply(model, _MODEL_INPUTS, augment), init


def one_missing(config: ml_collections.ConfigDict, available: np.ndarray) -> dict[str, np.ndarray]:
    """Removes a modality from all movies, for each modality that is not the only one.

    Args:
      config: the config of the experiment.
      available: whether a movie has the modality of an encoder, <bool>[movies, encoders fused].

    Returns:
      `available` without a modality, <bool>[movies, encoders fused], by name: `without_plot` and
      `without_poster`. Empty if the encoders have only one modality.
    """
    modalities = np.array(_modalities(config))
    without = {f"without_{m}": available & (modalities != m) for m in MODALITIES}
    return {
        name: left for name, left in without.items() if left.any() and (left != available).any()
    }


def _modalities(config) -> list[str]:
    """Returns the modality of each fused encoder."""
    return [registry.modality(config, name) for name in config.fusion.encoders]


def calibrated(
    params: dict,
    experiment: Experiment,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    indices: np.ndarray,
) -> dict:
    """Initialises late fusion with the calibration (Platt scaling) of each encoder.

    Args:
      params: initial parameters from `prepare`.
      experiment: the experiment.
      probabilities: out-of-fold probabilities of each encoder; see `fit`.
      present: which movies have each encoder's modality; see `fit`.
      indices: the training movies to calibrate on, as indices into the corpus.

    Returns:
      The parameters with calibrated `weights` and `shifts`. Parameters of other kinds of fusion are
      returned as they are.
    """
    if "weights" not in params:
        return params
    corpus = experiment.corpus
    calibrations = []
    for name in experiment.config.fusion.encoders:
        rows = indices[present[name][indices]]
        calibrations.append(
            Calibration.fit(corpus.labels[rows], probabilities[name][rows], corpus.genres)
        )
    return params | {
        "weights": np.float32([calibration.scale for calibration in calibrations]),
        "shifts": np.float32([calibration.shift for calibration in calibrations]),
    }


class Terms(NamedTuple):
    """The sum that late fusion makes of the encoders, averaged over the folds' models, in logits.

    Attributes:
      prior: log-odds of the genres, <float32>[genres].
      evidence: of each encoder; 0 where its modality is missing, <float32>[movies, encoders,
        genres].
      correction: by the network, <float32>[movies, genres].
    """

    prior: np.ndarray
    evidence: np.ndarray
    correction: np.ndarray


class Fuser:
    """Inference with a trained fusion.

    Attributes:
      apply: forward pass of the network.
      params: the parameters of each fold's network.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        num_genres: int,
        params: Sequence[Any] | None = None,
    ):
        """Reads the trained parameters of `fusion`.

        Args:
          config: the config of the experiment.
          workdir: the working directory of the experiment.
          num_genres: number of genres of the experiment.
          params: the parameters of each fold's model; None to read them.
        """
        self.apply = apply_of(config, FUSION, num_genres)
        self.params = load_params(config, workdir, FUSION) if params is None else params
        model = _model(config, FUSION, num_genres)

        def of_fold(params, probabilities, present):
            logits, found = model.apply({"params": params}, probabilities, present)
            terms = {name: found[name] for name in _TERMS if name in found}
            return {"probabilities": nn.sigmoid(logits)} | terms

        @jax.jit
        def of_folds(params, batch):
            of_each = jax.vmap(of_fold, in_axes=(0, 1, None))
            found = of_each(params, batch["probabilities"], batch["present"])
            return jax.tree.map(lambda array: array.mean(axis=0), found)

        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *self.params)
        self._of_folds = functools.partial(of_folds, stacked)

    def __call__(self, probabilities: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Predicts genre probabilities from those of the encoders.

        Args:
          probabilities: <float32>[movies, encoders, genres]; the genres' frequencies for encoders
            whose modality is missing. Or [folds, movies, encoders, genres], an input for each
            fold's model.
          present: whether the movie has the encoder's modality, <bool>[movies, encoders].

        Returns:
          <float32>[movies, genres], averaged over the folds' models; zeros for movies without any
          modality.
        """
        return self.explain(probabilities, present)[0]

    def explain(
        self, probabilities: np.ndarray, present: np.ndarray
    ) -> tuple[np.ndarray, Terms | None]:
        """Predicts genre probabilities, and returns the terms that late fusion adds up.

        Args:
          probabilities: see `__call__`.
          present: see `__call__`.

        Returns:
          The result of `__call__`; and the terms, None for kinds of fusion that do not add
          evidence.
        """
        found = self._outputs(probabilities, present)
        of_movies = np.where(present.any(axis=1)[:, None], found["probabilities"], 0)
        if not set(_TERMS) <= found.keys():
            return of_movies, None
        prior = np.mean([params["prior"] for params in self.params], axis=0)
        return of_movies, Terms(prior, *(found[name] for name in _TERMS))

    def _outputs(self, probabilities, present) -> dict[str, np.ndarray]:
        """Returns outputs of the network, averaged over the folds' models, [movies, ...]."""
        of_each_fold = np.broadcast_to(probabilities, (len(self.params), *probabilities.shape[-3:]))
        examples = pipeline.ArrayExamples(
            {
                "probabilities": np.moveaxis(of_each_fold, 0, 1),
                "present": present.astype(np.float32),
            }
        )
        movies = len(present)
        everyone, size = np.ones(movies, bool), batch_size(movies)
        return inference.outputs(self._of_folds, examples, everyone, size).arrays


def apply_of(config: ml_collections.ConfigDict, name: str, num_genres: int) -> ApplyFn:
    """Makes the forward pass of a fusion for inference, without modality dropout."""
    return make_apply(_model(config, name, num_genres), _MODEL_INPUTS)


def _model(config: ml_collections.ConfigDict, name: str, num_genres: int) -> nn.Module:
    kind = kind_of(config, name)
    if kind in (LATE, JOINT):
        return LateFusion(num_genres=num_genres, **config.fusion.model)
    if kind == MLP:
        return ProbabilityMLP(num_genres=num_genres, **config.fusion.model)
    return FusionOfLogits(FUSIONS[kind](num_genres=num_genres, **config.fusion.model))
