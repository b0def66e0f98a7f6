"""Flags that give a door its movies: one of them by its parts, or a table.

Heavy modules are imported by the functions that need them, as in the doors.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import InputError

if TYPE_CHECKING:
    import ml_collections

    from mmgc_jax.data.movies import Movie
    from mmgc_jax.data.table import MovieTable

_STDIN = "-"
_ONE = {
    "plot": "Plot of one movie; - reads it from standard input.",
    "plot_file": "Text file, UTF-8, with the plot of one movie.",
    "poster": "Image file with the poster of one movie.",
    "title": "Title of one movie, only to be shown.",
}


def define_one(values: flags.FlagValues) -> None:
    """Defines the flags of one movie: --plot, --plot_file, --poster and --title."""
    for name, meaning in _ONE.items():
        flags.DEFINE_string(name, None, meaning, flag_values=values)


def define_table(values: flags.FlagValues, movies: str = "Table of movies") -> None:
    """Defines the flags of a table: --movies, --posters and --columns."""
    meaning = f"{movies}: CSV, TSV, JSON lines or Parquet."
    flags.DEFINE_string("movies", None, meaning, flag_values=values)
    meaning = "Folder of the table's posters: <id>.jpg, or another suffix of images."
    flags.DEFINE_string("posters", None, meaning, flag_values=values)
    command_line.define_list(
        values,
        "columns",
        "Columns of the table that have unusual names, such as plot=Inhalt,id=Nummer.",
    )


def is_table(values: flags.FlagValues) -> bool:
    """Returns whether a table is given, and not one movie.

    Raises:
      InputError: if flags contradict one another, or some are missing.
    """
    one = [name for name in _ONE if values[name].value]
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
    return bool(many)


def read_plot(values: flags.FlagValues) -> str | None:
    """Reads the plot of one movie; None if none is given.

    Raises:
      InputError: if it cannot be read.
    """
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


def movie(values: flags.FlagValues, plot: str | None) -> "Movie":
    """Makes the one movie that is given.

    Raises:
      InputError: if its poster cannot be read.
    """
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
                f"--poster={values.poster} cannot be read: {reason(error)}."
            ) from error
    return Movie(title=clean(values.title or ""), plot=plot, poster=poster)


def table(
    values: flags.FlagValues, data: "ml_collections.ConfigDict", outputs: Sequence[str] = ()
) -> "MovieTable":
    """Reads the movies of a table; their posters are read when they are reached.

    Args:
      values: the flags.
      data: the section `data` of the experiment's config.
      outputs: files that will be written.

    Raises:
      InputError: if the table cannot be read, or is itself one of the outputs.
    """
    from mmgc_jax.data import table as tables
    from mmgc_jax.runtime.files import as_path, is_address
    from mmgc_jax.runtime.remote import local_copy

    given = local_copy(values.movies)
    posters = values.posters and local_copy(values.posters)
    settings = tables.TableSettings.to_predict(data, values.columns, posters)
    movies = tables.read(given, settings, labelled=False)
    for file in outputs:
        if not is_address(file):
            output = as_path(file)
            if output.exists() and output.samefile(given):
                raise InputError(f"--output={file} is the table of --movies itself.")
    return movies


def reason(error: Exception) -> str:
    """Returns an error's message; of one of the operating system, without number and path."""
    return getattr(error, "strerror", None) or str(error)
