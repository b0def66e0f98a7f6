"""A finished experiment as a Python object."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import flax.errors
import ml_collections
import numpy as np

from mmgc_jax import settings
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import fusion, joint, registry
from mmgc_jax.encoders.base import Encoder
from mmgc_jax.evaluation import calibration
from mmgc_jax.evaluation.results import fill_absent
from mmgc_jax.ops.kernels import Kernels, auto
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, read_json

_ADVICE = "Run the experiment again, or put the working directory back from a copy."


class Predictor:
    """Genre probabilities of new movies, from a finished experiment.

    A modality that a movie lacks, or whose poster cannot be read, is replaced by the genres'
    frequencies; a movie without anything that a model looks at gets just these.

    Attributes:
      config: of the experiment.
      genres: the names of the columns of its results, in alphabetical order.
      models: the names of the encoders, and `fusion`.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, kernels: Kernels | None = None
    ):
        """Opens the working directory of a finished experiment; see `load`."""
        self.config = config
        self._workdir = workdir
        self._kernels = kernels or auto()
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
    def load(cls, workdir, kernels: Kernels | None = None) -> "Predictor":
        """Opens the working directory of a finished experiment.

        Args:
          workdir: its path.
          kernels: implementations of operations; None takes the fastest for this process.

        Raises:
          InputError: if there is none, or its files are damaged. Parameters are read, and found to
            be damaged, when a model is first asked.
        """
        workdir = as_path(workdir)
        file = workdir / "config.json"
        if not file.is_file():
            raise InputError(f"{workdir} is not the working directory of an experiment.")
        if not (workdir / "results.json").is_file():
            raise InputError(
                f"The experiment in {workdir} has not finished; run mmgc_jax.main again with the "
                "same --config and --workdir."
            )
        config = read_json(file, _ADVICE)
        if not isinstance(config, dict):
            raise InputError(f"{file} is not a JSON object. {_ADVICE}")
        config = ml_collections.ConfigDict(config)
        _check_config(config, file)
        return cls(config, workdir, kernels)

    def __call__(self, movies: Sequence[Movie], model: str = fusion.FUSION) -> np.ndarray:
        """Predicts.

        Args:
          movies: with plot, poster, both or neither; genres are not looked at.
          model: `fusion`, or an encoder of the experiment, such as `plot` or `poster`.

        Returns:
          Calibrated probabilities <float32>[movies, genres], in the order of `genres`.

        Raises:
          InputError: if the experiment has no such model, or its files are damaged.
        """
        if model not in self.models:
            raise InputError(f"model is {model!r}; this experiment has: {', '.join(self.models)}.")
        if not movies:
            return np.zeros((0, len(self.genres)), np.float32)
        with _damage_explained(self._workdir):
            probabilities, present = self._probabilities(movies, model)
        calibrated = self._calibrations[model](probabilities)
        if not np.isfinite(calibrated).all():
            raise InputError(f"{self._workdir}: the parameters of {model} are damaged. {_ADVICE}")
        return fill_absent(calibrated, present, self._frequencies)

    def decide(self, probabilities: np.ndarray, model: str = fusion.FUSION) -> np.ndarray:
        """Decides which genres a movie has: those that reach the genre's threshold.

        Args:
          probabilities: <float32>[movies, genres], as `__call__` returns them.
          model: the model that `probabilities` are of.

        Returns:
          <bool>[movies, genres].
        """
        return probabilities >= self._calibrations[model].thresholds

    def _probabilities(self, movies: Sequence[Movie], model: str) -> tuple[np.ndarray, np.ndarray]:
        """As `_encode`, of an encoder or of fusion; not calibrated yet."""
        if model != fusion.FUSION:
            return self._encode(movies, model)
        if self.config.fusion.kind == fusion.JOINT:
            return self._joint(movies)
        encoded = [self._encode(movies, name) for name in self.config.fusion.encoders]
        probabilities, present = (np.stack(arrays, axis=1) for arrays in zip(*encoded))
        return self._fuser(probabilities, present), present.any(axis=1)

    def _encode(self, movies: Sequence[Movie], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities <float32>[movies, genres] of one encoder, and for which movies, <bool>."""
        probabilities, present = self._encoder(name)(movies, len(self.genres))
        return fill_absent(probabilities, present, self._frequencies), present

    @functools.cache  # noqa: B019 (a predictor lives as long as its process)
    def _encoder(self, name: str) -> Encoder:
        return registry.of(self.config, name).load(
            self.config, self._workdir, name, len(self.genres), self._kernels
        )

    @functools.cached_property
    def _fuser(self) -> fusion.Fuser:
        return fusion.Fuser(self.config, self._workdir, len(self.genres))

    @functools.cached_property
    def _joint(self) -> joint.JointFuser:
        return joint.JointFuser(self.config, self._workdir, self._frequencies, self._kernels)


def _check_config(config: ml_collections.ConfigDict, file: Path) -> None:
    """Raises InputError if a field is missing or of another type, or a kind is not known."""
    if problems := settings.field_problems(config):
        raise InputError(
            f"{file} is not the config of an experiment of this version: "
            f"{'; '.join(problems)}. {_ADVICE}"
        )
    names = [*config.encoders, *config.fusion.encoders]
    if lacking := [name for name in names if name not in config]:
        raise InputError(f"{file} has no section {', '.join(map(str, lacking))}. {_ADVICE}")


def _are_frequencies(content) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in content.values())
    )


@contextlib.contextmanager
def _damage_explained(workdir: Path) -> Iterator[None]:
    """Makes an InputError of what reading damaged files, or parameters that do not fit, raises.

    AttributeError, KeyError and TypeError are faults of the code, or come with another version of a
    library, and go through as they are.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, flax.errors.FlaxError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{workdir} is damaged or was changed ({reason}). {_ADVICE}") from error
