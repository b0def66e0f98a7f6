"""Tests of caching the activations of frozen layers, and of resuming after an interruption."""

import concurrent.futures
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.data.pipeline import ArrayExamples, Batches
from mmgc_jax.encoders import frozen, plot_transformer, poster_vgg16
from mmgc_jax.models import VGG16, BertEncoder
from mmgc_jax.ops.kernels import Kernels, auto

INDICES = np.array([1, 2, 4, 5, 7, 8, 10, 11, 13, 14])  # 10 of 16 movies have a poster
POSTERS = np.random.default_rng(0).normal(size=(16, 4, 2, 3)).astype(np.float32)


def batches(batch_size=4):
    examples = ArrayExamples({"images": POSTERS})
    return Batches(examples, np.zeros((16, 24), np.float32), INDICES, batch_size)


class Network:
    """Frozen layers that record the movies of each batch, and stop at a given movie."""

    def __init__(self, dtype=jnp.float32, stop_at=None):
        self.dtype = dtype
        self.stop_at = stop_at
        self.seen = []

    def __call__(self, batch):
        if not isinstance(batch["indices"], jax.core.Tracer):  # not when only its shape is traced
            indices = np.asarray(batch["indices"]).tolist()
            if self.stop_at in indices:
                raise KeyboardInterrupt
            self.seen.append(indices)
        images = jnp.asarray(batch["images"][:, ::2] * 2 + 1, self.dtype)
        return {"images": images, "other": batch["indices"]}

    def shapes(self, batch):
        return jax.eval_shape(self, batch)


EXPECTED = POSTERS[INDICES][:, ::2] * 2 + 1


def cache(file, network, batches, dtype="float32"):
    return frozen.cache(file, network, "images", batches, dtype=dtype)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache" / "block4.npy"


def test_one_row_for_each_movie_in_order(file):
    cache(file, Network(), batches())
    np.testing.assert_array_equal(np.load(file), EXPECTED)
    assert sorted(os.listdir(file.parent)) == ["block4.npy", "lock"], "no temporary file is left"


def test_cached_activations_are_not_computed_again(file):
    cache(file, Network(), batches())
    network = Network()
    cache(file, network, batches())
    assert network.seen == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["images", "inputs"])
def test_examples_return_the_cached_activations(file, dtype, name):
    def function(params, batch):
        images = Network(jnp.dtype(dtype))(batch)["images"]
        return {name: images, "other": 0 * images}

    network = frozen.Frozen.of(function, {})
    examples = frozen.cache(file, network, name, batches(), dtype=dtype)
    found = examples(np.array([14, 1, 7, 1]))
    assert found.keys() == {name}
    images = found[name]
    assert images.dtype == jnp.dtype(dtype)
    expected = (POSTERS[[14, 1, 7, 1]][:, ::2] * 2 + 1).astype(jnp.dtype(dtype))
    np.testing.assert_array_equal(images, expected)
    assert jnp.asarray(images).dtype == jnp.dtype(dtype), "JAX accepts this dtype"


def test_two_experiments_at_the_same_time_do_not_mix_their_rows(file):
    """The second one waits, and then reads what the first one has written."""
    begun, go_on, second = threading.Event(), threading.Event(), Network()

    class Slow(Network):
        def __call__(self, batch):
            if not isinstance(batch["indices"], jax.core.Tracer):
                begun.set()
                assert go_on.wait(30)
            return super().__call__(batch)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(cache, file, Slow(), batches())
        assert begun.wait(30)
        waiting = pool.submit(cache, file, second, batches())
        concurrent.futures.wait([waiting], timeout=0.5)
        assert not waiting.done()
        go_on.set()
        slow.result(30), waiting.result(30)
    np.testing.assert_array_equal(np.load(file), EXPECTED)
    assert second.seen == []


class TestInterrupted:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_it_resumes_after_the_last_batch_that_was_fetched(self, file, dtype):
        with pytest.raises(KeyboardInterrupt):
            cache(file, Network(jnp.dtype(dtype), stop_at=13), batches())
        assert not file.exists()

        network = Network(jnp.dtype(dtype))
        cache(file, network, batches())
        # It stopped when the last batch was sent, while the one before was not fetched yet.
        assert network.seen == [[7, 8, 10, 11], [13, 14, 13, 13]]
        found = np.load(file).view(jnp.dtype(dtype))
        np.testing.assert_array_equal(found, EXPECTED.astype(jnp.dtype(dtype)))

    def test_stopped_before_the_first_batch(self, file):
        with pytest.raises(KeyboardInterrupt):
            cache(file, Network(stop_at=1), batches())
        cache(file, Network(), batches())
        np.testing.assert_array_equal(np.load(file), EXPECTED)

    @pytest.mark.parametrize("batch_size", [3, 5, 8])
    def test_the_batch_size_may_change_before_resuming(self, file, batch_size):
        """Neither the order of rows nor the file's name depends on the batch size."""
        with pytest.raises(KeyboardInterrupt):
            cache(file, Network(stop_at=8), batches(4))
        cache(file, Network(), batches(batch_size))
        np.testing.assert_array_equal(np.load(file), EXPECTED)

    def test_stopped_before_the_file_is_renamed(self, file, monkeypatch):
        def replace(source, target):
            if str(target) == str(file):
                raise KeyboardInterrupt
            os.rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                cache(file, Network(), batches())
        assert not file.exists()
        cache(file, Network(), batches())
        np.testing.assert_array_equal(np.load(file), EXPECTED)


