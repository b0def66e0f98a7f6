"""What an experiment reads, brought to this machine from wherever it lies."""

import hashlib
import itertools
import json
import pathlib

import fsspec
import ml_collections

from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import is_address, read_json
from mmgc_jax.runtime.locks import machine_lock
from mmgc_jax.runtime.progress import progress_bar

_COPIED_AT_ONCE = 256  # files


def copy_inputs(
    config: ml_collections.ConfigDict, folder: pathlib.Path
) -> ml_collections.ConfigDict:
    """The same config with the path of a copy wherever it names an address.

    Args:
      config: of an experiment.
      folder: keeps the copies.

    Raises:
      InputError, Interrupted: as `copy_here`.
    """
    config = config.copy_and_resolve_references().unlock()
    for settings, name in (
        (config.data, "path"),
        (config.poster, "weights"),
        (config.plot.vectors, "file"),
        (config.transformer, "folder"),
    ):
        settings[name] = copy_here(settings[name], folder)
    unlabelled = config.plot.vectors.unlabelled
    config.plot.vectors.unlabelled = tuple(copy_here(table, folder) for table in unlabelled)
    return config.lock()


def copy_here(place: str, folder: pathlib.Path) -> str:
    """What an address of fsspec names, on this machine.

    What was copied before, and has not changed since, is not copied again.

    Args:
      place: a file or folder, as `gs://bucket/posters`; a path of this machine is returned as it
        is.
      folder: gets the copy, in a folder of its own.

    Returns:
      The path of the copy, which has the name of what was copied.

    Raises:
      InputError: if there is nothing there, or it cannot be read.
      Interrupted: between files, if the process was asked to stop.
    """
    if not is_address(place):
        return place
    try:
        filesystem, root = fsspec.url_to_fs(place)
        filesystem.invalidate_cache()
        found = filesystem.find(root, detail=True)
    except Exception as error:  # each kind of address has exceptions of its own
        raise InputError(f"{place} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{place}: nothing there.")
    origin = pathlib.PurePosixPath(root)
    kept = folder / hashlib.sha256(place.encode()).hexdigest()[:16]
    copy = kept / origin.name

    def target(name: str) -> pathlib.Path:
        below = pathlib.PurePosixPath(name).relative_to(origin)
        if ".." in below.parts:
            raise InputError(f"{place}: {name} leads out of it.")
        return copy / below

    wanted = {
        name: json.dumps(information, sort_keys=True, default=str)
        for name, information in found.items()
    }
    targets = {name: target(name) for name in wanted}
    with machine_lock(kept):
        listed = kept / "copied.json"
        copied = read_json(listed, f"Delete {kept}.") if listed.exists() else {}
        for name in copied.keys() - wanted.keys():
            target(name).unlink(missing_ok=True)
        copied = {name: copied[name] for name in copied if copied[name] == wanted.get(name)}
        missing = iter([name for name in wanted if name not in copied])
        with progress_bar(
            desc=f"copying {place}", total=len(wanted), initial=len(copied), unit="file"
        ) as bar:
            while names := list(itertools.islice(missing, _COPIED_AT_ONCE)):
                preemption.raise_if_requested_locally()
                for name in names:
                    targets[name].parent.mkdir(parents=True, exist_ok=True)
                try:
                    filesystem.get(names, [str(targets[name]) for name in names])
                except Exception as error:
                    raise InputError(f"{place} cannot be copied: {error}") from error
                copied |= {name: wanted[name] for name in names}
                beside = listed.with_name("new-copied.json")
                beside.write_text(json.dumps(copied), encoding="utf-8")
                beside.replace(listed)
                bar.update(len(names))
    return str(copy)
