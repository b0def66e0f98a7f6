"""Predicts genres with a finished experiment, from Python.

>>> from mmgc_jax import Movie, Predictor
>>> predictor = Predictor.load("runs/demo")
>>> movies = [Movie(plot="the heist of two brothers ."), Movie(plot="a robot and a spaceship .")]
>>> probabilities = predictor(movies)
>>> probabilities.shape == (2, len(predictor.genres))
True
>>> predictor.decide(probabilities).dtype
dtype('bool')
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.errors
import ml_collections
import numpy as np

from mmgc_jax import settings
from mmgc_jax.configs import default
from mmgc_jax.data import given_movies, posters, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import fusion, joint, registry
from mmgc_jax.encoders.base import Encoder, KnownWords
from mmgc_jax.evaluation import calibration
from mmgc_jax.evaluation.results import fill_absent
from mmgc_jax.ops.kernels import Kernels, auto
from mmgc_jax.runtime import hub
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, read_json

if TYPE_CHECKING:
    import pandas

# Movies of a table to predict together; their posters and activations are in memory. Fewer would
# fill the last batch with more padding: with 64, a table of which seven tenths have posters took a
# quarter longer.
MOVIES_AT_ONCE = 256

_ADVICE = "Run the experiment again, or restore the working directory from a copy."
# Probabilities and presence of each encoder, by its name; see `Predictor._encode`.
_Encoded = dict[str, tuple[np.ndarray, np.ndarray]]


class Prediction(NamedTuple):
    """Predictions of one model for some movies.

    Attributes:
      probabilities: calibrated, <float32>[movies, genres].
      uncalibrated: <float32>[movies, genres].
      present: whether a movie has what the model looks at, <bool>[movies]. Without it, the
        calibrated probabilities are the genres' frequencies.
    """

    probabilities: np.ndarray
    uncalibrated: np.ndarray
    present: np.ndarray


class Combined(NamedTuple):
    """The answer of a model for some movies, and how it is made.

    Attributes:
      probabilities: calibrated, <float32>[movies, genres].
      terms: of late fusion, before the calibration; None for other models.
    """

    probabilities: np.ndarray
    terms: fusion.Terms | None


class Predictor:
    """Predicts the genres of movies with the models of a finished experiment.

    A modality that a movie lacks, or whose poster cannot be decoded, is replaced by the genres'
    frequencies; a movie that has nothing that a model looks at gets these as its probabilities.

    Parameters are read, and programs compiled, when a model is first used. Several threads can use
    the same predictor.

    Attributes:
      config: the config of the experiment.
      genres: names of the columns of all probabilities, in alphabetical order.
      models: names of the models: the encoders, and `fusion`.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, kernels: Kernels | None = None
    ):
        """Opens the working directory of a finished experiment; see `load`."""
        self.config = config
        self._workdir = workdir
        self._kernels = kernels or auto()
        self._lock = threading.RLock()
        self._loaded: dict[str, Any] = {}
        file = workdir / "genre_frequencies.json"
        frequencies = read_json(file, _ADVICE)
        if not _are_frequencies(frequencies):
            raise InputError(f"{file} does not hold the share of each genre. {_ADVICE}")
        self.genres = tuple(frequencies)
        self._frequencies = np.array(list(frequencies.values()), np.float32)
        self._calibrations = calibration.load(workdir / "calibration.json")
        self.models = (*config.encoders, fusion.FUSION)
        for name in self.models:
            if name not in self._calibrations:
                raise InputError(f"{workdir / 'calibration.json'} lacks {name}. {_ADVICE}")
            if self._calibrations[name].genres != self.genres:
                raise InputError(
                    f"{name} has other genres in {file} than in calibration.json. {_ADVICE}"
                )

    @classmethod
    def load(cls, workdir, kernels: Kernels | None = None, *, warm_up: bool = False) -> "Predictor":
        """Opens the working directory of a finished experiment.

        Args:
          workdir: its path; that of a folder that `mmgc export` wrote, or its address on the
            Hugging Face Hub, `hf://owner/name`.
          kernels: which implementation of each operation to use; None for the fastest ones of this
            process.
          warm_up: whether to read all parameters now, and to compile all programs for one movie at
            a time. Otherwise the first answer of each model takes longer, and so does the first one
            for a plot of another length. The first answer for more movies takes longer in any case.

        Raises:
          InputError: if it is not such a directory, or its files are damaged. Damaged parameters
            are found only when they are read.
        """
        workdir = hub.download(workdir) if hub.is_address(workdir) else as_path(workdir)
        file = workdir / "config.json"
        if not file.is_file():
            raise InputError(_no_experiment(workdir))
        if not (workdir / "results.json").is_file():
            raise InputError(
                f"The experiment in {workdir} has not finished. If it is still running, wait for "
                "its end; otherwise continue it: run mmgc train with the same --config and "
                "--workdir."
            )
        config = read_json(file, _ADVICE)
        if not isinstance(config, dict):
            raise InputError(f"{file} is not a JSON object. {_ADVICE}")
        config = ml_collections.ConfigDict(config)
        _check_config(config, file)
        predictor = cls(config, workdir, kernels)
        if warm_up:
            predictor._warm_up()
        return predictor

    def __call__(self, movies: Iterable[Movie], model: str = fusion.FUSION) -> np.ndarray:
        """Predicts genre probabilities.

        Args:
          movies: any iterable of movies with a plot, a poster, both or neither. All their posters
            are read into memory, so pass long tables in parts.
          model: `fusion`, or an encoder of the experiment, such as `plot` or `poster`.

        Returns:
          Calibrated probabilities <float32>[movies, genres], in the order of `genres`.

        Raises:
          TypeError: if an argument has the wrong type.
          InputError: if the experiment has no such model, its files are damaged, or the file of a
            poster cannot be read.
        """
        return self.predict_all(movies, [model])[model].probabilities

    def predict_all(
        self, movies: Iterable[Movie], models: Sequence[str] | None = None
    ) -> dict[str, Prediction]:
        """Predicts genre probabilities with several models; each encoder runs once.

        Args:
          movies: as in `__call__`.
          models: their names; None for all of the experiment.

        Returns:
          The prediction of each model.

        Raises:
          Exception: as `__call__`.
        """
        models = self.models if models is None else models
        for model in models:
            self._check_model(model)
        movies = given_movies.read(movies)
        encoded: _Encoded = {}
        return {model: self._predict(movies, model, encoded) for model in models}

    def thresholds(self, model: str = fusion.FUSION) -> np.ndarray:
        """Returns the probability from which a genre is predicted, <float64>[genres].

        Each threshold is the one with the best F1 of its genre on the training movies, predicted
        out of fold.

        Args:
          model: as in `__call__`.
        """
        self._check_model(model)
        return self._calibrations[model].thresholds.copy()

    def decide(self, probabilities: np.ndarray, model: str = fusion.FUSION) -> np.ndarray:
        """Decides which genres movies have: those whose probability reaches the genre's threshold.

        Args:
          probabilities: <float32>[..., genres], as `__call__` returns them.
          model: the model that they were predicted with.

        Returns:
          <bool>[..., genres].

        Raises:
          ValueError: if the last axis does not have a value for each genre.
        """
        probabilities = np.asarray(probabilities)
        if probabilities.shape[-1:] != (len(self.genres),):
            raise ValueError(
                f"probabilities has the shape {probabilities.shape}; (movies, {len(self.genres)}) "
                "is needed."
            )
        return probabilities >= self.thresholds(model)

    def to_frame(self, movies: Iterable[Movie], model: str = fusion.FUSION) -> "pandas.DataFrame":
        """Predicts genre probabilities as a table with a column for each genre.

        Args:
          movies: as in `__call__`.
          model: as in `__call__`.

        Returns:
          <float32>[movies, genres]. The index, `ID`, has the movies' ids, or their positions if a
          movie has no id.

        Raises:
          ImportError: if pandas is not installed.
          Exception: as `__call__`.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas, which is not installed. Run: pip install 'mmgc_jax[tables]'"
            ) from error
        movies = given_movies.listed(movies)
        probabilities = self(movies, model)
        ids = [movie.id for movie in movies]
        index = pandas.Index(ids, name="ID") if ids and all(ids) else None
        return pandas.DataFrame(probabilities, index=index, columns=list(self.genres))

    def known_words(self, movie: Movie, model: str = fusion.FUSION) -> KnownWords | None:
        """Counts the words of a movie's plot that a model knows from its training.

        Args:
          movie: the movie.
          model: as in `__call__`. Of a fusion of several encoders, the one that knows most counts.

        Returns:
          None if the movie has no plot, or the model has no vocabulary of words.
        """
        self._check_model(model)
        given_movies.check(movie, "movie")
        if not text.has_words(movie.plot):
            return None
        with _damage_explained(self._workdir):
            is_joint = model == fusion.FUSION and self._is_joint
            load = self._joint.encoders.get if is_joint else self._encoder
            encoders = [load(name) for name in self._looking_at("plot", model)]
        counts = [encoder.known_words(movie.plot) for encoder in encoders if encoder.known_words]
        return max(counts, key=lambda count: count.known / max(count.total, 1), default=None)

    def notes(self, movie: Movie, model: str = fusion.FUSION) -> list[str]:
        """Returns sentences on why an answer may be poor; an empty list if nothing is known.

        Args:
          movie: the movie.
          model: as in `__call__`.
        """
        return self.words_and_notes(movie, model)[1]

    def words_and_notes(
        self, movie: Movie, model: str = fusion.FUSION
    ) -> tuple[KnownWords | None, list[str]]:
        """Returns `known_words` and `notes`; the words of the plot are counted once for both."""
        words = self.known_words(movie, model)
        notes = []
        if movie.plot is not None and not text.has_words(movie.plot):
            notes.append("The plot has no words.")
        elif words and not words.known:
            subject = (
                f"None of the {words.total:,} words is" if words.total > 1 else "The word is not"
            )
            notes.append(f"{subject} known: do not rely on this answer.")
        elif words and 2 * words.known <= words.total:
            notes.append(
                f"{words.known:,} of {words.total:,} words known; trained on "
                f"{words.vocabulary:,} words."
            )
        has = {"plot": text.has_words(movie.plot), "poster": movie.poster is not None}
        needed = [modality for modality in has if self._looking_at(modality, model)]
        if not any(has[modality] for modality in needed):
            notes.append(
                f"Without a {' or a '.join(needed)}, the model {model} answers with the frequency "
                "of each genre among the training movies."
            )
        return words, notes

    def embed(self, movies: Iterable[Movie], model: str = fusion.FUSION) -> np.ndarray:
        """Computes vectors of movies, whose cosine says how alike two movies are.

        The vector of an encoder is the input of its last layer in the first fold's model, scaled to
        length 1; models of different folds cannot be compared. That of a fusion concatenates those
        of the encoders that it fuses, without those that have none.

        Args:
          movies: as in `__call__`.
          model: as in `__call__`.

        Returns:
          <float32>[movies, features], of length 1; zeros for movies that have nothing that the
          model looks at.

        Raises:
          InputError: if no encoder of the model has vectors; as in `__call__`.
        """
        movies, parts = given_movies.read(movies), []
        some = movies or [Movie()]  # of no movies, the number of features
        with _damage_explained(self._workdir):
            encoders = [part for part in self.parts(model).values() if part.embed is not None]
            if not encoders:
                raise InputError(f"{model} has no embeddings: it has no layer before its last one.")
            for encoder in encoders:
                parts.append(encoder.embeddings(some))
        vectors = np.concatenate(parts, axis=1)[: len(movies)]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def parts(self, model: str = fusion.FUSION) -> dict[str, Encoder]:
        """Returns the trained encoders of a model, by name; after joint training, if there was any.

        Raises:
          InputError: if the experiment has no such model, or its files are damaged.
        """
        self._check_model(model)
        with _damage_explained(self._workdir):
            if model == fusion.FUSION and self._is_joint:
                return dict(self._joint.parts)
            return {name: self._encoder(name) for name in self._encoders_of(model)}

    def combine(
        self, model: str, found: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
    ) -> Combined:
        """Combines the probabilities of a model's encoders, as `__call__` does.

        Args:
          model: name of the model.
          found: probabilities of each fold's model, <float32>[folds, movies, genres], by the name
            of the encoder; those of all of `parts(model)`.
          present: whether a movie has the encoder's modality, <bool>[movies], by the same names.
        """
        if model == fusion.FUSION:
            names = list(self.config.fusion.encoders)
            has = np.stack([present[name] for name in names], axis=1)
            known = [
                [fill_absent(of_fold, present[name], self._frequencies) for of_fold in found[name]]
                for name in names
            ]
            stacked = np.stack(known, axis=2)  # folds, movies, encoders, genres
            fuser = self._joint.fuser if self._is_joint else self._fuser
            stacked = stacked if self._is_joint else stacked.mean(axis=0)
            uncalibrated, terms = fuser.explain(stacked, has)
            some = has.any(axis=1)
        else:
            uncalibrated, terms, some = found[model].mean(axis=0), None, present[model]
        calibrated = self._calibrations[model](uncalibrated)
        return Combined(fill_absent(calibrated, some, self._frequencies), terms)

    def _check_model(self, model: str) -> None:
        if model not in self.models:
            raise InputError(f"model is {model!r}; this experiment has: {', '.join(self.models)}.")

    def _encoders_of(self, model: str) -> Sequence[str]:
        return self.config.fusion.encoders if model == fusion.FUSION else (model,)

    def _looking_at(self, modality: str, model: str) -> list[str]:
        """Returns the encoders of a model that predict from a modality."""
        return [
            name
            for name in self._encoders_of(model)
            if registry.modality(self.config, name) == modality
        ]

    def _predict(self, movies: Sequence[Movie], model: str, encoded: _Encoded) -> Prediction:
        if not movies:
            nothing = np.zeros((0, len(self.genres)), np.float32)
            return Prediction(nothing, nothing, np.zeros(0, bool))
        with _damage_explained(self._workdir):
            uncalibrated, present = self._probabilities(movies, model, encoded)
        calibrated = self._calibrations[model](uncalibrated)
        if not np.isfinite(calibrated).all():
            raise InputError(f"{self._workdir}: the parameters of {model} are damaged. {_ADVICE}")
        return Prediction(
            fill_absent(calibrated, present, self._frequencies), uncalibrated, present
        )

    def _probabilities(
        self, movies: Sequence[Movie], model: str, encoded: _Encoded
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicts with an encoder or fusion, without calibration.

        Args:
          movies: the movies.
          model: name of the model.
          encoded: what `_encode` has returned for these movies; is filled.

        Returns:
          Probabilities <float32>[movies, genres], and whether a movie has what the model looks at,
          <bool>[movies].
        """
        if model != fusion.FUSION:
            return self._encode(movies, model, encoded)
        if self._is_joint:
            return self._joint(movies)
        parts = [self._encode(movies, name, encoded) for name in self.config.fusion.encoders]
        probabilities, present = (np.stack(arrays, axis=1) for arrays in zip(*parts))
        return self._fuser(probabilities, present), present.any(axis=1)

    def _encode(
        self, movies: Sequence[Movie], name: str, encoded: _Encoded
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `_probabilities`, for one encoder."""
        if name not in encoded:
            probabilities, present = self._encoder(name)(movies, len(self.genres))
            encoded[name] = fill_absent(probabilities, present, self._frequencies), present
        return encoded[name]

    def _encoder(self, name: str) -> Encoder:
        return self._load_once(
            name,
            lambda: registry.of(self.config, name).load(
                self.config, self._workdir, name, len(self.genres), self._kernels
            ),
        )

    @property
    def _is_joint(self) -> bool:
        return self.config.fusion.kind == fusion.JOINT

    @property
    def _fuser(self) -> fusion.Fuser:
        return self._load_once(
            fusion.FUSION, lambda: fusion.Fuser(self.config, self._workdir, len(self.genres))
        )

    @property
    def _joint(self) -> joint.JointFuser:
        return self._load_once(
            fusion.FUSION,
            lambda: joint.JointFuser(self.config, self._workdir, self._frequencies, self._kernels),
        )

    def _load_once(self, name: str, load: Callable[[], Any]) -> Any:
        """Loads a model, unless another call, perhaps of another thread, has loaded it before."""
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load()
            return self._loaded[name]

    def _warm_up(self) -> None:
        """Predicts a movie with each model, for all padded lengths that its plot can have."""
        poster = posters.encode_jpeg(np.zeros((32, 32, 3), np.uint8))
        for model in self.models:
            late = model == fusion.FUSION and not self._is_joint
            # The programs of late fusion do not depend on lengths, those of its encoders are done.
            lengths = {1} if late else self._lengths(model)
            for length in sorted(lengths):
                self([Movie(plot="a " * length, poster=poster)], model)

    def _lengths(self, model: str) -> set[int]:
        """Returns numbers of words so that their plots need all programs of a model.

        There are several only for kinds of encoders that cut plots to `max_length` and pad them to
        `pad_to_multiple_of`.
        """
        lengths = {1}
        for name in self._looking_at("plot", model):
            section = self.config[name]
            longest, step = section.get("max_length"), section.get("pad_to_multiple_of")
            if longest and step:
                lengths |= {*range(step, longest, step), longest}
        return lengths


def _check_config(config: ml_collections.ConfigDict, file: Path) -> None:
    """Raises InputError if a field is missing or of another type, or a kind is not known.

    Fields of the section `data` that an earlier version did not have get their defaults, since
    predictions do not depend on them.
    """
    if isinstance(config.get("data"), ml_collections.ConfigDict):
        for name, value in default.get_config().data.items():
            if name not in config.data and not name.startswith("poster_"):
                config.data[name] = value
    if problems := settings.field_problems(config):
        raise InputError(
            f"{file} is not the config of an experiment of this version: "
            f"{'; '.join(problems)}. {_ADVICE}"
        )
    names = [*config.encoders, *config.fusion.encoders]
    if lacking := [name for name in names if name not in config]:
        raise InputError(f"{file} has no section {', '.join(map(str, lacking))}. {_ADVICE}")


def _no_experiment(workdir: Path) -> str:
    """Says why a folder without a config is not the working directory of an experiment."""
    if not workdir.exists():
        return f"{workdir}: there is no such folder."
    if (workdir / "run.log").is_file():
        return (
            f"The experiment in {workdir} has not begun to train: it is still reading its data, or "
            "ended with an error. Run mmgc train with the same --config and --workdir again."
        )
    return f"{workdir} is not the working directory of an experiment."


def _are_frequencies(content) -> bool:
    """Returns whether JSON content is a share, in [0, 1], for each of some genres."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in content.values())
    )


@contextlib.contextmanager
def _damage_explained(workdir: Path) -> Iterator[None]:
    """Raises an InputError for errors that damaged files, or parameters that do not fit, cause.

    AttributeError, KeyError and TypeError pass unchanged: they are faults of the code, or come with
    another version of a library.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, flax.errors.FlaxError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{workdir} is damaged or was changed ({reason}). {_ADVICE}") from error
