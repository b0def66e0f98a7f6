"""How the cost of an experiment grows with the number of movies.

    python -m benchmarks.growth --output=growth

The demo, with two epochs for each model, on once, twice, four and eight times the movies, each time
in a process of its own: its time, compilation included, and its peak memory. A straight line is
laid through each. Prints a table and writes growth.json and growth.png.
"""

import dataclasses
import datetime
import json
import pathlib
import tempfile

import matplotlib

matplotlib.use("Agg")
import numpy as np
from absl import app, flags
from matplotlib import pyplot

from benchmarks import machine
from benchmarks.data import measure
from mmgc_jax import experiment
from mmgc_jax.configs import demo
from mmgc_jax.runtime.files import write_atomically, write_text

_TIMES = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Line:
    """A straight line through points, by least squares.

    Attributes:
      start: its value at 0.
      slope: what it rises by for each movie.
      farthest: the largest distance of a point from it, as a share of the point.
    """

    start: float
    slope: float
    farthest: float

    @classmethod
    def through(cls, movies: np.ndarray, values: np.ndarray) -> "Line":
        slope, start = np.polyfit(movies, values, 1)
        away = np.abs(start + slope * movies - values) / values
        return cls(float(start), float(slope), float(away.max()))


def run_experiment(movies: int) -> int:
    """Runs the experiment from nothing; returns the number of movies."""
    config = demo.get_config()
    validation, test = movies // 10, movies // 4
    config.data.synthetic.update(train=movies - validation - test, validation=validation, test=test)
    config.plot.training.epochs = config.poster.training.epochs = 2
    config.fusion.training.epochs = 2
    with tempfile.TemporaryDirectory() as workdir:
        experiment.run(config, workdir)
    return movies


def run(smallest: int) -> dict:
    """Measures all sizes; returns what is written as JSON."""
    points = [measure(run_experiment, smallest * times) for times in _TIMES]
    movies = np.array([point["movies"] for point in points])
    lines = {
        name: dataclasses.asdict(Line.through(movies, np.array([p[name] for p in points])))
        for name in ("seconds", "peak_mb")
    }
    return {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "points": points,
        "lines": lines,
    }


def table(results: dict) -> str:
    """The figures as text."""
    lines = [
        f"{results['machine']}; {results['date']}",
        f"{'movies':>8}{'seconds':>10}{'peak MB':>10}",
    ]
    for point in results["points"]:
        lines.append(f"{point['movies']:>8}{point['seconds']:>10.1f}{point['peak_mb']:>10}")
    seconds, memory = results["lines"]["seconds"], results["lines"]["peak_mb"]
    lines += [
        f"{seconds['start']:.0f} s and {1000 * seconds['slope']:.1f} s for each 1,000 movies; "
        f"no point is farther from this line than {100 * seconds['farthest']:.0f} %.",
        f"{memory['start']:.0f} MB and {1000 * memory['slope']:.0f} MB for each 1,000 movies; "
        f"no point is farther from this line than {100 * memory['farthest']:.0f} %.",
    ]
    return "\n".join(lines)


def draw(results: dict, file: pathlib.Path) -> None:
    """Points and lines as a PNG."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    movies = np.array([point["movies"] for point in results["points"]])
    for axis, name, unit in zip(axes, ("seconds", "peak_mb"), ("seconds", "peak memory, MB")):
        line = results["lines"][name]
        ends = np.array([0, movies[-1]])
        axis.plot(ends, line["start"] + line["slope"] * ends, color="0.6")
        axis.plot(movies, [point[name] for point in results["points"]], "o")
        axis.set(xlabel="movies", ylabel=unit, xlim=(0, None), ylim=(0, None))
    figure.suptitle(f"An experiment's cost; {results['machine']}", fontsize=10)
    write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=120))
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    output, results = flags.FLAGS.output, run(flags.FLAGS.movies)
    write_text(pathlib.Path(f"{output}.json"), json.dumps(results, indent=2) + "\n")
    draw(results, pathlib.Path(f"{output}.png"))
    print(table(results))


if __name__ == "__main__":
    flags.DEFINE_string("output", "growth", "The .json and .png files, without their ending.")
    flags.DEFINE_integer("movies", 1000, "Movies of the smallest experiment.", lower_bound=200)
    app.run(main)
