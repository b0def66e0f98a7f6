"""What the single models share."""

import types

import numpy as np
import pytest

from mmgc_jax import encoders
from tests import tiny


def corpus(labels):
    return types.SimpleNamespace(labels=labels, split={"train": np.arange(len(labels) - 1)})


def test_initial_bias_by_hand():
    # Of the four training movies one, two, all and none have the genres; the fifth does not count.
    labels = np.zeros((5, 4), np.float32)
    labels[0, 0] = labels[:2, 1] = labels[:4, 2] = labels[4] = 1
    bias = encoders.initial_bias(corpus(labels))
    np.testing.assert_allclose(bias[:2], [np.log(1 / 3), 0], atol=1e-6)
    np.testing.assert_allclose(bias[2:], [np.log(999), -np.log(999)], rtol=1e-4)


def test_every_training_has_a_seed_of_its_own():
    config = tiny.get_config()
    names = ("plot", "plot/fold_0", "plot/fold_1", "poster", "poster/head", "poster_grey")
    seeds = {encoders.seed_of(config, name) for name in names}
    config.seed = 1
    seeds |= {encoders.seed_of(config, name) for name in names}
    assert len(seeds) == 2 * len(names)
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("layer", "block"), [("preprocessing", 1), ("block1_conv1", 1), ("block5_conv3", 5)]
)
def test_block_of_a_layer(layer, block):
    assert encoders.block_of(layer) == block
