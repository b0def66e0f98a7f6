"""Tiny folders of movies."""

import collections
import csv
import io
import os
import pathlib
import subprocess
import tempfile

import jax
import numpy as np
import pytest
from PIL import Image

from tests import tiny

TALK_HEADER = ("index", "year", "title", "plot", "genres", "rating")


def pytest_configure(config):
    """Lets whole runs, here and in processes of their own, share what JAX compiles."""
    directory = tempfile.TemporaryDirectory()
    config.add_cleanup(directory.cleanup)
    for name, value in {
        "jax_compilation_cache_dir": directory.name,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def image_bytes(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    """The file that Pillow writes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def write_talk(folder: pathlib.Path, rows, posters) -> pathlib.Path:
    """Writes `movies.csv` and `posters/<index>.jpg` in the format of the talk's data.

    Args:
      folder: made if it is not there.
      rows: the cells of each movie, in the order of `TALK_HEADER`.
      posters: index -> the bytes of its file.
    """
    (folder / "posters").mkdir(parents=True, exist_ok=True)
    with (folder / "movies.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([TALK_HEADER, *rows])
    for index, content in posters.items():
        (folder / "posters" / f"{index}.jpg").write_bytes(content)
    return folder


def forty_movies():
    """Rows and posters of 40 movies: indices fall from 139 to 100, every fifth lacks a poster.

    The plot of the n-th movie has n words, so that the first one has no plot. Drama is frequent,
    War rare.
    """
    rows, posters = [], {}
    for number in range(40):
        index = 139 - number
        genres = ["Drama"] if number % 4 else ["Comedy", "Drama"]
        genres += ["War"] if number % 10 == 3 else []
        plot = " ".join(f"word{n}" for n in range(number))
        rows.append((index, 1950 + number, f"Movie, no. {number}", plot, repr(genres), 6.5))
        if number % 5:
            colour = (5 * number, 250 - 5 * number, 40)
            posters[index] = image_bytes(Image.new("RGB", (60, 90), colour))
    return rows, posters


@pytest.fixture
def talk_folder(tmp_path) -> pathlib.Path:
    """The forty movies on disk."""
    return write_talk(tmp_path / "talk", *forty_movies())


@pytest.fixture
def noise() -> np.ndarray:
    """<uint8>[96, 64, 3]: an image in which no two places look alike."""
    return np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)


Finished = collections.namedtuple("Finished", "workdir data weights run")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder of made-up movies and a file of random weights."""
    folder = tmp_path_factory.mktemp("inputs")
    return tiny.write_talk_folder(folder / "talk"), tiny.write_weights(folder / "weights.npz")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, inputs):
    """An undisturbed experiment with all stages, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    run = subprocess.run(
        tiny.command(workdir, *inputs), cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    return Finished(workdir, *inputs, run)
