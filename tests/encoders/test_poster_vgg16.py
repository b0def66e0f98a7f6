"""Tests of dividing VGG16 into blocks, and of how its programs are compiled."""

import pytest

from mmgc_jax.encoders import joint, poster_vgg16
from mmgc_jax.ops.conv3x3_onednn import COMPILER_OPTIONS
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.training.run import ApplyFn


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


@pytest.mark.parametrize(
    ("kernels", "of_training", "of_inference"),
    [
        (Kernels(), None, None),
        (Kernels(convolution_bfloat16="winograd"), None, None),
        (Kernels(convolution_bfloat16="onednn"), COMPILER_OPTIONS, COMPILER_OPTIONS),
        (
            Kernels(convolution_bfloat16="amx", inference_bfloat16="onednn"),
            None,
            COMPILER_OPTIONS,
        ),
    ],
)
def test_programs_that_convolve_by_onednn_have_its_options(kernels, of_training, of_inference):
    settings = poster_vgg16.default_settings()
    settings.dtype = "bfloat16"

    def options(kernels, first_block):
        return poster_vgg16._apply(settings, 24, first_block, kernels).compiler_options

    assert options(kernels, 5) == of_training
    assert options(kernels, poster_vgg16._HEAD) is None
    backbone = poster_vgg16._backbone(settings, {}, kernels)
    assert backbone.compiler_options == of_inference
    assert options(kernels.for_inference(), 5) == of_inference
    settings.dtype = "float32"
    assert options(kernels, 5) is options(kernels.for_inference(), 5) is None
    assert poster_vgg16._backbone(settings, {}, kernels).compiler_options is None


@pytest.mark.parametrize("of_poster", [None, COMPILER_OPTIONS])
def test_a_joint_network_has_the_options_of_its_parts(of_poster):
    plot, poster, fuse = ApplyFn(None), ApplyFn(None, of_poster), ApplyFn(None)
    assert joint._apply({"plot": plot, "poster": poster}, fuse, None).compiler_options == of_poster
