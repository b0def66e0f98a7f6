"""Builds TFDS datasets of movies from any source, as array_record shards.

Posters are stored as JPEGs in the model's input size, so that they decode quickly. TensorFlow is
not needed if each split takes less than 1 GB: up to this size TFDS sorts records in memory
(MAX_MEM_BUFFER_SIZE in its shuffle.py). MM-IMDb's training split takes 0.3 GB with the posters of
benchmarks/data.py.
"""

import abc
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import logging
import multiprocessing
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from mmgc_jax.data import genre_names, mmimdb, movies, posters, related, synthetic, table, talk
from mmgc_jax.data.movies import Movie
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.locks import machine_lock
from mmgc_jax.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

_LARGEST_SIDE = 65_500  # pixels, libjpeg's limit for JPEGs (JPEG_MAX_DIMENSION)


@dataclasses.dataclass(kw_only=True)
class MoviesConfig(tfds.core.BuilderConfig):
    """Configuration of a dataset; determines the content of its shards.

    Attributes:
      source: a name in `SOURCES`.
      path: the source's folder, or MM-IMDb's archive. Empty: MM-IMDb in TFDS's manual_dir.
      height: height of the stored posters in pixels.
      width: width of the stored posters in pixels.
      synthetic: arguments of `synthetic.generate`.
      genres: genres of a table, in alphabetical order; other sources have fixed ones.
    """

    source: str = "talk"
    path: str = ""
    height: int = 256
    width: int = 160
    synthetic: dict = dataclasses.field(default_factory=dict)
    genres: Sequence[str] = ()


