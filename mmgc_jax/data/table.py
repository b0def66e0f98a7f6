"""Reads the movies of any table: finds its columns, the form of its genres, and its posters."""

import ast
import collections
import dataclasses
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import ml_collections

from mmgc_jax.data import table_files
from mmgc_jax.data.movies import Movie, raise_if_any, read_poster
from mmgc_jax.data.table_files import Rows, shorten
from mmgc_jax.data.text import clean, has_words
from mmgc_jax.runtime.errors import InputError, did_you_mean
from mmgc_jax.runtime.files import cache_folder

logger = logging.getLogger(__name__)

# For each role of a column its usual names, in lower case without blanks, hyphens and underscores.
# Where a table has several of them, the first of this list counts.
USUAL_NAMES: Mapping[str, Sequence[str]] = {
    # An index that pandas has written has no name, or this one.
    "id": (
        "id", "index", "", "unnamed:0", "movieid", "imdbid", "tconst", "tmdbid", "itemid", "filmid",
    ),
    "title": ("title", "movietitle", "primarytitle", "originaltitle", "name", "movie", "film"),
    "year": ("year", "releaseyear", "startyear", "releasedate", "released"),
    "plot": (
        "plot", "overview", "synopsis", "plotsynopsis", "description", "summary", "plotsummary",
        "storyline", "text",
    ),
    "genres": ("genres", "genre", "genrenames", "labels", "label", "categories", "category"),
    "poster": (
        "poster", "posterpath", "posterurl", "posterlink", "posterfile", "image", "imagepath",
        "imageurl", "cover",
    ),
    "split": ("split", "partition", "subset"),
}  # fmt: skip

_SEPARATORS = ("|", ";", ",", "/")
_MISSING = {"", "n/a", "na", "nan", "none", "null", "\\n", "-", "(no genres listed)"}
_MAX_LIST_CHARACTERS = 10_000  # longer literals can exhaust Python's parser
_SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@dataclasses.dataclass(frozen=True)
class MovieTable:
    """The movies of a table. Iterating over it reads each poster when its movie is reached.

    Attributes:
      movies: without posters; `genres` is None if they were not asked for.
      posters: for each movie the path or the address of its poster; empty if it has none.
      splits: for each movie `train`, `validation` or `test`; empty if the table has no such column.
      has_ids: whether the table has a column of ids; otherwise they are the numbers of the rows.
    """

    movies: Sequence[Movie]
    posters: Sequence[str]
    splits: Sequence[str]
    has_ids: bool = True

    def __len__(self) -> int:
        return len(self.movies)

    def __iter__(self) -> Iterator[Movie]:
        return self.with_posters()

    def with_genres(self, genres: Sequence[tuple[str, ...]]) -> "MovieTable":
        """Replaces the genres of all movies."""
        movies = [dataclasses.replace(m, genres=names) for m, names in zip(self.movies, genres)]
        return dataclasses.replace(self, movies=movies)

    def with_posters(self, rows: Iterable[int] | None = None) -> Iterator[Movie]:
        """Yields movies with their posters, each of which is read when its movie is reached.

        A poster that cannot be read becomes empty bytes, one that cannot be fetched becomes None.

        Args:
          rows: which movies; None: all.
        """
        rows = range(len(self.movies)) if rows is None else list(rows)
        urls = [self.posters[row] for row in rows if is_url(self.posters[row])]
        if urls:
            from mmgc_jax.data import fetch  # imports an HTTP client, which files do not need

            fetched = fetch.fetch(urls, cache_folder() / "fetched_posters")
        for row in rows:
            poster = self.posters[row]
            content = None
            if is_url(poster):
                content = next(fetched)
            elif poster:
                content = read_poster(pathlib.Path(poster))
            yield dataclasses.replace(self.movies[row], poster=content)


