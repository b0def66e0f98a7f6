"""Writes and reads checkpoints with Orbax: training states, best parameters, frozen parameters.

Writes are atomic: a checkpoint is written under a temporary name and renamed when complete, so that
the previous one survives a crash at any moment.

Damage is detected. Orbax's format (OCDBT) has checksums for its index but not for the values of
arrays, so a file with the SHA-256 of each file is added, except in buckets, since Cloud Storage has
checksums of its own.

With several processes, all of them call these functions, and each reads and writes its own shards.
"""

import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, is_address, write_text

logger = logging.getLogger(__name__)

_DIGESTS = "digests.json"
_METADATA_BYTES = 2**22  # upper bound for the size of a checkpoint beside its arrays


def save(directory, step: int, tree: Any, keep: int = 1) -> None:
    """Writes a checkpoint, then deletes older ones; a collective.

    If an undamaged checkpoint of this step exists, it is kept, since a resumed training repeats its
    steps exactly. Checkpoints of later steps, left from before a training resumed at an earlier
    step, are deleted.

    Args:
      directory: folder for these checkpoints only; each becomes a subfolder named by its step.
      step: number of the training step.
      tree: tree of arrays.
      keep: number of checkpoints to keep, including this one.

    Raises:
      OSError: with errno ENOSPC, before anything is written, if a process has too little disk
        space.
    """
    directory = as_path(directory)
    _require_room(directory, tree)
    steps, folder = _steps(directory), directory / str(step)
    if parallel.broadcast(step not in steps) or _first_finds_damage(folder):
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            args = ocp.args.Composite(tree=ocp.args.StandardSave(tree))
            checkpointer.save(folder, args=args, force=True)
        if parallel.is_first() and not is_address(folder):
            write_text(folder / _DIGESTS, json.dumps(_digests(folder), indent=0))
    if parallel.is_first():
        earlier = [other for other in steps if other < step]
        _delete_all_but(directory, [step, *earlier][:keep])


def restore(directory, like: Any = None) -> Any | None:
    """Reads the newest undamaged checkpoint of a directory; a collective.

    Args:
      directory: folder of the checkpoints; see `save`.
      like: a tree with the wanted shapes, dtypes and shardings; without it, arrays are NumPy's.

    Returns:
      The tree, or None if there is no checkpoint.

    Raises:
      InputError: if all checkpoints of the directory are damaged.
    """
    directory = as_path(directory)
    if not parallel.broadcast(directory.is_dir()):
        return None
    steps = _steps(directory)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(like))
        for step in steps:
            if not _first_finds_damage(directory / str(step)):
                return checkpointer.restore(directory / str(step), args=args)["tree"]
            logger.warning("Skipping a damaged checkpoint: %s", directory / str(step))
    if not steps:
        return None
    raise InputError(
        f"{directory / str(steps[0])} is damaged: its files have changed since they were written. "
        f"Restore it from a copy; or delete {directory.parent}, and predictions/ in the working "
        "directory, and run the experiment again, which computes what is missing."
    )


def _steps(directory: Path) -> list[int]:
    """Returns the steps of the complete checkpoints of a directory, the newest first."""
    return sorted(ocp.utils.checkpoint_steps(directory), reverse=True)


def _delete_all_but(directory: Path, steps: Sequence[int]) -> None:
    """Deletes the checkpoints of all steps but these, and what interrupted writes have left."""
    kept = list(map(str, steps))
    for folder in directory.iterdir():
        # Orbax calls an unfinished one `20.orbax-checkpoint-tmp`, or in a bucket `20`.
        if folder.name.partition(".")[0].isdigit() and folder.name not in kept:
            epath.Path(folder).rmtree()


def _require_room(directory: Path, tree: Any) -> None:
    """Raises OSError if the disk is too full; a collective.

    Otherwise each of Orbax's threads would print an exception of its own.
    """
    has_room = True
    if not is_address(directory):
        directory.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _METADATA_BYTES
        has_room = shutil.disk_usage(directory).free >= needed
    if not parallel.minimum(has_room):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _first_finds_damage(folder: Path) -> bool:
    """Returns whether process 0 finds a checkpoint damaged; a collective."""
    return bool(parallel.broadcast(parallel.is_first() and _is_damaged(folder)))


def _is_damaged(folder: Path) -> bool:
    """Returns whether a file of a checkpoint has changed since it was written."""
    written = folder / _DIGESTS
    if not written.exists():
        return False  # the process was killed just before writing them; the checkpoint is complete
    try:
        return json.loads(written.read_bytes()) != _digests(folder)
    except ValueError:
        return True


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """Computes the SHA-256 of each file of a folder, by its relative path."""
    digests = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != _DIGESTS:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            digests[str(file.relative_to(folder))] = digest
    return digests
