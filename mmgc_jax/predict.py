"""Uses what an experiment left behind.

One row of probabilities for each movie of a table:

    python -m mmgc_jax.predict --workdir=runs/talk --movies=movies.csv --posters=FOLDER \
        --output=probs.csv

One movie, to be read:

    python -m mmgc_jax.predict --workdir=runs/talk --plot="a retired spy ..." --poster=x.jpg
"""

import contextlib
import csv
import functools
import io
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import flax.errors
import ml_collections
import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from mmgc_jax.data import movies, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import fusion, joint
from mmgc_jax.encoders.base import Encoder
from mmgc_jax.encoders.registry import ENCODERS
from mmgc_jax.evaluation import calibration, results
from mmgc_jax.pretrained import download
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, is_address, read_json, write_atomically
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.runtime.remote import copy_here

logger = logging.getLogger("mmgc_jax")

_MOVIES_AT_ONCE = 64  # their posters are in memory as they are in their files
_ADVICE = "Run the experiment again, or put the working directory back from a copy."
_SHOWN = 8


class Predictor:
    """Genre probabilities of new movies, from a finished experiment.

    A modality that a movie lacks, or whose poster cannot be read, counts as saying how frequent
    each genre is; a movie that has nothing for a stage gets just these frequencies.

    Attributes:
      genres: the names of the columns of what it returns, in alphabetical order.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path):
        """Opens the working directory of a finished experiment; see `load`."""
        self._config = config
        self._workdir = workdir
        file = workdir / "genre_frequencies.json"
        frequencies = read_json(file, _ADVICE)
        if not _are_frequencies(frequencies):
            raise InputError(f"{file} does not hold the share of each genre. {_ADVICE}")
        self.genres = tuple(frequencies)
        self._frequencies = np.array(list(frequencies.values()), np.float32)
        self._calibrations = calibration.load(workdir / "calibration.json")
        self._stages = (*config.encoders, "fusion")
        self._fused, self._kind = config.fusion.encoders, config.fusion.kind
        for stage in self._stages:
            if self._calibrations[stage].genres != self.genres:
                raise ValueError(f"{stage} has other genres in {file.name} and calibration.json")

    @classmethod
    def load(cls, workdir) -> "Predictor":
        """Opens the working directory of a finished experiment.

        Raises:
          InputError: if there is none, or its files are damaged. Parameters are read, and found to
            be damaged, when a stage is first asked.
        """
        workdir = as_path(workdir)
        if not (workdir / "config.json").is_file():
            raise InputError(f"{workdir} is not the working directory of an experiment.")
        if not (workdir / "results.json").is_file():
            raise InputError(
                f"The experiment in {workdir} has not finished; run mmgc_jax.main again with the "
                "same --config and --workdir."
            )
        config = read_json(workdir / "config.json", _ADVICE)
        if not isinstance(config, dict):
            raise InputError(f"{workdir / 'config.json'} is not a JSON object. {_ADVICE}")
        with _explained(workdir):
            return cls(ml_collections.ConfigDict(config), workdir)

    def __call__(self, movies: Sequence[Movie], stage: str = "fusion") -> np.ndarray:
        """Predicts.

        Args:
          movies: with plot, poster, both or neither; genres are not looked at.
          stage: `fusion` or an encoder, such as `plot`, `poster` or `poster_grey`.

        Returns:
          Calibrated probabilities <float32>[movies, genres], in the order of `genres`.

        Raises:
          InputError: if the experiment has no such stage, or what it left behind is damaged.
        """
        if stage not in self._stages:
            raise InputError(f"stage is {stage!r}; this experiment has: {', '.join(self._stages)}.")
        with _explained(self._workdir, (flax.errors.FlaxError,)):  # parameters that do not fit
            scores, present = self._ask(movies, stage)
        calibrated = self._calibrations[stage](scores)
        if not np.isfinite(calibrated).all():
            raise InputError(f"{self._workdir}: the parameters of {stage} are damaged. {_ADVICE}")
        return results.fill_absent(calibrated, present, self._frequencies)

    def _ask(self, movies: Sequence[Movie], stage: str) -> tuple[np.ndarray, np.ndarray]:
        """What `_encode` gives, of an encoder or of fusion, which is not calibrated yet."""
        if stage != "fusion":
            return self._encode(movies, stage)
        if self._kind == fusion.JOINT:
            return self._joint(movies)
        encoded = [self._encode(movies, encoder) for encoder in self._fused]
        scores, present = (np.stack(arrays, axis=1) for arrays in zip(*encoded))
        return self._fuser(scores, present), present.any(axis=1)

    def decide(self, probabilities: np.ndarray, stage: str = "fusion") -> np.ndarray:
        """Which genres a movie is said to have: those that reach the genre's threshold.

        Args:
          probabilities: <float32>[movies, genres], as `__call__` gives them.
          stage: that they are of.

        Returns:
          <bool>[movies, genres].
        """
        return probabilities >= self._calibrations[stage].thresholds

    def _encode(self, movies: Sequence[Movie], stage: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities <float32>[movies, genres] of one encoder, and which movies it looked at."""
        scores, present = self._encoder(stage)(movies, len(self.genres))
        return results.fill_absent(scores, present, self._frequencies), present

    @functools.cache  # noqa: B019 (a predictor lives as long as its process)
    def _encoder(self, stage: str) -> Encoder:
        with _explained(self._workdir):
            return ENCODERS[stage].load(self._config, self._workdir, stage, len(self.genres))

    @functools.cached_property
    def _fuser(self) -> fusion.Fuser:
        with _explained(self._workdir):
            return fusion.Fuser(self._config, self._workdir, len(self.genres))

    @functools.cached_property
    def _joint(self) -> joint.JointFuser:
        with _explained(self._workdir):
            return joint.JointFuser(self._config, self._workdir, self._frequencies)


