import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.data.pipeline import ArrayExamples, Batches
from mmgc_jax.encoders import frozen

INDICES = np.array([1, 2, 4, 5, 7, 8, 10, 11, 13, 14])  # the ten movies with a poster, of 16
POSTERS = np.random.default_rng(0).normal(size=(16, 4, 2, 3)).astype(np.float32)


def batches(batch_size=4):
    examples = ArrayExamples({"images": POSTERS})
    return Batches(examples, np.zeros((16, 24), np.float32), INDICES, batch_size)


class Frozen:
    """A frozen network that remembers its batches and stops at one with a certain movie."""

    def __init__(self, dtype=jnp.float32, stop_at=None):
        self.dtype = dtype
        self.stop_at = stop_at
        self.seen = []

    def __call__(self, batch):
        if not isinstance(batch["indices"], jax.core.Tracer):  # not if it is traced for its shape
            indices = np.asarray(batch["indices"]).tolist()
            if self.stop_at in indices:
                raise KeyboardInterrupt
            self.seen.append(indices)
        return jnp.asarray(batch["images"][:, ::2] * 2 + 1, self.dtype)


EXPECTED = POSTERS[INDICES][:, ::2] * 2 + 1


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "block4.npy"


def test_one_row_for_each_movie_in_order(file):
    frozen.cache(file, Frozen(), batches())
    np.testing.assert_array_equal(np.load(file), EXPECTED)
    assert os.listdir(file.parent) == ["block4.npy"], "nothing is left beside it"


def test_it_is_found_again(file):
    frozen.cache(file, Frozen(), batches())
    frozen = Frozen()
    frozen.cache(file, frozen, batches())
    assert frozen.seen == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_examples_give_what_was_written(file, dtype):
    frozen.cache(file, Frozen(jnp.dtype(dtype)), batches())
    row_of = np.zeros(16, np.int64)
    row_of[INDICES] = np.arange(len(INDICES))
    images = frozen.ActivationExamples(file, row_of, dtype)(np.array([14, 1, 7, 1]))["images"]
    assert images.dtype == jnp.dtype(dtype)
    expected = (POSTERS[[14, 1, 7, 1]][:, ::2] * 2 + 1).astype(jnp.dtype(dtype))
    np.testing.assert_array_equal(images, expected)
    assert jnp.asarray(images).dtype == jnp.dtype(dtype), "JAX takes it as it is"


class TestInterrupted:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_it_goes_on_where_it_was(self, file, dtype):
        with pytest.raises(KeyboardInterrupt):
            frozen.cache(file, Frozen(jnp.dtype(dtype), stop_at=13), batches())
        assert not file.exists()

        frozen = Frozen(jnp.dtype(dtype))
        frozen.cache(file, frozen, batches())
        # A first batch may be needed to learn the shape of a row.
        assert frozen.seen[-1] == [13, 14, 13, 13]
        assert len(frozen.seen) <= 2
        found = np.load(file).view(jnp.dtype(dtype))
        np.testing.assert_array_equal(found, EXPECTED.astype(jnp.dtype(dtype)))

    def test_before_the_first_batch_was_written(self, file):
        with pytest.raises(KeyboardInterrupt):
            frozen.cache(file, Frozen(stop_at=1), batches())
        frozen.cache(file, Frozen(), batches())
        np.testing.assert_array_equal(np.load(file), EXPECTED)

    @pytest.mark.parametrize("batch_size", [3, 5, 8])
    def test_batches_may_have_another_size_afterwards(self, file, batch_size):
        """The rows' order does not depend on the batch size, nor does the file's name."""
        with pytest.raises(KeyboardInterrupt):
            frozen.cache(file, Frozen(stop_at=8), batches(4))
        frozen.cache(file, Frozen(), batches(batch_size))
        np.testing.assert_array_equal(np.load(file), EXPECTED)

    def test_after_the_last_row_before_the_file_got_its_name(self, file, monkeypatch):
        def replace(source, target):
            if str(target) == str(file):
                raise KeyboardInterrupt
            os.rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                frozen.cache(file, Frozen(), batches())
        assert not file.exists()
        frozen.cache(file, Frozen(), batches())
        np.testing.assert_array_equal(np.load(file), EXPECTED)


class TestKey:
    PARAMS = {  # noqa: RUF012 (not changed)
        "conv1": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)},
        "conv2": {"kernel": jnp.ones((3, 1))},
    }
    SETTINGS = {"size": [256, 160], "grey": False, "dtype": "float32"}  # noqa: RUF012

    def test_the_same_gives_the_same(self):
        key = frozen.key_of(self.PARAMS, **self.SETTINGS)
        assert len(key) == 16 and int(key, 16) >= 0
        as_numpy = jax.tree.map(np.asarray, dict(reversed(self.PARAMS.items())))
        settings = dict(reversed(self.SETTINGS.items()))
        assert frozen.key_of(as_numpy, **settings) == key

    def test_every_change_gives_another(self):
        conv1, conv2 = self.PARAMS["conv1"], self.PARAMS["conv2"]
        changed_params = [
            {"conv1": conv1 | {"kernel": conv1["kernel"].at[1, 2].add(1e-6)}, "conv2": conv2},
            {"conv1": conv1, "conv3": conv2},
            {"conv1": conv1},
            {"conv1": {"kernel": conv1["bias"], "bias": conv1["kernel"]}, "conv2": conv2},
        ]
        changed_settings = [
            {"size": [160, 256]}, {"grey": True}, {"dtype": "bfloat16"}, {"block": 4},
        ]  # fmt: skip
        keys = [frozen.key_of(self.PARAMS, **self.SETTINGS)]
        keys += [frozen.key_of(params, **self.SETTINGS) for params in changed_params]
        keys += [frozen.key_of(self.PARAMS, **self.SETTINGS | s) for s in changed_settings]
        assert len(set(keys)) == len(keys)
