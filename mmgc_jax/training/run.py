"""Describes an experiment and its training runs.

An *experiment* trains all encoders and fusions of a config and writes one working directory. A
*training run* trains one model: of one encoder or fusion, for one fold, in one phase of training,
such as `poster/fold_1/head`. An experiment therefore has many training runs.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.files import Path


@dataclasses.dataclass(frozen=True, eq=False)
class ApplyFn:
    """The forward pass of a model: `apply(params, batch, key)` computes logits.

    `batch` has arrays by name. `key` seeds augmentation and dropout; None turns both off, for
    inference. The logits are <float32>[batch, genres].

    Attributes:
      function: the function to call.
      compiler_options: options of `jax.jit` for programs that contain it; see
        `Kernels.compiler_options`.
    """

    function: Callable[[Any, dict[str, jax.Array], jax.Array | None], jax.Array]
    compiler_options: Mapping[str, bool] | None = None

    def __call__(self, params: Any, batch: dict, key: jax.Array | None) -> jax.Array:
        return self.function(params, batch, key)


def make_apply(
    model,
    input_names: Sequence[str],
    augment: Callable[[jax.Array, dict], dict] | None = None,
    compiler_options: Mapping[str, bool] | None = None,
) -> ApplyFn:
    """Makes the forward pass that training and inference share.

    Args:
      model: a Flax module that returns `(logits, intermediates)`.
      input_names: names of the arrays of a batch to pass to the module, in the order of its
        arguments.
      augment: data augmentation for training, `augment(key, batch) -> batch`; None for none.
      compiler_options: see `ApplyFn`.
    """

    def apply(params, batch, key):
        if key is None:
            return model.apply({"params": params}, *(batch[name] for name in input_names))[0]
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            batch = augment(augment_key, batch)
        arguments = (batch[name] for name in input_names)
        variables = {"params": params}
        return model.apply(variables, *arguments, train=True, rngs={"dropout": dropout_key})[0]

    return ApplyFn(apply, compiler_options)


def make_embed(
    model, input_names: Sequence[str], compiler_options: Mapping[str, bool] | None = None
) -> Callable[[Any, dict], jax.Array]:
    """Makes the function `Encoder.embed` of a model with the intermediate `embedding`."""

    def embed(params, batch):
        inputs = (batch[name] for name in input_names)
        return model.apply({"params": params}, *inputs)[1]["embedding"]

    return jax.jit(embed, compiler_options=compiler_options)


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """The training of one model: its name in files and logs, its seed and its options.

    Attributes:
      name: such as `plot/fold_1`, or `poster/fold_1/head` for a phase.
      workdir: working directory of the experiment.
      seed: seed of shuffling, dropout and augmentation.
      field: the config field with the settings of this training, such as `plot.training`; error
        messages name it.
      workers: number of processes that prepare batches, for each training process.
      split_parameters: whether to shard parameters and optimizer state over the devices; see
        `parallel.shardings`.
      movie: function from a movie's index in the corpus to its id, for error messages.
      tensorboard: whether to write event files for TensorBoard as well.
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
        """The folder of the checkpoints: `trained/` and `latest/`, in `checkpoints/<name>/`."""
        return self.workdir / "checkpoints" / self.name


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The config, data and folders that all training runs of an experiment share.

    Attributes:
      config: the whole config; `config[name]` is the section of the encoder called `name`.
      workdir: the working directory, for all results.
      corpus: the movies.
      folds: the fold of each training movie, <int64>[movies of the corpus], from 0 to
        `config.folds - 1`; -1 for validation and test movies.
      cache: local folder for results that other experiments on the same movies can reuse, such as
        activations of frozen layers.
      kernels: which implementation of each operation to use, such as convolution, on these devices.
    """

    config: ml_collections.ConfigDict
    workdir: Path
    corpus: pipeline.Corpus
    folds: np.ndarray
    cache: pathlib.Path
    kernels: Kernels = Kernels()  # noqa: RUF009 (frozen, too)

    @property
    def frequencies(self) -> np.ndarray:
        """The share of the training movies that have each genre, <float32>[genres], in [0, 1]."""
        return self.corpus.labels[self.corpus.split["train"]].mean(axis=0)

    @property
    def initial_bias(self) -> np.ndarray:
        """Log-odds of each genre among the training movies, <float32>[genres].

        An output layer initialised with this bias predicts the genres' frequencies at the first
        step, which makes early training stable (arXiv 1708.02002, section 3.3).
        """
        frequencies = np.clip(self.frequencies, 1e-3, 1 - 1e-3)
        return np.log(frequencies / (1 - frequencies))

    def seed_of(self, name: str) -> int:
        """Returns the seed of a training run: a hash of its name and of `config.seed`."""
        return zlib.crc32(f"{self.config.seed}/{name}".encode()) >> 1

    def training_run(self, name: str, field: str = "training") -> TrainingRun:
        """Describes the training run of a name, with the settings in `config.<field>`."""
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


def names_of_models(config: ml_collections.ConfigDict, name: str) -> list[list[str]]:
    """Returns the names of the training runs of an encoder or fusion, a list for each fold.

    A fold's first model is called `plot/fold_0`, further ones `plot/fold_0_model_1`, and so on; see
    the field `models_per_fold` of encoders that can have several.
    """
    section = config.get(name, {})
    numbers = range(section.get("models_per_fold", 1))
    return [
        [f"{name}/fold_{fold}{f'_model_{n}' if n else ''}" for n in numbers]
        for fold in range(config.folds)
    ]


def encoder_folder(workdir: Path, name: str) -> Path:
    """Returns the folder of an encoder's files other than parameters, such as a vocabulary."""
    return workdir / "encoders" / name
