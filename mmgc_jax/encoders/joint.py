"""Joint fine-tuning: the encoders and late fusion as one network, trained together."""

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
from mmgc_jax.training.run import ApplyFn, Experiment, fold_names


def fit(
    experiment: Experiment,
    name: str,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Fine-tunes each fold's encoders together with a late fusion that starts from their evidence.

    The arguments are those of `fusion.fit`; the encoders are trained.

    Returns:
      As `fusion.fit`.
    """
    config, frequencies = experiment.config, experiment.frequencies
    encoders = config.fusion.encoders
    recipes = {e: registry.of(config, e).prepare(experiment, e) for e in encoders}
    trained = _load(config, experiment.workdir, len(frequencies), experiment.kernels)
    available = np.stack([present[encoder] for encoder in encoders], axis=1)
    fuse, initial = fusion.prepare(experiment, name)
    apply = _apply({e: recipe.apply for e, recipe in recipes.items()}, fuse, frequencies)
    examples = JointExamples({e: recipe.examples for e, recipe in recipes.items()}, available)

    def fit_fold(fit, fold_name, indices):
        fold = fold_names(config, name).index(fold_name)
        start = {encoder: trained[encoder].params[fold] for encoder in encoders}
        start[fusion.FUSION] = fusion.calibrated(
            initial, experiment, probabilities, present, indices
        )
        return fit(fold_name, indices, examples, apply, start, "joint_training")

    recipe = Recipe(examples, apply, fit_fold, config.fusion.joint_training.batch_size)
    without = {
        variant: dataclasses.replace(examples, present=left)
        for variant, left in fusion.one_missing(config, available).items()
    }
    return cross_fit(experiment, name, fusion.FUSION, available.any(axis=1), recipe, without)


def _load(
    config: ml_collections.ConfigDict, workdir: Path, num_genres: int, kernels: Kernels
) -> dict[str, Encoder]:
    return {
        name: registry.of(config, name).load(config, workdir, name, num_genres, kernels)
        for name in config.fusion.encoders
    }


class JointFuser:
    """Inference with the trained network."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        frequencies: np.ndarray,
        kernels: Kernels,
    ):
        """Reads what `fit` left behind of the fusion that predicts."""
        self._num_genres = len(frequencies)
        self._encoders = _load(config, workdir, self._num_genres, kernels)
        applies = {name: encoder.apply for name, encoder in self._encoders.items()}
        fuse = fusion.apply_of(config, fusion.FUSION, self._num_genres)
        self._apply = _apply(applies, fuse, frequencies)
        self._params = load_params(config, workdir, fusion.FUSION)

    def __call__(self, movies: Sequence[Movie]) -> tuple[np.ndarray, np.ndarray]:
        """Predicts.

        Returns:
          Probabilities <float32>[movies, genres], and whether a movie has anything to look at,
          <bool>[movies].
        """
        read = {name: encoder.model_inputs(movies) for name, encoder in self._encoders.items()}
        present = np.stack([available for _, available in read.values()], axis=1)
        examples = JointExamples({name: parts for name, (parts, _) in read.items()}, present)
        some = present.any(axis=1)
        return mean_probabilities(self._apply, self._params, examples, some, self._num_genres), some


@dataclasses.dataclass(frozen=True)
class JointExamples:
    """Batches of what each encoder takes, by its name, and `present` <float32>[batch, encoders].

    Attributes:
      parts: of each encoder, its examples.
      present: whether a movie has what an encoder looks at, <bool>[movies, encoders].
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
        """For each encoder a movie to read in place of those that lack what it looks at."""
        return self.present.argmax(axis=0)

    @property
    def lengths(self) -> np.ndarray | None:
        """Of the plots, so that those of similar length share a batch; None if there are none."""
        lengths = (getattr(examples, "lengths", None) for examples in self.parts.values())
        return next((of_movies for of_movies in lengths if of_movies is not None), None)


def _apply(applies: Mapping[str, ApplyFn], fuse: ApplyFn, frequencies: np.ndarray) -> ApplyFn:
    """The whole network; its parameters are those of the encoders, by name, and `fusion`."""

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

    return apply
