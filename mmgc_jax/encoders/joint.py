"""Joint fine-tuning: the encoders and late fusion as one network, trained together."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import fusion
from mmgc_jax.encoders.base import average, load_params
from mmgc_jax.encoders.registry import ENCODERS
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import loop
from mmgc_jax.training.cross_fit import Experiment, Recipe, cross_fit, fold_names


def fit(
    experiment: Experiment,
    stage: str,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Trains on from the encoders of each fold and a late fusion that only adds them up.

    The arguments are those of `fusion.fit`; the encoders are trained.

    Returns:
      As `fusion.fit`.
    """
    config = experiment.config
    settings, names = config.fusion.joint_training, config.fusion.encoders
    recipes = {name: ENCODERS[name].prepare(experiment, name) for name in names}
    available = np.stack([present[name] for name in names], axis=1)
    fuse, fresh = fusion.prepare(experiment, stage)
    applies = {name: recipe.apply for name, recipe in recipes.items()}
    apply = _apply(applies, fuse, experiment.frequencies)
    examples = JointExamples({n: recipe.examples for n, recipe in recipes.items()}, available)
    params = {
        name: load_params(experiment.workdir, ENCODERS[name].trainings(config, name))
        for name in names
    }

    def fit_fold(fit, name, indices):
        fold = fold_names(config, stage).index(name)
        start = {encoder: of_folds[fold] for encoder, of_folds in params.items()}
        start["fusion"] = fusion.calibrated(fresh, experiment, probabilities, present, indices)
        return fit(name, indices, examples, apply, start, settings)

    recipe = Recipe(examples, apply, fit_fold, settings.batch_size)
    without = {
        name: dataclasses.replace(examples, present=left)
        for name, left in fusion.one_missing(config, available).items()
    }
    return cross_fit(experiment, stage, available.any(axis=1), recipe, without)


class JointFuser:
    """The trained network, for movies that are new."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path, frequencies):
        """Reads what `fit` left behind of the stage `fusion`."""
        names = config.fusion.encoders
        num_genres = len(frequencies)
        self._encoders = {n: ENCODERS[n].load(config, workdir, n, num_genres) for n in names}
        applies = {name: encoder.apply for name, encoder in self._encoders.items()}
        self._apply = _apply(applies, fusion.apply_of(config, "fusion", num_genres), frequencies)
        self._params = load_params(workdir, fold_names(config, "fusion"))
        self._num_genres = num_genres

    def __call__(self, movies: Sequence[Movie]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities <float32>[movies, genres], and which movies have anything to look at."""
        read = {name: encoder.inputs(movies) for name, encoder in self._encoders.items()}
        present = np.stack([there for _, there in read.values()], axis=1)
        examples = JointExamples({name: parts for name, (parts, _) in read.items()}, present)
        some = present.any(axis=1)
        return average(self._apply, self._params, examples, some, self._num_genres), some


@dataclasses.dataclass(frozen=True)
class JointExamples:
    """Batches of what each encoder takes, by its name, and `present` <float32>[batch, encoders].

    Attributes:
      parts: of each encoder, its examples.
      present: which movies have what it looks at, <bool>[movies, encoders].
    """

    parts: Mapping[str, Callable[[np.ndarray], dict[str, np.ndarray]]]
    present: np.ndarray

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None) -> dict:
        batch = indices if batch is None else batch
        arrays = {"present": self.present[indices].astype(np.float32)}
        for (name, examples), stand_in, there in zip(
            self.parts.items(), self._stand_ins, self.present.T
        ):
            own, of_all = (np.where(there[rows], rows, stand_in) for rows in (indices, batch))
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


def _apply(
    applies: Mapping[str, loop.ApplyFn], fuse: loop.ApplyFn, frequencies: np.ndarray
) -> loop.ApplyFn:
    """The whole network; its parameters are those of the encoders, by name, and `fusion`."""

    def apply(params, batch, key):
        *keys, fusion_key = (
            [None] * (len(applies) + 1) if key is None else jax.random.split(key, len(applies) + 1)
        )
        said = [
            jax.nn.sigmoid(encode(params[name], batch[name], encoder_key))
            for (name, encode), encoder_key in zip(applies.items(), keys)
        ]
        there = batch["present"]
        known = jnp.where(there[..., None] > 0, jnp.stack(said, axis=1), frequencies)
        return fuse(params["fusion"], {"probabilities": known, "present": there}, fusion_key)

    return apply
