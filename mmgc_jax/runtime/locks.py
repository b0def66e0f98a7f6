"""Locks on folders: between runs, and between the processes of a machine."""

import contextlib
import datetime
import functools
import logging
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

import filelock
from etils import epath

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, is_address, write_text

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def machine_lock(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder against other processes of this machine; waits while one has it locked.

    Args:
      folder: made if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        yield


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Locks a folder against other runs; a collective.

    The system releases the lock however the process ends. A bucket has no such locks: there the
    other run is named in a warning, and both go on.

    Args:
      folder: made if it does not exist.

    Raises:
      InputError: if another run has it locked, or it cannot be written to.
    """
    lock = _mark if is_address(folder) else _lock
    with parallel.first_process_first():
        release = lock(folder) if parallel.is_first() else None
    try:
        yield
    finally:
        if release is not None:
            release()


def _lock(folder: pathlib.Path) -> Callable[[], None]:
    """Locks a folder of this machine; returns the function that releases it."""
    owner = folder / "lock.txt"
    lock = filelock.FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        write_text(owner, _this_process())
    except filelock.Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise InputError(
            f"{folder} is in use: {who}. Wait until it has ended, or end it."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return lock.release


def _mark(folder: epath.Path) -> Callable[[], None]:
    """Writes this process's name into a folder of a bucket; returns the function to delete it."""
    owner = folder / "lock.txt"
    try:
        if owner.exists():
            logger.warning(
                "%s was used by %s, which was killed or is still running. If two runs write there, "
                "end one of them.", folder, owner.read_text()
            )  # fmt: skip
        owner.write_text(_this_process())
    except Exception as error:  # gcsfs, Google's libraries and the network raise many kinds
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return functools.partial(owner.unlink, missing_ok=True)


def _this_process() -> str:
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"
