"""The TFDS builder: movies of any source, written once as array_record shards.

Posters are stored as JPEG bytes already of the model's size, so that an epoch decodes little.
Nothing here needs TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import logging
import pathlib
import sys
from collections.abc import Iterable, Iterator

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from mmgc_jax.data import movies, posters, synthetic
from mmgc_jax.data.movies import GENRES, Movie
from mmgc_jax.errors import InputError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class MoviesConfig(tfds.core.BuilderConfig):
    """What the shards hold.

    Attributes:
      source: `talk`, `mmimdb` or `synthetic`.
      path: the source's folder.
      height: of the stored posters, in pixels.
      width: likewise.
      synthetic: the arguments of `synthetic.generate`.
    """

    source: str = "talk"
    path: str = ""
    height: int = 256
    width: int = 160
    synthetic: dict = dataclasses.field(default_factory=dict)


class Movies(tfds.core.GeneratorBasedBuilder):
    """Movies with plot, poster and genres, in the order of their source."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it so)

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
            "genres": tfds.features.Sequence(tfds.features.ClassLabel(names=GENRES)),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(posters=0, bad_posters=[]),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(itertools.chain([first], rest))
            for split, rest in read(self.builder_config).items()
            if (first := next(rest, None)) is not None
        }

    def _generate_examples(self, found: Iterable[Movie]) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        no_poster = posters.encode_jpeg(np.zeros((config.height, config.width, 3), np.uint8))
        for number, movie in enumerate(found):
            poster = self._resized_poster(movie)
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

    def _resized_poster(self, movie: Movie) -> bytes | None:
        if movie.poster is None:
            return None
        config = self.builder_config
        self.info.metadata["posters"] += 1
        try:
            pixels = posters.decode(movie.poster, config.height, config.width)
        except posters.PosterError as error:
            self.info.metadata["bad_posters"].append(f"{movie.id}: {error}")
            return None
        return posters.encode_jpeg(pixels)


# The files and folders that decide what a source holds.
_READ_FROM = {
    "talk": ("movies.csv", "posters"),
    "mmimdb": ("split.json", "dataset"),
    "synthetic": (),
}


def read(config: MoviesConfig) -> dict[str, Iterator[Movie]]:
    """The movies of a source, by split (`train`, and where it has them `validation` and `test`).

    Raises:
      InputError: if the source is unknown, or its files are missing or malformed.
    """
    if config.source == "talk":
        return {"train": movies.read_talk(config.path)}
    if config.source == "mmimdb":
        return movies.read_mmimdb(config.path)
    if config.source == "synthetic":
        corpus = synthetic.generate(**config.synthetic)
        return {split: (movie for movie, _ in pairs) for split, pairs in corpus.items()}
    raise InputError(
        f"config.data.source is {config.source!r}: no such source. Known: talk, mmimdb, synthetic."
    )


def build(data: ml_collections.ConfigDict, directory) -> Movies:
    """Writes the shards of a source, or finds them already written.

    Unreadable posters are listed in the log and count as missing.

    Args:
      data: the `data` part of an experiment's config.
      directory: where shards are kept; each source, content and size has its own folder there.

    Returns:
      The builder, ready for `as_data_source`.

    Raises:
      InputError: as `read`; or if more than `data.max_bad_fraction` of the posters are unreadable.
    """
    config = MoviesConfig(
        name="unnamed",
        source=data.source,
        path=data.path,
        height=data.poster_height,
        width=data.poster_width,
        synthetic=data.synthetic.to_dict(),
    )
    # Mistakes in the source come to light here, before anything is written.
    if next(read(config)["train"], None) is None:
        raise InputError(
            f"config.data.path={config.path}: no movie to train on; "
            "is its movies.csv or split.json empty?"
        )
    config.name = f"{config.source}-{_fingerprint(config)}"
    builder = Movies(data_dir=directory, config=config, file_format="array_record")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    logger.info("Shards of movies: %s", builder.data_dir)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        builder.download_and_prepare()

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


def _fingerprint(config: MoviesConfig) -> str:
    """12 hexadecimal digits that change when the source's files or the stored size change.

    Tables are hashed by content, posters by name and size; other files of the folder do not count.
    """
    digest = hashlib.sha256(
        repr((config.height, config.width, sorted(config.synthetic.items()))).encode()
    )
    root = pathlib.Path(config.path)
    for name in _READ_FROM[config.source]:
        for file in sorted((root / name, *root.glob(f"{name}/*"))):
            if file.is_file():
                digest.update(f"{file.relative_to(root)}:{file.stat().st_size}".encode())
                if file.suffix in (".csv", ".json"):
                    digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
