"""MM-IMDb, from its official archive or the folder that it extracts to (arXiv 1702.01992).

The archive is never unpacked. It is read as a stream from beginning to end: once for the texts and
the split, once more for the posters of each split. Nothing but the texts is kept in memory.

Which movies there are, and with which plot, follows the code with which the makers built their
features (github.com/johnarevalo/gmu-mmimdb, make_dataset.py): the longest of a movie's plots is
taken, in characters, and a movie takes part only if it has a plot, a poster and one of the 23
genres. These are the most frequent ones, and are all those of the talk's data but News.
"""

import collections
import dataclasses
import gzip
import json
import logging
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from mmgc_jax.data import movies, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

GENRES = tuple(genre for genre in movies.GENRES if genre != "News")

# Of the official archive (arXiv 1702.01992).
OFFICIAL_SIZES = {"train": 15_552, "validation": 2_608, "test": 7_799}

_NAMES = {"train": "train", "validation": "dev", "test": "test"}  # ours and those of split.json
_SPLIT = "split.json"
# A larger file is a mistake or an attack.
_MAX_BYTES = {".json": 16 << 20, ".jpeg": 64 << 20}
_BLOCK = 1 << 20  # bytes; a header is no longer either
# An archive that holds more than this is a decompression bomb: posters hardly shrink.
_MAX_RATIO = 20
_ALWAYS_ALLOWED = 256 << 20  # bytes
# What gzip and tarfile raise for a damaged file; numbers too large for a position are the last two.
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The movies of an archive or folder, read and checked but for their posters.

    Attributes:
      path: the archive or the folder.
      movies: for `train`, `validation` (the archive's `dev`) and `test`, movies without posters, in
        the order of `split.json`.
      left_out: for each reason, how many movies of `split.json` are left out.
      dropped_genres: how often a movie that takes part has a genre outside `GENRES`.
    """

    path: pathlib.Path
    movies: Mapping[str, list[Movie]]
    left_out: Mapping[str, int]
    dropped_genres: int

    def with_posters(self, split: str) -> Iterator[tuple[int, Movie]]:
        """The movies of a split with their posters, in the order of the archive.

        Yields:
          The movie's position in `movies[split]`, and the movie.

        Raises:
          InputError: if the archive cannot be read, or has changed.
        """
        position = {movie.id: number for number, movie in enumerate(self.movies[split])}

        def is_wanted(name):
            return name.suffix == ".jpeg" and name.stem in position

        for name, content in _files(self.path, is_wanted):
            if content is not None:
                number = position.pop(name.stem)
                yield number, dataclasses.replace(self.movies[split][number], poster=content)
            if not position:
                return
        raise InputError(f"{self.path} has changed: the poster of {min(position)} is gone.")


def read(path) -> Catalogue:
    """Reads and checks all but the posters' content.

    Genres outside `GENRES` are dropped, and titles and plots go through `movies.clean`. What is
    left out, dropped or changed is counted in the log.

    Args:
      path: of `mmimdb.tar.gz`, or of the folder that holds `split.json`, `dataset/<id>.json` and
        `dataset/<id>.jpeg`.

    Raises:
      InputError: if there is neither; if files are missing, malformed, too large or links that lead
        out of the folder; if the archive is cut short, damaged, packed so densely that it can only
        be a bomb, or has a member that leads out of it or is no plain file.
    """
    place = pathlib.Path(path)
    is_folder = (place / _SPLIT).is_file() and (place / "dataset").is_dir()
    if not str(path) or not (place.is_file() or is_folder):
        raise InputError(
            f"config.data.path is {str(path)!r}: it must be MM-IMDb's mmimdb.tar.gz, or the folder "
            f"that holds {_SPLIT} and dataset/ of the extracted archive."
        )
    split, found, problems, with_poster = None, {}, {}, set()
    for name, content in _files(place, lambda name: name.suffix == ".json"):
        if name.name == _SPLIT:
            split = _parse(content, name)
        elif content is None:
            with_poster.add(name.stem)
        else:
            try:
                found[name.stem] = _parse_movie(name, content)
            except InputError as error:
                problems[name.stem] = str(error)
    if split is None:
        raise InputError(f"{place} holds no {_SPLIT}; is it MM-IMDb's archive?")

    ids = _ids_of(split, place)
    listed = [movie_id for of_split in ids.values() for movie_id in of_split]
    for movie_id in set(listed) - found.keys() - problems.keys():
        problems[movie_id] = f"{movie_id}: no file dataset/{movie_id}.json"
    movies.raise_if_any(
        [problems[movie_id] for movie_id in listed if movie_id in problems],
        place,
        f"bad files of {len(listed)}",
    )

    left_out = collections.Counter()
    kept = {name: [] for name in ids}
    for name, of_split in ids.items():
        for movie_id in of_split:
            movie = found[movie_id].movie
            if reason := _reason_to_leave_out(movie, movie_id in with_poster):
                left_out[reason] += 1
            else:
                kept[name].append(movie)
    for reason, number in left_out.items():
        logger.info("MM-IMDb: %d movies are left out: %s.", number, reason)
    logger.info(
        "MM-IMDb: %s movies; arXiv 1702.01992 has %s.",
        ", ".join(f"{len(kept[name])} {name}" for name in kept),
        ", ".join(f"{size} {name}" for name, size in OFFICIAL_SIZES.items()),
    )
    taken = [found[movie.id] for of_split in kept.values() for movie in of_split]
    dropped_genres = sum(movie.dropped_genres for movie in taken)
    logger.info("MM-IMDb: %d times a genre outside the %d is dropped.", dropped_genres, len(GENRES))
    if cleaned := sum(movie.is_cleaned for movie in taken):
        logger.warning(
            "MM-IMDb: control characters or lone surrogates of %d movies were replaced.", cleaned
        )
    return Catalogue(place, kept, dict(left_out), dropped_genres)


def _ids_of(split: Mapping, place: pathlib.Path) -> dict[str, list[str]]:
    """The ids of each of our splits."""
    missing = [name for name in _NAMES.values() if not _are_ids(split.get(name))]
    if missing:
        raise InputError(f"{place}: {_SPLIT} has no list of ids under {', '.join(missing)}.")
    ids = {ours: list(map(str, split[theirs])) for ours, theirs in _NAMES.items()}
    counts = collections.Counter(movie_id for of_split in ids.values() for movie_id in of_split)
    movies.raise_if_any(
        [f"{movie_id}: listed more than once" for movie_id, n in counts.items() if n > 1],
        place / _SPLIT,
        "bad ids",
    )
    return ids


def _are_ids(listed) -> bool:
    return isinstance(listed, list) and all(type(movie_id) in (str, int) for movie_id in listed)


def _reason_to_leave_out(movie: Movie, has_poster: bool) -> str | None:
    if not movie.genres:
        return f"none of the {len(GENRES)} genres"
    if movie.plot is None:
        return "no plot"
    return None if has_poster else "no poster"


class _Parsed(NamedTuple):
    movie: Movie  # without its poster
    dropped_genres: int
    is_cleaned: bool


def _parse_movie(name: pathlib.PurePosixPath, content: bytes) -> _Parsed:
    fields = _parse(content, name)
    title, plots, genres = (fields.get(key) or [] for key in ("title", "plot", "genres"))
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(genres, list):
        raise InputError(f"{name}: genres is not a list")
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise InputError(f"{name}: plot is not a list of strings")
    if title and not isinstance(title, str | int):
        raise InputError(f"{name}: title is not a string")
    written = str(title or ""), max(plots, key=len, default="")
    if max(map(len, written)) > movies.MAX_CHARACTERS:
        raise InputError(f"{name}: title or plot has over {movies.MAX_CHARACTERS:,} characters")
    title, plot = map(movies.clean, written)
    year = fields.get("year")
    movie = Movie(
        id=name.stem,
        title=title,
        year=year if type(year) is int else None,
        plot=plot if text.tokenize_mmimdb(plot) else None,
        genres=tuple(genre for genre in GENRES if genre in genres),
    )
    dropped_genres = sum(genre not in GENRES for genre in genres)
    return _Parsed(movie, dropped_genres, (title, plot) != written)


def _parse(content: bytes, name: pathlib.PurePosixPath) -> dict:
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{name} does not hold a JSON object")
    return parsed


IsWanted = Callable[[pathlib.PurePosixPath], bool]
Files = Iterator[tuple[pathlib.PurePosixPath, bytes | None]]


def _files(place: pathlib.Path, is_wanted: IsWanted) -> Files:
    """`split.json` and the files of `dataset/`, each once, with the content of those wanted.

    Other files are passed over.
    """
    seen = set()
    for name, content in (_of_archive if place.is_file() else _of_folder)(place, is_wanted):
        if name in seen:
            raise InputError(f"{place}: {name} occurs more than once.")
        seen.add(name)
        yield name, content


def _inside(name: pathlib.PurePosixPath) -> pathlib.PurePosixPath | None:
    """The name of a file of the data without the archive's own folder, mmimdb/; None for others."""
    parts = name.parts[1:] if len(name.parts) > 1 and name.parts[0] != "dataset" else name.parts
    of_a_movie = len(parts) == 2 and parts[0] == "dataset" and name.suffix in _MAX_BYTES
    return pathlib.PurePosixPath(*parts) if of_a_movie or parts == (_SPLIT,) else None


def _of_folder(folder: pathlib.Path, is_wanted: IsWanted) -> Files:
    try:
        for file in (folder / _SPLIT, *sorted((folder / "dataset").iterdir())):
            name = _inside(pathlib.PurePosixPath(file.relative_to(folder)))
            if name is not None and file.is_file():
                if movies.leads_out(file):
                    raise InputError(f"{file} is a link that leads out of its folder.")
                _check_size(folder, name, file.stat().st_size)
                yield name, file.read_bytes() if is_wanted(name) else None
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}") from error


