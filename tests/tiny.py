"""A tiny experiment for tests: its config, and functions that write its input files."""

import csv
import io
import json
import pathlib
import sys
import tarfile

import jax
import ml_collections
import numpy as np

from mmgc_jax.configs import default
from mmgc_jax.data import builder, pipeline, posters, synthetic
from mmgc_jax.encoders import base, plot_lstm, plot_transformer, poster_vgg16, poster_vit
from mmgc_jax.evaluation import calibration
from mmgc_jax.models import VGG16
from mmgc_jax.pretrained import vgg16

ROOT = pathlib.Path(__file__).parents[1]
_WIDTHS = (4, 4, 8, 8, 8)


def get_config() -> ml_collections.ConfigDict:
    """Makes the config of the talk's experiment, with networks so small that it takes seconds."""
    config = default.get_config()
    config.folds = 2
    config.encoders = ("plot", "poster", "poster_grey")
    config.fusion.encoders = ("plot", "poster")
    config.data.poster_height = 64
    config.data.poster_width = 32
    config.data.validation_fraction = 0.3

    plot = config.plot = plot_lstm.default_settings()
    plot.max_length = 64
    plot.vectors.dim = 8
    plot.vectors.epochs = 2
    plot.model.hidden = 8
    plot.training.epochs = 2
    poster = config.poster = poster_vgg16.default_settings()
    poster.model.widths = _WIDTHS
    poster.head_training.epochs = 2
    # Enough epochs for a test to interrupt the training.
    config.fusion.training.epochs = 15
    for training in (
        plot.training,
        poster.training,
        poster.head_training,
        config.fusion.training,
        config.fusion.vector_training,
        config.fusion.joint_training,
    ):
        _shorten(training)
    config.poster_grey = base.following(poster, grey=True)
    return config


def _shorten(training: ml_collections.ConfigDict) -> None:
    training.batch_size = 16
    training.checkpoint_every = 2
    training.log_every = 1


def transformer_settings(folder) -> ml_collections.ConfigDict:
    """Makes a section of kind `plot_transformer` whose training takes seconds."""
    settings = plot_transformer.default_settings()
    settings.folder = str(folder)
    settings.head_training.epochs = settings.training.epochs = 2
    _shorten(settings.head_training)
    _shorten(settings.training)
    return settings


def vit_settings(folder) -> ml_collections.ConfigDict:
    """Makes a section of kind `poster_vit` whose training takes seconds."""
    settings = poster_vit.default_settings()
    settings.folder = str(folder)
    settings.head_training.epochs = settings.training.epochs = 2
    _shorten(settings.head_training)
    _shorten(settings.training)
    return settings


def config_of(inputs) -> ml_collections.ConfigDict:
    """Makes the config for `inputs`, a folder of movies and a file of weights."""
    config = get_config()
    config.data.path, config.poster.weights = map(str, inputs)
    return config


def probabilities_in(workdir: pathlib.Path, config, stage: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices and the calibrated probabilities of the validation movies."""
    dataset = builder.build(config.data, workdir / "data")
    rows = pipeline.load_corpus(dataset, config.data).split["validation"]
    with np.load(workdir / "predictions" / f"{stage}.npz") as arrays:
        probabilities = arrays["probabilities"][rows]
    return rows, calibration.load(workdir / "calibration.json")[stage](probabilities)


def write_talk_folder(folder: pathlib.Path, movies: int = 90) -> pathlib.Path:
    """Writes `movies.csv` and `posters/<index>.jpg` of synthetic movies; returns the folder."""
    (folder / "posters").mkdir(parents=True)
    with (folder / "movies.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "year", "title", "plot", "genres", "rating"])
        corpus = synthetic.generate(seed=1, train=movies)["train"]
        for number, (movie, _) in enumerate(corpus, start=100):
            genres = list(movie.genres) or ["Drama"]
            writer.writerow([number, movie.year, movie.title, movie.plot or "", genres, 5.0])
            if movie.poster is not None:
                pixels = posters.decode(movie.poster, 96, 48)
                jpeg = posters.encode_jpeg(pixels)
                (folder / "posters" / f"{number}.jpg").write_bytes(jpeg)
    return folder


def mmimdb_files() -> dict[str, bytes]:
    """Makes the files of an MM-IMDb archive with 130 synthetic movies, some without a poster."""
    corpus = synthetic.generate(seed=2, train=60, validation=30, test=40)
    split, files = {}, {}
    for ours, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        split[theirs] = []
        for movie, _ in corpus[ours]:
            split[theirs].append(movie.id)
            fields = {"title": movie.title, "genres": list(movie.genres) or ["Drama"]}
            fields["plot"] = ["Short .", movie.plot or "nothing is known about the plot ."]
            files[f"dataset/{movie.id}.json"] = json.dumps(fields).encode()
            if movie.poster is not None:
                pixels = posters.decode(movie.poster, 96, 48)
                files[f"dataset/{movie.id}.jpeg"] = posters.encode_jpeg(pixels)
    return files | {"split.json": json.dumps(split).encode()}


def write_mmimdb_folder(folder: pathlib.Path, files) -> pathlib.Path:
    """Writes the files of an extracted MM-IMDb archive, given by name; returns the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_mmimdb_archive(file: pathlib.Path, files, root: str = "mmimdb/") -> pathlib.Path:
    """Writes an archive; returns its path.

    Args:
      file: path of the archive.
      files: the contents of the members by name, in order; or a `TarInfo` for a member without
        content.
      root: prefix of all names.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                member = tarfile.TarInfo(root + name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


def write_weights(file: pathlib.Path, widths=_WIDTHS) -> pathlib.Path:
    """Writes random weights of VGG16, with their own preprocessing; returns the file."""
    rng = np.random.default_rng(0)

    def random(like):
        spread = np.sqrt(2 / np.prod(like.shape[:-1])) if like.ndim == 4 else 0
        return np.float32(spread * rng.standard_normal(like.shape))

    poster = np.zeros((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(VGG16(widths=widths).init, jax.random.key(0), poster)["params"]
    preprocessing = {"mean": np.float32([90, 110, 130]), "std": np.float32([60, 50, 40])}
    vgg16.save(file, jax.tree.map(random, shapes) | {"preprocessing": preprocessing})
    return file


def command(workdir, data, weights, *further, config: str = "tests/tiny.py") -> list[str]:
    """Makes the command line that runs a config; it has to be started in `ROOT`."""
    return [
        sys.executable, "-m", "mmgc_jax.main", f"--config={config}", f"--workdir={workdir}",
        f"--config.data.path={data}", f"--config.poster.weights={weights}", *further,
    ]  # fmt: skip
