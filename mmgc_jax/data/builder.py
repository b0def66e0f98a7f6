"""Builds TFDS datasets of the movies of any source, as array_record shards.

Posters are stored as JPEGs of the size that the model takes, which makes decoding them cheap.
TensorFlow is not needed while a split takes less than 1 GB: up to this size TFDS sorts in memory
before it writes (MAX_MEM_BUFFER_SIZE in its shuffle.py). MM-IMDb's training part takes 0.3 GB with
the posters of benchmarks/data.py.
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

from mmgc_jax.data import mmimdb, movies, posters, synthetic
from mmgc_jax.data.movies import Movie
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.locks import machine_lock
from mmgc_jax.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

_LARGEST_SIDE = 65_500  # pixels, of a JPEG (JPEG_MAX_DIMENSION of libjpeg)


@dataclasses.dataclass(kw_only=True)
class MoviesConfig(tfds.core.BuilderConfig):
    """Decides the content of the shards.

    Attributes:
      source: a name in `SOURCES`.
      path: the source's folder, or MM-IMDb's archive; empty for MM-IMDb in TFDS's manual_dir.
      height: of the stored posters, in pixels.
      width: likewise.
      synthetic: the arguments of `synthetic.generate`.
    """

    source: str = "talk"
    path: str = ""
    height: int = 256
    width: int = 160
    synthetic: dict = dataclasses.field(default_factory=dict)


class _MoviesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes shards of `movies`, which `read` sets; base class of the builders."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it so)

    # Set by each class.
    GENRES: Sequence[str]
    ABOUT: Mapping[str, str]  # arguments of tfds.core.DatasetInfo

    # By split, the position and the content of each movie; None before `read`.
    movies: Mapping[str, Iterable[tuple[int, Movie]]] | None = None

    @abc.abstractmethod
    def read(self, path) -> None:
        """Sets `movies`, after checks of all but posters, which are read while iterating."""

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
        """Yields records with the position as key, by which TFDS sorts a split before it writes."""
        config, metadata = self.builder_config, self.info.metadata
        no_poster = posters.encode_jpeg(np.zeros((config.height, config.width, 3), np.uint8))
        resized = _map_ahead(self._resize_poster, found)
        for number, movie, poster, error in progress_bar(
            resized, desc=f"preparing movies, {split}", unit="movie"
        ):
            preemption.raise_if_requested_locally()  # the next run begins again
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
                },
            )

    def _resize_poster(self, numbered: tuple[int, Movie]):
        """Returns position, movie, the poster to store, and the error if it cannot be decoded."""
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
    """Maps in threads, which suits Pillow, and yields results in order.

    Only a few items are read ahead, unlike by `Executor.map`, which reads all of them at once.
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
    """Finds the archive, or its folder, in TFDS's folder of manual downloads."""
    folder = pathlib.Path(dl_manager.manual_dir)
    for path in (folder / "mmimdb.tar.gz", folder / "mmimdb"):
        if path.exists():
            return path
    raise InputError(f"{folder} holds neither mmimdb.tar.gz nor mmimdb/. Put one of them into it.")


