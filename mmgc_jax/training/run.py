"""What a training needs to know: of itself, and of the experiment that it is part of."""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.files import Path

# apply(params, batch, key) -> logits <float32>[batch, genres]; key is None in evaluation.
ApplyFn = Callable[[Any, dict[str, jax.Array], jax.Array | None], jax.Array]


def make_apply(
    model, inputs: Sequence[str], augment: Callable[[jax.Array, dict], dict] | None = None
) -> ApplyFn:
    """Makes the function from parameters and a batch to logits that training and inference call.

    Args:
      model: a Flax module that returns (logits, intermediates).
      inputs: the names of the batch's arrays that the module takes, in order.
      augment: (key, training batch) -> augmented batch; None leaves it as it is.
    """

    def apply(params, batch, key):
        if key is None:
            return model.apply({"params": params}, *(batch[name] for name in inputs))[0]
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            batch = augment(augment_key, batch)
        arguments = (batch[name] for name in inputs)
        variables = {"params": params}
        return model.apply(variables, *arguments, train=True, rngs={"dropout": dropout_key})[0]

    return apply


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """One training among those of an experiment, as it appears in files and logs.

    Attributes:
      name: such as `plot/fold_1`, or `poster/fold_1/head`.
      workdir: of the experiment; checkpoints go to `checkpoints/<name>` in it.
      seed: of shuffling, dropout and augmentation.
      field: the config's field with the settings of this training, for errors.
      workers: processes that prepare batches, for each process that trains.
      split_parameters: over the devices, optimizer state too; see `parallel.shardings`.
      movie: index of a movie in the corpus -> its id, for errors.
      tensorboard: whether TensorBoard's event files are written too.
    """

    name: str
    workdir: Path
    seed: int
    field: str = "training"
    workers: int = 0
    split_parameters: bool = False
    movie: Callable[[int], str] = str
    tensorboard: bool = False

    @property
    def checkpoints(self) -> Path:
        return self.workdir / "checkpoints" / self.name


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What every training of an experiment shares.

    Attributes:
      config: of the experiment; the section `config[name]` belongs to the encoder `name`.
      workdir: gets what the experiment leaves behind.
      corpus: the movies.
      folds: of each movie of the corpus, <int64>[movies]; -1 for those that do not train.
      cache: folder of this machine for what other experiments on the same movies can use too.
      kernels: the implementations of operations that suit the devices.
    """

    config: ml_collections.ConfigDict
    workdir: Path
    corpus: pipeline.Corpus
    folds: np.ndarray
    cache: pathlib.Path
    kernels: Kernels = Kernels()  # noqa: RUF009 (frozen, too)

    @property
    def frequencies(self) -> np.ndarray:
        """The share of training movies that have each genre, <float32>[genres]."""
        return self.corpus.labels[self.corpus.split["train"]].mean(axis=0)

    @property
    def initial_bias(self) -> np.ndarray:
        """The genres' log-odds in the training part, <float32>[genres].

        An output layer that starts with this bias knows from the first step how rare each genre is
        (arXiv 1708.02002, section 3.3).
        """
        frequencies = np.clip(self.frequencies, 1e-3, 1 - 1e-3)
        return np.log(frequencies / (1 - frequencies))

    def seed_of(self, name: str) -> int:
        """The seed of a training: a hash of its name and `config.seed`."""
        return zlib.crc32(f"{self.config.seed}/{name}".encode()) >> 1

    def training_run(self, name: str, field: str = "training") -> TrainingRun:
        """The training of a name; its settings stand in `config.<field>`."""
        return TrainingRun(
            name,
            self.workdir,
            self.seed_of(name),
            field,
            self.config.data.workers,
            self.config.split_parameters,
            lambda index: self.corpus.ids[index],
            self.config.tensorboard,
        )


def fold_names(config: ml_collections.ConfigDict, name: str) -> list[str]:
    """The names of the trainings of an encoder or fusion, one for each fold: `plot/fold_0`, ..."""
    return [f"{name}/fold_{fold}" for fold in range(config.folds)]


def encoder_folder(workdir: Path, name: str) -> Path:
    """Where an encoder keeps what it needs beside its parameters, such as a vocabulary."""
    return workdir / "encoders" / name
