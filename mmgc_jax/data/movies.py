"""The record of a movie, and what all readers of movies share.

Readers yield `Movie` records, and read each poster when its movie is reached. One `InputError`
lists all malformed rows. Posters are not decoded here: see `posters`.
"""

import dataclasses
import logging
import os
import pathlib
import re

from PIL import Image

from mmgc_jax.data.posters import read_image
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
