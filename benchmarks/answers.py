"""Measures how soon the page of `mmgc serve` answers.

    python -m benchmarks.answers --workdir=runs/talk --movies=holdout.csv --posters=FOLDER

"bars" is the answer to a movie: the bars of all genres, also without the plot and without the
poster. "rest" follows it: coloured words and the heat map. Movies without a plot or a poster are
left out.
"""

import itertools
import time

import numpy as np
from absl import app, flags, logging

from benchmarks import machine
from mmgc_jax import explanations
from mmgc_jax.data import table
from mmgc_jax.data.movies import Movie
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import memory
from mmgc_jax.runtime.errors import InputError


def measure(predictor: Predictor, movies: list[Movie]) -> dict[str, np.ndarray]:
    """Returns the seconds of both steps for each movie, <float64>[movies]."""
    seconds: dict[str, list[float]] = {"bars": [], "rest": []}
    for movie in movies:
        for step, quick in (("bars", True), ("rest", False)):
            start = time.perf_counter()
            explanations.explain(predictor, movie, quick=quick)
            seconds[step].append(time.perf_counter() - start)
    return {step: np.array(values) for step, values in seconds.items()}


def describe(seconds: dict[str, np.ndarray]) -> str:
    """Formats the median and the limits of 90 % and of all answers, in seconds."""
    lines = [machine.describe(), f"{'':<6}{'median':>8}{'90 %':>8}{'longest':>9}"]
    for step, values in seconds.items():
        median, most = np.percentile(values, (50, 90))
        lines.append(f"{step:<6}{median:>8.2f}{most:>8.2f}{values.max():>9.2f}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    values = flags.FLAGS
    logging.set_verbosity(logging.ERROR)  # orbax tells every file that it reads
    memory.keep_freed()
    try:
        predictor = Predictor.load(values.workdir, warm_up=True)
        settings = table.TableSettings.to_predict(predictor.config.data, (), values.posters or None)
        rows = table.read_movies(values.movies, settings)
        whole = (movie for movie in rows if movie.plot and movie.poster)
        movies = list(itertools.islice(whole, values.count))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    if not movies:
        raise SystemExit(f"error: {values.movies} has no movie with a plot and a poster")
    measure(predictor, movies[:3])  # compiles
    print(describe(measure(predictor, movies)))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Working directory of a finished experiment.")
    flags.DEFINE_string("movies", None, "Table of movies.")
    flags.DEFINE_string("posters", "", "Folder of the table's posters.")
    flags.DEFINE_integer("count", 40, "Number of movies to measure.", lower_bound=1)
    flags.mark_flags_as_required(["workdir", "movies"])
    app.run(main)
