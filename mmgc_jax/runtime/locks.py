"""Locks on folders, between runs and between processes on the same machine."""

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
    """Locks a folder against other processes on this machine; waits for the lock.

    Args:
      folder: path of the folder; created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        logger.info("Waiting for another process, which is writing to %s.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Locks a folder against other runs; a collective.

    The operating system releases the lock when the process ends, even if it is killed. Buckets have
    no locks: if another run uses a folder in a bucket, a warning names that run, and both continue.

    Args:
      folder: path of the folder; created if it does not exist.

    Raises:
      InputError: if another run holds the lock, or the folder cannot be written to.
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
    """Locks a local folder; returns the function that releases the lock."""
    owner = folder / "lock.txt"
    lock = filelock.FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        write_text(owner, _this_process())
    except filelock.Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise InputError(
            f"{folder} is in use: {who}. Wait until it has finished, or end it."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return lock.release


def _mark(folder: epath.Path) -> Callable[[], None]:
    """Writes lock.txt to a folder in a bucket; returns the function that deletes it."""
    owner = folder / "lock.txt"
    try:
        if owner.exists():
            logger.warning(
                "%s was used by %s, which was killed or is still running. If it is running, end "
                "one of the two runs.", folder, owner.read_text()
            )  # fmt: skip
        owner.write_text(_this_process())
    except Exception as error:  # gcsfs, Google's libraries and the network raise many types
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return functools.partial(owner.unlink, missing_ok=True)


def _this_process() -> str:
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"
