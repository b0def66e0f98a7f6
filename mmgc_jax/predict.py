"""Predicts genres with a finished experiment.

A row of probabilities for each movie of a table:

    python -m mmgc_jax.predict --workdir=runs/talk --movies=movies.csv --posters=FOLDER \
        --output=probs.csv

One movie, to be read:

    python -m mmgc_jax.predict --workdir=runs/talk --plot="a retired spy ..." --poster=x.jpg
"""

import csv
import io
import itertools
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from mmgc_jax.data import movies, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import registry
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, cache_folder, is_address, write_atomically
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.runtime.remote import copy_here

logger = logging.getLogger("mmgc_jax")

_MOVIES_AT_ONCE = 64  # their posters are in memory as they are in their files
_SHOWN = 8


def predict_table(predictor: Predictor, rows: Iterable[Movie], output: Path, model: str) -> int:
    """Writes `ID,p_Action,...`, a row for each movie in the order given; returns their number."""
    written = 0

    def write(stream: BinaryIO) -> None:
        nonlocal written
        file = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ID", *(f"p_{genre}" for genre in predictor.genres)])
        while chunk := list(itertools.islice(iterator, _MOVIES_AT_ONCE)):
            for movie, scores in zip(chunk, predictor(chunk, model)):
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
    flags.DEFINE_string(
        "stage", "fusion", "The model that predicts: fusion, or an encoder of the experiment."
    )
    flags.DEFINE_multi_string(
        "encoder_modules", [], "Modules of kinds of encoders that are not of this package."
    )


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


def _local(place: str) -> str:
    return copy_here(place, cache_folder() / "copies") if is_address(place) else place


def _predict(values: flags.FlagValues) -> None:
    one, many = values.plot or values.poster, values.movies or values.posters
    if bool(one) == bool(many):
        raise InputError("Give --plot, --poster or both for one movie, or --movies for a table.")
    if many and not (values.movies and values.output):
        raise InputError("A table needs --movies=FILE.csv and --output=FILE.csv.")
    registry.import_modules(values.encoder_modules)
    predictor = Predictor.load(values.workdir)
    if many:
        _predict_many(predictor, values)
    else:
        _predict_one(predictor, values)


def _predict_many(predictor: Predictor, values: flags.FlagValues) -> None:
    given, output = _local(values.movies), as_path(values.output)
    table = movies.read_csv(given, values.posters and _local(values.posters))
    exists = not is_address(output) and output.exists()
    if values.output == values.movies or (exists and output.samefile(given)):
        raise InputError(f"--output={output} is the table of --movies itself.")
    count = predict_table(predictor, table, output, values.stage)
    print(f"{count} rows written to {output}")


def _predict_one(predictor: Predictor, values: flags.FlagValues) -> None:
    poster = None
    if values.poster:
        try:
            poster = posters.read_image(_local(values.poster))
            posters.decode(poster, 32, 32)
        except (OSError, posters.PosterError) as error:
            raise InputError(f"--poster={values.poster} cannot be read: {error}") from error
    movie = Movie(id="", title="", plot=values.plot or None, poster=poster)
    probabilities = predictor([movie], values.stage)
    decided = predictor.decide(probabilities, values.stage)
    print(describe(probabilities[0], predictor.genres, decided[0]))
    print("* reaches the threshold at which this genre is predicted best (F1)")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
