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
    checkpoints/<name>/fold_<fold>/trained/ parameters of the model of a fold
    checkpoints/<name>/fold_<fold>/latest/  state of its training, to resume from
    predictions/<name>.npz                  probabilities of all movies of the experiment

A phase of training with a name, such as `head`, has `fold_<fold>/head/trained/` and `latest/`.
Further models of a fold have folders `fold_<fold>_model_1` and so on.
Results that other experiments can reuse, such as activations of frozen layers, are kept in the
folder `cache/` of `config.data.directory`.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import ml_collections
import numpy as np
from ml_collections import config_dict

from mmgc_jax.data import pipeline, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.data.text import clean_plots
from mmgc_jax.encoders.explanations import Span, WordScores
from mmgc_jax.encoders.frozen import Frozen
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime import tensors
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import inference, loop
from mmgc_jax.training.cross_fit import Recipe
from mmgc_jax.training.run import ApplyFn, Experiment, TrainingRun, names_of_models

logger = logging.getLogger(__name__)

MODALITIES = ("plot", "poster")

_LARGEST_BATCH = 32


class Kind(Protocol):
    """The functions and attributes that the module of a kind of encoder has to define.

    A module can also define three functions:

    - `portable(config, workdir, name) -> Portable` makes `mmgc export` possible.
    - `notes(workdir, name) -> list[str]` returns sentences to print below the tables of results.
    - `training_seconds(settings, data, movies, folds) -> float` estimates how long the models of
      all folds train on two cores of a CPU. `movies` is the number of training movies that have the
      modality.

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
      apply: forward pass of the model, from `make_apply`.
      params: the parameters of each model, of all folds.
      frozen: the frozen layers below the model, which all folds share; they make of a batch the
        arrays that `apply` takes. None if there are none, and `apply` takes the batch itself.
      known_words: counts the words of a plot that the encoder knows; None if it has no vocabulary
        of words.
      embed: `embed(params, batch)` computes the input of the model's last layer, <float32>[batch,
        features], of the arrays that `apply` takes; None if the encoder has no such vector.
      word_scores: `word_scores(params, plot, words, genres)` computes the contributions of words,
        `explanations.Span`, to the logits of genres, <int32>[genres]: exact ones, or integrated
        gradients. None if the encoder has neither; occlusion is possible for all encoders.
      exact: whether `word_scores` is exact, and cheap.
      heat_maps: `heat_maps(params, batch, genres, block)` computes Grad-CAM before its ReLU,
        <float32>[batch, genres, rows, columns], of the arrays that `apply` takes. `block` is the
        number of the block of the network whose activations are used, None for the encoder's
        choice. None if the encoder has no such map.
      blocks: the possible numbers of blocks of `heat_maps`.
    """

    read: Callable[[Sequence[Movie]], tuple[Callable, np.ndarray]]
    apply: ApplyFn
    params: Sequence[Any]
    frozen: Frozen | None = None
    known_words: Callable[[str], KnownWords] | None = None
    embed: Callable[[Any, dict], jax.Array] | None = None
    word_scores: Callable[[Any, str, Sequence[Span], np.ndarray], WordScores] | None = None
    exact: bool = False
    heat_maps: Callable[[Any, dict, np.ndarray, int | None], jax.Array] | None = None
    blocks: Sequence[int] = ()

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

    def embeddings(self, movies: Sequence[Movie]) -> np.ndarray:
        """Computes vectors of movies with the first fold's model.

        Returns:
          <float32>[movies, features], scaled to length 1; zeros for movies without the encoder's
          modality.
        """
        examples, present = self.model_inputs(movies)
        if not present.any():
            shape = jax.eval_shape(self.embed, self.params[0], examples(np.arange(1))).shape
            return np.zeros((len(present), shape[1]), np.float32)

        def embed(batch):
            names = ("labels", "indices", "mask")
            inputs = {name: array for name, array in batch.items() if name not in names}
            return {"embedding": self.embed(self.params[0], inputs)}

        outputs = inference.outputs(embed, examples, present, batch_size(present.sum()))
        vectors = np.asarray(outputs.arrays["embedding"], np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

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
            return inference.outputs(self.frozen, examples, present, batch_size(present.sum()))
        # No movie has the modality, but `apply` still needs arrays of the right shapes.
        shapes = self.frozen.shapes(examples(np.arange(1)))
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
    return probabilities_of(apply, params, examples, present, num_genres).mean(axis=0)


def probabilities_of(
    apply: ApplyFn, params: Sequence[Any], examples, present: np.ndarray, num_genres: int
) -> np.ndarray:
    """Predicts with several models; see `mean_probabilities`.

    Returns:
      <float32>[models, movies, num_genres].
    """
    probabilities = np.zeros((len(params), len(present), num_genres), np.float32)
    rows = np.flatnonzero(present)
    if len(rows):
        batches = pipeline.Batches(examples, probabilities[0], rows, batch_size(len(rows)))
        probabilities[:, rows] = inference.probabilities(apply, params, batches)[:, rows]
    return probabilities


def batch_size(movies: int) -> int:
    """Returns the batch size of inference: few movies are not padded to a large batch.

    Args:
      movies: number of movies to predict.

    Returns:
      The number of devices times a power of two: the smallest that has room for the movies, or for
      32 of them.
    """
    size = jax.device_count()
    while size < min(movies, _LARGEST_BATCH):
        size *= 2
    return size


def plots_of(movies: Sequence[Movie]) -> tuple[list[str], np.ndarray]:
    """Returns the cleaned plots of movies, and whether each movie has one, <bool>[movies].

    A missing plot becomes an empty text. A text without words is no plot.
    """
    return clean_plots(movie.plot for movie in movies)


def posters_of(
    movies: Sequence[Movie], height: int, width: int
) -> tuple[pipeline.ArrayExamples, np.ndarray]:
    """Decodes the posters of movies as they are stored in an experiment.

    Args:
      movies: movies whose posters are bytes or missing.
      height: height of the experiment's posters in pixels.
      width: their width in pixels.

    Returns:
      Examples with RGB `images` <uint8>[movies, height, width, 3]; and whether each movie has a
      readable poster, <bool>[movies]. Images of other movies are black.
    """
    images = [_decode(movie, height, width) for movie in movies]
    missing = np.zeros((height, width, 3), np.uint8)
    pixels = np.stack([missing if image is None else image for image in images])
    present = np.array([image is not None for image in images])
    return pipeline.ArrayExamples({"images": pixels}), present


def _decode(movie: Movie, height: int, width: int) -> np.ndarray | None:
    """Decodes a poster to <uint8>[height, width, 3]; None if it is missing or unreadable."""
    if movie.poster is None:
        return None
    try:
        return posters.decode_as_stored(movie.poster, height, width)
    except posters.PosterError as error:
        logger.warning("Unreadable poster, treated as missing: %s: %s", movie.id, error)
        return None


def load_params(
    config: ml_collections.ConfigDict, workdir: Path, name: str, phase: str = ""
) -> list[Any]:
    """Reads the trained parameters of all models of an encoder or fusion.

    Args:
      config: the config of the experiment.
      workdir: the working directory of the experiment.
      name: name of the encoder or fusion.
      phase: name of the last phase of training, such as `head`; empty if this phase has no name.

    Returns:
      A tree of arrays for each model, fold by fold.

    Raises:
      InputError: if a model has no trained parameters, or if they are not finite.
    """
    names = [model for of_fold in names_of_models(config, name) for model in of_fold]
    if (exported := workdir / tensors.FILE).is_file():
        params = [tensors.load(exported, name) for name in names]
    else:
        names = [f"{name}/{phase}" if phase else name for name in names]
        params = [loop.restore_trained(TrainingRun(name, workdir, seed=0)) for name in names]
    for name, of_model in zip(names, params):
        # With NumPy, which needs no compilation for each shape.
        leaves = jax.device_get(jax.tree.leaves(of_model))
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
    # Number of epochs. The learning rate ends at zero, and no epoch is chosen by its score.
    training.epochs = epochs
    # Number of movies in a batch, over all devices; a multiple of the number of devices.
    training.batch_size = batch_size
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
