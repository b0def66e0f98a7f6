r"""Predicts genres with a finished experiment: of one movie, or of a table of movies.

    mmgc predict --workdir=runs/demo --plot="the heist of two brothers ."
    mmgc predict --workdir=runs/demo --plot_file=plot.txt --poster=poster.jpg --top=3
    mmgc predict --workdir=runs/demo --plot=- --format=json < plot.txt
    mmgc predict --workdir=runs/demo --movies=movies.csv --posters=FOLDER --output=probs.csv
    mmgc predict --workdir=runs/demo --movies=movies.csv --embeddings=vectors.npy

One movie is shown with all genres whose probability reaches their threshold, and at least the five
likeliest. A table can be CSV, TSV, JSON lines or Parquet. It needs a plot or posters: in a column
of paths or web addresses, or in FOLDER as <id>.jpg (or .png, ...). The log says which columns are
taken; --columns names others.

Formats:

    text      bars, for people; one movie only
    csv       a row for each movie: ID,p_Action,p_Adventure,...; --decisions adds d_Action,...
    parquet   the same columns
    json      an object for each movie, each on a line of its own (JSON Lines): id, title, model,
              probabilities, predicted (the genres that reach their thresholds), plot_words (how
              many words of the plot the model knows), notes (why the answer may be poor)

`mmgc predict` and `python -m mmgc_jax.predict` are the same.
"""

import logging
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from absl import flags

from mmgc_jax import command_line, movie_flags
from mmgc_jax.runtime.errors import InputError

# Imported by the functions that need them, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    import ml_collections

    from mmgc_jax.answers import Answer
    from mmgc_jax.data.movies import Movie
    from mmgc_jax.predictor import Predictor

logger = logging.getLogger("mmgc_jax")

_FORMATS = ("text", "json", "csv", "parquet")
_FORMAT_OF_SUFFIX = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_STDOUT = "-"


def define_flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("workdir", "Working directory of a finished experiment.")
    movie_flags.define_one(values)
    movie_flags.define_table(values)
    text("stage", "Model that predicts: fusion, or an encoder of the experiment.", "fusion")
    flags.DEFINE_integer(
        "top", None, "Number of genres that text shows.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "format",
        None,
        _FORMATS,
        "Format of the answer. Without it, the suffix of --output decides; otherwise it is text "
        "for one movie and csv for a table.",
        flag_values=values,
    )
    text("output", "File to write; - is standard output. Needed for a table.")
    text(
        "embeddings",
        "File for vectors of the movies, .npy or .parquet; the cosine of two says how alike the "
        "movies are. A row for each movie, in their order.",
    )
    flags.DEFINE_bool(
        "decisions",
        False,
        "Whether csv and parquet have a column d_<genre> for each genre, too: 1 if it reaches its "
        "threshold, otherwise 0.",
        flag_values=values,
    )
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    is_table, answer_format = _check_flags(values)
    plot = None if is_table else movie_flags.read_plot(values)

    from mmgc_jax.answers import Counted, predict
    from mmgc_jax.encoders import registry
    from mmgc_jax.predictor import Predictor

    command_line.cache_small_programs()
    registry.import_modules(values.encoder_modules)
    predictor = Predictor.load(values.workdir)
    command_line.require_model(values.stage, predictor.models)

    def movies() -> Iterable["Movie"]:
        if is_table:
            return _table(values, predictor.config.data)
        return [movie_flags.movie(values, plot)]

    if values.embeddings:
        _write_embeddings(values, movies(), predictor)
    if is_table and not values.output:
        return
    answers = Counted(predict(predictor, movies(), values.stage, show_progress=is_table))
    _write(values, answer_format, answers, predictor)
    if is_table:
        where = "standard output" if _is_stdout(values.output) else values.output
        stream = sys.stderr if _is_stdout(values.output) else sys.stdout
        print(f"{answers.count} rows written to {where}", file=stream)
        if answers.noted:
            logger.warning(
                "%d of %d predictions may be poor; `notes` of --format=json says why. The first of "
                "them is for the movie with ID %s: %s",
                answers.noted, answers.count, answers.first.movie.id, answers.first.notes[0],
            )  # fmt: skip


