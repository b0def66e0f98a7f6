"""Movies, and the reader of the talk's data; MM-IMDb's is `mmgc_jax.data.mmimdb`.

A reader yields `Movie` records and reads posters only when their movie's turn comes. Rows and files
that cannot be understood stop the reading with one `InputError` that names them all; what a
poster's bytes hold is looked at later, by `mmgc_jax.data.posters`.
"""

import ast
import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mmgc_jax.errors import InputError

# The 24 of the talk's data. Genres are in alphabetical order in every label and probability vector.
GENRES = (
    "Action", "Adventure", "Animation", "Biography", "Comedy", "Crime", "Documentary", "Drama",
    "Family", "Fantasy", "Film-Noir", "History", "Horror", "Music", "Musical", "Mystery",
    "News", "Romance", "Sci-Fi", "Short", "Sport", "Thriller", "War", "Western",
)  # fmt: skip

# A cell longer than this is a broken file, not a plot.
_MAX_CELL_CHARACTERS = 1_000_000
_MAX_PROBLEMS_SHOWN = 10
_SURPLUS = object()  # the key of cells beyond the header: no column can have it


@dataclasses.dataclass(frozen=True)
class Movie:
    """One movie as its source gives it.

    Attributes:
      id: unique within its source.
      title: as written.
      year: of release, or None.
      plot: the text, or None where there is none.
      poster: the bytes of an image file, or None where there is none.
      genres: names out of those of its source, or None where the movie is not labelled.
    """

    id: str
    title: str
    year: int | None = None
    plot: str | None = None
    poster: bytes | None = None
    genres: tuple[str, ...] | None = None


def to_labels(genres: Iterable[str]) -> np.ndarray:
    """<float32>[24] with 1 for each of the given genres."""
    genres = set(genres)
    return np.array([genre in genres for genre in GENRES], np.float32)


def read_talk(path: str) -> Iterator[Movie]:
    """The labelled movies of a folder with `movies.csv` and `posters/<index>.jpg`.

    Raises:
      InputError: as `read_csv`; or if the folder lacks either.
    """
    folder = pathlib.Path(path)
    if not path or not folder.is_dir():
        raise InputError(
            f"config.data.path is {path!r}: no such folder. It must hold movies.csv and posters/."
        )
    posters = folder / "posters"
    if not posters.is_dir():
        raise InputError(f"{folder} has no folder posters/ (it may be empty, but must be there).")
    return read_csv(folder / "movies.csv", posters, labelled=True)


def read_csv(table, posters=None, labelled: bool = False) -> Iterator[Movie]:
    """The movies of a CSV file with the columns `index,year,title,plot` and, if labelled, `genres`.

    The first column is the index, whatever its name. An empty plot, or one of blanks, becomes
    None. Genres are a Python list literal, read with `ast.literal_eval`.

    Args:
      table: path of the CSV file, UTF-8.
      posters: folder of `<index>.jpg` files, or None.
      labelled: whether genres are read; otherwise they are None.

    Yields:
      A `Movie` for each row, in the order of the file.

    Raises:
      InputError: before the first movie, if the file cannot be read, a column is missing, or rows
        are malformed; it names up to ten of the rows.
    """
    table = pathlib.Path(table)
    if posters is not None and not pathlib.Path(posters).is_dir():
        raise InputError(f"{posters}: no such folder of posters.")
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, restkey=_SURPLUS))
            file.seek(0)
            header = next(csv.reader(file), [])
    except FileNotFoundError as error:
        raise InputError(f"{table}: no such file.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a UTF-8 CSV file: {error}") from error

    needed = ("year", "title", "plot", *(("genres",) if labelled else ()))
    missing = [name for name in needed if name not in header]
    if missing:
        raise InputError(
            f"{table} lacks the column {', '.join(missing)}; it has: "
            f"{', '.join(header) or 'none'}. "
            f"Needed: an index first, then {', '.join(needed)}."
        )

    movies, problems, seen = [], [], set()
    for number, row in enumerate(rows, start=1):
        try:
            movie = _movie_of_row(row, header[0], labelled)
            if movie.id in seen:
                raise ValueError("an earlier row has the same index")
            seen.add(movie.id)
            movies.append(movie)
        except ValueError as error:
            problems.append(f"row {number} (index {row[header[0]]}): {error}")
    raise_if_any(problems, table, f"bad rows of {len(rows)}")
    return (_with_poster(movie, posters, ".jpg") for movie in movies)


def _movie_of_row(row: Mapping[str, str], index: str, labelled: bool) -> Movie:
    if _SURPLUS in row:
        raise ValueError("more cells than the header has columns")
    if None in row.values():
        raise ValueError("fewer cells than the header has columns")
    if not row[index].strip():
        raise ValueError("the index is empty")
    year = row["year"].strip()
    if year and not year.isdigit():
        raise ValueError(f"the year is not a number: {year!r}")
    return Movie(
        id=row[index].strip(),
        title=row["title"],
        year=int(year) if year else None,
        plot=row["plot"] if row["plot"].strip() else None,
        genres=_parse_genres(row["genres"]) if labelled else None,
    )


def _parse_genres(cell: str) -> tuple[str, ...]:
    try:
        genres = ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"genres is not a list literal: {cell[:80]!r}") from error
    if not isinstance(genres, list) or not all(isinstance(genre, str) for genre in genres):
        raise ValueError(f"genres is not a list of strings: {cell[:80]!r}")
    unknown = [genre for genre in genres if genre not in GENRES]
    if unknown:
        raise ValueError(f"unknown genre {', '.join(unknown)}; known: {', '.join(GENRES)}")
    if not genres:
        raise ValueError("no genre")
    return tuple(genres)


def _with_poster(movie: Movie, posters, suffix: str) -> Movie:
    if posters is None:
        return movie
    file = pathlib.Path(posters, movie.id + suffix)
    try:
        if file.parent != pathlib.Path(posters) or not file.is_file():
            return movie
    except OSError:  # the index is too long for a file's name
        return movie
    try:
        poster = file.read_bytes()
    except OSError:
        poster = b""  # counts as unreadable wherever it is decoded
    return dataclasses.replace(movie, poster=poster)


def raise_if_any(problems: list[str], place: pathlib.Path, summary: str) -> None:
    """Raises one `InputError` for all problems found in a place; it shows the first ten."""
    if problems:
        shown = problems[:_MAX_PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise InputError(f"{place} has {len(problems)} {summary}:\n  " + "\n  ".join(shown))