@dataclasses.dataclass(frozen=True)
class TableSettings:
    """Settings for reading a table; what they leave empty is found.

    Attributes:
      columns: role -> name of the column. It is an error if the table has no such column.
      posters: folder of posters.
      delimiter: of delimited text.
      encoding: of text.
      genre_separator: of genres in one text.
      further_columns: role -> another usual name of its column, which comes before `USUAL_NAMES`.
      flag: how to set `columns`, for messages; `{role}` stands for the role.
    """

    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    posters: str = ""
    delimiter: str = ""
    encoding: str = ""
    genre_separator: str = ""
    further_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    flag: str = "--config.data.columns.{role}=NAME"

    @classmethod
    def to_train(cls, data: ml_collections.ConfigDict) -> "TableSettings":
        """Makes the settings that the section `data` of a config asks for."""
        names = ("posters", "delimiter", "encoding", "genre_separator")
        return cls(data.columns.to_dict(), **{name: data[name] for name in names})

    @classmethod
    def to_predict(
        cls, data: ml_collections.ConfigDict, columns: Sequence[str] = (), posters: str = ""
    ) -> "TableSettings":
        """Makes the settings for another table than the one that an experiment was trained on.

        Args:
          data: the section `data` of the experiment's config. Its names of columns are tried first.
          columns: assignments such as `plot=Overview`.
          posters: folder of posters.

        Raises:
          InputError: if an assignment has another form.
        """
        pairs = [entry.partition("=")[::2] for entry in columns]
        for entry, (role, name) in zip(columns, pairs):
            if role not in USUAL_NAMES or not name:
                raise InputError(
                    f"--columns={entry}: write ROLE=NAME. Roles are {', '.join(USUAL_NAMES)}."
                )
        return cls(
            columns=dict(pairs),
            posters=posters,
            genre_separator=data.get("genre_separator", ""),
            further_columns=dict(data.get("columns", {})),
            flag="--columns={role}=NAME",
        )


def read_movies(
    table, settings: TableSettings | None = None, labelled: bool = False
) -> Iterator[Movie]:
    """Reads the movies of a table with their posters.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "movies.csv"
    >>> _ = file.write_text("overview,genre\\nA retired spy returns.,Action|Drama\\n")
    >>> next(read_movies(file, labelled=True)).genres
    ('Action', 'Drama')

    Args:
      table: as in `table_files.read`.
      settings: what the user says of it; None: nothing.
      labelled: whether to read genres.

    Returns:
      An iterator that reads each poster when its movie is reached.

    Raises:
      InputError: at once, as `read` raises.
    """
    return read(table, settings or TableSettings(), labelled).with_posters()


def read(table, settings: TableSettings, labelled: bool) -> MovieTable:
    """Reads the movies of a table, and logs what was found in it.

    Args:
      table: as in `table_files.read`.
      settings: what the user says of it.
      labelled: whether to read genres and splits.

    Raises:
      InputError: if the table cannot be read, a column that is needed is missing, or rows are
        malformed, of which it names up to ten.
    """
    roles = [role for role in USUAL_NAMES if labelled or role not in ("genres", "split")]

    def choose(columns: Sequence[str]) -> Iterable[str]:
        return _find(columns, settings, roles).values()

    rows = table_files.read(table, choose, settings.delimiter, settings.encoding)
    columns = _find(rows.columns, settings, roles)
    _require(rows, columns, labelled, settings)
    taken = (role if role == name else f"{role} from {name!r}" for role, name in columns.items())
    logger.info(
        "%s: %s rows, %s. Columns: %s.",
        rows.place, f"{len(rows):,}", rows.kind, ", ".join(taken),
    )  # fmt: skip
    cells = {role: _texts(rows, column, role) for role, column in columns.items()}
    genres = parse_genres(rows, columns["genres"], settings.genre_separator) if labelled else None
    posters = _find_posters(rows, cells, settings.posters)
    empty = [""] * len(rows)
    movies = [
        Movie(
            id=movie_id or str(number),
            title=title,
            year=_year(year),
            plot=plot if has_words(plot) else None,
            genres=of_movie,
        )
        for number, (movie_id, title, year, plot, of_movie) in enumerate(
            zip(
                *(cells.get(role, empty) for role in ("id", "title", "year", "plot")),
                genres or [None] * len(rows),
            ),
            start=1,
        )
    ]
    return MovieTable(movies, posters, _parse_splits(rows, cells.get("split")), "id" in columns)


def used_columns(columns: Sequence[str], settings: TableSettings) -> dict[str, str]:
    """Returns which columns `read` reads, if labelled, by role."""
    return _find(columns, settings, USUAL_NAMES)


def _find(columns: Sequence[str], settings: TableSettings, roles: Iterable[str]) -> dict[str, str]:
    """Finds the column of each role; roles without a column are left out.

    Raises:
      InputError: if a column that is given does not exist.
    """
    by_key: dict[str, str] = {}
    for column in columns:
        by_key.setdefault(_key(column), column)
    found = {}
    for role in roles:
        if name := settings.columns.get(role):
            if name not in columns:
                hint = did_you_mean(name, columns, "{!r}")
                hint = f" {hint}" if hint else ""
                raise InputError(
                    f"{settings.flag.format(role=role).replace('NAME', name)}: the table has no "
                    f"such column.{hint} It has: {', '.join(map(shorten, columns))}."
                )
            found[role] = name
    for role in roles:
        usual = [_key(name) for name in [settings.further_columns.get(role)] if name]
        names = (by_key[key] for key in (*usual, *USUAL_NAMES[role]) if key in by_key)
        free = (name for name in names if name not in found.values())
        if role not in found and (name := next(free, None)) is not None:
            found[role] = name
    return {role: found[role] for role in roles if role in found}


