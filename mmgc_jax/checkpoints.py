"""Orbax behind a few functions: the latest state of a training, and its best parameters.

A checkpoint is written beside its place and renamed when it is whole, so that a stop at any moment
leaves the one before it. All processes of a run call these functions, each for its own part.
"""

import pathlib
from typing import Any

import orbax.checkpoint as ocp

from mmgc_jax import parallel

_OPTIONS = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)


def save(directory, step: int, tree: Any, notes: dict) -> None:
    """Writes a tree of arrays and some JSON, then deletes the checkpoint that was there before.

    Args:
      directory: holds this checkpoint alone, in a folder named by its step.
      step: if it is there already, it is kept: a training that goes on repeats its steps exactly.
      tree: of arrays.
      notes: anything that JSON can hold.
    """
    with ocp.CheckpointManager(pathlib.Path(directory).absolute(), options=_OPTIONS) as manager:
        if step in manager.all_steps():
            return
        manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(tree), notes=ocp.args.JsonSave(notes)
            ),
        )


def restore(directory, like: Any = None) -> tuple[Any, dict] | None:
    """Reads the checkpoint of a directory.

    Args:
      directory: as in `save`.
      like: a tree with the shapes, dtypes and shardings wanted; without it, arrays come as numpy.

    Returns:
      The tree and the notes, or None if there is no checkpoint.
    """
    directory = pathlib.Path(directory).absolute()
    if not parallel.agree(directory.is_dir()):
        return None
    with ocp.CheckpointManager(directory, options=_OPTIONS) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(like), notes=ocp.args.JsonRestore())
        restored = manager.restore(step, args=args)
        return restored["tree"], restored["notes"]
