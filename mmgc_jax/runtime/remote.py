"""Copies inputs from buckets and other remote file systems to this machine."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

import fsspec

from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import cache_folder, is_address, read_json
from mmgc_jax.runtime.locks import machine_lock
from mmgc_jax.runtime.progress import progress_bar

_FILES_PER_CHUNK = 256


def copy_here(place: str, folder: pathlib.Path) -> str:
    """Copies a remote file or folder to this machine; reuses files of an earlier copy.

    Only files that are new or have changed are copied, and files deleted at the origin are deleted
    from the copy. An interrupted copy continues where it stopped.

    Args:
      place: an address that fsspec can read, such as `gs://bucket/posters`, or a local path.
      folder: folder for copies; each address has its own subfolder.

    Returns:
      The path of the copy, which has the same name as the original. A local path is returned
      unchanged.

    Raises:
      InputError: if nothing exists at the address, or it cannot be read.
      Interrupted: if a stop was requested; checked between chunks of files.
    """
    if not is_address(place):
        return place
    filesystem, origin, versions = _list_files(place)
    subfolder = folder / hashlib.sha256(place.encode()).hexdigest()[:16]
    copy = subfolder / origin.name
    targets = {name: _target(place, origin, name, copy) for name in versions}
    with machine_lock(subfolder):
        record = subfolder / "copied.json"
        copied = read_json(record, f"Delete {subfolder}.") if record.exists() else {}
        for name in copied.keys() - versions.keys():
            _target(place, origin, name, copy).unlink(missing_ok=True)
        copied = {name: copied[name] for name in copied if copied[name] == versions.get(name)}

        def note(names: list[str]) -> None:
            copied.update((name, versions[name]) for name in names)
            _write_record(record, copied)

        missing = {name: targets[name] for name in targets if name not in copied}
        _copy(place, filesystem, missing, total=len(targets), note=note)
    return str(copy)


def local_copy(place: str) -> str:
    """As `copy_here`, into the cache of the user."""
    return copy_here(place, cache_folder() / "copies") if is_address(place) else place


def _list_files(
    place: str,
) -> tuple[fsspec.AbstractFileSystem, pathlib.PurePosixPath, dict[str, str]]:
    """Lists the files at an address.

    Args:
      place: an address that fsspec can read.

    Returns:
      The file system, the path in the file system, and for each file's name a version: a string
      that changes when the file changes.
    """
    try:
        filesystem, root = fsspec.url_to_fs(place)
        filesystem.invalidate_cache()
        found = filesystem.find(root, detail=True)
    except Exception as error:  # each file system raises exceptions of its own types
        raise InputError(f"{place} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{place}: no such file or folder.")
    versions = {
        name: json.dumps(details, sort_keys=True, default=str) for name, details in found.items()
    }
    return filesystem, pathlib.PurePosixPath(root), versions


def _target(
    place: str, origin: pathlib.PurePosixPath, name: str, copy: pathlib.Path
) -> pathlib.Path:
    """Returns the local path of a remote file; raises `InputError` if it is outside the copy."""
    below = pathlib.PurePosixPath(name).relative_to(origin)
    if ".." in below.parts:
        raise InputError(f"{place}: the path of {name} is outside of it.")
    return copy / below


def _copy(
    place: str,
    filesystem: fsspec.AbstractFileSystem,
    missing: Mapping[str, pathlib.Path],
    total: int,
    note: Callable[[list[str]], None],
) -> None:
    """Copies files in chunks.

    Args:
      place: the address, for messages.
      filesystem: the address's file system.
      missing: names of the remote files to copy -> local paths.
      total: number of files, including those copied before; for the progress bar.
      note: called with the names of each copied chunk.
    """
    names = list(missing)
    before = total - len(names)
    with progress_bar(desc=f"copying {place}", total=total, initial=before, unit="file") as bar:
        for start in range(0, len(names), _FILES_PER_CHUNK):
            preemption.raise_if_requested_locally()
            chunk = names[start : start + _FILES_PER_CHUNK]
            for name in chunk:
                missing[name].parent.mkdir(parents=True, exist_ok=True)
            try:
                filesystem.get(chunk, [str(missing[name]) for name in chunk])
            except Exception as error:
                raise InputError(f"{place} cannot be copied: {error}") from error
            note(chunk)
            bar.update(len(chunk))


def _write_record(record: pathlib.Path, copied: Mapping[str, str]) -> None:
    """Writes the record of copied files atomically; unlike `write_atomically`, on any process."""
    new = record.with_name(f"new-{record.name}")
    new.write_text(json.dumps(copied), encoding="utf-8")
    new.replace(record)