class TestKey:
    PARAMS = {  # noqa: RUF012 (not changed)
        "conv1": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3)},
        "conv2": {"kernel": jnp.ones((3, 1))},
    }
    SETTINGS = {"size": [256, 160], "grey": False, "dtype": "float32"}  # noqa: RUF012

    def test_equal_arguments_give_equal_keys(self):
        key = frozen.key_of(self.PARAMS, **self.SETTINGS)
        assert len(key) == 16 and int(key, 16) >= 0
        as_numpy = jax.tree.map(np.asarray, dict(reversed(self.PARAMS.items())))
        settings = dict(reversed(self.SETTINGS.items()))
        assert frozen.key_of(as_numpy, **settings) == key

    def test_every_change_gives_another_key(self):
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


def random_like(shapes):
    """Makes random parameters, since XLA prints a constant of equal values in a few letters."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda like: rng.standard_normal(like.shape, np.float32), shapes)


def vgg16_frozen(finetune_from, kernels):
    """Makes the frozen part of VGG16, which has 14.7 million parameters in all, and a batch."""
    batch = {"images": np.zeros((2, 64, 32, 3), np.uint8)}
    shapes = jax.eval_shape(VGG16().init, jax.random.key(0), batch["images"])["params"]
    settings = poster_vgg16.default_settings()
    settings.finetune_from = finetune_from
    backbone = poster_vgg16._backbone(settings, random_like(shapes), kernels)
    return backbone.frozen_part(), batch


def bert_frozen(finetune_from, kernels):
    """Makes the frozen part of MiniLM, which has 22.6 million parameters in all, and a batch."""
    batch = {"inputs": np.ones((2, 8), np.int32), "lengths": np.full(2, 8, np.int32)}
    network = BertEncoder()
    shapes = jax.eval_shape(network.init, jax.random.key(0), *batch.values())["params"]
    settings = plot_transformer.default_settings()
    settings.finetune_from = finetune_from
    backbone = plot_transformer._backbone(settings, network, random_like(shapes), kernels)
    return backbone.frozen_part(), batch


# Size of a program's text, which includes its constants; the parameters are 10 times as large.
MAX_PROGRAM_BYTES = 2 * 10**6


@pytest.mark.parametrize("kernels", [Kernels(), auto()], ids=["xla", "auto"])
@pytest.mark.parametrize(
    ("make", "finetune_from"),
    [
        (vgg16_frozen, "head"),
        (vgg16_frozen, "block5"),
        (bert_frozen, "head"),
        (bert_frozen, "layer5"),
    ],
)
def test_parameters_are_arguments_of_the_program_and_not_constants_in_it(
    make, finetune_from, kernels
):
    network, batch = make(finetune_from, kernels)
    lowered = network.function.lower(network.params, batch)
    assert len(lowered.as_text()) < MAX_PROGRAM_BYTES
    params_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
    assert params_bytes > 10 * MAX_PROGRAM_BYTES
    # With a closure over the parameters they are constants, which this test can see.
    closed = jax.jit(lambda batch: network.function(network.params, batch)).lower(batch)
    assert len(closed.as_text()) > params_bytes


def test_frozen_layers_return_the_outputs_of_their_function():
    def function(params, batch):
        return {"images": batch["images"] * params["scale"], "twice": batch["images"] * 2}

    network = frozen.Frozen.of(function, {"scale": np.float32(3)})
    batch = {"images": POSTERS[:4]}
    found = network(batch)
    np.testing.assert_array_equal(found["images"], POSTERS[:4] * np.float32(3))
    np.testing.assert_array_equal(found["twice"], POSTERS[:4] * 2)
    (scale,) = jax.tree.leaves(network.params)
    assert scale.sharding.device_set == set(jax.devices())
    for name, expected in network.shapes(batch).items():
        assert (expected.shape, expected.dtype) == (found[name].shape, found[name].dtype)


def test_frozen_layers_are_compiled_with_the_given_options(file):
    """Also where only the shapes of their outputs are asked for."""
    network = frozen.Frozen.of(lambda _, batch: batch, {}, {"xla_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        network({"images": POSTERS})
    options = {"xla_cpu_enable_fast_math": False}  # the default
    network = frozen.Frozen.of(lambda _, batch: {"images": 2 * batch["images"]}, {}, options)
    examples = frozen.cache(file, network, "images", batches())
    np.testing.assert_array_equal(examples(np.array([14]))["images"], 2 * POSTERS[[14]])


def test_the_output_with_the_given_name_is_cached(file):
    network = frozen.Frozen.of(
        lambda scale, batch: {"images": scale * batch["images"], "lengths": batch["indices"]},
        np.float32(2),
    )
    examples = frozen.cache(file, network, "lengths", batches(), dtype="int32")
    np.testing.assert_array_equal(np.load(file), INDICES)
    np.testing.assert_array_equal(examples(np.array([13, 1]))["lengths"], [13, 1])
