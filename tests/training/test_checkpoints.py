"""Tests of writing and reading checkpoints, and of detecting damaged ones."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import checkpoint_manager

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints

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


def test_arrays_get_the_types_and_shardings_of_a_given_tree(tmp_path):
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


def test_an_existing_checkpoint_of_a_step_is_kept(tmp_path):
    for value in (1.0, 2.0):
        checkpoints.save(tmp_path, 10, {"x": np.array([value])}, {"auc": 0.1 + 0.2})
    tree, notes = checkpoints.restore(tmp_path)
    assert (tree["x"].item(), notes["auc"]) == (1.0, 0.1 + 0.2)


def test_a_step_with_other_notes_is_written_again(tmp_path):
    """For instance a step saved before its validation, and again after it."""
    for validated in (False, True):
        checkpoints.save(tmp_path, 10, TREE, {"validated": validated})
    tree, notes = checkpoints.restore(tmp_path)
    assert notes == {"validated": True}
    np.testing.assert_array_equal(tree["kernel"], TREE["kernel"])
    assert folders(tmp_path) == ["10"]


def test_an_earlier_step_replaces_later_ones(tmp_path):
    """Training resumes from an earlier checkpoint if later ones are damaged."""
    with checkpoints.Checkpoints(tmp_path, keep=3) as opened:
        for step in (10, 20, 30):
            opened.save(step, {"x": np.array([step])}, {"step": step})
    # Step 20 exists already, 15 does not, and 10 is the oldest.
    for step, left in ((20, ["10", "20"]), (15, ["10", "15"]), (10, ["10"]), (5, ["5"])):
        with checkpoints.Checkpoints(tmp_path, keep=3) as opened:
            opened.save(step, {"x": np.array([step])}, {"step": step})
        assert folders(tmp_path) == left
        tree, notes = checkpoints.restore(tmp_path)
        assert (tree["x"].item(), notes["step"]) == (step, step)


@pytest.fixture
def opened_managers(monkeypatch):
    """A list of the directories for which an Orbax manager was opened."""
    opened = []
    manager = checkpoints.ocp.CheckpointManager

    def counting(*args, **kwargs):
        opened.append(args[0])
        return manager(*args, **kwargs)

    monkeypatch.setattr(checkpoints.ocp, "CheckpointManager", counting)
    return opened


def test_one_manager_serves_all_saves(tmp_path, opened_managers):
    """Opening a manager takes as long as saving a small checkpoint."""
    with checkpoints.Checkpoints(tmp_path) as opened:
        assert opened_managers == []
        for step in (10, 20, 30, 25, 25):
            opened.save(step, TREE, {"step": step})
    assert opened_managers == [tmp_path]
    assert checkpoints.restore(tmp_path)[1] == {"step": 25}


def test_no_manager_is_opened_if_nothing_is_saved(tmp_path, opened_managers):
    with checkpoints.Checkpoints(tmp_path / "none"):
        pass
    assert opened_managers == [] and not (tmp_path / "none").exists()


def test_restoring_without_a_checkpoint_gives_none(tmp_path):
    assert checkpoints.restore(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()
    assert checkpoints.restore(tmp_path) is None


def test_files_of_an_interrupted_write_are_ignored(tmp_path):
    # The folder that a process killed while writing leaves behind (Orbax 0.12).
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


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def save_one_of_two(directory, step):
    with checkpoints.Checkpoints(directory, keep=2) as opened:
        opened.save(step, TREE, {"step": step})


@pytest.fixture
def two(tmp_path):
    """A directory with checkpoints of the steps 10 and 20."""
    for step in (5, 10, 20):
        save_one_of_two(tmp_path / "plot" / "latest", step)
    assert folders(tmp_path / "plot" / "latest") == ["10", "20"]
    return tmp_path / "plot" / "latest"


def test_a_flipped_bit_is_detected_and_the_previous_checkpoint_used(two, caplog):
    rng = np.random.default_rng(0)
    for file in files(two / "20"):
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        caplog.clear()
        assert checkpoints.restore(two)[1] == {"step": 10}, file
        assert f"Skipping a damaged checkpoint: {two / '20'}" in caplog.text
        file.write_bytes(whole)
    assert checkpoints.restore(two)[1] == {"step": 20}


def test_a_truncated_or_missing_file_is_detected(two):
    for file in files(two / "20"):
        if file.name == "digests.json":
            continue
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert checkpoints.restore(two)[1] == {"step": 10}, file
        file.unlink()
        assert checkpoints.restore(two)[1] == {"step": 10}, file
        file.write_bytes(whole)


def test_an_error_says_what_to_do_if_all_checkpoints_are_damaged(two):
    for step in ("10", "20"):
        files(two / step)[-1].write_bytes(b"something else")
    with pytest.raises(InputError, match=rf"{two}/20 is damaged: .* delete {two.parent}, and pred"):
        checkpoints.restore(two)


def test_a_training_resumed_before_a_damaged_checkpoint_replaces_it(two):
    (two / "20" / "notes" / "metadata").write_text('{"step": 21}')
    save_one_of_two(two, 15)
    assert checkpoints.restore(two)[1] == {"step": 15}
    save_one_of_two(two, 20)
    (two / "20" / "notes" / "metadata").write_text('{"step": 22}')
    save_one_of_two(two, 20)
    assert checkpoints.restore(two)[1] == {"step": 20}
    assert folders(two) == ["15", "20"]


def test_a_checkpoint_without_digests_is_used(two):
    """The process was killed before writing them, or the checkpoint is of an earlier version."""
    (two / "20" / "digests.json").unlink()
    assert checkpoints.restore(two)[1] == {"step": 20}


def test_files_of_an_interrupted_write_are_deleted(two):
    shutil.copytree(two / "10", two / "17.orbax-checkpoint-tmp")
    save_one_of_two(two, 30)
    assert folders(two) == ["20", "30"]


def test_reading_changes_nothing(two):
    (two / "17.orbax-checkpoint-tmp").mkdir()
    before = sorted(two.rglob("*"))
    checkpoints.restore(two)
    assert sorted(two.rglob("*")) == before
