"""Checkpoints: what is saved comes back, and only what is whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import checkpoint_manager

from mmgc_jax import checkpoints

TREE = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.array(7, np.int32),
    "half": np.array([1.5, -2], jnp.bfloat16),
}


def folders(directory):
    return sorted(path.name for path in directory.iterdir())


def test_tree_and_notes_come_back_bit_for_bit(tmp_path):
    notes = {"best_auc": 0.1 + 0.2, "best_epoch": 3, "done": False}
    checkpoints.save(tmp_path / "latest", 12, TREE, notes)
    tree, restored_notes = checkpoints.restore(tmp_path / "latest")
    assert restored_notes == notes
    assert tree.keys() == TREE.keys()
    for name, array in TREE.items():
        assert tree[name].dtype == array.dtype
        np.testing.assert_array_equal(tree[name], array)


def test_a_tree_that_is_given_decides_types_and_places(tmp_path):
    checkpoints.save(tmp_path, 1, TREE, {})
    like = jax.tree.map(jnp.zeros_like, TREE)
    tree, _ = checkpoints.restore(tmp_path, like)
    for name, array in TREE.items():
        assert isinstance(tree[name], jax.Array)
        assert tree[name].sharding == like[name].sharding
        np.testing.assert_array_equal(tree[name], array)


def test_only_the_last_one_is_kept(tmp_path):
    for step in (5, 10, 20):
        checkpoints.save(tmp_path, step, {"x": np.array([step])}, {"step": step})
    assert folders(tmp_path) == ["20"]
    tree, notes = checkpoints.restore(tmp_path)
    assert (tree["x"].item(), notes["step"]) == (20, 20)


def test_a_step_that_is_there_is_kept(tmp_path):
    for value in (1.0, 2.0):
        checkpoints.save(tmp_path, 10, {"x": np.array([value])}, {"value": value})
    tree, notes = checkpoints.restore(tmp_path)
    assert (tree["x"].item(), notes["value"]) == (1.0, 1.0)


def test_none_where_there_is_none(tmp_path):
    assert checkpoints.restore(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()
    assert checkpoints.restore(tmp_path) is None


def test_leftovers_of_a_stop_while_writing_are_ignored(tmp_path):
    # The name that a killed process leaves behind, seen with Orbax 0.12.
    leftover = tmp_path / "20.orbax-checkpoint-tmp"
    (leftover / "tree.orbax-checkpoint-tmp").mkdir(parents=True)
    (leftover / "_CHECKPOINT_METADATA").write_text("{")
    assert checkpoints.restore(tmp_path) is None

    checkpoints.save(tmp_path, 10, TREE, {"step": 10})
    leftover.mkdir(exist_ok=True)
    assert checkpoints.restore(tmp_path)[1] == {"step": 10}
    checkpoints.save(tmp_path, 20, TREE, {"step": 20})
    assert checkpoints.restore(tmp_path)[1] == {"step": 20}
    assert folders(tmp_path) == ["20"]


def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 10, TREE, {"step": 10})

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_manager.CheckpointManager, "save", fail)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(tmp_path, 20, TREE, {"step": 20})
    monkeypatch.undo()
    assert checkpoints.restore(tmp_path)[1] == {"step": 10}
