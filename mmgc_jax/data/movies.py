"""The record of a movie, what all readers of movies share, and checks of movies from a caller.

Readers yield `Movie` records, and read each poster when its movie is reached. One `InputError`
lists all malformed rows. Posters are not decoded here: see `posters`.
"""

import dataclasses
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable

from PIL import Image

from mmgc_jax.data.posters import encode_png, read_image
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

# The talk's genres. Labels and probabilities always have genres in alphabetical order.
GENRES = (
    "Action", "Adventure", "Animation", "Biography", "Comedy", "Crime", "Documentary", "Drama",
    "Family", "Fantasy", "Film-Noir", "History", "Horror", "Music", "Musical", "Mystery",
    "News", "Romance", "Sci-Fi", "Short", "Sport", "Thriller", "War", "Western",
)  # fmt: skip

# A longer text means a damaged file.
MAX_CHARACTERS = 1_000_000
_MAX_PROBLEMS_SHOWN = 10
# Control characters except tabs and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclasses.dataclass(frozen=True)
class Movie:
    """A movie: one that a source has, or one whose genres are to be predicted.

    >>> Movie(plot="a retired spy returns .").title
    ''

    Attributes:
      id: unique within the source; may be empty in a movie to predict.
      title: may be empty.
      year: of release, if known.
      plot: the text; None if the movie has none.
      poster: the bytes of an image file; None if the movie has none. In a movie to predict it can
        also be the path of an image file, or a PIL image.
      genres: some of the source's genres; None if the movie is not labelled.
    """

    id: str = ""
    title: str = ""
    year: int | None = None
    plot: str | None = None
    poster: bytes | str | os.PathLike | Image.Image | None = None
    genres: tuple[str, ...] | None = None


def clean(words: str) -> str:
    """Replaces characters that other libraries cannot handle.

    Control characters except tabs and line ends become blanks. Lone surrogates, which JSON and
    command lines can contain but UTF-8 cannot, become question marks.
    """
    return _CONTROL.sub(" ", words).encode(errors="replace").decode()


def leads_out(file: pathlib.Path) -> bool:
    """Returns whether a file is a symbolic link to a place outside its folder."""
    return file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve())


def read_poster(file: pathlib.Path) -> bytes:
    """Reads the file of a poster; returns empty bytes, and logs why, if it cannot be read.

    A link to a place outside its folder is not read. Empty bytes cannot be decoded, so that the
    poster counts as unreadable.
    """
    try:
        if leads_out(file):
            logger.warning("%s is not read: it is a link to a place outside its folder.", file)
            return b""
        return read_image(file)
    except OSError as error:
        logger.warning("%s cannot be read: %s", file, error)
        return b""


def raise_if_any(problems: list[str], place, summary: str) -> None:
    """Raises one `InputError` for a list of problems, unless it is empty.

    Args:
      problems: messages; the error shows the first ten.
      place: file, folder or other place with the problems.
      summary: what the number of problems counts, such as "bad rows of 100"; "rows" becomes
        "row" if there is only one problem.
    """
    if problems:
        shown = problems[:_MAX_PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        if len(problems) == 1:
            summary = re.sub(r"^(bad \w+)s\b", r"\1", summary)
        raise InputError(f"{place} has {len(problems)} {summary}:\n  " + "\n  ".join(shown))


def checked(movies: Iterable[Movie]) -> list[Movie]:
    """Checks the types of movies, and reads the posters that are not bytes yet."""
    return [
        dataclasses.replace(movie, poster=_poster_bytes(movie.poster, f"movies[{number}].poster"))
        for number, movie in enumerate(listed(movies))
    ]


def listed(movies: Iterable[Movie]) -> list[Movie]:
    """Makes a list of movies; raises a TypeError that names what has another type."""
    if isinstance(movies, Movie | str | bytes) or not isinstance(movies, Iterable):
        wanted = "[movie]" if isinstance(movies, Movie) else "[Movie(plot='...')]"
        raise TypeError(
            f"movies is {_type_name(movies)}; a list or another iterable of movies is needed, such "
            f"as {wanted}."
        )
    movies = list(movies)
    for number, movie in enumerate(movies):
        check_movie(movie, f"movies[{number}]")
    return movies


def check_movie(movie: Movie, name: str) -> None:
    """Raises a TypeError that begins with a name if a movie, or a field of it, has another type."""
    if not isinstance(movie, Movie):
        raise TypeError(
            f"{name} is {_type_name(movie)}; a Movie is needed, such as Movie(plot='...')."
        )
    for field, wanted in (("id", "a str"), ("title", "a str"), ("plot", "a str or None")):
        value = getattr(movie, field)
        if isinstance(value, str) or (value is None and field == "plot"):
            continue
        hint = ""
        if field == "plot" and isinstance(value, float) and math.isnan(value):
            hint = " (nan, as pandas has for missing values)"
        raise TypeError(f"{name}.{field} is {_type_name(value)}{hint}; {wanted} is needed.")
    if not isinstance(
        movie.poster, bytes | bytearray | memoryview | str | os.PathLike | Image.Image | None
    ):
        raise TypeError(
            f"{name}.poster is {_type_name(movie.poster)}; the bytes of an image file, its path, "
            "a PIL image or None is needed. Of an array: PIL.Image.fromarray(array)."
        )


def _type_name(value) -> str:
    return "None" if value is None else type(value).__name__


def _poster_bytes(poster, name: str) -> bytes | None:
    """Returns the bytes of an image file; `name` is for errors."""
    if poster is None or isinstance(poster, bytes):
        return poster
    if isinstance(poster, bytearray | memoryview):
        return bytes(poster)
    try:
        if isinstance(poster, Image.Image):
            return encode_png(poster)
        return read_image(poster)
    except (OSError, ValueError) as error:  # ValueError: a closed image, or a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        what = "the PIL image" if isinstance(poster, Image.Image) else os.fspath(poster)
        raise InputError(f"{name}: {what} cannot be read: {reason}.") from error
