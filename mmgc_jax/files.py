"""Files that are there whole or not at all, and folders that one process has to itself."""

import contextlib
import datetime
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import filelock

from mmgc_jax import parallel
from mmgc_jax.errors import InputError


def write_beside(file: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` make a file beside its place and renames it when it is whole.

    Of several processes, which share what they write to, the first one does this.

    Args:
      file: the place; its folder is made if it is not there.
      write: takes the path to write to; that path has the same ending.
    """
    if not parallel.is_first():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"new-{file.name}")
    write(beside)
    os.replace(beside, file)


def write_text(file: pathlib.Path, content: str) -> None:
    """`write_beside` for text, UTF-8."""
    write_beside(file, lambda beside: beside.write_text(content, encoding="utf-8"))


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a folder, made if it is not there, to this run for a while.

    However the process ends, the system frees the folder.

    Raises:
      InputError: if a process of another run holds it, which is named, or it cannot be written to.
    """
    with parallel.first_process_first():
        lock = _acquire(folder) if parallel.is_first() else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(folder: pathlib.Path) -> filelock.FileLock:
    holder = folder / "lock.txt"
    lock = filelock.FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()} since {since}")
    except filelock.Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise InputError(
            f"{folder} is in use: {who}. Wait until it has ended, or end it."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return lock


def read_json(file: pathlib.Path, advice: str) -> Any:
    """The content of a JSON file, UTF-8.

    Args:
      file: its path.
      advice: a sentence on what to do, put after the error.

    Raises:
      InputError: if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. {advice}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}. {advice}") from error
