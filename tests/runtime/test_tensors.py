"""Tests trees of arrays in safetensors files."""

import numpy as np
import pytest

from mmgc_jax.runtime import tensors
from mmgc_jax.runtime.errors import InputError

TREE = {
    "plot": {"fold_0": {"bias": np.float32([1, 2]), "layer": {"kernel": np.eye(2, 3).T}}},
    "plots": {"fold_0": {"bias": np.int32([3])}},
}


def test_branches_are_read_as_they_were_saved(tmp_path):
    tensors.save(tmp_path / tensors.FILE, TREE)
    found = tensors.load(tmp_path / tensors.FILE, "plot")
    assert list(found) == ["fold_0"] and list(found["fold_0"]) == ["bias", "layer"]
    np.testing.assert_array_equal(found["fold_0"]["bias"], [1, 2])
    np.testing.assert_array_equal(found["fold_0"]["layer"]["kernel"], np.eye(2, 3).T)
    assert tensors.load(tmp_path / tensors.FILE, "plots/fold_0")["bias"].dtype == np.int32


def test_missing_branches_and_damaged_files(tmp_path):
    file = tmp_path / tensors.FILE
    with pytest.raises(InputError, match="cannot be read"):
        tensors.load(file, "plot")
    tensors.save(file, TREE)
    with pytest.raises(InputError, match=r"has no parameters of plot/fold_1"):
        tensors.load(file, "plot/fold_1")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match="cannot be read"):
        tensors.load(file, "plot")
