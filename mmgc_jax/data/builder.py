"""The TFDS builders: movies of any source, written once as array_record shards.

Posters are stored as JPEG bytes already of the model's size, so that an epoch decodes little.
Nothing here needs TensorFlow while a split takes less than 1 GB: so much TFDS sorts in memory
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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from mmgc_jax.data import mmimdb, movies, posters, synthetic
from mmgc_jax.data.movies import Movie
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.locks import machine_lock

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class MoviesConfig(tfds.core.BuilderConfig):
    """What the shards hold.

    Attributes:
      source: `talk`, `mmimdb` or `synthetic`.
      path: the source's folder, or MM-IMDb's archive; empty: MM-IMDb in TFDS's manual_dir.
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
    """What the builders of all sources have in common."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it so)

    # What differs.
    GENRES: Sequence[str]
    ABOUT: Mapping[str, str]  # arguments of tfds.core.DatasetInfo

    # By split, each movie's position and the movie; None until it is read.
    movies: Mapping[str, Iterable[tuple[int, Movie]]] | None = None

    @abc.abstractmethod
    def read(self, path) -> None:
        """Reads and checks the source, but for what `movies` reads when it is asked for."""

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        features = {
            "id": tfds.features.Text(),
            "title": tfds.features.Text(),
            "plot": tfds.features.Text(doc="Empty where there is none."),
            "poster": tfds.features.Image(
                shape=(config.height, config.width, 3),
                encoding_format="jpeg",
                doc="Black where there is none.",
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
        return {split: self._generate_examples(found) for split, found in self.movies.items()}

    def _generate_examples(self, found: Iterable[tuple[int, Movie]]) -> Iterator[tuple[int, dict]]:
        """The position is the key, by which TFDS sorts a split before it is written."""
        config, metadata = self.builder_config, self.info.metadata
        no_poster = posters.encode_jpeg(np.zeros((config.height, config.width, 3), np.uint8))
        for number, movie, poster, error in _map_ahead(self._resize_poster, found):
            preemption.raise_if_requested_locally()  # shards are begun anew
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
        """The position, the movie, the poster as it is stored, and what is wrong with it."""
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
    """`map` by threads, a few items ahead and in order; Pillow lets threads run side by side."""
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
    """The archive in TFDS's folder for what people download themselves, or what it extracts to."""
    folder = pathlib.Path(dl_manager.manual_dir)
    for path in (folder / "mmimdb.tar.gz", folder / "mmimdb"):
        if path.exists():
            return path
    raise InputError(f"{folder} holds neither mmimdb.tar.gz nor mmimdb/. Put one of them there.")


class Movies(_MoviesBuilder, skip_registration=True):
    """The talk's movies or the embedded corpus, in the order of their source."""

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
    """MM-IMDb, in the order of its `split.json`, whether read from the archive or its folder."""

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

# The files and folders that decide what a source's folder holds.
_READ_FROM = {
    "talk": ("movies.csv", "posters"),
    "mmimdb": ("split.json", "dataset"),
    "synthetic": (),
}


def build(data: ml_collections.ConfigDict, directory) -> _MoviesBuilder:
    """Writes the shards of a source, or finds them already written.

    The source is read only where shards must be written. Unreadable posters are listed in the log
    and count as missing.

    Args:
      data: the `data` part of an experiment's config.
      directory: where shards are kept; each source, content and size has its own folder there.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      InputError: if the source is unknown, or its files are missing or malformed; or if more than
        `data.max_bad_fraction` of the posters are unreadable.
    """
    config = MoviesConfig(
        name="unnamed",
        source=data.source,
        path=data.path,
        height=data.poster_height,
        width=data.poster_width,
        synthetic=data.synthetic.to_dict(),
    )
    if config.source not in _BUILDERS:
        raise InputError(
            f"config.data.source is {config.source!r}: no such source. "
            f"Known: {', '.join(_BUILDERS)}."
        )
    try:
        config.name = f"{config.source}-{_fingerprint(config)}"
    except OSError as error:
        raise InputError(f"config.data.path={config.path} cannot be read: {error}") from error
    make = functools.partial(
        _BUILDERS[config.source], data_dir=directory, config=config, file_format="array_record"
    )
    builder = make()
    logger.info("Shards of movies: %s", builder.data_dir)
    if not builder.is_prepared():
        _read(builder)
        with machine_lock(pathlib.Path(directory)):
            if builder.is_prepared():  # another process has written them meanwhile
                builder = make()
            else:
                _write(builder)

    posters_in_all, bad = (builder.info.metadata[key] for key in ("posters", "bad_posters"))
    for line in bad:
        logger.warning("Unreadable poster, treated as missing: %s", line)
    if len(bad) > data.max_bad_fraction * posters_in_all:
        raise InputError(
            f"{len(bad)} of {posters_in_all} posters under {config.path} are unreadable, more "
            f"than config.data.max_bad_fraction={data.max_bad_fraction} allows. The first: "
            f"{bad[0]}. All are listed in the log."
        )
    return builder


def _read(builder: _MoviesBuilder) -> None:
    """Brings mistakes in the source to light, before anything is written."""
    path = builder.builder_config.path
    builder.read(path)
    if "train" not in builder.movies:
        raise InputError(
            f"config.data.path={path}: no movie to train on; is its movies.csv or split.json empty?"
        )
    if isinstance(builder, MmImdb) and "validation" not in builder.movies:
        raise InputError(f"config.data.path={path}: no movie to validate on, dev in split.json.")


def _write(builder: _MoviesBuilder) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    for leftover in builder.data_path.parent.glob("incomplete.*"):  # of a run that was killed
        shutil.rmtree(leftover)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        builder.download_and_prepare()


def _fingerprint(config: MoviesConfig) -> str:
    """12 hexadecimal digits that change when the source's files or the stored size change.

    Tables are hashed by content, posters by name and size; other files of the folder do not count.
    Of an archive its size and its last eight bytes count, which hold the checksum and the length of
    what gzip has packed (RFC 1952, section 2.3.1).
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
