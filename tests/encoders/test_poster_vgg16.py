"""Tests of dividing VGG16 into blocks."""

import pytest

from mmgc_jax.encoders import poster_vgg16


@pytest.mark.parametrize(
    ("field", "value", "title"),
    [
        ("grey", False, "Poster (VGG16, colour)"),
        ("grey", True, "Poster (VGG16, grey)"),
        ("model.widths", (64, 128, 256, 512, 256), "Poster (small VGG, colour)"),
        ("model.depths", [1, 1, 1, 1, 1], "Poster (small VGG, colour)"),
        ("model.widths", [64, 128, 256, 512, 512], "Poster (VGG16, colour)"),
    ],
)
def test_only_networks_of_its_size_are_called_vgg16(field, value, title):
    settings = poster_vgg16.default_settings()
    with settings.ignore_type():
        settings.update_from_flattened_dict({field: value})
    assert poster_vgg16.title(settings) == title


@pytest.mark.parametrize(
    ("layer", "block"), [("preprocessing", 1), ("block1_conv1", 1), ("block5_conv3", 5)]
)
def test_block_of_a_layer(layer, block):
    assert poster_vgg16._block_of(layer) == block
