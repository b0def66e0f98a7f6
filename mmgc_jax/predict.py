r"""Predicts genres with a finished experiment: of one movie, or of a table of movies.

    mmgc predict --workdir=runs/demo --plot="the heist of two brothers ."
    mmgc predict --workdir=runs/demo --plot_file=plot.txt --poster=poster.jpg --top=3
    mmgc predict --workdir=runs/demo --plot=- --format=json < plot.txt
    mmgc predict --workdir=runs/demo --movies=movies.csv --posters=FOLDER --output=probs.csv

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

from mmgc_jax import command_line
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
_STDIN = "-"


def define_flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("workdir", "Working directory of a finished experiment.")
    text("plot", "Plot of one movie; - reads it from standard input.")
    text("plot_file", "Text file, UTF-8, with the plot of one movie.")
    text("poster", "Image file with the poster of one movie.")
    text("title", "Title of one movie, only to be shown.")
    text("movies", "Table of movies: CSV, TSV, JSON lines or Parquet.")
    text("posters", "Folder of the table's posters: <id>.jpg, or another suffix of images.")
    command_line.define_list(
        values,
        "columns",
        "Columns of the table that have unusual names, such as plot=Inhalt,id=Nummer.",
    )
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
    plot = None if is_table else _plot(values)

    import jax

    from mmgc_jax.answers import Counted, predict
    from mmgc_jax.encoders import registry
    from mmgc_jax.predictor import Predictor

    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # By default JAX caches programs that take a second to compile. Each of those that make an
        # answer takes less, all together more.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    registry.import_modules(values.encoder_modules)
    predictor = Predictor.load(values.workdir)
    command_line.require_model(values.stage, predictor.models)
    movies = _table(values, predictor.config.data) if is_table else [_movie(values, plot)]
    answers = Counted(predict(predictor, movies, values.stage, show_progress=is_table))
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
    one = [name for name in ("plot", "plot_file", "poster", "title") if values[name].value]
    one += ["plot"] if values.plot == "" else []
    many = [name for name in ("movies", "posters", "columns") if values[name].value]
    if one and many:
        raise InputError(f"--{one[0]} is for one movie and --{many[0]} for a table: choose one.")
    if "plot" in one and "plot_file" in one:
        raise InputError("--plot and --plot_file are both given: choose one.")
    if not many and not set(one) - {"title"}:
        raise InputError(
            "Give --plot, --plot_file or --poster for one movie, or --movies for a table."
        )
    if many and not values.movies:
        raise InputError(f"--{many[0]} needs --movies=FILE, a table of movies.")
    if many and not values.output:
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
    if chosen == "parquet":
        _check_parquet(values)
    return bool(many), chosen


def _check_parquet(values: flags.FlagValues) -> None:
    if _is_stdout(values.output) and sys.stdout.isatty():
        raise InputError("--format=parquet is no text for a terminal; it needs --output=FILE.")
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--format=parquet needs pyarrow, which is not installed. Run: pip install "
            "'mmgc_jax[tables]'"
        ) from error


def _plot(values: flags.FlagValues) -> str | None:
    """Reads the plot of one movie; None if none is given."""
    from mmgc_jax.data.movies import MAX_CHARACTERS
    from mmgc_jax.runtime.remote import local_copy

    most = MAX_CHARACTERS  # its bytes are at most four times as many
    try:
        if values.plot_file:
            flag = f"--plot_file={values.plot_file}"
            with open(local_copy(values.plot_file), "rb") as file:
                content = file.read(4 * most + 1)
        elif values.plot == _STDIN:
            flag = "--plot=-"
            if sys.stdin.isatty():
                print("Type the plot; Ctrl-D on a new line ends it.", file=sys.stderr)
            content = sys.stdin.buffer.read(4 * most + 1)
        else:
            return values.plot
        plot = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{flag} is not a text in UTF-8: {error}.") from error
    except OSError as error:
        raise InputError(f"{flag} cannot be read: {error.strerror}.") from error
    if len(plot) > most:
        raise InputError(f"{flag} has more than {most:,} characters: is it a plot?")
    return plot


def _movie(values: flags.FlagValues, plot: str | None) -> "Movie":
    from mmgc_jax.data import posters
    from mmgc_jax.data.movies import Movie
    from mmgc_jax.data.text import clean
    from mmgc_jax.runtime.remote import local_copy

    poster = None
    if values.poster:
        try:
            poster = posters.read_image(local_copy(values.poster))
            posters.decode(poster, 32, 32)
        except (OSError, posters.PosterError) as error:
            raise InputError(
                f"--poster={values.poster} cannot be read: {_reason(error)}."
            ) from error
    return Movie(title=clean(values.title or ""), plot=plot, poster=poster)


def _table(values: flags.FlagValues, data: "ml_collections.ConfigDict") -> Iterable["Movie"]:
    """Reads the movies of a table; their posters are read when they are reached."""
    from mmgc_jax.data import table
    from mmgc_jax.runtime.files import as_path, is_address
    from mmgc_jax.runtime.remote import local_copy

    given = local_copy(values.movies)
    posters = values.posters and local_copy(values.posters)
    settings = table.TableSettings.to_predict(data, values.columns, posters)
    movies = table.read_movies(given, settings)
    if not _is_stdout(values.output) and not is_address(values.output):
        output = as_path(values.output)
        if output.exists() and output.samefile(given):
            raise InputError(f"--output={values.output} is the table of --movies itself.")
    return movies


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
            f"--output={values.output} cannot be written: {_reason(error)}."
        ) from error


def _reason(error: Exception) -> str:
    """Returns an error's message; of one of the operating system, without number and path."""
    return getattr(error, "strerror", None) or str(error)


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir",))


if __name__ == "__main__":
    start()
