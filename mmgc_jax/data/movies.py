"""Movies and the readers of each source.

A reader yields `Movie` records, split by split, and reads posters only when their movie's turn
comes. Rows and files that cannot be understood stop the reading with one `InputError` that names
them all; what a poster's bytes hold is looked at later, by `mmgc_jax.data.posters`.
"""

import ast
import collections
import csv
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mmgc_jax.errors import InputError

logger = logging.getLogger(__name__)

# The 24 of the talk's data, in alphabetical order: the order of every label vector and of every
# probability vector.
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
      genres: names out of `GENRES`, or None where the movie is not labelled.
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
    _raise_if_any(problems, table, f"bad rows of {len(rows)}")
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


def read_mmimdb(path: str) -> dict[str, Iterator[Movie]]:
    """The movies of the extracted MM-IMDb archive (arXiv 1702.01992), by its official split.

    Of several plots the longest counts. Genres outside `GENRES` are dropped, movies left without
    any are passed over, and both are counted in the log.

    Args:
      path: the folder with `split.json` and `dataset/<id>.json`, `dataset/<id>.jpeg`.

    Returns:
      Iterators for `train`, `validation` (the archive's `dev`) and `test`.

    Raises:
      InputError: if files are missing or malformed.
    """
    folder = pathlib.Path(path)
    if not path or not (folder / "split.json").is_file() or not (folder / "dataset").is_dir():
        raise InputError(
            f"config.data.path is {path!r}: it must be the folder that holds split.json and "
            "dataset/ of the extracted MM-IMDb archive."
        )
    split = _read_json(folder / "split.json", dict)
    names = {"train": "train", "validation": "dev", "test": "test"}
    missing = [name for name in names.values() if not isinstance(split.get(name), list)]
    if missing:
        raise InputError(f"{folder / 'split.json'} has no list of ids under {', '.join(missing)}.")
    listed = [str(movie_id) for name in names.values() for movie_id in split[name]]
    twice = [movie_id for movie_id, n in collections.Counter(listed).items() if n > 1]
    _raise_if_any([f"{movie_id}: listed more than once" for movie_id in twice],
                  folder / "split.json", "bad ids")  # fmt: skip
    parsed = {ours: _parse_mmimdb_split(folder, split[theirs]) for ours, theirs in names.items()}
    return {
        name: (_with_poster(movie, folder / "dataset", ".jpeg") for movie in found)
        for name, found in parsed.items()
    }


def _parse_mmimdb_split(folder: pathlib.Path, ids) -> list[Movie]:
    movies, problems, dropped = [], [], 0
    for movie_id in map(str, ids):
        file = folder / "dataset" / f"{movie_id}.json"
        try:
            # An id is a file's name: it must not lead out of the folder.
            if file.parent != folder / "dataset" or file.name != f"{movie_id}.json":
                raise InputError(f"split.json: {movie_id!r} is not an id")
            fields = _read_json(file, dict)
            movies.append(_movie_of_json(movie_id, fields))
            dropped += len(fields["genres"]) - len(movies[-1].genres)
        except InputError as error:
            problems.append(str(error))
    _raise_if_any(problems, folder, f"bad files of {len(ids)}")
    if dropped:
        logger.info("%s: %d genres outside the %d are dropped.", folder, dropped, len(GENRES))
    labelled = [movie for movie in movies if movie.genres]
    if len(labelled) < len(movies):
        logger.info("%s: %d movies have none of the %d genres and are passed over.",
                    folder, len(movies) - len(labelled), len(GENRES))  # fmt: skip
    return labelled


def _movie_of_json(movie_id: str, fields: Mapping) -> Movie:
    plots, genres = fields.get("plot") or [], fields.get("genres")
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(genres, list):
        raise InputError(f"{movie_id}.json: genres is not a list")
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise InputError(f"{movie_id}.json: plot is not a list of strings")
    plot = max(plots, key=len, default="")
    year = fields.get("year")
    return Movie(
        id=movie_id,
        title=str(fields.get("title") or ""),
        year=year if isinstance(year, int) else None,
        plot=plot if plot.strip() else None,
        genres=tuple(genre for genre in genres if genre in GENRES),
    )


def _read_json(file: pathlib.Path, kind: type):
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise InputError(f"{file} does not hold a JSON {kind.__name__}.")
    return content


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


def _raise_if_any(problems: list[str], place: pathlib.Path, summary: str) -> None:
    if problems:
        shown = problems[:_MAX_PROBLEMS_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise InputError(f"{place} has {len(problems)} {summary}:\n  " + "\n  ".join(shown))
