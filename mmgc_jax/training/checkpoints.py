"""Orbax behind a few functions: the latest states of a training, and its best parameters.

A checkpoint is written beside its place and renamed when it is whole, so that a stop at any moment
leaves the one before it. The digests of its files lie in it, since Orbax checks the arrays' places
(OCDBT has a CRC for each node) but not their values: a byte that has changed since is noticed. All
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


def save(directory, step: int, tree: Any, notes: dict, keep: int = 1) -> None:
    """Writes a tree of arrays and some JSON, then deletes checkpoints from before.

    Args:
      directory: holds these checkpoints alone, each in a folder named by its step.
      step: if it is there already and undamaged, it is kept: a training that goes on repeats its
        steps exactly. Later ones, which such a training has not reached yet, are deleted.
      tree: of arrays.
      notes: anything that JSON can hold.
      keep: how many checkpoints stay, this one included.

    Raises:
      OSError: ENOSPC, before anything is written, if there is no room for it on the disk of any of
        the processes.
    """
    directory = as_path(directory)
    _require_room(directory, tree)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    with ocp.CheckpointManager(directory, options=options) as manager:
        for later in [there for there in manager.all_steps() if there >= step]:
            if later == step and not _first_finds_damage(directory / str(step)):
                return
            manager.delete(later)
        manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(tree), notes=ocp.args.JsonSave(notes)
            ),
        )
    folder = directory / str(step)
    if parallel.is_first() and not is_address(folder):
        write_text(folder / _DIGESTS, json.dumps(_digests(folder), indent=0))


def restore(directory, like: Any = None) -> tuple[Any, dict] | None:
    """Reads the newest checkpoint of a directory that is not damaged.

    Args:
      directory: as in `save`.
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
    """Raises what `save` does; Orbax's many threads would each print an exception of their own."""
    has_room = True
    if not is_address(directory):
        directory.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _BESIDE_ARRAYS
        has_room = shutil.disk_usage(directory).free >= needed
    if not parallel.minimum(has_room):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _first_finds_damage(folder: Path) -> bool:
    """Whether a checkpoint is damaged; the first process looks, and all know."""
    return bool(parallel.broadcast(parallel.is_first() and _is_damaged(folder)))


def _is_damaged(folder: Path) -> bool:
    """Whether a file of a checkpoint is not as it was written."""
    written = folder / _DIGESTS
    if not written.exists():
        return False  # a kill came in between, or it is of an earlier version: whole, but unchecked
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
