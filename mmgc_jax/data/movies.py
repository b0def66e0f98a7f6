"""Reads movies from the talk's data or another CSV table; `mmimdb` reads MM-IMDb.

Readers return iterators over `Movie` records, which read each poster when its movie is reached. One
`InputError` lists all malformed rows. Posters are not decoded here: see `posters`.

pandas is not used because its parser silently accepts rows with too few cells.
"""

import ast
import csv
import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

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

# A longer cell means a damaged file.
MAX_CHARACTERS = 1_000_000
_MAX_LINE_CHARACTERS = 10 * MAX_CHARACTERS
_MAX_COLUMNS = 1000
# Three times the length of a list of all genres; much longer literals can exhaust Python's parser.
_MAX_GENRES_CHARACTERS = 1000
_MAX_PROBLEMS_SHOWN = 10
_MAX_OTHERS_SHOWN = 3  # files of a folder without posters, in messages
_MAX_SHOWN = 80  # characters of a cell in messages
_POSTER_SUFFIX = ".jpg"
# Control characters except tabs and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURPLUS = object()  # DictReader's key for cells beyond the header; not equal to any column


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


def read_talk(path: str) -> Iterator[Movie]:
    """Reads labelled movies from a folder with `movies.csv` and `posters/<index>.jpg`.

    Args:
      path: path of the folder.

    Returns:
      An iterator over the movies in the order of `movies.csv`.

    Raises:
      InputError: if the folder, `movies.csv` or `posters/` does not exist, or as `read_csv` raises.
    """
    folder = pathlib.Path(path)
    if not path or not folder.is_dir():
        raise InputError(
            f"config.data.path is {path!r}: no such folder. It must have movies.csv and posters/."
        )
    posters = folder / "posters"
    if not posters.is_dir():
        raise InputError(f"{folder} has no folder posters/ (it may be empty, but must exist).")
    return read_csv(folder / "movies.csv", posters, labelled=True)


def read_csv(table, posters=None, labelled: bool = False) -> Iterator[Movie]:
    """Reads a CSV file with the columns `index,year,title,plot` and, if labelled, `genres`.

    The first column is the index, whatever its name. An empty or blank plot becomes None. Titles
    and plots are passed through `clean`; the log says how many were changed. Genres are a Python
    list literal, read with `ast.literal_eval`; duplicates are dropped.

    Args:
      table: path of the CSV file, UTF-8, with cells of at most `MAX_CHARACTERS`.
      posters: folder of `<index>.jpg` files, or None. An index that leads out of it has no poster;
        a link that leads out of it counts as unreadable. The log says how many posters were found.
      labelled: whether to read genres; otherwise they are None.

    Returns:
      An iterator over a `Movie` for each row, in the order of the file.

    Raises:
      InputError: at once, if the file cannot be read, a column is missing or duplicate, or rows are
        malformed, of which it names up to ten.
    """
    table = pathlib.Path(table)
    if posters is not None and not pathlib.Path(posters).is_dir():
        raise InputError(f"{posters}: no such folder of posters.")
    if not table.is_file():
        raise InputError(f"{table}: no such file.")
    header, rows = _read_rows(table, labelled)
    movies = _parse_rows(table, header, rows, labelled)
    if posters is None:
        return iter(movies)
    folder = pathlib.Path(posters)
    files = [_poster_file(movie, folder) for movie in movies]
    _report_posters(movies, folder, files)
    return map(_with_poster, movies, files)


def _read_rows(table: pathlib.Path, labelled: bool) -> tuple[Sequence[str], list[dict]]:
    """Reads and checks the header; returns it and each row as {column: cell}."""
    csv.field_size_limit(MAX_CHARACTERS)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            # strict=True: otherwise a cell with an unclosed quote would swallow the next rows.
            reader = csv.DictReader(_lines(file), restkey=_SURPLUS, strict=True)
            header = reader.fieldnames or []
            _check_header(table, header, labelled)
            return header, list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a UTF-8 CSV file: {error}") from error


def _parse_rows(
    table: pathlib.Path, header: Sequence[str], rows: list[dict], labelled: bool
) -> list[Movie]:
    """Parses all rows; raises one `InputError` that lists the malformed ones."""
    movies, problems, seen, cleaned = [], [], set(), 0
    for number, row in enumerate(rows, start=1):
        try:
            movie = _movie_of_row(row, header[0], labelled)
            if movie.id in seen:
                raise ValueError("an earlier row has the same index")
            seen.add(movie.id)
            movies.append(movie)
            cleaned += any(clean(row[name]) != row[name] for name in ("title", "plot"))
        except ValueError as error:
            problems.append(f"row {number} (index {row[header[0]][:_MAX_SHOWN]}): {error}")
    raise_if_any(problems, table, f"bad rows of {len(rows)}")
    if cleaned:
        logger.warning("%s: replaced control characters in %d rows by blanks.", table, cleaned)
    return movies


