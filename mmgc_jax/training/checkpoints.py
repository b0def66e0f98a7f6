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
from typing import Any

import jax
import orbax.checkpoint as ocp

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, is_address, write_text

logger = logging.getLogger(__name__)

_DIGESTS = "digests.json"
_METADATA_BYTES = 2**22  # upper bound for the size of a checkpoint beside its arrays


class Checkpoints:
    """Writes the checkpoints of one directory; a context manager.

    Opening Orbax's manager takes as long as saving a small checkpoint, so it is opened at the first
    `save` and reused until the context ends.
    """

    def __init__(self, directory, keep: int = 1):
        """Sets the directory; nothing is opened or made yet.

        Args:
          directory: folder for these checkpoints only; each becomes a subfolder named by its step.
          keep: number of checkpoints to keep; older ones are deleted.
        """
        self._directory = as_path(directory)
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        if self._manager is not None:
            self._manager.close()

    def save(self, step: int, tree: Any, notes: dict) -> None:
        """Writes a checkpoint, then deletes the oldest ones; a collective.

        Checkpoints of later steps, left from before a training resumed at an earlier step, are
        deleted first. If an undamaged checkpoint of this step with equal notes exists, nothing is
        written, since a resumed training repeats its steps exactly.

        Args:
          step: number of the training step.
          tree: tree of arrays.
          notes: a dictionary that can be written as JSON.

        Raises:
          OSError: with errno ENOSPC, before anything is written, if a process has too little disk
            space.
        """
        _require_room(self._directory, tree)
        if self._manager is None:
            self._manager = _open_manager(self._directory, self._keep)
        steps = self._manager.all_steps()
        for later in sorted(other for other in steps if other > step):
            self._manager.delete(later)
        folder = self._directory / str(step)
        if step in steps:
            if not _first_finds_damage(folder) and self._notes(step) == notes:
                return
            self._manager.delete(step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(tree), notes=ocp.args.JsonSave(notes)
            ),
        )
        if parallel.is_first() and not is_address(folder):
            write_text(folder / _DIGESTS, json.dumps(_digests(folder), indent=0))

    def _notes(self, step: int) -> dict:
        args = ocp.args.Composite(notes=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["notes"]


def save(directory, step: int, tree: Any, notes: dict) -> None:
    """Writes a single checkpoint; see `Checkpoints` for the arguments."""
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(step, tree, notes)


def _open_manager(directory: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(directory, options=options)


def restore(directory, like: Any = None) -> tuple[Any, dict] | None:
    """Reads the newest undamaged checkpoint of a directory; a collective.

    Args:
      directory: folder of the checkpoints; see `Checkpoints`.
      like: a tree with the wanted shapes, dtypes and shardings; without it, arrays are NumPy's.

    Returns:
      The tree and the notes, or None if there is no checkpoint.

    Raises:
      InputError: if all checkpoints of the directory are damaged.
    """
    directory = as_path(directory)
    if not parallel.broadcast(directory.is_dir()):
        return None
    # A CheckpointManager would log warnings that it only reads.
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(like), notes=ocp.args.JsonRestore())
        steps = sorted(ocp.utils.checkpoint_steps(directory), reverse=True)
        for step in steps:
            if _first_finds_damage(directory / str(step)):
                logger.warning("Skipping a damaged checkpoint: %s", directory / str(step))
                continue
            restored = checkpointer.restore(directory / str(step), args=args)
            return restored["tree"], restored["notes"]
    if not steps:
        return None
    raise InputError(
        f"{directory / str(steps[0])} is damaged: its files have changed since they were written. "
        f"Restore it from a copy; or delete {directory.parent}, and predictions/ in the working "
        "directory, and run the experiment again, which computes what is missing."
    )


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