def _check_flags(values: flags.FlagValues) -> tuple[bool, str]:
    """Returns whether a table is to be predicted, and the format.

    Raises:
      InputError: if flags contradict one another, or some are missing.
    """
    many = movie_flags.is_table(values)
    if many and not values.output and not values.embeddings:
        raise InputError("A table needs --output=FILE, or --output=- for standard output.")

    by_suffix = _FORMAT_OF_SUFFIX.get(pathlib.PurePath(values.output or "").suffix.lower())
    chosen = values.format or by_suffix or ("csv" if many else "text")
    if by_suffix and chosen != by_suffix:
        raise InputError(f"--format={chosen} and --output={values.output} contradict each other.")
    if chosen == "text" and many:
        raise InputError(f"--format=text is for one movie; for a table: {', '.join(_FORMATS[1:])}.")
    if chosen != "text" and values.top:
        raise InputError(f"--top is for --format=text; {chosen} has all genres.")
    if chosen not in ("csv", "parquet") and values.decisions:
        raise InputError(f"--decisions is for csv and parquet; {chosen} always has them.")
    suffix = pathlib.PurePath(values.embeddings or "").suffix.lower()
    if values.embeddings and suffix not in (".npy", ".parquet"):
        raise InputError(f"--embeddings={values.embeddings}: .npy or .parquet is needed.")
    if chosen == "parquet" and _is_stdout(values.output) and sys.stdout.isatty():
        raise InputError("--format=parquet is no text for a terminal; it needs --output=FILE.")
    if chosen == "parquet":
        _check_pyarrow("--format=parquet")
    if suffix == ".parquet":
        _check_pyarrow(f"--embeddings={values.embeddings}")
    return many, chosen


def _check_pyarrow(flag: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{flag} needs pyarrow, which is not installed. Run: pip install 'mmgc_jax[tables]'"
        ) from error


def _table(values: flags.FlagValues, data: "ml_collections.ConfigDict") -> Iterable["Movie"]:
    """Reads the movies of a table, unless it would be overwritten."""
    outputs = [] if _is_stdout(values.output) else [values.output]
    outputs += [values.embeddings] if values.embeddings else []
    return movie_flags.table(values, data, outputs)


def _is_stdout(output: str | None) -> bool:
    """Returns whether `--output` is standard output, under its name or another, or not given."""
    if not output or output == _STDOUT:
        return True
    try:
        return os.path.samestat(os.stat(output), os.fstat(sys.stdout.fileno()))
    except OSError:  # it does not exist yet, or standard output is not a file
        return False


def _write(
    values: flags.FlagValues,
    answer_format: str,
    answers: Iterable["Answer"],
    predictor: "Predictor",
) -> None:
    """Writes answers to `--output`."""
    from mmgc_jax import answers as formats
    from mmgc_jax.runtime.files import as_path, write_atomically

    genres = predictor.genres

    def write(stream: BinaryIO) -> None:
        if answer_format == "csv":
            formats.write_csv(stream, answers, genres, values.decisions)
        elif answer_format == "parquet":
            formats.write_parquet(stream, answers, genres, values.decisions)
        elif answer_format == "json":
            formats.write_json(stream, answers, genres, values.stage)
        else:
            stream.write(description().encode() + b"\n")

    def description() -> str:
        (answer,) = answers
        return formats.describe(answer, genres, predictor.thresholds(values.stage), values.top)

    if _is_stdout(values.output):
        if answer_format == "text":
            print(description())  # in the terminal's encoding
        else:
            write(sys.stdout.buffer)
        sys.stdout.flush()
        return
    try:
        write_atomically(as_path(values.output), write)
    except OSError as error:
        raise InputError(
            f"--output={values.output} cannot be written: {movie_flags.reason(error)}."
        ) from error


def _write_embeddings(
    values: flags.FlagValues, movies: Iterable["Movie"], predictor: "Predictor"
) -> None:
    """Writes the vectors of movies to `--embeddings`."""
    from mmgc_jax import answers as formats
    from mmgc_jax.runtime.files import as_path, write_atomically

    ids, vectors = formats.embed(predictor, movies, values.stage)
    is_numpy = values.embeddings.lower().endswith(".npy")

    def write(stream: BinaryIO) -> None:
        if is_numpy:
            formats.write_npy(stream, vectors)
        else:
            formats.write_vectors(stream, ids, vectors)

    try:
        write_atomically(as_path(values.embeddings), write)
    except OSError as error:
        raise InputError(
            f"--embeddings={values.embeddings} cannot be written: {movie_flags.reason(error)}."
        ) from error
    rows, features = vectors.shape
    shown = sys.stderr if values.output and _is_stdout(values.output) else sys.stdout
    print(f"{rows} vectors of {features} features written to {values.embeddings}", file=shown)


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir",))


if __name__ == "__main__":
    start()
