"""Paths and files, on this machine or in a bucket.

A working directory may lie in Google Cloud Storage, `gs://bucket/folder`. Orbax writes arrays there
by itself; everything else uses `etils.epath`, whose paths have the methods of `pathlib`.
"""

import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from errno import EDQUOT, ENOSPC, EROFS
from typing import Any, BinaryIO

import fsspec
from etils import epath

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

Path = pathlib.Path | epath.Path

_NOT_LITERAL = ("[", "]", "*", "?", "\\")
_NOTHING_CAN_BE_WRITTEN = {code: os.strerror(code) for code in (ENOSPC, EDQUOT, EROFS)}
# What TensorStore ("[os_error_code='28']") and array_record ("write() failed: No space left on
# device;") leave of an OSError in exceptions of their own.
_ERRNO_IN_MESSAGE = re.compile(r"\[os_error_code='(\d+)'\]")
_STRERROR_IN_MESSAGE = re.compile(r"\b\w+\(\) failed: ([^;]+);")


def as_path(place) -> Path:
    """Converts a text to an absolute path of this machine, or to a path in a bucket.

    Raises:
      InputError: if it is an address other than `gs://...`, or gcsfs is not installed.
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


def check_workdir(folder: Path, field: str = "--workdir") -> None:
    """Refuses a folder in which libraries would not write where they should.

    Orbax and TFDS glob with the whole path (`*`, `?`, `[...]`), and TensorStore takes a backslash
    for a slash.

    Args:
      folder: as of `as_path`.
      field: the flag or field that names it, for the error.

    Raises:
      InputError: if its path has one of these characters.
    """
    if found := [character for character in _NOT_LITERAL if character in os.fspath(folder)]:
        raise InputError(
            f"{field}: {folder} has {' '.join(found)} in its path, which checkpoints cannot be "
            f"written below. Choose a folder whose path has none of {' '.join(_NOT_LITERAL)}"
        )


def is_address(place) -> bool:
    """Whether a place is an address, such as `gs://bucket/folder`, and not a local path."""
    return "://" in os.fspath(place)


def cache_folder() -> pathlib.Path:
    """Makes and returns the folder for downloads and copies: `mmgc_jax` in the user's cache.

    The user's cache is `$XDG_CACHE_HOME`, or `~/.cache` if that is unset or not absolute (XDG Base
    Directory Specification).

    Raises:
      InputError: if there is no home folder, or the cache cannot be written to.
    """
    advice = "Set XDG_CACHE_HOME (or HOME) to a folder that you can write to."
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        try:
            root = pathlib.Path.home() / ".cache"
        except RuntimeError as error:  # HOME is unset, and the user has no entry in /etc/passwd
            raise InputError(f"There is no home folder to keep a cache in. {advice}") from error
        if not root.is_absolute():
            raise InputError(f"HOME is not an absolute path: {root.parent}. {advice}")
    folder = root / "mmgc_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The cache folder {folder} cannot be made: {error.strerror}. {advice}"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"The cache folder {folder} cannot be written to. {advice}")
    return folder


def cache_folder_or_none() -> pathlib.Path | None:
    """As `cache_folder`; where there is none, logs a warning with the reason and returns None."""
    try:
        return cache_folder()
    except InputError as error:
        logger.warning("No cache is used. %s", error)
        return None


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it exists as a whole or not at all; on process 0 only.

    It is written under another name and renamed. An object of a bucket is atomic by itself.

    Args:
      file: its path; its folder is made if it does not exist.
      write: writes the content to the open file.
    """
    if not parallel.is_first():
        return
    if is_address(file):
        write(content := io.BytesIO())
        file.write_bytes(content.getvalue())
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"new-{file.name}")
    with new.open("wb") as stream:
        write(stream)
    new.replace(file)


def write_text(file: Path, content: str) -> None:
    """`write_atomically` for text, UTF-8."""
    write_atomically(file, lambda stream: stream.write(content.encode()))


# Lines for files in buckets, not written yet; filled by the threads that log.
_buffered: dict[Path, list[bytes]] = {}
_flushed_at: dict[Path, float] = {}
_buffer_lock = threading.RLock()
_SECONDS_BETWEEN_FLUSHES = 60.0


def append_line(file: Path, line: str) -> None:
    """Appends a line to a UTF-8 text file; on process 0 only.

    On disk it is written at once. A bucket has no such thing as appending: there lines are buffered
    for a minute, or until `flush_lines`.
    """
    if not parallel.is_first():
        return
    added = line.encode() + b"\n"
    if is_address(file):
        _buffer(file, added)
        return
    with file.open("ab+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read() != b"\n":  # a line cut short by a kill
                stream.write(b"\n")
        stream.write(added)


def flush_lines() -> None:
    """Writes all buffered lines of `append_line`: after a checkpoint, and at the end of a run."""
    with _buffer_lock:
        for file in list(_buffered):
            _append_object(file, b"".join(_buffered[file]))
            del _buffered[file]
            _flushed_at[file] = time.monotonic()


def _buffer(file: epath.Path, line: bytes) -> None:
    with _buffer_lock:
        _buffered.setdefault(file, []).append(line)
        since = _flushed_at.setdefault(file, time.monotonic())
        if time.monotonic() - since > _SECONDS_BETWEEN_FLUSHES:
            flush_lines()


def _append_object(file: epath.Path, content: bytes) -> None:
    """Appends to an object of a bucket: the bucket joins it with a new one, and none is read."""
    if not file.exists():
        file.write_bytes(content)
        return
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(content)
    filesystem, name = fsspec.url_to_fs(os.fspath(file))
    filesystem.merge(name, [name, f"{name}.part"])
    part.unlink()


def read_json(file: Path, advice: str) -> Any:
    """Reads a JSON file, UTF-8.

    Args:
      file: its path.
      advice: a sentence on what to do, for the error.

    Raises:
      InputError: if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. {advice}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}. {advice}") from error


def disk_error(error: BaseException) -> str | None:
    """Finds a full or read-only disk among the causes of an exception.

    Returns:
      The system's words for it, such as "No space left on device"; None if it is something else.
    """
    for cause in _causes(error, set()):
        if (reason := _disk_error(cause)) is not None:
            return reason
    return None


def _causes(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """Iterates over an exception, those of its group, its cause and its context."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes(member, seen)
    yield from _causes(error.__cause__, seen)
    if not error.__suppress_context__:
        yield from _causes(error.__context__, seen)


def _disk_error(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return _NOTHING_CAN_BE_WRITTEN.get(error.errno)
    message = str(error)
    for code in _ERRNO_IN_MESSAGE.findall(message):
        if int(code) in _NOTHING_CAN_BE_WRITTEN:
            return _NOTHING_CAN_BE_WRITTEN[int(code)]
    for reason in _STRERROR_IN_MESSAGE.findall(message):
        if reason in _NOTHING_CAN_BE_WRITTEN.values():
            return reason
    return None
