"""Paths and files, on this machine or in a bucket.

A working directory may be in Google Cloud Storage, `gs://bucket/folder`. Orbax writes arrays there
itself; everything else uses `etils.epath`, whose paths have the methods of `pathlib`.
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
# TensorStore ("[os_error_code='28']") and array_record ("write() failed: No space left on device;")
# report an OSError only in the messages of their own exceptions.
_ERRNO_IN_MESSAGE = re.compile(r"\[os_error_code='(\d+)'\]")
_STRERROR_IN_MESSAGE = re.compile(r"\b\w+\(\) failed: ([^;]+);")


def as_path(place) -> Path:
    """Converts a string to an absolute local path or to a path in a bucket.

    Args:
      place: a local path, or an address `gs://bucket/folder`.

    Raises:
      InputError: if it is an address of another kind, or gcsfs is not installed.
    """
    address = os.fspath(place)
    if not is_address(address):
        return pathlib.Path(address).absolute()
    if not address.startswith("gs://"):
        raise InputError(f"{address}: it must be a local folder or gs://bucket/folder.")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{address}: gcsfs is not installed. Run: pip install 'mmgc_jax[gcs]'")
    # No cached listings, because other processes and Orbax write to the bucket, too.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(address)


def relative_to_here(path: Path) -> Path:
    """Returns a path relative to the current folder if it is in it, otherwise the path itself."""
    if isinstance(path, pathlib.Path) and path.is_relative_to(pathlib.Path.cwd()):
        return path.relative_to(pathlib.Path.cwd())
    return path


def check_workdir(folder: Path, field: str = "--workdir") -> None:
    """Refuses folders whose path libraries would misinterpret.

    Orbax and TFDS interpret `*`, `?` and `[...]` as glob patterns anywhere in a path, and
    TensorStore interprets a backslash as a slash.

    Args:
      folder: path of the folder, from `as_path`.
      field: flag or config field that names the folder, for the error message.

    Raises:
      InputError: if the path has one of these characters.
    """
    if found := [character for character in _NOT_LITERAL if character in os.fspath(folder)]:
        raise InputError(
            f"{field}: {folder} has {' '.join(found)} in its path, so checkpoints cannot be "
            f"written there. Choose a folder whose path has none of {' '.join(_NOT_LITERAL)}"
        )


def is_address(place) -> bool:
    """Returns whether a place is an address such as `gs://bucket/folder`, not a local path."""
    return "://" in os.fspath(place)


def cache_folder() -> pathlib.Path:
    """Returns the folder for downloads and copies; creates it if needed.

    It is `$XDG_CACHE_HOME/mmgc_jax`, or `~/.cache/mmgc_jax` if the variable is unset or not an
    absolute path (XDG Base Directory Specification).

    Raises:
      InputError: if there is no home folder, or the folder cannot be created or written to.
    """
    advice = "Set XDG_CACHE_HOME (or HOME) to a folder that you can write to."
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        try:
            root = pathlib.Path.home() / ".cache"
        except RuntimeError as error:  # HOME is unset, and the user has no entry in /etc/passwd
            raise InputError(f"There is no home folder for the cache. {advice}") from error
        if not root.is_absolute():
            raise InputError(f"HOME is not an absolute path: {root.parent}. {advice}")
    folder = root / "mmgc_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The cache folder {folder} cannot be created: {error.strerror}. {advice}"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"The cache folder {folder} cannot be written to. {advice}")
    return folder


def cache_folder_or_none() -> pathlib.Path | None:
    """Returns `cache_folder()`, or None after logging a warning if there is none."""
    try:
        return cache_folder()
    except InputError as error:
        logger.warning("No cache is used. %s", error)
        return None


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it exists as a whole or not at all; on process 0 only.

    The content is written under another name, which is then renamed. Objects in buckets are atomic
    by themselves. Of a symbolic link, the file that it points to is replaced. What exists and is
    not a regular file, such as `/dev/stdout` or a FIFO, cannot be replaced: it is written into.

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
    if file.is_symlink() and file.is_file():
        file = file.resolve()
    if file.exists() and not file.is_file():
        with file.open("wb") as stream:
            write(stream)
        return
    new = file.with_name(f"new-{file.name}")
    with new.open("wb") as stream:
        write(stream)
    new.replace(file)


def write_text(file: Path, content: str) -> None:
    """Writes a UTF-8 text file atomically; on process 0 only. See `write_atomically`."""
    write_atomically(file, lambda stream: stream.write(content.encode()))


# Lines for files in buckets that are not written yet. Several threads may log.
_buffered: dict[Path, list[bytes]] = {}
_flushed_at: dict[Path, float] = {}
_buffer_lock = threading.RLock()
_SECONDS_BETWEEN_FLUSHES = 60.0


def append_line(file: Path, line: str) -> None:
    """Appends a line to a UTF-8 text file; on process 0 only.

    On a local disk, the line is written immediately. Buckets cannot append to objects, so lines for
    a bucket are buffered for up to a minute or until `flush_lines`.

    Args:
      file: path of the file; its folder must exist.
      line: the line, without a line end.
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
            if stream.read() != b"\n":  # the process was killed while writing a line
                stream.write(b"\n")
        stream.write(added)


def flush_lines() -> None:
    """Writes all lines that `append_line` has buffered; call it after a checkpoint or a run."""
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
    """Appends to an object in a bucket, by letting the bucket concatenate two objects."""
    if not file.exists():
        file.write_bytes(content)
        return
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(content)
    filesystem, name = fsspec.url_to_fs(os.fspath(file))
    filesystem.merge(name, [name, f"{name}.part"])
    part.unlink()


def read_json(file: Path, advice: str) -> Any:
    """Reads a UTF-8 JSON file.

    Args:
      file: path of the file.
      advice: what to do about an error; the last sentence of its message.

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
    """Returns the reason if an exception was caused by a full or read-only disk.

    Args:
      error: an exception; its causes, contexts and groups are searched as well.

    Returns:
      The system's message, such as "No space left on device"; None for other causes.
    """
    for cause in _causes(error, set()):
        if (reason := _disk_error(cause)) is not None:
            return reason
    return None


def _causes(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """Yields an exception, the members of its group, its cause and its context, recursively."""
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
