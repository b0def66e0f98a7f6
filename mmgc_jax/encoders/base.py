"""Defines what an encoder is: the functions of its module, and the object that predicts.

An *encoder* predicts the genres of a movie from one modality: from its plot or from its poster. It
has a name, such as `poster_grey`, which is also the name of its section in the config. The field
`kind` of this section is the name of a module, such as `poster_vgg16`. Several encoders can have
the same kind and differ in their settings.

The module of a kind configures, trains and loads its encoders; the network is a Flax module in
`mmgc_jax.models`. `Kind` lists the functions that the module defines. To add a kind, add a module
with these functions; nothing else has to be changed.

An experiment calls the functions in this order:

1. `default_settings()` returns a section with all fields; a config calls it and changes some.
2. `inputs(settings)` names the files that the encoder reads, such as pretrained weights, and
   `problems(settings, data)` returns the mistakes in the settings. All sections are checked before
   anything is computed.
3. `prepare(experiment, name)` does the work before training, such as building a vocabulary, and
   returns a `Recipe`, with which `mmgc_jax.training.cross_fit` trains one model for each fold.
4. `load(config, workdir, name, num_genres, kernels)` reads the trained models. It returns an
   `Encoder`, which predicts the genres of new movies.

The files of an encoder in the working directory:

    encoders/<name>/                        files for prediction beside parameters: a vocabulary
    checkpoints/<name>/frozen/              parameters of frozen layers, shared by all folds
    checkpoints/<name>/fold_<fold>/best/    best parameters of the model of a fold
    checkpoints/<name>/fold_<fold>/latest/  state of its training, to resume from
    predictions/<name>.npz                  probabilities of all movies of the experiment

A phase of training with a name, such as `head`, has its own `fold_<fold>/head/best/` and `latest/`.
Results that other experiments can reuse, such as activations of frozen layers, are kept in the
folder `cache/` of `config.data.directory`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import ml_collections
import numpy as np
from ml_collections import config_dict

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import Movie
from mmgc_jax.data.text import clean_plots
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime import tensors
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import inference, loop
from mmgc_jax.training.cross_fit import Recipe
from mmgc_jax.training.run import ApplyFn, Experiment, TrainingRun, fold_names

MODALITIES = ("plot", "poster")

_BATCH_SIZE = 32


class Kind(Protocol):
    """The functions and attributes that the module of a kind of encoder has to define.

    A module can also define three functions:

    - `portable(config, workdir, name) -> Portable` makes `mmgc export` possible.
    - `notes(workdir, name) -> list[str]` returns sentences to print below the tables of results.
    - `training_seconds(settings, data, movies, folds) -> float` estimates how long the models of
      all folds train on two cores of a CPU if none stops early. `movies` is the number of training
      movies that have the modality.

    Attributes:
      MODALITY: what the encoder predicts from, `plot` or `poster`.
    """

    MODALITY: str

    def default_settings(self) -> ml_collections.ConfigDict:
        """Makes the config section of an encoder, with default values.

        A comment directly above each field's assignment describes it; `--help_config` shows it.

        Returns:
          All fields of the section, including `kind`, the name of the module.
        """

    def title(self, settings: ml_collections.ConfigDict) -> str:
        """Returns the title of the encoder in tables and figures, such as `Plot (LSTM)`."""

    def inputs(self, settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
        """Returns the files and folders that the encoder reads, such as pretrained weights.

        They may have addresses, such as `gs://bucket/weights.npz`: an experiment first copies them
        to this machine. Their hashes are written into `inputs.json`.

        Returns:
          A path or address, or several, by the dotted name of the field that it comes from, such
          as `vectors.file`.
        """

    def problems(
        self, settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict
    ) -> list[str]:
        """Finds all mistakes in the settings.

        It is called only if the section has the fields and types of `default_settings`.

        Args:
          settings: the config section of the encoder.
          data: the section `data` of the config.

        Returns:
          A sentence for each mistake, which begins with the field's name; see `checks.Checker`.
        """

    def prepare(self, experiment: Experiment, name: str) -> Recipe:
        """Does the work before training, and returns the training procedure.

        Args:
          experiment: the config, the movies and the folders.
          name: name of the encoder.
        """

    def load(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        name: str,
        num_genres: int,
        kernels: Kernels,
    ) -> "Encoder":
        """Loads a trained encoder.

        Args:
          config: the config of the experiment.
          workdir: the working directory of the experiment.
          name: name of the encoder.
          num_genres: number of genres of the experiment.
          kernels: which implementation of each operation to use, such as convolution.

        Raises:
          InputError: if a file is missing or damaged.
        """


class Portable(NamedTuple):
    """How an exported folder reads movies for an encoder, without this package.

    Attributes:
      open: a function of a module that imports Python's, NumPy's and JAX's modules alone, and other
        libraries only where it cannot do without: the file of the module is copied into the folder.
        `open(folder, settings)` returns a function from the plots or posters of some movies, None
        for missing ones, to the arrays of a batch, and to which movies have one, <bool>[movies].
        `folder` has the encoder's files.
      settings: argument of `open`; it is written as JSON.
      shapes: shape and dtype of each array, by its name, such as `("batch, 256", "int32")`. Sizes
        that are names, of which `batch` is the first, differ from batch to batch.
      files: files in the encoder's folder that `open` and `Kind.load` read.
      packages: names of the packages that `open` needs beside JAX and NumPy.
      licences: what pretrained weights are part of the encoder, and their licences; for the model
        card.
    """

    open: Callable[[Path, Mapping[str, Any]], Callable]
    settings: Mapping[str, Any]
    shapes: Mapping[str, tuple[str, str]]
    files: Sequence[str] = ()
    packages: Sequence[str] = ()
    licences: Sequence[str] = ()


class KnownWords(NamedTuple):
    """How many words of a plot an encoder knows.

    Attributes:
      known: number of words that are in the vocabulary.
      total: number of all words of the plot.
      vocabulary: size of the vocabulary, in words.
    """

    known: int
    total: int
    vocabulary: int


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A trained encoder, which averages the models of all folds.

    Attributes:
      read: function from movies to their examples, which make the batches, and to whether each
        movie has the encoder's modality, <bool>[movies].
      apply: forward pass of the model.
      params: the parameters of each fold's model.
      frozen: the frozen layers below the model, which all folds share: a function from a batch to
        the arrays that `apply` takes. None if there are none, and `apply` takes the batch itself.
      known_words: counts the words of a plot that the encoder knows; None if it has no vocabulary
        of words.
    """

    read: Callable[[Sequence[Movie]], tuple[Callable, np.ndarray]]
    apply: ApplyFn
    params: Sequence[Any]
    frozen: Callable[[dict], dict[str, jax.Array]] | None = None
    known_words: Callable[[str], KnownWords] | None = None

    def __call__(self, movies: Sequence[Movie], num_genres: int) -> tuple[np.ndarray, np.ndarray]:
        """Predicts genre probabilities.

        Args:
          movies: movies with or without the encoder's modality.
          num_genres: number of genres of the experiment.

        Returns:
          Probabilities <float32>[movies, num_genres], averaged over the folds' models, with zeros
          for movies without the modality; and whether the movie has it, <bool>[movies].
        """
        examples, present = self.read(movies)
        if present.any():
            examples = self._run_frozen(examples, present)
        return mean_probabilities(self.apply, self.params, examples, present, num_genres), present

    def model_inputs(self, movies: Sequence[Movie]) -> tuple[Callable, np.ndarray]:
        """Computes the arrays that `apply` takes, for joint training and its predictions.

        Returns:
          A function from movie indices to the arrays of a batch, after the frozen layers; and
          whether the movie has the encoder's modality, <bool>[movies].
        """
        examples, present = self.read(movies)
        return self._run_frozen(examples, present), present

    def _run_frozen(self, examples: Callable, present: np.ndarray) -> Callable:
        if self.frozen is None:
            return examples
        if present.any():
            return inference.outputs(self.frozen, examples, present, batch_size())
        # No movie has the modality, but `apply` still needs arrays of the right shapes.
        shapes = jax.eval_shape(self.frozen, examples(np.arange(1)))
        return pipeline.ArrayExamples(
            {name: np.zeros((len(present), *s.shape[1:]), s.dtype) for name, s in shapes.items()}
        )


