"""Files that are there whole or not at all, here or in a bucket; folders that a run has to itself.

Working directories may lie in a bucket of Google Cloud Storage, `gs://bucket/folder`: Orbax writes
arrays there by itself, and all else goes through `etils.epath`, whose paths have the methods of
`pathlib`.
"""

import contextlib
import datetime
import functools
import importlib.util
import io
import json
import logging
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import filelock
import fsspec
from etils import epath

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

Path = pathlib.Path | epath.Path


def as_path(place) -> Path:
    """A path of this machine, absolute, or one in a bucket.

    Raises:
      InputError: if it is an address that is not `gs://...`, or gcsfs is not installed.
    """
    address = os.fspath(place)
    if not is_address(address):
        return pathlib.Path(address).absolute()
    if not address.startswith("gs://"):
        raise InputError(f"{address}: a folder of this machine or gs://bucket/folder is needed.")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{address}: gcsfs is not installed. Run: pip install 'mmgc_jax[gcs]'")
    # Other processes, and Orbax, write to the bucket too.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(address)


def is_address(place) -> bool:
    """Whether it is an address, such as `gs://bucket/folder`, and not on this machine."""
    return "://" in os.fspath(place)


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` make a file beside its place and renames it when it is whole.

    In a bucket an object is there when it is whole, and takes its place at once. Of several
    processes, which share what they write to, the first one does this.

    Args:
      file: the place; its folder is made if it is not there.
      write: takes the open file.
    """
    if not parallel.is_first():
        return
    if is_address(file):
        write(content := io.BytesIO())
        file.write_bytes(content.getvalue())
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"new-{file.name}")
    with beside.open("wb") as stream:
        write(stream)
    beside.replace(file)


def write_text(file: Path, content: str) -> None:
    """`write_atomically` for text, UTF-8."""
    write_atomically(file, lambda stream: stream.write(content.encode()))


def append_line(file: Path, line: str) -> None:
    """Adds a line to a file of text, UTF-8; in a bucket, where none can be added, all is put anew.

    Of several processes the first one does this.
    """
    if not parallel.is_first():
        return
    added = line.encode() + b"\n"
    if is_address(file):
        before = file.read_bytes() if file.exists() else b""
        file.write_bytes(before + added)
        return
    with file.open("ab+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":  # a line cut short by a kill
                stream.write(b"\n")
        stream.write(added)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process of this machine has the folder, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        yield


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a folder, made if it is not there, to this run for a while.

    However the process ends, the system frees the folder. In a bucket, which frees nothing, another
    run that has not ended by itself is told of in the log and no more.

    Raises:
      InputError: if a process of another run holds it, which is named, or it cannot be written to.
    """
    take = _mark if is_address(folder) else _acquire
    with parallel.first_process_first():
        release = take(folder) if parallel.is_first() else None
    try:
        yield
    finally:
        if release is not None:
            release()


def _who() -> str:
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


def _mark(folder: epath.Path) -> Callable[[], None]:
    holder = folder / "lock.txt"
    try:
        if holder.exists():
            logger.warning(
                "%s was used by %s, which was stopped the hard way or still runs. Of two runs that "
                "write there at once, end one.", folder, holder.read_text()
            )  # fmt: skip
        holder.write_text(_who())
    except Exception as error:  # of gcsfs, of Google's libraries, of the network
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return functools.partial(holder.unlink, missing_ok=True)


def _acquire(folder: pathlib.Path) -> Callable[[], None]:
    holder = folder / "lock.txt"
    lock = filelock.FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
        write_text(holder, _who())
    except filelock.Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise InputError(
            f"{folder} is in use: {who}. Wait until it has ended, or end it."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error}") from error
    return lock.release


def read_json(file: Path, advice: str) -> Any:
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