def _key(column: str) -> str:
    """The form of a column's name that is compared with `USUAL_NAMES`."""
    return re.sub(r"[\s_-]", "", column).lower()


def _require(
    rows: Rows, columns: Mapping[str, str], labelled: bool, settings: TableSettings
) -> None:
    """Raises `InputError` if there is neither a plot nor a poster, or if genres are missing.

    Ids are enough if there is a folder of posters, whose files are named by them.
    """
    missing = {}
    if not {"plot", "poster"} & set(columns) and not ("id" in columns and settings.posters):
        missing["plot"] = "a plot or a poster"
    if labelled and "genres" not in columns:
        missing["genres"] = "genres"
    if missing:
        flags = " and ".join(settings.flag.format(role=role) for role in missing)
        usual = "; ".join(
            f"for {what}: {', '.join(filter(None, USUAL_NAMES[role]))}"
            for role, what in missing.items()
        )
        raise InputError(
            f"{rows.place} has no column that looks like {', or like '.join(missing.values())}; it "
            f"has: {', '.join(map(shorten, rows.columns)) or 'none'}. Name "
            f"{'them' if len(missing) > 1 else 'it'}: {flags}. Usual names {usual}."
        )


_RIGHT_TEXTS = {
    "id": "tt0111161",
    "title": "The Robbery",
    "year": "1994",
    "poster": "images/1.jpg",
    "split": "train",
}


def _texts(rows: Rows, column: str, role: str) -> list[str]:
    """The cells of a column as texts, cleaned; the values of genres stay as they are."""
    values = rows.cells[column]
    if role == "genres":
        return list(values)
    problems = [
        f"{rows.where(i)}: {column} is {shorten(value)!r}, not a text. Right is a text such as "
        f'"{_RIGHT_TEXTS.get(role, "A robbery goes wrong.")}"'
        for i, value in enumerate(values)
        if not isinstance(value, str)
    ]
    raise_if_any(problems, rows.place, f"bad rows of {len(rows)}")
    texts = [clean(value) for value in values]
    if changed := sum(text != value for text, value in zip(texts, values)):
        logger.warning("%s: control characters of %d cells of %s became blanks.",
                       rows.place, changed, column)  # fmt: skip
    return ["" if _missing(text) else text.strip() for text in texts]


def _year(text: str) -> int | None:
    """The year in a text such as `1990`, `1990.0` or `2001-05-30`; None if there is none."""
    found = re.search(r"(?<!\d)(1[89]|20)\d\d(?!\d)", text)
    return int(found[0]) if found else None


def parse_genres(rows: Rows, column: str, separator: str = "") -> list[tuple[str, ...]]:
    """Parses a column of genres, and logs their form.

    A cell is a list of names or of objects with a `name`, as a value, as JSON or as a Python
    literal; or it is a text whose separator is that of most cells of the column.

    Args:
      rows: of the table.
      column: its name.
      separator: between genres of one text; empty to find it.

    Returns:
      The genres of each row, without repetitions, empty if it has none.

    Raises:
      InputError: if a cell has another form.
    """
    values = rows.cells[column]
    texts = [value.strip() for value in values if isinstance(value, str) and not _missing(value)]
    lists = sum(text.startswith("[") for text in texts)
    form = "lists"
    if lists <= len(texts) / 2 and texts:
        separator = separator or _find_separator(texts)
        form = f"text separated by {separator!r}" if separator else "text"
    parsed, problems = [], []
    for i, value in enumerate(values):
        try:
            parsed.append(_parse_cell(value, form == "lists", separator))
        except ValueError as error:
            problems.append(f"{rows.where(i)}: {error}")
    raise_if_any(problems, rows.place, f"bad rows of {len(rows)}")
    logger.info("Genres are %s.", form)
    if without := [i for i, names in enumerate(parsed) if not names]:
        logger.warning(
            "Rows without a genre, which are left out: %d; the first is %s.",
            len(without),
            rows.where(without[0]),
        )
    return parsed


def _missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING


def _find_separator(texts: Sequence[str]) -> str:
    """The separator that most cells contain; of equal ones the first of `_SEPARATORS`."""
    counts = {separator: sum(separator in text for text in texts) for separator in _SEPARATORS}
    best = max(_SEPARATORS, key=counts.__getitem__)
    return best if counts[best] else ""