def _of_archive(file: pathlib.Path, is_wanted: IsWanted) -> Files:
    try:
        with _Stream(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                stream.allow(archive.offset)
                if member.size < 0:  # tarfile would go back, and on for ever
                    raise tarfile.ReadError("a member has a negative size")
                name = pathlib.PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise InputError(f"{file}: the member {member.name!r} leads out of it.")
                if not (member.isfile() or member.isdir()) or member.issparse():
                    raise InputError(
                        f"{file}: the member {member.name!r} is a link or a device, or sparse, "
                        "which MM-IMDb's archive does not have."
                    )
                name = _inside(name)
                if name is not None and member.isfile():
                    _check_size(file, name, member.size)
                    yield name, archive.extractfile(member).read() if is_wanted(name) else None
            _check_end(stream, archive.offset)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{file} is not a whole .tar.gz archive: {error}. Download it again."
        ) from error


class _Stream(gzip.GzipFile):
    """What an archive holds, as far as it may be read; tarfile itself has no bounds for headers."""

    def __init__(self, file: pathlib.Path):
        super().__init__(file)
        self._limit = max(_ALWAYS_ALLOWED, _MAX_RATIO * file.stat().st_size)
        self.allow(0)

    def allow(self, offset: int) -> None:
        """Allows reading up to where a header begins, and one header.

        Raises:
          tarfile.ReadError: if that is more than an archive of this size can hold.
        """
        if offset > self._limit:
            raise tarfile.ReadError(f"it holds over {self._limit} bytes: a decompression bomb")
        self._allowed = offset + _BLOCK

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._allowed - self.tell():
            raise tarfile.ReadError(f"a header has over {_BLOCK} bytes")
        return super().read(size)


def _check_size(place: pathlib.Path, name: pathlib.PurePosixPath, size: int) -> None:
    limit = _MAX_BYTES[name.suffix]
    if size > limit:
        raise InputError(f"{place}: {name} has {size} bytes; more than {limit} are a mistake.")


def _check_end(stream: _Stream, end: int) -> None:
    """Reads on to the end of the file, where gzip compares its checksum.

    `tarfile` stops without a word at a header that it does not understand, or at the end of the
    data, so what comes at `end` must be the block of zeros that ends an archive.
    """
    if stream.tell() < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")
    stream.allow(stream.tell())
    while rest := stream.read(_BLOCK):
        stream.allow(stream.tell())
        if rest.strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
