"""Checkpoints: the latest states of a training, its best parameters, frozen parameters.

A checkpoint is written beside its place and renamed when it is whole, so that a stop at any moment
leaves the one before it. Orbax checks the arrays' places (OCDBT has a CRC for each node) but not
their values, so the SHA-256 of each file is written beside them, and a changed byte is noticed. All
processes of a run call these functions, each for its own part. In a bucket there are no digests:
Cloud Storage checks what it keeps.
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
_BESIDE_ARRAYS = 2**22  # bytes of a checkpoint that are not its arrays', and some to spare


class Checkpoints:
    """The checkpoints of one directory, written through one Orbax manager.

    A context manager. It opens Orbax's manager when something is first saved.
    """

    def __init__(self, directory, keep: int = 1):
        """Opens nothing yet.

        Args:
          directory: holds these checkpoints alone, each in a folder named by its step.
          keep: how many of them stay.
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
        """Writes a checkpoint, then deletes old ones.

        Checkpoints of later steps are deleted first, as after resuming from an earlier one. A
        checkpoint of this step is kept if it is undamaged and has these notes, since a resumed
        training repeats its steps exactly.

        Args:
          step: of the training.
          tree: of arrays.
          notes: anything that JSON can hold.

        Raises:
          OSError: ENOSPC, before anything is written, if one of the processes has no room for it.
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
    """Writes a single checkpoint; see `Checkpoints.save`."""
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(step, tree, notes)


def _open_manager(directory: Path, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(directory, options=options)


def restore(directory, like: Any = None) -> tuple[Any, dict] | None:
    """Reads the newest checkpoint of a directory that is not damaged.

    Args:
      directory: as of `Checkpoints`.
      like: a tree with the shapes, dtypes and shardings wanted; without it, arrays come as numpy.

    Returns:
      The tree and the notes, or None if there is no checkpoint.

    Raises:
      InputError: if there are checkpoints, and all are damaged.
    """
    directory = as_path(directory)
    if not parallel.broadcast(directory.is_dir()):
        return None
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(directory, options=options) as manager:
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(like), notes=ocp.args.JsonRestore())
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            if _first_finds_damage(directory / str(step)):
                logger.warning("Damaged, and passed over: %s", directory / str(step))
                continue
            restored = manager.restore(step, args=args)
            return restored["tree"], restored["notes"]
    if not steps:
        return None
    raise InputError(
        f"{directory / str(steps[0])} is damaged: its files are not what was written. Put it back "
        f"from a copy; or delete {directory.parent}, and predictions/ in the working directory, "
        "and run the experiment again: it makes anew what is missing."
    )


def _require_room(directory: Path, tree: Any) -> None:
    """Raises what `save` does, before Orbax's threads each print an exception of their own."""
    has_room = True
    if not is_address(directory):
        directory.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _BESIDE_ARRAYS
        has_room = shutil.disk_usage(directory).free >= needed
    if not parallel.minimum(has_room):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _first_finds_damage(folder: Path) -> bool:
    """Whether process 0 finds a checkpoint damaged; a collective."""
    return bool(parallel.broadcast(parallel.is_first() and _is_damaged(folder)))


def _is_damaged(folder: Path) -> bool:
    """Whether a file of a checkpoint is not as it was written."""
    written = folder / _DIGESTS
    if not written.exists():
        return False  # killed between the checkpoint and its digests: whole, but unchecked
    try:
        return json.loads(written.read_bytes()) != _digests(folder)
    except ValueError:
        return True


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of each file, by its path in the folder."""
    digests = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != _DIGESTS:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            digests[str(file.relative_to(folder))] = digest
    return digests
