"""Reads MM-IMDb (arXiv 1702.01992) from its official archive or from the extracted folder.

The archive is read once for all texts and the split, and once more for the posters of each split.
Only the texts are kept in memory.

Movies and plots are selected as in the authors' code (github.com/johnarevalo/gmu-mmimdb,
make_dataset.py): each movie's longest plot in characters is used, and movies without a plot, a
poster or one of the 23 genres are left out. The 23 genres are the most frequent ones; they are
the talk's genres without News.

TFDS has no builder for this dataset.
"""

import collections
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmgc_jax.data import mmimdb_files, movies, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

GENRES = tuple(genre for genre in movies.GENRES if genre != "News")

# Number of movies in the official archive (arXiv 1702.01992).
OFFICIAL_SIZES = {"train": 15_552, "validation": 2_608, "test": 7_799}

# Our names -> names in split.json.
_SPLIT_NAMES = {"train": "train", "validation": "dev", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All movies of MM-IMDb, without their posters.

    Attributes:
      path: the archive or the folder.
      movies: movies without posters for `train`, `validation` (the archive's `dev`) and `test`, in
        the order of `split.json`.
      left_out: {reason: number of movies left out}.
      dropped_genres: number of labels dropped because the genre is not in `GENRES`.
    """

    path: pathlib.Path
    movies: Mapping[str, list[Movie]]
    left_out: Mapping[str, int]
    dropped_genres: int

    def with_posters(self, split: str) -> Iterator[tuple[int, Movie]]:
        """Reads the posters of a split, in the order of the archive.

        Args:
          split: `train`, `validation` or `test`.

        Yields:
          The movie's position in `movies[split]`, and the movie with its poster.

        Raises:
          InputError: if the archive cannot be read or has changed since `read`.
        """
        position = {movie.id: number for number, movie in enumerate(self.movies[split])}

        def is_wanted(name):
            return name.suffix == ".jpeg" and name.stem in position

        for name, content in mmimdb_files.files(self.path, is_wanted):
            if content is not None:
                number = position.pop(name.stem)
                yield number, dataclasses.replace(self.movies[split][number], poster=content)
            if not position:
                return
        raise InputError(
            f"{self.path} has changed: it no longer has the poster of {min(position)}."
        )


def read(path) -> Catalogue:
    """Reads and checks the texts and the split.

    Genres outside `GENRES` are dropped, and titles and plots are cleaned by `text.clean`. The
    number of movies left out or changed is logged.

    Args:
      path: path of `mmimdb.tar.gz`, or of a folder with `split.json`, `dataset/<id>.json` and
        `dataset/<id>.jpeg`.

    Raises:
      InputError: if the path does not exist; if files are missing, malformed, too large, or links
        to places outside the folder; if the archive is truncated, damaged, a decompression bomb,
        or has a member with a path outside of it or a member that is not a regular file.
    """
    place = pathlib.Path(path)
    is_folder = (place / mmimdb_files.SPLIT).is_file() and (place / "dataset").is_dir()
    if not str(path) or not (place.is_file() or is_folder):
        raise InputError(
            f"config.data.path is {str(path)!r}: it must be MM-IMDb's mmimdb.tar.gz, or the "
            f"extracted folder with {mmimdb_files.SPLIT} and dataset/."
        )
    texts = _read_texts(place)
    ids = _ids_by_split(texts.split, place)
    _check_listed_movies(texts, ids, place)
    chosen, left_out = _choose(texts, ids)
    taken = [
        texts.parsed[movie.id] for movies_of_split in chosen.values() for movie in movies_of_split
    ]
    dropped_genres = sum(parsed.dropped_genres for parsed in taken)
    _log_summary(chosen, left_out, dropped_genres, sum(parsed.is_cleaned for parsed in taken))
    return Catalogue(place, chosen, left_out, dropped_genres)


class _Parsed(NamedTuple):
    """The content of a movie's JSON file.

    Attributes:
      movie: the movie, without its poster.
      dropped_genres: number of its genres outside `GENRES`.
      is_cleaned: whether `text.clean` changed the title or the plot.
    """

    movie: Movie
    dropped_genres: int
    is_cleaned: bool


class _Texts(NamedTuple):
    """The content of all files except posters.

    Attributes:
      split: the content of `split.json`.
      parsed: well-formed JSON files by movie id.
      problems: error messages for malformed JSON files by movie id.
      with_poster: ids of movies that have a poster file.
    """

    split: Mapping
    parsed: Mapping[str, _Parsed]
    problems: Mapping[str, str]
    with_poster: set[str]


def _read_texts(place: pathlib.Path) -> _Texts:
    split, parsed, problems, with_poster = None, {}, {}, set()
    for name, content in mmimdb_files.files(place, lambda name: name.suffix == ".json"):
        if name.name == mmimdb_files.SPLIT:
            split = _parse(content, name)
        elif content is None:
            with_poster.add(name.stem)
        else:
            try:
                parsed[name.stem] = _parse_movie(name, content)
            except InputError as error:
                problems[name.stem] = str(error)
    if split is None:
        raise InputError(f"{place} has no {mmimdb_files.SPLIT}; is it MM-IMDb's archive?")
    return _Texts(split, parsed, problems, with_poster)


def _ids_by_split(split: Mapping, place: pathlib.Path) -> dict[str, list[str]]:
    """Returns the ids of each split by our names, after checking that no id is listed twice."""
    missing = [name for name in _SPLIT_NAMES.values() if not _are_ids(split.get(name))]
    if missing:
        raise InputError(
            f"{place}: {mmimdb_files.SPLIT} has no list of ids under {', '.join(missing)}."
        )
    ids = {ours: list(map(str, split[theirs])) for ours, theirs in _SPLIT_NAMES.items()}
    counts = collections.Counter(movie_id for listed in ids.values() for movie_id in listed)
    movies.raise_if_any(
        [f"{movie_id}: listed more than once" for movie_id, n in counts.items() if n > 1],
        place / mmimdb_files.SPLIT,
        "bad ids",
    )
    return ids


def _are_ids(listed) -> bool:
    return isinstance(listed, list) and all(type(movie_id) in (str, int) for movie_id in listed)


def _check_listed_movies(texts: _Texts, ids: Mapping[str, list[str]], place: pathlib.Path) -> None:
    """Raises one `InputError` that lists all movies with missing or malformed files."""
    listed = [movie_id for ids_of_split in ids.values() for movie_id in ids_of_split]
    problems = []
    for movie_id in listed:
        if movie_id in texts.problems:
            problems.append(texts.problems[movie_id])
        elif movie_id not in texts.parsed:
            problems.append(f"{movie_id}: no file dataset/{movie_id}.json")
    movies.raise_if_any(problems, place, f"bad files of {len(listed)}")


def _choose(
    texts: _Texts, ids: Mapping[str, list[str]]
) -> tuple[dict[str, list[Movie]], dict[str, int]]:
    """Selects movies that have plot, poster and genres; counts the others by reason."""
    chosen, left_out = {}, collections.Counter()
    for split, ids_of_split in ids.items():
        chosen[split] = []
        for movie_id in ids_of_split:
            movie = texts.parsed[movie_id].movie
            if reason := _reason_to_leave_out(movie, movie_id in texts.with_poster):
                left_out[reason] += 1
            else:
                chosen[split].append(movie)
    return chosen, dict(left_out)


def _reason_to_leave_out(movie: Movie, has_poster: bool) -> str | None:
    if not movie.genres:
        return f"none of the {len(GENRES)} genres"
    if movie.plot is None:
        return "no plot"
    return None if has_poster else "no poster"


def _log_summary(
    chosen: Mapping[str, list[Movie]],
    left_out: Mapping[str, int],
    dropped_genres: int,
    cleaned: int,
) -> None:
    for reason, number in left_out.items():
        logger.info("MM-IMDb: left out %d movies: %s.", number, reason)
    logger.info(
        "MM-IMDb: %s movies; arXiv 1702.01992 has %s.",
        ", ".join(f"{len(movies_of_split)} {split}" for split, movies_of_split in chosen.items()),
        ", ".join(f"{size} {split}" for split, size in OFFICIAL_SIZES.items()),
    )
    logger.info(
        "MM-IMDb: dropped %d labels that are not among the %d genres.", dropped_genres, len(GENRES)
    )
    if cleaned:
        logger.warning(
            "MM-IMDb: replaced control characters or lone surrogates in %d movies.", cleaned
        )


def _parse_movie(name: pathlib.PurePosixPath, content: bytes) -> _Parsed:
    fields = _parse(content, name)
    written, genres = _title_and_plot(name, fields), fields.get("genres") or []
    if not isinstance(genres, list):
        raise InputError(f"{name}: genres is not a list")
    title, plot = map(text.clean, written)
    year = fields.get("year")
    movie = Movie(
        id=name.stem,
        title=title,
        year=year if type(year) is int else None,
        plot=plot if text.has_words(plot) else None,
        genres=tuple(genre for genre in GENRES if genre in genres),
    )
    dropped_genres = sum(genre not in GENRES for genre in genres)
    return _Parsed(movie, dropped_genres, (title, plot) != written)


def _title_and_plot(name: pathlib.PurePosixPath, fields: Mapping) -> tuple[str, str]:
    """Returns the title and the longest plot, unchanged; an empty string for a missing one."""
    title, plots = (fields.get(key) or [] for key in ("title", "plot"))
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise InputError(f"{name}: plot is not a list of strings")
    if title and not isinstance(title, str | int):
        raise InputError(f"{name}: title is not a string")
    written = str(title or ""), max(plots, key=len, default="")
    if max(map(len, written)) > movies.MAX_CHARACTERS:
        raise InputError(
            f"{name}: title or plot has more than {movies.MAX_CHARACTERS:,} characters"
        )
    return written


def _parse(content: bytes, name: pathlib.PurePosixPath) -> dict:
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{name} is not a JSON object")
    return parsed
