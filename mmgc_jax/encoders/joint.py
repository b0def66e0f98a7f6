"""Joint training: fine-tunes the encoders together with late fusion, as one network."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.base import Encoder, load_params, mean_probabilities
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Recipe, cross_fit
from mmgc_jax.training.run import ApplyFn, Experiment, names_of_models


def fit(
    experiment: Experiment,
    name: str,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Fine-tunes the trained encoders of each fold together with a new late fusion.

    Args:
      experiment: the experiment, with trained encoders.
      name: name of the fusion, such as `fusion` or `fusion_joint`.
      probabilities: out-of-fold probabilities of each encoder, from which the calibration in late
        fusion is initialised; see `fusion.fit`.
      present: which movies have each encoder's modality; see `fusion.fit`.

    Returns:
      Genre probabilities by name, as from `fusion.fit`.
    """
    config, frequencies = experiment.config, experiment.frequencies
    encoders = config.fusion.encoders
    recipes = {e: registry.of(config, e).prepare(experiment, e) for e in encoders}
    trained = _load(config, experiment.workdir, len(frequencies), experiment.kernels)
    available = np.stack([present[encoder] for encoder in encoders], axis=1)
    fuse, init_fusion = fusion.prepare(experiment, name)
    apply = _apply({e: recipe.apply for e, recipe in recipes.items()}, fuse, frequencies)
    examples = JointExamples({e: recipe.examples for e, recipe in recipes.items()}, available)

    def fit_fold(fit, fold_name, indices):
        fold = names_of_models(config, name).index([fold_name])
        # Of an encoder with several models for each fold, the first one.
        parts = {e: trained[e].params[fold * _models_per_fold(config, e)] for e in encoders}

        def init(key):
            initial = init_fusion(key)
            fused = fusion.calibrated(initial, experiment, probabilities, present, indices)
            return parts | {fusion.FUSION: fused}

        return fit(fold_name, indices, examples, apply, init, "joint_training")

    recipe = Recipe(examples, apply, fit_fold, config.fusion.joint_training.batch_size)
    without = {
        variant: dataclasses.replace(examples, present=left)
        for variant, left in fusion.one_missing(config, available).items()
    }
    return cross_fit(experiment, name, fusion.FUSION, available.any(axis=1), recipe, without)


def _models_per_fold(config: ml_collections.ConfigDict, encoder: str) -> int:
    return len(names_of_models(config, encoder)[0])


def _load(
    config: ml_collections.ConfigDict, workdir: Path, num_genres: int, kernels: Kernels
) -> dict[str, Encoder]:
    """Loads the trained encoders that are fused, by name."""
    return {
        name: registry.of(config, name).load(config, workdir, name, num_genres, kernels)
        for name in config.fusion.encoders
    }


class JointFuser:
    """Inference with a jointly trained network.

    Attributes:
      encoders: the trained encoders that are fused, by name, before the joint training.
      parts: the same encoders after it.
      fuser: the late fusion of the parts' probabilities. Each fold's model takes those of the same
        fold.
      apply: forward pass of the whole network, without the encoders' frozen layers.
      params: the parameters of each fold's network.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        frequencies: np.ndarray,
        kernels: Kernels,
    ):
        """Reads the trained parameters of `fusion`.

        Args:
          config: the config of the experiment.
          workdir: the working directory of the experiment.
          frequencies: share of the training movies that have each genre, <float32>[genres].
          kernels: which implementation of each operation to use, such as convolution.
        """
        self._num_genres = len(frequencies)
        self.encoders = _load(config, workdir, self._num_genres, kernels)
        applies = {name: encoder.apply for name, encoder in self.encoders.items()}
        fuse = fusion.apply_of(config, fusion.FUSION, self._num_genres)
        self.apply = _apply(applies, fuse, frequencies)
        self.params = load_params(config, workdir, fusion.FUSION)
        # The parts of the jointly trained network, for explanations.
        self.parts = {
            name: dataclasses.replace(encoder, params=[params[name] for params in self.params])
            for name, encoder in self.encoders.items()
        }
        fusion_params = [params[fusion.FUSION] for params in self.params]
        self.fuser = fusion.Fuser(config, workdir, self._num_genres, fusion_params)

    def __call__(self, movies: Sequence[Movie]) -> tuple[np.ndarray, np.ndarray]:
        """Predicts genre probabilities.

        Returns:
          Probabilities <float32>[movies, genres], averaged over the folds' models; and whether the
          movie has a modality of one of the encoders, <bool>[movies]. Without one, probabilities
          are zeros.
        """
        read = {name: encoder.model_inputs(movies) for name, encoder in self.encoders.items()}
        present = np.stack([available for _, available in read.values()], axis=1)
        examples = JointExamples({name: parts for name, (parts, _) in read.items()}, present)
        some = present.any(axis=1)
        return mean_probabilities(self.apply, self.params, examples, some, self._num_genres), some


@dataclasses.dataclass(frozen=True)
class JointExamples:
    """Makes batches for several encoders.

    A batch has a dictionary of arrays for each encoder, under its name, and `present`
    <float32>[batch, encoders], 1 where the movie has the encoder's modality, otherwise 0.

    Attributes:
      parts: the examples of each encoder, by its name.
      present: whether a movie has the modality of an encoder, <bool>[movies, encoders].
    """

    parts: Mapping[str, Callable[[np.ndarray], dict[str, np.ndarray]]]
    present: np.ndarray

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None) -> dict:
        batch = indices if batch is None else batch
        arrays = {"present": self.present[indices].astype(np.float32)}
        for (name, examples), stand_in, present in zip(
            self.parts.items(), self._stand_ins, self.present.T
        ):
            own, of_all = (np.where(present[rows], rows, stand_in) for rows in (indices, batch))
            arrays[name] = examples(own, of_all)
        return arrays

    @functools.cached_property
    def _stand_ins(self) -> np.ndarray:
        """For each encoder, a movie with its modality, used in place of movies without it."""
        return self.present.argmax(axis=0)

    @property
    def lengths(self) -> np.ndarray | None:
        """Lengths of the plots, by which `Batches` groups movies; None without a plot encoder."""
        lengths = (getattr(examples, "lengths", None) for examples in self.parts.values())
        return next((of_movies for of_movies in lengths if of_movies is not None), None)


def _apply(applies: Mapping[str, ApplyFn], fuse: ApplyFn, frequencies: np.ndarray) -> ApplyFn:
    """Makes the forward pass of the whole network.

    Args:
      applies: forward pass of each encoder, by its name.
      fuse: forward pass of late fusion.
      frequencies: share of the training movies that have each genre, <float32>[genres].

    Returns:
      A forward pass. Its parameters are a dictionary of the encoders' parameters, by name, and of
      late fusion's, under `fusion`.
    """

    def apply(params, batch, key):
        *keys, fusion_key = (
            [None] * (len(applies) + 1) if key is None else jax.random.split(key, len(applies) + 1)
        )
        probabilities = [
            jax.nn.sigmoid(encode(params[name], batch[name], encoder_key))
            for (name, encode), encoder_key in zip(applies.items(), keys)
        ]
        present = batch["present"]
        known = jnp.where(present[..., None] > 0, jnp.stack(probabilities, axis=1), frequencies)
        inputs = {"probabilities": known, "present": present}
        return fuse(params[fusion.FUSION], inputs, fusion_key)

    options = {}
    for encode in applies.values():
        options |= encode.compiler_options or {}
    return ApplyFn(apply, options or None)
