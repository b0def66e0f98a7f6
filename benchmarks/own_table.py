"""Measures how fast a table of plots becomes a corpus, and how much memory that takes.

    python -m benchmarks.own_table --output=own_table.json

Makes up tables of 10,000, 50,000 and 200,000 movies, with plots of 30 to 200 words and 24 genres.
Reads each of them, writes its shards, and loads the corpus, in a separate process.
"""

import csv
import datetime
import itertools
import json
import pathlib
import random
import tempfile

from absl import app, flags

from benchmarks import machine
from benchmarks.data import measure
from mmgc_jax.configs import own
from mmgc_jax.data import builder, pipeline
from mmgc_jax.runtime.files import write_text

_MOVIES = (10_000, 50_000, 200_000)
_WORDS = 20_000


def write_table(file: pathlib.Path, movies: int, num_genres: int = 24) -> None:
    """Writes a CSV file of made-up movies, whose words are distributed by Zipf's law."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(_WORDS)]
    weights = list(itertools.accumulate(1 / (5 + number) for number in range(_WORDS)))
    genres = [f"Genre {number}" for number in range(num_genres)]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "year", "overview", "genres"])
        for number in range(movies):
            plot = chance.choices(words, cum_weights=weights, k=chance.randint(30, 200))
            chosen = chance.sample(genres, chance.randint(1, 4))
            year = 1950 + number % 70
            writer.writerow([number, f"Movie {number}", year, " ".join(plot), "|".join(chosen)])


def load(file: pathlib.Path, shards: pathlib.Path) -> int:
    """Reads a table, writes its shards if they do not exist, and loads them."""
    data = own.get_config().data.copy_and_resolve_references()
    data.path = str(file)
    return len(pipeline.load_corpus(builder.build(data, shards), data).ids)


def run(sizes=_MOVIES) -> dict:
    """Measures tables of all sizes, at first and when the shards exist."""
    points = []
    for movies in sizes:
        with tempfile.TemporaryDirectory() as folder:
            file, shards = pathlib.Path(folder, "movies.csv"), pathlib.Path(folder, "shards")
            write_table(file, movies)
            points.append(
                {
                    "movies": movies,
                    "table_mb": round(file.stat().st_size / 1e6, 1),
                    "first": measure(load, file, shards),
                    "again": measure(load, file, shards),
                }
            )
    return {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "points": points,
    }


def table(results: dict) -> str:
    """Formats the figures as a table."""
    lines = [
        f"{results['machine']}; {results['date']}",
        f"{'movies':>9}{'table MB':>10}{'movies/s':>10}{'again':>9}{'peak MB':>9}",
    ]
    for point in results["points"]:
        movies, first, again = point["movies"], point["first"], point["again"]
        lines.append(
            f"{movies:>9,}{point['table_mb']:>10}{movies / first['seconds']:>10,.0f}"
            f"{movies / again['seconds']:>9,.0f}{max(first['peak_mb'], again['peak_mb']):>9,.0f}"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    results = run()
    print(table(results))
    write_text(pathlib.Path(flags.FLAGS.output), json.dumps(results, indent=2))


if __name__ == "__main__":
    flags.DEFINE_string("output", "own_table.json", "JSON file for the figures.")
    app.run(main)
