"""Measures how time and peak memory of an experiment grow with the number of movies.

    python -m benchmarks.growth --output=growth

Runs the demo, with two epochs per model, on one, two, four and eight times --movies movies, each
run in a separate process. Time includes compilation. Fits a line to time and to memory, prints a
table, and writes growth.json and growth.png.
"""

import dataclasses
import datetime
import json
import pathlib
import tempfile

import matplotlib
import ml_collections

matplotlib.use("Agg")
import numpy as np
from absl import app, flags
from matplotlib import pyplot

from benchmarks import machine
from benchmarks.data import measure
from mmgc_jax import experiment
from mmgc_jax.configs import demo
from mmgc_jax.runtime.files import write_atomically, write_text

_MULTIPLES = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Line:
    """A least-squares line, value = intercept + slope * movies.

    Attributes:
      intercept: value at 0 movies.
      slope: increase per movie.
      max_relative_error: maximum distance of a value from the line, relative to the value.
    """

    intercept: float
    slope: float
    max_relative_error: float

    @classmethod
    def fit(cls, movies: np.ndarray, values: np.ndarray) -> "Line":
        """Fits a line to values <float>[points] at numbers of movies <int>[points]."""
        slope, intercept = np.polyfit(movies, values, 1)
        errors = np.abs(intercept + slope * movies - values) / values
        return cls(float(intercept), float(slope), float(errors.max()))


def make_config(movies: int) -> ml_collections.ConfigDict:
    """Makes the demo's config with two epochs per model and `movies` movies in total."""
    config = demo.get_config()
    test = movies // 4
    config.data.synthetic.update(train=movies - test, validation=0, test=test)
    for name in (*config.encoders, "fusion"):
        config[name].training.epochs = 2
    return config


def run_experiment(movies: int) -> int:
    """Runs an experiment in a temporary working directory; returns the number of movies."""
    with tempfile.TemporaryDirectory() as workdir:
        experiment.run(make_config(movies), workdir)
    return movies


def run(smallest: int) -> dict:
    """Measures experiments of all sizes.

    Args:
      smallest: number of movies in the smallest experiment.

    Returns:
      The content of the .json file.
    """
    points = [measure(run_experiment, smallest * multiple) for multiple in _MULTIPLES]
    movies = np.array([point["movies"] for point in points])
    lines = {
        name: dataclasses.asdict(Line.fit(movies, np.array([p[name] for p in points])))
        for name in ("seconds", "peak_mb")
    }
    return {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "points": points,
        "lines": lines,
    }


def table(results: dict) -> str:
    """Formats the figures as a table."""
    lines = [
        f"{results['machine']}; {results['date']}",
        f"{'movies':>8}{'seconds':>10}{'peak MB':>10}",
    ]
    for point in results["points"]:
        lines.append(f"{point['movies']:>8}{point['seconds']:>10.1f}{point['peak_mb']:>10}")
    seconds, memory = results["lines"]["seconds"], results["lines"]["peak_mb"]
    lines += [
        f"{seconds['intercept']:.0f} s plus {1000 * seconds['slope']:.1f} s per 1,000 movies; "
        f"maximum deviation from this line: {100 * seconds['max_relative_error']:.0f} %.",
        f"{memory['intercept']:.0f} MB plus {1000 * memory['slope']:.0f} MB per 1,000 movies; "
        f"maximum deviation from this line: {100 * memory['max_relative_error']:.0f} %.",
    ]
    return "\n".join(lines)


def draw(results: dict, file: pathlib.Path) -> None:
    """Draws the measurements and the fitted lines to a PNG file."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    movies = np.array([point["movies"] for point in results["points"]])
    for axis, name, unit in zip(axes, ("seconds", "peak_mb"), ("seconds", "peak memory, MB")):
        line = results["lines"][name]
        ends = np.array([0, movies[-1]])
        axis.plot(ends, line["intercept"] + line["slope"] * ends, color="0.6")
        axis.plot(movies, [point[name] for point in results["points"]], "o")
        axis.set(xlabel="movies", ylabel=unit, xlim=(0, None), ylim=(0, None))
    figure.suptitle(f"Cost of an experiment; {results['machine']}", fontsize=10)
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
    flags.DEFINE_string("output", "growth", "Path of the .json and .png files, without suffix.")
    flags.DEFINE_integer(
        "movies", 1000, "Number of movies in the smallest experiment.", lower_bound=200
    )
    app.run(main)
