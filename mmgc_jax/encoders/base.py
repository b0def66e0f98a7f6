"""What is trained, for movies that are new."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import Movie, clean
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import inference, loop

MODALITIES = ("plot", "poster")
# What each encoder looks at.
MODALITY = {
    "plot": "plot",
    "plot_bag_of_words": "plot",
    "plot_transformer": "plot",
    "poster": "poster",
    "poster_grey": "poster",
}

_MOVIES_IN_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A trained encoder: genre probabilities of movies, averaged over the models of all folds.

    Attributes:
      read: movies -> examples, and which movies have what the encoder looks at, <bool>[movies].
      apply: the model.
      params: of each fold.
      frozen: batch -> the arrays that `apply` takes, the same for all folds; None if these are the
        batch's own.
    """

    read: Callable[[Sequence[Movie]], tuple[Callable, np.ndarray]]
    apply: loop.ApplyFn
    params: Sequence[Any]
    frozen: Callable[[dict], dict[str, jax.Array]] | None = None

    def __call__(self, movies: Sequence[Movie], num_genres: int) -> tuple[np.ndarray, np.ndarray]:
        """Predicts.

        Returns:
          Probabilities <float32>[movies, num_genres], zeros where there is nothing to look at, and
          which movies have it, <bool>[movies].
        """
        examples, present = self.inputs(movies)
        return average(self.apply, self.params, examples, present, num_genres), present

    def inputs(self, movies: Sequence[Movie]) -> tuple[Callable, np.ndarray]:
        """What `apply` takes, and which movies have what it looks at, <bool>[movies]."""
        examples, present = self.read(movies)
        if self.frozen is not None and present.any():
            examples = _run_frozen(self.frozen, examples, present)
        return examples, present


def average(
    apply: loop.ApplyFn, params: Sequence[Any], examples, present: np.ndarray, num_genres: int
) -> np.ndarray:
    """The mean of what several models say, <float32>[movies, num_genres].

    Args:
      apply: the model.
      params: of each.
      examples: of all movies.
      present: <bool>[movies]; the rows of the others are zeros.
      num_genres: number of columns.
    """
    scores = np.zeros((len(present), num_genres), np.float32)
    rows = np.flatnonzero(present)
    if len(rows):
        batches = pipeline.Batches(examples, scores, rows, _batch_size())
        for of_one in params:
            scores[rows] += inference.probabilities(apply, of_one, batches)[rows] / len(params)
    return scores


def plots_of(movies: Sequence[Movie]) -> tuple[list[str], np.ndarray]:
    """The plots of movies, empty where there is none, and which have one, <bool>[movies]."""
    plots = [clean(movie.plot or "") for movie in movies]
    return plots, np.array([bool(plot.strip()) for plot in plots])


def load_params(workdir: Path, names: Sequence[str]) -> list[Any]:
    """The best parameters of several trainings.

    Raises:
      InputError: if one has none, or a value of them is not finite.
    """
    params = [loop.restore_best(loop.Run(name, workdir, seed=0)) for name in names]
    for name, of_one in zip(names, params):
        if not loop.is_finite(of_one):
            raise InputError(f"{workdir}: the parameters of {name} are damaged: not all finite.")
    return params


def _batch_size() -> int:
    """A multiple of the number of devices."""
    return -(-_MOVIES_IN_BATCH // jax.device_count()) * jax.device_count()


def _run_frozen(frozen, examples, present: np.ndarray) -> pipeline.ArrayExamples:
    """What the frozen part makes of the movies that are present."""
    outputs, mesh = {}, parallel.data_mesh()
    batches = pipeline.Batches(
        examples, np.zeros((len(present), 1)), np.flatnonzero(present), _batch_size()
    )
    for batch in pipeline.iterate(batches):
        found, indices = parallel.outputs_of_movies(frozen, batch, mesh)
        for name, array in found.items():
            if name not in outputs:
                outputs[name] = np.zeros((len(present), *array.shape[1:]), array.dtype)
            outputs[name][indices] = array
    return pipeline.ArrayExamples(outputs)