def _lines(file: TextIO) -> Iterator[str]:
    """Yields the lines of a file; raises `csv.Error` before reading an overlong line whole."""
    while line := file.readline(_MAX_LINE_CHARACTERS):
        if len(line) == _MAX_LINE_CHARACTERS:
            raise csv.Error(f"a line is longer than {_MAX_LINE_CHARACTERS:,} characters")
        yield line


def _check_header(table: pathlib.Path, header: Sequence[str], labelled: bool) -> None:
    needed = ("year", "title", "plot", *(("genres",) if labelled else ()))
    advice = f"Needed: an index in the first column, and {', '.join(needed)}."
    if len(header) > _MAX_COLUMNS:
        raise InputError(f"{table} has {len(header):,} columns. {advice}")
    if missing := [name for name in needed if name not in header]:
        raise InputError(
            f"{table} lacks the column {', '.join(missing)}; it has: "
            f"{', '.join(name[:_MAX_SHOWN] for name in header) or 'none'}. {advice}"
        )
    if twice := [name for name in (header[0], *needed) if header.count(name) > 1]:
        raise InputError(
            f"{table} has the column {', '.join(map(repr, twice))} more than once. {advice}"
        )


def _movie_of_row(row: Mapping[str, str], index: str, labelled: bool) -> Movie:
    if _SURPLUS in row:
        raise ValueError("more cells than the header has columns")
    if None in row.values():
        raise ValueError("fewer cells than the header has columns")
    movie_id, year, plot = row[index].strip(), row["year"].strip(), clean(row["plot"])
    if not movie_id:
        raise ValueError("the index is empty")
    if not movie_id.isprintable():
        raise ValueError("the index has a control character")
    if year and not year.isdecimal():
        raise ValueError(f"the year is not a number: {year[:_MAX_SHOWN]!r}")
    if len(year) > 4:
        raise ValueError(f"the year has {len(year)} digits")
    return Movie(
        id=movie_id,
        title=clean(row["title"]),
        year=int(year) if year else None,
        plot=plot if plot.strip() else None,
        genres=_parse_genres(row["genres"]) if labelled else None,
    )


def _parse_genres(cell: str) -> tuple[str, ...]:
    try:
        if len(cell) > _MAX_GENRES_CHARACTERS:
            raise ValueError("too long")
        genres = ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"genres is not a list literal: {cell[:_MAX_SHOWN]!r}") from error
    if not isinstance(genres, list) or not all(isinstance(genre, str) for genre in genres):
        raise ValueError(f"genres is not a list of strings: {cell[:_MAX_SHOWN]!r}")
    unknown = [genre for genre in genres if genre not in GENRES]
    if unknown:
        raise ValueError(f"unknown genre {', '.join(unknown)}; known: {', '.join(GENRES)}")
    if not genres:
        raise ValueError("no genre")
    return tuple(dict.fromkeys(genres))


def _poster_file(movie: Movie, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns `<index>.jpg` if it is a file of the folder."""
    file = folder / (movie.id + _POSTER_SUFFIX)
    try:
        return file if file.parent == folder and file.is_file() else None
    except OSError:  # the index is too long for a file name
        return None


def _report_posters(
    movies: Sequence[Movie], folder: pathlib.Path, files: Sequence[pathlib.Path | None]
) -> None:
    """Logs how many movies have a poster; if none has, what the folder has instead."""
    found = sum(file is not None for file in files)
    if found or not movies:
        logger.info("%d of %d movies have a poster in %s.", found, len(movies), folder)
        return
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    shown = [name if name.isprintable() else repr(name) for name in entries[:_MAX_OTHERS_SHOWN]]
    more = f" and {len(entries) - len(shown)} more" if len(entries) > len(shown) else ""
    logger.warning(
        "None of %d movies has a poster in %s. Needed: <index>%s, such as %s. The folder %s.",
        len(movies),
        folder,
        _POSTER_SUFFIX,
        movies[0].id + _POSTER_SUFFIX,
        f"has: {', '.join(shown)}{more}" if shown else "is empty",
    )


def _with_poster(movie: Movie, file: pathlib.Path | None) -> Movie:
    return movie if file is None else dataclasses.replace(movie, poster=read_poster(file))


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
