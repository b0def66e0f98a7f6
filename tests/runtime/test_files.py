"""Paths, atomic writes, logs and the cache folder."""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from mmgc_jax.runtime import files

ROOT = pathlib.Path(__file__).parents[2]


def test_the_cache_is_where_the_xdg_specification_puts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert files.cache_folder() == tmp_path / "cache" / "mmgc_jax"
    assert files.cache_folder().is_dir()
    for not_absolute in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", not_absolute)
        assert files.cache_folder() == tmp_path / "home" / ".cache" / "mmgc_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == tmp_path / "home" / ".cache" / "mmgc_jax"
    assert files.cache_folder_or_none() == files.cache_folder()


LOOK = """
import logging, os, sys
from mmgc_jax.runtime import files

ROOT = pathlib.Path(__file__).parents[2]
from mmgc_jax.runtime.errors import InputError

logging.basicConfig(format="warning: %(message)s")
os.setuid({user})
try:
    print("folder:", files.cache_folder())
except InputError as error:
    print("error:", error)
print("or", files.cache_folder_or_none())
"""


def look(user: int = 0, **environment) -> tuple[list[str], str]:
    """Looks for the cache in a process of another user; returns what it prints and what it logs."""
    process = subprocess.run(
        [sys.executable, "-c", LOOK.format(user=user)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return process.stdout.splitlines(), process.stderr


@pytest.fixture
def open_folder():
    """A folder that every user may enter, as `tmp_path` is not, with one that user 12345 owns."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "closed" / "mmgc_jax").mkdir(parents=True)
        (folder / "own").mkdir()
        os.chown(folder / "own", 12345, -1)
        yield folder


as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")


@as_root
@pytest.mark.parametrize(
    ("user", "environment", "reason"),
    [
        (12345, {}, "There is no home folder to keep a cache in."),
        (12345, {"HOME": "{}"}, "{}/.cache/mmgc_jax cannot be made: Permission denied."),
        (12345, {"XDG_CACHE_HOME": "{}/closed"}, "{}/closed/mmgc_jax cannot be written to."),
        (0, {"HOME": "/proc/nothing"}, "/proc/nothing/.cache/mmgc_jax cannot be made: No such"),
        (0, {"HOME": "somewhere"}, "HOME is not an absolute path: somewhere"),
    ],
    ids=["no home", "closed home", "closed cache", "impossible home", "relative home"],
)
def test_without_a_cache_the_error_says_what_to_set(open_folder, user, environment, reason):
    environment = {name: value.format(open_folder) for name, value in environment.items()}
    [error, fallback], log = look(user, **environment)
    assert error.startswith("error: ") and reason.format(open_folder) in error
    assert "Set XDG_CACHE_HOME (or HOME) to a folder that you can write to." in error
    assert fallback == "or None"
    assert log.startswith("warning: No cache is used.") and "Traceback" not in log


@as_root
def test_a_user_who_is_not_in_the_password_file_has_the_cache_that_is_set(open_folder):
    [found, _], log = look(12345, XDG_CACHE_HOME=str(open_folder / "own"))
    assert found == f"folder: {open_folder}/own/mmgc_jax" and not log