def _are_frequencies(content) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(type(share) in (int, float) and 0 <= share <= 1 for share in content.values())
    )


# What reading files raises that are not what was written.
_READING = (AttributeError, KeyError, TypeError, ValueError, OSError)


@contextlib.contextmanager
def _explained(workdir: Path, errors: tuple[type[Exception], ...] = _READING) -> Iterator[None]:
    """Says of some errors that the working directory is damaged."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{workdir} is damaged or was changed ({reason}). {_ADVICE}") from error


def predict_table(predictor: Predictor, rows: Iterable[Movie], output: Path, stage: str) -> int:
    """Writes `ID,p_Action,...`, a row for each movie in the order given; returns their number."""
    written = 0

    def write(stream: BinaryIO) -> None:
        nonlocal written
        file = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ID", *(f"p_{genre}" for genre in predictor.genres)])
        while chunk := list(itertools.islice(iterator, _MOVIES_AT_ONCE)):
            for movie, scores in zip(chunk, predictor(chunk, stage)):
                writer.writerow([movie.id, *(f"{score:.6f}" for score in scores)])
            written += len(chunk)
            bar.update(len(chunk))
        file.detach()

    iterator = iter(rows)
    with progress_bar(desc="predicting", unit="movie") as bar:
        try:
            write_atomically(output, write)
        except OSError as error:
            raise InputError(f"--output={output} cannot be written: {error}") from error
    return written


def describe(scores: np.ndarray, genres: Sequence[str], chosen: np.ndarray) -> str:
    """The likeliest of the genres as lines of text, a bar for each; those chosen have a mark."""
    lines = []
    for genre in np.argsort(-scores)[:_SHOWN]:
        bar = "█" * round(float(scores[genre]) * 40)
        mark = "*" if chosen[genre] else " "
        lines.append(f"{mark} {genres[genre]:<12}{scores[genre]:>6.1%}  {bar}")
    return "\n".join(lines)


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Of a finished experiment.", required=True)
    flags.DEFINE_string("movies", None, "CSV file with the columns index,year,title,plot.")
    flags.DEFINE_string("posters", None, "Folder of <index>.jpg files.")
    flags.DEFINE_string("output", None, "CSV file to write: ID,p_Action,p_Adventure,...")
    flags.DEFINE_string("plot", None, "The plot of one movie.")
    flags.DEFINE_string("poster", None, "The poster of one movie, an image file.")
    flags.DEFINE_enum("stage", "fusion", [*ENCODERS, "fusion"], "The model that predicts.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger.setLevel(logging.INFO)
    try:
        _predict(flags.FLAGS)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _here(place: str) -> str:
    return copy_here(place, download.cache_folder() / "copies")


def _predict(values: flags.FlagValues) -> None:
    one, many = values.plot or values.poster, values.movies or values.posters
    if bool(one) == bool(many):
        raise InputError("Give --plot, --poster or both for one movie, or --movies for a table.")
    if many and not (values.movies and values.output):
        raise InputError("A table needs --movies=FILE.csv and --output=FILE.csv.")
    predictor = Predictor.load(values.workdir)
    if many:
        given, output = _here(values.movies), as_path(values.output)
        table = movies.read_csv(given, values.posters and _here(values.posters))
        is_here = not is_address(output) and output.exists()
        if values.output == values.movies or (is_here and output.samefile(given)):
            raise InputError(f"--output={output} is the table of --movies itself.")
        count = predict_table(predictor, table, output, values.stage)
        print(f"{count} rows written to {output}")
        return
    poster = None
    if values.poster:
        try:
            poster = posters.read_image(_here(values.poster))
            posters.decode(poster, 32, 32)
        except (OSError, posters.PosterError) as error:
            raise InputError(f"--poster={values.poster} cannot be read: {error}") from error
    movie = Movie(id="", title="", plot=values.plot or None, poster=poster)
    scores = predictor([movie], values.stage)
    print(describe(scores[0], predictor.genres, predictor.decide(scores, values.stage)[0]))
    print("* reaches the threshold at which this genre is predicted best (F1)")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
