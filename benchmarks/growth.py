"""Measures how time and peak memory of an experiment grow with movies, plots, genres and folds.

    python -m benchmarks.growth --output=growth

Each experiment runs in a separate process, and compiles all of its programs: none are kept for the
next one. Fits a line to the time and to the memory of each series, prints a table, and writes
growth.json and growth.png. It takes a little more than half an hour on two CPU cores.
"""

import dataclasses
import datetime
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping

import jax
import matplotlib
import ml_collections

matplotlib.use("Agg")
import numpy as np
from absl import app, flags
from matplotlib import pyplot

from benchmarks import machine, own_table
from benchmarks.data import measure
from mmgc_jax import experiment
from mmgc_jax.configs import demo, own
from mmgc_jax.runtime.files import write_atomically, write_text

_MOVIES_OF_GENRES, _MOVIES_OF_FOLDS = 4_000, 500
_FIGURES = {"seconds": "seconds", "peak_mb": "peak memory, MB"}
# Rows of a line in the table: title, attribute of `Line`, factor.
_ROWS = (
    ("at size 0", "intercept", 1),
    ("for each 1,000", "slope", 1000),
    ("farthest from the line, %", "max_relative_error", 100),
)


@dataclasses.dataclass(frozen=True)
class Series:
    """Experiments that differ in one size.

    Attributes:
      title: what grows, and in which experiment.
      sizes: the sizes, increasing.
      run: runs the experiment of a size; returns the number of movies.
    """

    title: str
    sizes: tuple[int, ...]
    run: Callable[[int], int]


@dataclasses.dataclass(frozen=True)
class Line:
    """A least-squares line, value = intercept + slope * size.

    Attributes:
      intercept: value at size 0.
      slope: increase per unit of the size.
      max_relative_error: maximum distance of a value from the line, relative to the value.
    """

    intercept: float
    slope: float
    max_relative_error: float

    @classmethod
    def fit(cls, sizes: np.ndarray, values: np.ndarray) -> "Line":
        """Fits a line to values <float>[points] at sizes <int>[points]."""
        slope, intercept = np.polyfit(sizes, values, 1)
        errors = np.abs(intercept + slope * sizes - values) / values
        return cls(float(intercept), float(slope), float(errors.max()))


def demo_config(movies: int, folds: int = 2) -> ml_collections.ConfigDict:
    """Makes the demo's config with two epochs per model and `movies` movies in total."""
    config = demo.get_config()
    config.folds = folds
    test = movies // 4
    config.data.synthetic.update(train=movies - test, validation=0, test=test)
    for name in (*config.encoders, "fusion"):
        config[name].training.epochs = 2
    return config


def plots_config(file: pathlib.Path) -> ml_collections.ConfigDict:
    """Makes a config for a table of plots: the demo's LSTM, with one epoch and two folds."""
    config = own.get_config()
    config.folds = 2
    config.data.path = str(file)
    config.data.min_positives = 1  # keeps all genres
    config.encoders = ("plot",)
    config.plot = demo.get_config().plot
    config.plot.training.epochs = config.plot.vectors.epochs = config.fusion.training.epochs = 1
    return config


def run_movies(movies: int) -> int:
    """Runs the demo with a number of movies."""
    return _run(demo_config(movies), movies)


def run_folds(folds: int) -> int:
    """Runs the demo with a number of folds."""
    return _run(demo_config(_MOVIES_OF_FOLDS, folds), _MOVIES_OF_FOLDS)


def run_plots(movies: int, num_genres: int = 24) -> int:
    """Runs an experiment on a table of plots."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "movies.csv")
        own_table.write_table(file, movies, num_genres)
        return _run(plots_config(file), movies)


def run_genres(num_genres: int) -> int:
    """Runs an experiment on a table of plots with a number of genres."""
    return run_plots(_MOVIES_OF_GENRES, num_genres)


def _run(config: ml_collections.ConfigDict, movies: int) -> int:
    # Experiments of a series share some programs; each compiles them anew.
    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory() as workdir:
        experiment.run(config, workdir)
    return movies


SERIES = {
    "movies": Series("movies, demo", (250, 500, 1_000, 2_000), run_movies),
    "plots": Series("plots, LSTM", (25_000, 50_000, 100_000, 200_000), run_plots),
    "genres": Series(f"genres, {_MOVIES_OF_GENRES:,} plots", (24, 100, 300, 1_000), run_genres),
    "folds": Series(f"folds, demo of {_MOVIES_OF_FOLDS} movies", (2, 5, 10, 20), run_folds),
}


def run(all_series: Mapping[str, Series] = SERIES) -> dict:
    """Measures the experiments of all series; returns the content of the .json file."""
    results = {}
    for name, series in all_series.items():
        points = []
        for size in series.sizes:
            figures = measure(series.run, size)
            points.append({"size": size} | {figure: figures[figure] for figure in _FIGURES})
            print(name, points[-1], flush=True)
        sizes = np.array(series.sizes)
        lines = {
            figure: dataclasses.asdict(Line.fit(sizes, np.array([p[figure] for p in points])))
            for figure in _FIGURES
        }
        results[name] = {"title": series.title, "points": points, "lines": lines}
    return {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "series": results,
    }


def table(results: dict) -> str:
    """Formats the figures as a table: a row for each experiment, and the lines below a series."""
    lines = [f"{results['machine']}; {results['date']}"]
    for series in results["series"].values():
        lines += ["", f"{series['title']:<30}{'seconds':>10}{'peak MB':>10}"]
        for point in series["points"]:
            lines.append(f"{point['size']:<30,}{point['seconds']:>10.1f}{point['peak_mb']:>10,}")
        for name, quantity, factor in _ROWS:
            of_time, of_memory = (factor * series["lines"][figure][quantity] for figure in _FIGURES)
            lines.append(f"{name:<30}{of_time:>10.1f}{of_memory:>10,.0f}")
    return "\n".join(lines)


def draw(results: dict, file: pathlib.Path) -> None:
    """Draws the measurements and the fitted lines to a PNG file: a column for each series."""
    all_series = results["series"].values()
    figure, axes = pyplot.subplots(
        2, len(all_series), figsize=(3 * len(all_series), 5.5), layout="constrained", squeeze=False
    )
    for column, series in zip(axes.T, all_series):
        sizes = np.array([point["size"] for point in series["points"]])
        ends = np.array([0, sizes[-1]])
        for axis, name in zip(column, _FIGURES):
            line = series["lines"][name]
            axis.plot(ends, line["intercept"] + line["slope"] * ends, color="0.6")
            axis.plot(sizes, [point[name] for point in series["points"]], "o")
            axis.set(xlim=(0, None), ylim=(0, None))
            axis.xaxis.set_major_locator(pyplot.MaxNLocator(4))
        column[-1].set_xlabel(series["title"])
    for axis, label in zip(axes[:, 0], _FIGURES.values()):
        axis.set_ylabel(label)
    figure.suptitle(f"Cost of an experiment; {results['machine']}", fontsize=10)
    write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=120))
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    output, results = flags.FLAGS.output, run()
    write_text(pathlib.Path(f"{output}.json"), json.dumps(results, indent=2) + "\n")
    draw(results, pathlib.Path(f"{output}.png"))
    print(table(results))


if __name__ == "__main__":
    flags.DEFINE_string("output", "growth", "Path of the .json and .png files, without suffix.")
    app.run(main)
