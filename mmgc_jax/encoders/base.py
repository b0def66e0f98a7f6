"""The contract of an encoder, and what encoders share.

An encoder has a name, such as `poster_grey`: a section of the config, whose field `kind` names the
module that knows how it is trained. Such a module defines what `Kind` lists, and nothing else has
to know of it. It may also define `notes(workdir, name) -> list[str]`: lines above the tables.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
from ml_collections import config_dict

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import Movie, clean
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import inference, loop
from mmgc_jax.training.cross_fit import Recipe
from mmgc_jax.training.run import ApplyFn, Experiment, TrainingRun, fold_names

MODALITIES = ("plot", "poster")

_MOVIES_IN_BATCH = 32


class Kind(Protocol):
    """What the module of a kind of encoder defines.

    Attributes:
      MODALITY: `plot` or `poster`.
    """

    MODALITY: str

    def default_settings(self) -> ml_collections.ConfigDict:
        """Makes the section of a config: every field, commented, and `kind`, the module's name."""

    def title(self, settings: ml_collections.ConfigDict) -> str:
        """The encoder's title in tables and figures."""

    def inputs(self, settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
        """The files and folders that it reads, by the field (dotted) that names them.

        They may be addresses. They are copied to this machine and hashed into `inputs.json`.
        """

    def problems(
        self, settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict
    ) -> list[str]:
        """All mistakes in the settings, a sentence for each that begins with the field's name.

        Called only where fields and types are those of `default_settings`.

        Args:
          settings: the section.
          data: `config.data`.
        """

    def prepare(self, experiment: Experiment, name: str) -> Recipe:
        """Makes ready what training needs, and says how the encoder is trained."""

    def load(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        name: str,
        num_genres: int,
        kernels: Kernels,
    ) -> "Encoder":
        """Reads what training left behind."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A trained encoder: the models of all folds.

    Attributes:
      read: movies -> examples, and whether each movie has what the encoder looks at,
        <bool>[movies].
      apply: the model.
      params: of each fold.
      frozen: optional function, shared by all folds, from a batch to the arrays that `apply` takes.
        If None, it takes the batch itself.
    """

    read: Callable[[Sequence[Movie]], tuple[Callable, np.ndarray]]
    apply: ApplyFn
    params: Sequence[Any]
    frozen: Callable[[dict], dict[str, jax.Array]] | None = None

    def __call__(self, movies: Sequence[Movie], num_genres: int) -> tuple[np.ndarray, np.ndarray]:
        """Predicts.

        Returns:
          Probabilities <float32>[movies, num_genres], averaged over the folds' models, zeros where
          a movie lacks what the encoder looks at; and whether it has that, <bool>[movies].
        """
        examples, present = self.read(movies)
        if present.any():
            examples = self._run_frozen(examples, present)
        return average(self.apply, self.params, examples, present, num_genres), present

    def model_inputs(self, movies: Sequence[Movie]) -> tuple[Callable, np.ndarray]:
        """What `apply` takes, and whether a movie has what it looks at, <bool>[movies]."""
        examples, present = self.read(movies)
        return self._run_frozen(examples, present), present

    def _run_frozen(self, examples: Callable, present: np.ndarray) -> Callable:
        if self.frozen is None:
            return examples
        if present.any():
            return inference.outputs(self.frozen, examples, present, batch_size())
        # Nothing to run, but `apply` takes arrays of these shapes all the same.
        shapes = jax.eval_shape(self.frozen, examples(np.arange(1)))
        return pipeline.ArrayExamples(
            {name: np.zeros((len(present), *s.shape[1:]), s.dtype) for name, s in shapes.items()}
        )


def average(
    apply: ApplyFn, params: Sequence[Any], examples, present: np.ndarray, num_genres: int
) -> np.ndarray:
    """The mean of several models' probabilities, <float32>[movies, num_genres].

    Args:
      apply: the model.
      params: of each.
      examples: of all movies.
      present: <bool>[movies]; the rows of the others are zeros.
      num_genres: number of columns.
    """
    probabilities = np.zeros((len(present), num_genres), np.float32)
    rows = np.flatnonzero(present)
    if len(rows):
        batches = pipeline.Batches(examples, probabilities, rows, batch_size())
        for of_one in params:
            found = inference.probabilities(apply, of_one, batches)
            probabilities[rows] += found[rows] / len(params)
    return probabilities


def batch_size() -> int:
    """The batch size of inference, a multiple of the number of devices."""
    return -(-_MOVIES_IN_BATCH // jax.device_count()) * jax.device_count()


def plots_of(movies: Sequence[Movie]) -> tuple[list[str], np.ndarray]:
    """The plots of movies, empty where there is none, and whether there is one, <bool>[movies]."""
    plots = [clean(movie.plot or "") for movie in movies]
    return plots, np.array([bool(plot.strip()) for plot in plots])


def load_params(
    config: ml_collections.ConfigDict, workdir: Path, name: str, phase: str = ""
) -> list[Any]:
    """Reads the best parameters of each fold.

    Args:
      config: of the experiment.
      workdir: of the experiment.
      name: of the encoder or fusion.
      phase: name of the phase of training that ended it, such as `head`; empty for the only one.

    Raises:
      InputError: if a fold has none, or a value of them is not finite.
    """
    names = [f"{fold}/{phase}" if phase else fold for fold in fold_names(config, name)]
    params = [loop.restore_best(TrainingRun(name, workdir, seed=0)) for name in names]
    for name, of_one in zip(names, params):
        if not loop.is_finite(of_one):
            raise InputError(f"{workdir}: the parameters of {name} are damaged: not all finite.")
    return params


def training_settings(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    scales: Mapping[str, float] | None = None,
) -> ml_collections.ConfigDict:
    """Makes the settings of a training, with the fields that every training has."""
    training = ml_collections.ConfigDict()
    # Maximum number of epochs; see patience.
    training.epochs = epochs
    # Global batch size; a multiple of the number of devices.
    training.batch_size = batch_size
    # Epochs without a better macro AUC on validation after which training stops.
    training.patience = 3
    # The peak of the schedule.
    training.learning_rate = learning_rate
    # Factors of it for parts of the parameters, by top-level name; 0 freezes a part.
    training.learning_rate_scale = config_dict.ConfigDict(dict(scales or {}))
    # The share of the steps in which the learning rate rises from zero.
    training.warmup = 0.1
    training.weight_decay = 1e-2
    # Gradients are scaled down to this norm.
    training.clip_norm = 1.0
    # In steps.
    training.log_every = 10
    training.checkpoint_every = 200
    return training


def following(section: ml_collections.ConfigDict, **changes) -> ml_collections.ConfigDict:
    """Makes a section whose fields follow those of another until they are set themselves.

    So `--config.poster.weights=FILE` serves the colour encoder and the grey one, whose section is
    `following(config.poster, grey=True)`.

    Args:
      section: of an encoder of the same kind.
      **changes: fields that do not follow, and their values.

    Raises:
      InputError: if the section has no such field.
    """
    if unknown := changes.keys() - section.keys():
        raise InputError(
            f"following: {', '.join(sorted(unknown))} is no field of the section that is followed; "
            f"it has {', '.join(section)}."
        )
    follower = ml_collections.ConfigDict()
    for name, value in section.items():
        if name in changes:
            follower[name] = changes[name]
        elif isinstance(value, ml_collections.ConfigDict):
            follower[name] = following(value)
        else:
            follower[name] = section.get_oneway_ref(name)
    return follower
