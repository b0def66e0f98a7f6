"""Writes the same movies as tables of ten dialects."""

import csv
import gzip
import json
import pathlib
from collections.abc import Callable, Sequence

import pyarrow
import pyarrow.parquet

from mmgc_jax.data.movies import Movie

# Of each dialect the fields of `config.data` beside `path`.
Fields = dict[str, object]
DIALECTS: dict[str, Callable[[Sequence[Movie], pathlib.Path], tuple[pathlib.Path, Fields]]] = {}

_OWN_NAMES = {"Sci-Fi": "Science Fiction", "Drama": "Dramatic films"}


def _dialect(function):
    DIALECTS[function.__name__] = function
    return function


def _write_csv(file, header, rows, encoding="utf-8", **form) -> pathlib.Path:
    with file.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, **form)
        writer.writerow(header)
        writer.writerows(rows)
    return file


def _write_posters(movies, folder, name="{}.png") -> str:
    folder.mkdir(parents=True)
    for movie in movies:
        if movie.poster:
            (folder / name.format(movie.id)).write_bytes(movie.poster)
    return str(folder)


@_dialect
def tmdb(movies, folder):
    """Genres are JSON objects, posters a column of file names that begin with a slash."""
    posters = _write_posters(movies, folder / "images", "Poster{}.png")
    rows = [
        [
            json.dumps([{"id": len(g), "name": g} for g in movie.genres]), movie.id, "en",
            movie.title, movie.plot, f"/poster{movie.id}.png", f"{movie.year}-05-01",
        ]
        for movie in movies
    ]  # fmt: skip
    header = ["genres", "id", "language", "title", "overview", "poster_path", "release_date"]
    return _write_csv(folder / "tmdb_movies.csv", header, rows), {"posters": posters}


@_dialect
def movielens(movies, folder):
    """Genres are separated by bars, posters have the movies' ids as names."""
    posters = _write_posters(movies, folder / "images", "{}.PNG")
    rows = [[m.id, m.title, "|".join(m.genres), m.year, m.plot] for m in movies]
    header = ["movieId", "title", "genres", "year", "description"]
    return _write_csv(folder / "movies.csv", header, rows), {"posters": posters}


@_dialect
def semicolons(movies, folder):
    """As a spreadsheet saves it: semicolons, a byte order mark, CRLF."""
    posters = _write_posters(movies, folder / "images")
    rows = [[m.id, m.title, m.year, m.plot, ", ".join(m.genres)] for m in movies]
    header = ["ID", "Title", "Year", "Plot", "Genre"]
    file = folder / "movies.csv"
    form = {"delimiter": ";", "lineterminator": "\r\n", "encoding": "utf-8-sig"}
    return _write_csv(file, header, rows, **form), {"posters": posters}


@_dialect
def parquet(movies, folder):
    """Genres are lists, years floats."""
    posters = _write_posters(movies, folder / "images")
    table = pyarrow.table(
        {
            "imdb_id": [movie.id for movie in movies],
            "primary_title": [movie.title for movie in movies],
            "start_year": [None if movie.year is None else float(movie.year) for movie in movies],
            "synopsis": [movie.plot for movie in movies],
            "genres": [list(movie.genres) for movie in movies],
        }
    )
    pyarrow.parquet.write_table(table, folder / "movies.parquet")
    return folder / "movies.parquet", {"posters": posters}


@_dialect
def json_lines(movies, folder):
    """Compressed; a movie without a plot has no field for it."""
    posters = _write_posters(movies, folder / "images")
    with gzip.open(folder / "movies.jsonl.gz", "wt", encoding="utf-8") as stream:
        for movie in movies:
            fields = {"tconst": movie.id, "name": movie.title, "released": movie.year}
            fields |= {"genres": movie.genres} | ({"plot": movie.plot} if movie.plot else {})
            stream.write(json.dumps(fields, ensure_ascii=False) + "\n")
    return folder / "movies.jsonl.gz", {"posters": posters}


@_dialect
def other_columns(movies, folder):
    """Columns in another order, with names that are given."""
    posters = _write_posters(movies, folder / "images")
    rows = [[str(list(m.genres)), m.plot, m.year, "x", m.title, m.id] for m in movies]
    header = ["Kinds", "What happens", "When", "title", "Called", "Key"]
    columns = {"genres": "Kinds", "plot": "What happens", "year": "When", "title": "Called",
               "id": "Key"}  # fmt: skip
    file = _write_csv(folder / "movies.csv", header, rows)
    return file, {"posters": posters, "columns": columns}


@_dialect
def talk_like(movies, folder):
    """The talk's columns: an index without a name, genres as a Python list."""
    posters = _write_posters(movies, folder / "posters")
    rows = [[m.id, m.year, m.title, m.plot, list(m.genres), 5.0] for m in movies]
    header = ["", "year", "title", "plot", "genres", "rating"]
    return _write_csv(folder / "movies.csv", header, rows), {"posters": posters}


@_dialect
def paths(movies, folder):
    """Posters are a column of paths beside the table."""
    _write_posters(movies, folder / "some" / "where")
    rows = [
        [m.id, m.title, m.year, m.plot, "/".join(m.genres),
         f"some/where/{m.id}.png" if m.poster else "N/A"]
        for m in movies
    ]  # fmt: skip
    header = ["id", "title", "year", "plot", "genres", "image"]
    return _write_csv(folder / "movies.csv", header, rows), {}


@_dialect
def own_genres(movies, folder):
    """Other names of genres, which the config renames."""
    posters = _write_posters(movies, folder / "images")
    rows = [
        [m.id, m.title, m.year, m.plot, "; ".join(_OWN_NAMES.get(g, g) for g in m.genres)]
        for m in movies
    ]
    header = ["id", "title", "year", "plot", "genres"]
    file = _write_csv(folder / "movies.csv", header, rows)
    renamed = tuple(f"{own}={name}" for name, own in _OWN_NAMES.items())
    return file, {"posters": posters, "genres": renamed}


@_dialect
def utf_16(movies, folder):
    """Tabs, UTF-16 with a byte order mark."""
    posters = _write_posters(movies, folder / "images")
    rows = [[m.id, m.title, m.year, m.plot, "|".join(m.genres)] for m in movies]
    header = ["id", "title", "year", "plot", "genres"]
    file = folder / "movies.tsv"
    return _write_csv(file, header, rows, "utf-16", delimiter="\t"), {"posters": posters}