def mean_probabilities(
    apply: ApplyFn, params: Sequence[Any], examples, present: np.ndarray, num_genres: int
) -> np.ndarray:
    """Averages the probabilities of several models with the same forward pass.

    Args:
      apply: forward pass.
      params: the parameters of each model.
      examples: function from movie indices to the arrays of a batch.
      present: which movies to predict, <bool>[movies].
      num_genres: number of genres.

    Returns:
      <float32>[movies, num_genres], in [0, 1]; zeros for movies that are not present.
    """
    probabilities = np.zeros((len(present), num_genres), np.float32)
    rows = np.flatnonzero(present)
    if len(rows):
        batches = pipeline.Batches(examples, probabilities, rows, batch_size())
        for fold_params in params:
            found = inference.probabilities(apply, fold_params, batches)
            probabilities[rows] += found[rows] / len(params)
    return probabilities


def batch_size() -> int:
    """Returns the batch size of inference, at least 32 and a multiple of the number of devices."""
    return -(-_BATCH_SIZE // jax.device_count()) * jax.device_count()


def plots_of(movies: Sequence[Movie]) -> tuple[list[str], np.ndarray]:
    """Returns the cleaned plots of movies, and whether each movie has one, <bool>[movies].

    A missing plot becomes an empty text. A text without words is no plot.
    """
    return clean_plots(movie.plot for movie in movies)


def load_params(
    config: ml_collections.ConfigDict, workdir: Path, name: str, phase: str = ""
) -> list[Any]:
    """Reads the best parameters of the model of each fold.

    Args:
      config: the config of the experiment.
      workdir: the working directory of the experiment.
      name: name of the encoder or fusion.
      phase: name of the last phase of training, such as `head`; empty if this phase has no name.

    Returns:
      A tree of arrays for each fold.

    Raises:
      InputError: if a fold has no trained parameters, or if they are not finite.
    """
    names = fold_names(config, name)
    if (exported := workdir / tensors.FILE).is_file():
        params = [tensors.load(exported, name) for name in names]
    else:
        names = [f"{name}/{phase}" if phase else name for name in names]
        params = [loop.restore_best(TrainingRun(name, workdir, seed=0)) for name in names]
    for name, fold_params in zip(names, params):
        # With NumPy, which needs no compilation for each shape.
        leaves = jax.device_get(jax.tree.leaves(fold_params))
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise InputError(f"{workdir}: the parameters of {name} are damaged: not all finite.")
    return params


def training_settings(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    scales: Mapping[str, float] | None = None,
) -> ml_collections.ConfigDict:
    """Makes a config section with the settings of one training.

    Args:
      epochs: value of the field `epochs`.
      batch_size: value of the field `batch_size`.
      learning_rate: value of the field `learning_rate`.
      scales: value of the field `learning_rate_scale`; None for no factors.
    """
    training = ml_collections.ConfigDict()
    # Maximum number of epochs; training can stop earlier, see patience.
    training.epochs = epochs
    # Number of movies in a batch, over all devices; a multiple of the number of devices.
    training.batch_size = batch_size
    # Early stopping: number of epochs without a better macro AUC on the validation movies after
    # which training stops.
    training.patience = 3
    # Peak learning rate of AdamW, reached after the warm-up; it then decays to 0 by a cosine.
    training.learning_rate = learning_rate
    # Factors of the learning rate for parts of the model, by the top-level name of their
    # parameters, such as vgg16 or words; 0 freezes a part, and parts not listed have 1.
    training.learning_rate_scale = config_dict.ConfigDict(dict(scales or {}))
    # Share of the steps in which the learning rate rises linearly from 0; at least 0, below 1.
    training.warmup = 0.1
    # Weight decay of AdamW, for weight matrices only; at least 0.
    training.weight_decay = 1e-2
    # Gradients with a larger global norm are scaled down to this norm; above 0.
    training.clip_norm = 1.0
    # Number of steps between two lines of metrics.jsonl.
    training.log_every = 10
    # Number of steps between two checkpoints; the end of an epoch can add one.
    training.checkpoint_every = 200
    return training


def following(section: ml_collections.ConfigDict, **changes) -> ml_collections.ConfigDict:
    """Makes a config section whose fields take their values from another section.

    A field keeps following the other section until it is set itself. With
    `config.poster_grey = following(config.poster, grey=True)`, the flag
    `--config.poster.weights=FILE` sets the weights of both encoders.

    Args:
      section: the section to follow, of an encoder of the same kind.
      **changes: values of the fields that differ and do not follow.

    Returns:
      The new section.

    Raises:
      InputError: if the section has no field of such a name.
    """
    if unknown := changes.keys() - section.keys():
        raise InputError(
            f"following: the section has no field {', '.join(sorted(unknown))}; it has "
            f"{', '.join(section)}."
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
