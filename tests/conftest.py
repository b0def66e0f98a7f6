"""Fixtures for all tests: small folders of movies, and a finished experiment."""

import collections
import csv
import io
import json
import logging
import os
import pathlib
import subprocess
import tempfile
import types

import filelock
import jax
import numpy as np
import pytest
from PIL import Image

from tests import tiny

TALK_HEADER = ("index", "year", "title", "plot", "genres", "rating")


_SHARED_FOLDER = "MMGC_TESTS_SHARED_FOLDER"


def pytest_configure(config):
    """Sets up a cache of compiled programs for this process and those that tests start.

    The workers of pytest-xdist inherit the environment variables, so they share the cache. It is
    the folder JAX_COMPILATION_CACHE_DIR if that is set.
    """
    if not hasattr(config, "workerinput"):
        directory = tempfile.TemporaryDirectory()
        config.add_cleanup(directory.cleanup)
        os.environ[_SHARED_FOLDER] = directory.name
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(shared_folder() / "compiled")
    for name, value in {
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(autouse=True)
def logging_as_before():
    """Takes handlers and levels that a door sets away again."""
    root, package = logging.getLogger(), logging.getLogger("mmgc_jax")
    handlers, level = list(root.handlers), package.level
    yield
    root.handlers[:], package.level = handlers, level


def shared_folder() -> pathlib.Path:
    """Returns a temporary folder that all tests share."""
    return pathlib.Path(os.environ[_SHARED_FOLDER])


def image_bytes(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    """Returns the content of the file that Pillow writes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def write_talk(folder: pathlib.Path, rows, posters) -> pathlib.Path:
    """Writes `movies.csv` and `posters/<index>.jpg` in the format of the talk's data.

    Args:
      folder: the folder to write to, which is made if it does not exist.
      rows: the cells of each movie, in the order of `TALK_HEADER`.
      posters: the content of the poster's file, by index.

    Returns:
      The folder.
    """
    (folder / "posters").mkdir(parents=True, exist_ok=True)
    with (folder / "movies.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([TALK_HEADER, *rows])
    for index, content in posters.items():
        (folder / "posters" / f"{index}.jpg").write_bytes(content)
    return folder


def forty_movies():
    """Makes the rows and posters of 40 movies, with indices from 139 down to 100.

    Every fifth movie has no poster. The plot of movie number n has n words, so the first has none.
    Drama is frequent, and War is rare.
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
    """An image of random pixels, <uint8>[96, 64, 3]."""
    return np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)


Finished = collections.namedtuple("Finished", "workdir data weights run")


@pytest.fixture(scope="session")
def inputs():
    """A folder of synthetic movies and a file of random weights."""
    talk, weights = shared_folder() / "talk", shared_folder() / "weights.npz"
    with filelock.FileLock(shared_folder() / "inputs.lock"):
        if not weights.exists():
            tiny.write_talk_folder(talk)
            tiny.write_weights(weights)
    return talk, weights


@pytest.fixture(scope="session")
def finished(inputs):
    """A finished, uninterrupted experiment and its output."""
    workdir, output = shared_folder() / "finished", shared_folder() / "finished.json"
    with filelock.FileLock(shared_folder() / "finished.lock"):
        if not output.exists():
            run = subprocess.run(
                tiny.command(workdir, *inputs),
                cwd=tiny.ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            output.write_text(json.dumps({"stdout": run.stdout, "stderr": run.stderr}))
    run = types.SimpleNamespace(**json.loads(output.read_text()))
    return Finished(workdir, *inputs, run)
