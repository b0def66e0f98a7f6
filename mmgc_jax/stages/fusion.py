"""Fusion: a network over what the encoders say of a movie."""

import json
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax import train
from mmgc_jax.data import pipeline
from mmgc_jax.files import write_text
from mmgc_jax.models import FUSIONS, FusionOfLogits, LateFusion, drop_modalities
from mmgc_jax.stages.cross_fit import Experiment, cross_fit, fold_names
from mmgc_jax.stages.encoder import MODALITIES, MODALITY, average, load_params

_INPUTS = ("probabilities", "present")


def stages(config: ml_collections.ConfigDict) -> list[str]:
    """The fusions that an experiment trains: `fusion`, which predicts, and those to compare."""
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
    config, corpus = experiment.config, experiment.corpus
    settings, frequencies = config.fusion, experiment.frequencies
    write_text(
        experiment.workdir / "genre_frequencies.json",
        json.dumps(dict(zip(corpus.genres, frequencies.tolist())), indent=2),
    )
    names = settings.encoders
    stacked = np.stack([probabilities[name] for name in names], axis=1)
    available = np.stack([present[name] for name in names], axis=1)
    modalities = [MODALITY[name] for name in names]

    def augment(key, batch):
        there = drop_modalities(key, batch["present"], modalities, settings.modality_dropout)
        known = jnp.where(there[..., None] > 0, batch["probabilities"], frequencies)
        return batch | {"probabilities": known, "present": there}

    def examples(there):
        known = np.where(there[..., None], stacked, frequencies)
        arrays = {"probabilities": known, "present": there.astype(np.float32)}
        return pipeline.ArrayExamples(arrays)

    model = _model(config, stage, len(corpus.genres))
    apply = train.make_apply(model, _INPUTS, augment)
    one = examples(available)(np.arange(1))
    params = model.init(
        jax.random.key(experiment.seed_of(stage)), *(one[name] for name in _INPUTS)
    )["params"]
    _begin_well(params, modalities, experiment.initial_bias)

    def fit_fold(fit, name, indices):
        return fit(name, indices, examples(available), apply, params, settings.training)

    without = {}
    for modality in MODALITIES:
        left = available & (np.array(modalities) != modality)
        if left.any() and (left != available).any():
            without[f"without_{modality}"] = examples(left)
    some = available.any(axis=1)
    return cross_fit(experiment, stage, some, settings.training.batch_size, fit_fold, without)


def _begin_well(params, modalities: list[str], initial_bias: np.ndarray) -> None:
    """Changes fresh parameters such that logits start where little is left to learn."""
    if "weights" not in params:
        bias = params["fusion"]["genres"]["bias"]
        params["fusion"]["genres"]["bias"] = np.broadcast_to(initial_bias, bias.shape)
        return
    # Late fusion: modalities are taken for independent, so that their logits are added; those of
    # encoders of one modality are averaged. Each modality's logits hold the genres' log-odds, which
    # their sum is to hold once.
    share = 1 / np.array([modalities.count(modality) for modality in modalities], np.float32)
    params["weights"] = params["weights"] * share[:, None]
    params["genres"]["bias"] = (1 - len(set(modalities))) * initial_bias


class Fuser:
    """A trained fusion, for movies that are new."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path, num_genres: int):
        """Reads what `fit` left behind of the stage `fusion`."""
        self._apply = train.make_apply(_model(config, "fusion", num_genres), _INPUTS)
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


def _model(config: ml_collections.ConfigDict, stage: str, num_genres: int) -> nn.Module:
    settings = config.fusion
    kind = stage.removeprefix("fusion").removeprefix("_") or settings.kind
    network = FUSIONS[kind](num_genres=num_genres, **settings.model)
    return network if isinstance(network, LateFusion) else FusionOfLogits(network)
