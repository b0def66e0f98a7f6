"""Tests of dividing a backbone into frozen and trained blocks, and of their activations."""

import types

import jax
import ml_collections
import numpy as np
import pytest

from mmgc_jax.data.pipeline import ArrayExamples
from mmgc_jax.encoders import frozen
from mmgc_jax.encoders.backbone import Activations, Backbone
from mmgc_jax.training.run import Experiment

NUM_BLOCKS = 3
PARAMS = {f"block{n}_{layer}": np.float32(n) for n in (1, 2, 3) for layer in "ab"}


def run(first, last, params, batch):
    """Multiplies the input by the first parameter of each block; features are sums of rows."""
    activations = batch["images"]
    for block in range(first, last + 1):
        activations = activations * params[f"block{block}_a"]
    return {"images": activations.sum(axis=1) if last == NUM_BLOCKS else activations}


def backbone(first_trained, params=PARAMS):
    return Backbone(params, NUM_BLOCKS, first_trained, lambda layer: int(layer[5]), run)


@pytest.mark.parametrize("first_trained", [1, 2, 3, 4])
def test_layers_are_frozen_or_trained(first_trained, tmp_path):
    cut = backbone(first_trained)
    trained = cut.trained_params
    assert set(trained) == {name for name in PARAMS if int(name[5]) >= first_trained}
    assert cut.only_head_trains == (not trained)
    cut.save_frozen(tmp_path, "poster")
    if first_trained == 1:
        assert cut.frozen_part() is None and not list(tmp_path.iterdir())
        return
    restored = frozen.restore(tmp_path, "poster")
    assert restored == {name: value for name, value in PARAMS.items() if name not in trained}
    # The saved parameters are enough to make the same frozen part.
    images = np.arange(6, dtype=np.float32).reshape(2, 3)
    batch = {"images": images}
    found = backbone(first_trained, restored).frozen_part()(batch)["images"]
    factors = np.prod(np.arange(1, min(first_trained, NUM_BLOCKS + 1)))
    expected = images * factors
    np.testing.assert_allclose(found, expected.sum(axis=1) if cut.only_head_trains else expected)


@pytest.mark.parametrize("first_trained", [1, 2, 3, 4])
def test_inputs_of_the_trained_blocks_and_of_the_head(first_trained, tmp_path):
    size = 2 * jax.device_count()
    images = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    config = ml_collections.ConfigDict(
        {
            "data": {"workers": 0},
            "poster": {"kind": "toy", "dtype": "float32", "training": {"batch_size": size}},
        }
    )
    corpus = types.SimpleNamespace(labels=np.zeros((9, 2), np.float32))
    experiment = Experiment(config, tmp_path, corpus, np.zeros(9, int), tmp_path)
    present = np.arange(9) != 4
    activations = Activations(
        experiment, "poster", backbone(first_trained), present, "images", {"size": 3}, {"pool": "s"}
    )
    examples = ArrayExamples({"images": images})
    inputs = activations.below_trained(examples)
    features = activations.features(inputs)
    rows = np.flatnonzero(present)
    np.testing.assert_allclose(features(rows)["images"], images[rows].sum(axis=1) * 6, rtol=1e-6)
    written = sorted(file.name.split("-")[1] for file in (tmp_path / "activations").glob("*.npy"))
    if first_trained in (1, NUM_BLOCKS + 1):
        assert inputs is examples
        assert written == ["features"]
    else:
        below = np.prod(np.arange(1, first_trained))
        np.testing.assert_allclose(inputs(rows)["images"], images[rows] * below, rtol=1e-6)
        assert written == [f"block{first_trained - 1}", "features"]