def _parse_cell(value, is_list: bool, separator: str) -> tuple[str, ...]:
    if isinstance(value, str):
        if _missing(value):
            return ()
        if is_list:
            value = _parse_list(value)
        elif separator:
            value = value.split(separator)
        else:
            value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f"genres is {shorten(value)!r}, not a list. {_RIGHT_LIST}")
    names = [genre.get("name") if isinstance(genre, dict) else genre for genre in value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"genres is {shorten(value)!r}, not a list of names. {_RIGHT_LIST}")
    names = (" ".join(clean(name).split()) for name in names)
    return tuple(dict.fromkeys(name for name in names if not _missing(name)))


_RIGHT_LIST = 'Right is ["Comedy", "Drama"] or [{"name": "Comedy"}, {"name": "Drama"}]'


def _parse_list(text: str):
    """Parses JSON, or a literal of Python."""
    if len(text) > _MAX_LIST_CHARACTERS:
        raise ValueError(f"genres has {len(text):,} characters; at most {_MAX_LIST_CHARACTERS:,}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"genres is {shorten(text)!r}, not a list. {_RIGHT_LIST}") from error


def _parse_splits(rows: Rows, cells: Sequence[str] | None) -> list[str]:
    if cells is None:
        return [""] * len(rows)
    problems = [
        f"{rows.where(i)}: split is {shorten(cell)!r}. Right is train, validation or test"
        for i, cell in enumerate(cells)
        if cell.lower() not in _SPLITS
    ]
    raise_if_any(problems, rows.place, f"bad rows of {len(rows)}")
    return [_SPLITS[cell.lower()] for cell in cells]


def is_url(place: str) -> bool:
    """Whether a poster must be fetched."""
    return place.lower().startswith(("http://", "https://"))


def _find_posters(rows: Rows, cells: Mapping[str, Sequence[str]], folder: str) -> list[str]:
    """Finds the poster of each movie: by its cell, otherwise by its id in the folder.

    Logs how many were found; if there are none, what was looked for.

    Returns:
      For each row a path, an address, or an empty text.

    Raises:
      InputError: if the folder does not exist.
    """
    if folder and not pathlib.Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of posters.")
    named = cells.get("poster", [""] * len(rows))
    ids = cells.get("id", [""] * len(rows))
    if not len(rows) or (not folder and not any(named)):
        return [""] * len(rows)
    # Paths in a data frame are relative to the working directory.
    base = pathlib.Path(rows.place).parent if pathlib.Path(rows.place).is_file() else pathlib.Path()
    files = _files_by_name(pathlib.Path(folder)) if folder else {}
    found = [_find_poster(cell, movie_id, base, files) for cell, movie_id in zip(named, ids)]
    number = sum(map(bool, found))
    note = f"posters found for {number:,} of {len(rows):,} movies"
    if number:
        logger.info("%s", note)
        return found
    looked_for = [shorten(cell) for cell in named if cell][:1]
    looked_for += [f"{ids[0] or 'ID'}.jpg and other image suffixes"] if folder else []
    content = f"; {_content_of(pathlib.Path(folder))}" if folder else ""
    logger.warning("%s. Looked for %s%s.", note, ", and for ".join(looked_for), content)
    return found


def _find_poster(cell: str, movie_id: str, base: pathlib.Path, files: Mapping[str, str]) -> str:
    if is_url(cell):
        return cell
    if cell:
        name = pathlib.PurePosixPath(cell.replace("\\", "/")).name.lower()
        if name in files:
            return files[name]
        if _is_file(base / cell):
            return str(base / cell)
    for suffix in _IMAGE_SUFFIXES if movie_id else ():
        if (file := files.get(movie_id.lower() + suffix)) is not None:
            return file
    return ""


def _is_file(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


def _files_by_name(folder: pathlib.Path) -> dict[str, str]:
    """Returns the paths of a folder's files, by name in lower case."""
    with os.scandir(folder) as entries:
        files = [
            entry
            for entry in entries
            # Not a link to a device, or to itself.
            if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)
        ]
    return {entry.name.lower(): entry.path for entry in sorted(files, key=lambda e: e.name)}


def _content_of(folder: pathlib.Path) -> str:
    """Describes a folder, such as `FOLDER holds 60 .png files`."""
    counts = collections.Counter(
        pathlib.Path(name).suffix.lower() or "suffixless" for name in sorted(os.listdir(folder))
    )
    described = ", ".join(f"{count} {suffix} files" for suffix, count in counts.most_common(3))
    return f"{folder} holds {described or 'nothing'}"
