"""Tests of writing and reading checkpoints, and of detecting damaged ones."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints

TREE = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.array(7, np.int32),
    "half": np.array([1.5, -2], jnp.bfloat16),
}


def folders(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_tree_comes_back_bit_for_bit(tmp_path):
    checkpoints.save(tmp_path / "latest", 12, TREE)
    tree = checkpoints.restore(tmp_path / "latest")
    assert tree.keys() == TREE.keys()
    for name, array in TREE.items():
        assert tree[name].dtype == array.dtype
        np.testing.assert_array_equal(tree[name], array)


def test_arrays_get_the_types_and_shardings_of_a_given_tree(tmp_path):
    checkpoints.save(tmp_path, 1, TREE)
    like = jax.tree.map(jnp.zeros_like, TREE)
    tree = checkpoints.restore(tmp_path, like)
    for name, array in TREE.items():
        assert isinstance(tree[name], jax.Array)
        assert tree[name].sharding == like[name].sharding
        np.testing.assert_array_equal(tree[name], array)


def save(directory, step, value=None, keep=1):
    """Saves a small checkpoint that has its step, or another value, in it."""
    checkpoints.save(directory, step, {"x": np.array([step if value is None else value])}, keep)


def restored(directory):
    """Returns the value of the checkpoint that `restore` reads."""
    return checkpoints.restore(directory)["x"].item()


def test_only_the_last_one_is_kept(tmp_path):
    for step in (5, 10, 20):
        save(tmp_path, step)
    assert folders(tmp_path) == ["20"]
    assert restored(tmp_path) == 20


def test_an_existing_checkpoint_of_a_step_is_kept(tmp_path):
    for value in (1.0, 2.0):
        save(tmp_path, 10, value)
    assert restored(tmp_path) == 1.0


@pytest.mark.parametrize(
    "step, left", [(20, ["10", "20"]), (15, ["10", "15"]), (10, ["10"]), (5, ["5"])]
)
def test_an_earlier_step_replaces_later_ones(tmp_path, step, left):
    """Training resumes from an earlier checkpoint if later ones are damaged."""
    for earlier in (10, 20, 30):
        save(tmp_path, earlier, keep=3)
    save(tmp_path, step, keep=3)
    assert folders(tmp_path) == left
    assert restored(tmp_path) == step


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    """It has notes beside the tree."""
    with ocp.CheckpointManager(tmp_path) as manager:
        tree, notes = ocp.args.StandardSave({"x": np.array([10])}), ocp.args.JsonSave({"done": 1})
        manager.save(10, args=ocp.args.Composite(tree=tree, notes=notes))
    assert restored(tmp_path) == 10
    save(tmp_path, 20, keep=2)
    assert restored(tmp_path) == 20
    assert folders(tmp_path) == ["10", "20"]


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

    save(tmp_path, 10)
    leftover.mkdir(exist_ok=True)
    assert restored(tmp_path) == 10
    save(tmp_path, 20)
    assert restored(tmp_path) == 20
    assert folders(tmp_path) == ["20"]


def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    save(tmp_path, 10)

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 20)
    monkeypatch.undo()
    assert restored(tmp_path) == 10


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def two(tmp_path):
    """A directory with checkpoints of the steps 10 and 20."""
    for step in (5, 10, 20):
        save(tmp_path / "plot" / "latest", step, keep=2)
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
        assert restored(two) == 10, file
        assert f"Skipping a damaged checkpoint: {two / '20'}" in caplog.text
        file.write_bytes(whole)
    assert restored(two) == 20


def test_a_truncated_or_missing_file_is_detected(two):
    for file in files(two / "20"):
        if file.name == "digests.json":
            continue
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert restored(two) == 10, file
        file.unlink()
        assert restored(two) == 10, file
        file.write_bytes(whole)


def test_an_error_says_what_to_do_if_all_checkpoints_are_damaged(two):
    for step in ("10", "20"):
        files(two / step)[-1].write_bytes(b"something else")
    with pytest.raises(InputError, match=rf"{two}/20 is damaged: .* delete {two.parent}, and pred"):
        checkpoints.restore(two)


def test_a_training_resumed_before_a_damaged_checkpoint_replaces_it(two):
    files(two / "20")[0].write_bytes(b"something else")
    save(two, 15, keep=2)
    assert restored(two) == 15
    save(two, 20, keep=2)
    files(two / "20")[0].write_bytes(b"something else")
    save(two, 20, keep=2)
    assert restored(two) == 20
    assert folders(two) == ["15", "20"]


def test_a_checkpoint_without_digests_is_used(two):
    """The process was killed before writing them, or the checkpoint is of an earlier version."""
    (two / "20" / "digests.json").unlink()
    assert restored(two) == 20


def test_files_of_an_interrupted_write_are_deleted(two):
    shutil.copytree(two / "10", two / "17.orbax-checkpoint-tmp")
    save(two, 30, keep=2)
    assert folders(two) == ["20", "30"]


def test_reading_changes_nothing(two):
    (two / "17.orbax-checkpoint-tmp").mkdir()
    before = sorted(two.rglob("*"))
    checkpoints.restore(two)
    assert sorted(two.rglob("*")) == before