class _MoviesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base class of the builders; writes the shards of `movies`, which `read` sets."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it so)

    # Set by each subclass.
    GENRES: Sequence[str]
    ABOUT: Mapping[str, str]  # arguments of tfds.core.DatasetInfo
    FURTHER_FEATURES: Mapping[str, tfds.typing.TreeDict] = {}

    # For each split, pairs of a movie's position in the split and the movie; None before `read`.
    movies: Mapping[str, Iterable[tuple[int, Movie]]] | None = None

    @abc.abstractmethod
    def read(self, path) -> None:
        """Sets `movies` after checking everything but posters, which are read while iterating."""

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        features = {
            "id": tfds.features.Text(),
            "title": tfds.features.Text(),
            "plot": tfds.features.Text(doc="Empty if the movie has none."),
            "poster": tfds.features.Image(
                shape=(config.height, config.width, 3),
                encoding_format="jpeg",
                doc="Black if the movie has none.",
            ),
            "has_poster": np.bool_,
            "genres": tfds.features.Sequence(tfds.features.ClassLabel(names=self.GENRES)),
            **self.FURTHER_FEATURES,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(posters=0, bad_posters=[]),
            disable_shuffling=True,
            **self.ABOUT,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        if self.movies is None:
            self.read(self.builder_config.path or _find_manually(dl_manager))
        return {
            split: self._generate_examples(found, split) for split, found in self.movies.items()
        }

    def _generate_examples(
        self, found: Iterable[tuple[int, Movie]], split: str
    ) -> Iterator[tuple[int, dict]]:
        """Yields records with their position as the key, by which TFDS sorts each split."""
        config, metadata = self.builder_config, self.info.metadata
        no_poster = posters.encode_jpeg(np.zeros((config.height, config.width, 3), np.uint8))
        resized = _map_ahead(self._resize_poster, found)
        for number, movie, poster, error in progress_bar(
            resized, desc=f"preparing movies, {split}", unit="movie"
        ):
            preemption.raise_if_requested_locally()  # the next run starts over
            if movie.poster is not None:
                metadata["posters"] += 1
            if error is not None:
                metadata["bad_posters"].append(f"{movie.id}: {error}")
            yield (
                number,
                {
                    "id": movie.id,
                    "title": movie.title,
                    "plot": movie.plot or "",
                    "poster": io.BytesIO(poster or no_poster),
                    "has_poster": poster is not None,
                    "genres": list(movie.genres or ()),
                    **self._further(movie),
                },
            )

    def _further(self, movie: Movie) -> dict:
        """Returns the values of `FURTHER_FEATURES` for a movie."""
        return {}

    def _resize_poster(self, numbered: tuple[int, Movie]):
        """Resizes a movie's poster.

        Returns:
          The movie's position, the movie, the resized poster as JPEG (None if there is none), and
          the error if it cannot be decoded.
        """
        number, movie = numbered
        if movie.poster is None:
            return number, movie, None, None
        config = self.builder_config
        try:
            pixels = posters.decode(movie.poster, config.height, config.width)
        except posters.PosterError as error:
            return number, movie, None, error
        return number, movie, posters.encode_jpeg(pixels), None


def _map_ahead(function: Callable, items: Iterable) -> Iterator:
    """Maps a function over items in threads, and yields the results in order.

    Reads only a few items ahead, unlike `Executor.map`, which reads all items at once. Threads are
    enough because Pillow releases the GIL.
    """
    threads = multiprocessing.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead = collections.deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _find_manually(dl_manager) -> pathlib.Path:
    """Returns the path of MM-IMDb's archive or folder in TFDS's folder for manual downloads."""
    folder = pathlib.Path(dl_manager.manual_dir)
    for path in (folder / "mmimdb.tar.gz", folder / "mmimdb"):
        if path.exists():
            return path
    raise InputError(f"{folder} has no mmimdb.tar.gz and no mmimdb/. Put one of them there.")


class Movies(_MoviesBuilder, skip_registration=True):
    """Builds the talk's movies or the synthetic corpus, in the order of the source."""

    GENRES = movies.GENRES
    ABOUT = {"description": "Movies with plot, poster and genres."}  # noqa: RUF012 (a constant)

    def read(self, path) -> None:
        config = self.builder_config
        if config.source == "talk":
            found = {"train": talk.read(path)}
        else:
            corpus = synthetic.generate(**config.synthetic)
            found = {split: (movie for movie, _ in pairs) for split, pairs in corpus.items()}
        self.movies = {
            split: enumerate(itertools.chain([first], rest))
            for split, rest in found.items()
            if (first := next(rest, None)) is not None
        }


class Table(_MoviesBuilder, skip_registration=True):
    """Builds the movies of a table, in its order; `movies` must be set.

    Each record also has hashes by which `related.group` finds rows of the same movie.
    """

    ABOUT = {"description": "Movies of a table."}  # noqa: RUF012 (a constant)
    FURTHER_FEATURES = {  # noqa: RUF012 (a constant)
        "related_keys": tfds.features.Sequence(np.int64),
        "poster_hash": np.int64,
    }

    @property
    def GENRES(self) -> Sequence[str]:
        return self.builder_config.genres

    def read(self, path) -> None:
        raise NotImplementedError(f"{path}: `build` reads tables.")

    def _further(self, movie: Movie) -> dict:
        return {
            "related_keys": related.keys(movie),
            "poster_hash": related.hash_of(movie.poster) if movie.poster else 0,
        }


class MmImdb(_MoviesBuilder):
    """Builds MM-IMDb from its archive or folder, in the order of `split.json`."""

    GENRES = mmimdb.GENRES
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it so)
        MoviesConfig(
            name="256x160",
            description="Posters of 256 x 160 pixels (height x width), as in arXiv 1702.01992.",
            source="mmimdb",
        )
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put mmimdb.tar.gz (8.1 GB), or the extracted folder mmimdb/, into manual_dir. Download it from
    the authors at http://lisi1.unal.edu.co/mmimdb/mmimdb.tar.gz, or from the Internet Archive at
    https://archive.org/download/mmimdb/mmimdb.tar.gz.
    """
    ABOUT = {  # noqa: RUF012 (a constant)
        "description": (
            "Multimodal IMDb: 25,959 movies with plot, poster and one or more of 23 genres, split "
            "into 15,552 for training, 2,608 for validation and 7,799 for testing. If a movie has "
            "several plots, the longest is used. Movies without a plot, poster or known genre are "
            "left out; metadata.json has their number. Posters are resized without keeping their "
            "aspect ratio."
        ),
        "homepage": "http://lisi1.unal.edu.co/mmimdb/",
        "citation": """@article{arevalo2017gated,
  title={Gated Multimodal Units for Information Fusion},
  author={Arevalo, John and Solorio, Thamar and Montes-y-G{\\'o}mez, Manuel and
          Gonz{\\'a}lez, Fabio A.},
  journal={arXiv preprint arXiv:1702.01992},
  year={2017}
}""",
        "license": (
            "The authors' code is under the MIT licence. We know of no licence for the data; "
            "plots and posters come from IMDb."
        ),
    }

    def read(self, path) -> None:
        found = mmimdb.read(path)
        self.info.metadata["left_out"] = dict(found.left_out)
        self.info.metadata["dropped_genres"] = found.dropped_genres
        self.movies = {
            split: found.with_posters(split) for split, listed in found.movies.items() if listed
        }


_BUILDERS = {"talk": Movies, "table": Table, "mmimdb": MmImdb, "synthetic": Movies}
SOURCES = tuple(_BUILDERS)

# Files and folders that are read from a source's folder.
_READ_FROM = {
    "talk": ("movies.csv", "posters"),
    "mmimdb": ("split.json", "dataset"),
    "synthetic": (),
}


@contextlib.contextmanager
def _without_warnings_of_tfds() -> Iterator[None]:
    """Hides TFDS's log lines below errors, also from callers that have not set up logging.

    TFDS warns of configurations that are not registered and of folders that have no shards yet.
    """
    absl_logger = logging.getLogger("absl")
    absl_logger.addFilter(_is_shown)
    try:
        yield
    finally:
        absl_logger.removeFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    from_tfds = pathlib.Path(tfds.__file__).parent in pathlib.Path(record.pathname).parents
    return record.levelno >= logging.ERROR or not from_tfds


@_without_warnings_of_tfds()
def build(data: ml_collections.ConfigDict, directory) -> _MoviesBuilder:
    """Builds the dataset of a source, or finds the shards of an earlier run.

    Unreadable posters are logged and treated as missing.

    Args:
      data: the section `data` of an experiment's config.
      directory: folder for shards. Each combination of a source's content and poster size has its
        own subfolder.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      InputError: if a field of `data` has an invalid value, files are missing or malformed, or more
        than `data.max_bad_fraction` of the posters are unreadable.
    """
    _check_fields(data)
    if data.source == "table":
        config, found = _read_table(data)
    else:
        config, found = _builder_config(data), None
    make = functools.partial(
        _BUILDERS[data.source], data_dir=directory, config=config, file_format="array_record"
    )
    builder = make()
    builder.movies = found
    logger.info("Shards of movies: %s", builder.data_dir)
    if not builder.is_prepared():
        if found is None:
            _read(builder)
        with machine_lock(pathlib.Path(directory)):
            if builder.is_prepared():  # another process has written the shards meanwhile
                builder = make()
            else:
                _write(builder)
    _check_posters(builder, data.max_bad_fraction)
    return builder


def _check_fields(data: ml_collections.ConfigDict) -> None:
    """Checks fields whose invalid values other libraries would accept or report unclearly."""
    if data.source not in SOURCES:
        raise InputError(
            f"config.data.source is {data.source!r}: no such source. Known: {', '.join(SOURCES)}."
        )
    if not isinstance(data.path, str):
        raise InputError(f"config.data.path is {data.path!r}, not a path.")
    for field in ("poster_height", "poster_width"):
        if type(data[field]) is not int or not 1 <= data[field] <= _LARGEST_SIDE:
            raise InputError(
                f"config.data.{field} is {data[field]!r}, not a whole number of pixels from 1 to "
                f"{_LARGEST_SIDE:,}."
            )
    fraction = data.max_bad_fraction
    if type(fraction) not in (int, float) or not 0 <= fraction <= 1:
        raise InputError(
            f"config.data.max_bad_fraction is {fraction!r}, not a fraction from 0 to 1."
        )
    if not isinstance(data.synthetic, ml_collections.ConfigDict):
        raise InputError(f"config.data.synthetic is {data.synthetic!r}, not a section.")
    if data.source == "synthetic":
        try:
            synthetic.generate(**data.synthetic)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"config.data.synthetic: {error}. Its fields are the arguments of synthetic."
                "generate: seed, train, validation and test."
            ) from error


def _builder_config(data: ml_collections.ConfigDict) -> MoviesConfig:
    config = MoviesConfig(
        name="unnamed",
        source=data.source,
        path=data.path,
        height=data.poster_height,
        width=data.poster_width,
        synthetic=data.synthetic.to_dict(),
    )
    try:
        config.name = f"{config.source}-{_fingerprint(config)}"
    except OSError as error:
        raise InputError(f"config.data.path={config.path} cannot be read: {error}") from error
    return config


def _read_table(
    data: ml_collections.ConfigDict,
) -> tuple[MoviesConfig, Mapping[str, Iterable[tuple[int, Movie]]]]:
    """Reads a table; returns the dataset's configuration, and the movies of each split.

    Rows without genres are left out. If the table has no column of splits, all rows are in `train`.
    """
    found = table.read(data.path, table.TableSettings.to_train(data), labelled=True)
    genres, of_movies, notes = genre_names.choose(
        [movie.genres for movie in found.movies],
        [split != "test" for split in found.splits],
        genre_names.parse(data.genres),
        data.min_positives,
        data.path,
    )
    for note in notes:
        logger.info("%s", note)
    rows = collections.defaultdict(list)
    for row, (movie, split) in enumerate(zip(found.movies, found.splits)):
        # A movie whose genres are all left out is an example of a movie without the others.
        if movie.genres:
            rows[split or "train"].append(row)
    if not rows["train"]:
        raise InputError(f"{data.path}: no movies to train on.")
    found = found.with_genres(of_movies)
    config = MoviesConfig(
        name=f"table-{_digest_of_table(found, genres, rows, data)}",
        source="table",
        path=data.path,
        height=data.poster_height,
        width=data.poster_width,
        genres=genres,
    )
    return config, {
        split: enumerate(found.with_posters(rows[split]))
        for split in ("train", "validation", "test")
        if rows[split]
    }


def _digest_of_table(
    found: table.MovieTable,
    genres: Sequence[str],
    rows: Mapping[str, Sequence[int]],
    data: ml_collections.ConfigDict,
) -> str:
    """Hashes movies, and posters by name and size; returns 12 hexadecimal digits."""
    digest = hashlib.sha256(repr((data.poster_height, data.poster_width, genres)).encode())
    for split in sorted(rows):
        for row in rows[split]:
            movie, poster = found.movies[row], found.posters[row]
            size = 0 if not poster or table.is_url(poster) else pathlib.Path(poster).stat().st_size
            name = poster if table.is_url(poster) else pathlib.Path(poster).name
            digest.update(repr((split, movie, name, size)).encode())
    return digest.hexdigest()[:12]


def _check_posters(builder: _MoviesBuilder, max_bad_fraction: float) -> None:
    num_posters, bad = (builder.info.metadata[key] for key in ("posters", "bad_posters"))
    for line in bad:
        logger.warning("Unreadable poster, treated as missing: %s", line)
    if len(bad) > max_bad_fraction * num_posters:
        raise InputError(
            f"{len(bad)} of {num_posters} posters in {builder.builder_config.path} are "
            f"unreadable, more than config.data.max_bad_fraction={max_bad_fraction} allows. The "
            f"first: {bad[0]}. The log lists all of them."
        )


def _read(builder: _MoviesBuilder) -> None:
    """Reads and checks the source before any shard is written."""
    config = builder.builder_config
    path = config.path
    builder.read(path)
    if "train" not in builder.movies:
        if config.source == "synthetic":
            raise InputError("config.data.synthetic.train is 0: no movies to train on.")
        raise InputError(
            f"config.data.path={path}: no movies to train on; is movies.csv or split.json empty?"
        )
    if isinstance(builder, MmImdb) and "validation" not in builder.movies:
        raise InputError(
            f"config.data.path={path}: no movies to validate on; is dev in split.json empty?"
        )


def _write(builder: _MoviesBuilder) -> None:
    tfds.disable_progress_bar()  # `_generate_examples` shows one of ours
    for leftover in builder.data_path.parent.glob("incomplete.*"):  # left by a killed run
        shutil.rmtree(leftover)
    # TFDS prints that it downloads, which is never so.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()


def _fingerprint(config: MoviesConfig) -> str:
    """Hashes the source's files and the poster size; returns 12 hexadecimal digits.

    Tables are hashed by content, posters by name and file size; other files are ignored. An archive
    is hashed by its size and its last eight bytes, which gzip uses for the checksum and length of
    the uncompressed content (RFC 1952, section 2.3.1).
    """
    digest = hashlib.sha256(
        repr((config.height, config.width, sorted(config.synthetic.items()))).encode()
    )
    root = pathlib.Path(config.path)
    if root.is_file():
        with root.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - 8))
            digest.update(f"{size}:".encode() + file.read())
    for name in _READ_FROM[config.source]:
        for file in sorted((root / name, *root.glob(f"{name}/*"))):
            if file.is_file():
                digest.update(f"{file.relative_to(root)}:{file.stat().st_size}".encode())
                if file.suffix in (".csv", ".json"):
                    with file.open("rb") as stream:
                        hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()[:12]
