"""Tests of dividing VGG16 into blocks."""

import pytest

from mmgc_jax.encoders import poster_vgg16


@pytest.mark.parametrize(
    ("layer", "block"), [("preprocessing", 1), ("block1_conv1", 1), ("block5_conv3", 5)]
)
def test_block_of_a_layer(layer, block):
    assert poster_vgg16._block_of(layer) == block