class Movies(_MoviesBuilder, skip_registration=True):
    """Builds the talk's movies or the synthetic corpus, in the order of the source."""

    GENRES = movies.GENRES
    ABOUT = {"description": "Movies with plot, poster and genres."}  # noqa: RUF012 (a constant)

    def read(self, path) -> None:
        config = self.builder_config
        if config.source == "talk":
            found = {"train": movies.read_talk(path)}
        else:
            corpus = synthetic.generate(**config.synthetic)
            found = {split: (movie for movie, _ in pairs) for split, pairs in corpus.items()}
        self.movies = {
            split: enumerate(itertools.chain([first], rest))
            for split, rest in found.items()
            if (first := next(rest, None)) is not None
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
    Put mmimdb.tar.gz (8.1 GB), or the folder mmimdb/ that it extracts to, into manual_dir. The
    makers publish it at http://lisi1.unal.edu.co/mmimdb/mmimdb.tar.gz, the Internet Archive at
    https://archive.org/download/mmimdb/mmimdb.tar.gz.
    """
    ABOUT = {  # noqa: RUF012 (a constant)
        "description": (
            "Multimodal IMDb: 25,959 movies with plot, poster and one or more of 23 genres, split "
            "into 15,552 to train on, 2,608 to validate on and 7,799 to test on. Of a movie's "
            "plots the longest is taken, as written. Movies without plot, poster or known genre "
            "are left out; metadata.json says how many. Posters are resized, whatever their shape."
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
            "The makers' code is under the MIT licence. No licence of the data is known to us; "
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


_BUILDERS = {"talk": Movies, "mmimdb": MmImdb, "synthetic": Movies}
SOURCES = tuple(_BUILDERS)

# The files and folders that are read from a source's folder.
_READ_FROM = {
    "talk": ("movies.csv", "posters"),
    "mmimdb": ("split.json", "dataset"),
    "synthetic": (),
}


def build(data: ml_collections.ConfigDict, directory) -> _MoviesBuilder:
    """Writes the shards of a source, or finds those written before.

    The source is read only if shards must be written. Unreadable posters are listed in the log and
    count as missing.

    Args:
      data: the section `data` of an experiment's config.
      directory: keeps the shards, in a folder for each source, content and size of posters.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      InputError: if a field of `data` is impossible, the source's files are missing or malformed,
        or more than `data.max_bad_fraction` of the posters are unreadable.
    """
    _check_fields(data)
    make = functools.partial(
        _BUILDERS[data.source],
        data_dir=directory,
        config=_builder_config(data),
        file_format="array_record",
    )
    builder = make()
    logger.info("Shards of movies: %s", builder.data_dir)
    if not builder.is_prepared():
        _read(builder)
        with machine_lock(pathlib.Path(directory)):
            if builder.is_prepared():  # another process has written them in the meantime
                builder = make()
            else:
                _write(builder)
    _check_posters(builder, data.max_bad_fraction)
    return builder


def _check_fields(data: ml_collections.ConfigDict) -> None:
    """Checks the values that TFDS, Pillow or the synthetic corpus would fail at, or accept."""
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
        raise InputError(f"config.data.max_bad_fraction is {fraction!r}, not a share from 0 to 1.")
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


def _check_posters(builder: _MoviesBuilder, max_bad_fraction: float) -> None:
    posters_in_all, bad = (builder.info.metadata[key] for key in ("posters", "bad_posters"))
    for line in bad:
        logger.warning("Unreadable poster, treated as missing: %s", line)
    if len(bad) > max_bad_fraction * posters_in_all:
        raise InputError(
            f"{len(bad)} of {posters_in_all} posters under {builder.builder_config.path} are "
            f"unreadable, more than config.data.max_bad_fraction={max_bad_fraction} allows. The "
            f"first: {bad[0]}. All are listed in the log."
        )


def _read(builder: _MoviesBuilder) -> None:
    """Reads the source, so that its mistakes are found before anything is written."""
    config = builder.builder_config
    path = config.path
    builder.read(path)
    if "train" not in builder.movies:
        if config.source == "synthetic":
            raise InputError("config.data.synthetic.train is 0: no movie to train on.")
        raise InputError(
            f"config.data.path={path}: no movie to train on; is its movies.csv or split.json empty?"
        )
    if isinstance(builder, MmImdb) and "validation" not in builder.movies:
        raise InputError(f"config.data.path={path}: no movie to validate on, dev in split.json.")


def _write(builder: _MoviesBuilder) -> None:
    tfds.disable_progress_bar()  # `_generate_examples` shows one of ours
    for leftover in builder.data_path.parent.glob("incomplete.*"):  # of a run that was killed
        shutil.rmtree(leftover)
    # TFDS prints that it downloads, which is never so.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()


def _fingerprint(config: MoviesConfig) -> str:
    """Hashes the source's files and the size of posters into 12 hexadecimal digits.

    Tables are hashed by content, posters by name and size; other files of the folder are ignored.
    An archive is hashed by its size and its last eight bytes, which are the checksum and the length
    of the uncompressed content (RFC 1952, section 2.3.1).
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
