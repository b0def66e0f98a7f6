"""Copies inputs from buckets and other remote file systems to this machine."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

import fsspec

from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import is_address, read_json
from mmgc_jax.runtime.locks import machine_lock
from mmgc_jax.runtime.progress import progress_bar

_FILES_PER_CHUNK = 256


def copy_here(place: str, folder: pathlib.Path) -> str:
    """Copies a remote file or folder to this machine, unless an unchanged copy is there already.

    Args:
      place: an address that fsspec can read, such as `gs://bucket/posters`, or a path of this
        machine.
      folder: where the copy is kept, in a subfolder of its own.

    Returns:
      The path of the copy, which keeps its name; a path of this machine is returned as it is.

    Raises:
      InputError: if nothing exists at that address, or it cannot be read.
      Interrupted: between chunks of files, if the process was asked to stop.
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


def _list_files(
    place: str,
) -> tuple[fsspec.AbstractFileSystem, pathlib.PurePosixPath, dict[str, str]]:
    """Lists the files at an address.

    Returns:
      Its file system, its path there, and for each file its name there -> a text that changes
      when the file does.
    """
    try:
        filesystem, root = fsspec.url_to_fs(place)
        filesystem.invalidate_cache()
        found = filesystem.find(root, detail=True)
    except Exception as error:  # each file system raises its own kinds
        raise InputError(f"{place} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{place}: there is no such file or folder.")
    versions = {
        name: json.dumps(details, sort_keys=True, default=str) for name, details in found.items()
    }
    return filesystem, pathlib.PurePosixPath(root), versions


def _target(
    place: str, origin: pathlib.PurePosixPath, name: str, copy: pathlib.Path
) -> pathlib.Path:
    """The path of a file within the copy, which it must not leave."""
    below = pathlib.PurePosixPath(name).relative_to(origin)
    if ".." in below.parts:
        raise InputError(f"{place}: the path of {name} leads out of it.")
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
      place: the address, for errors.
      filesystem: of the address.
      missing: name of a remote file -> where it goes.
      total: how many files there are, with those copied before.
      note: takes the names of a chunk that is copied.
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
    """Writes atomically, on every process that copies: hosts may have a disk each."""
    new = record.with_name(f"new-{record.name}")
    new.write_text(json.dumps(copied), encoding="utf-8")
    new.replace(record)
