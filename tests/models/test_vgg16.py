"""Tests VGG16 against independent implementations."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmgc_jax.models import VGG16, apply_blocks
from mmgc_jax.models.vgg16 import preprocess, to_grey_kernel
from mmgc_jax.ops import kernels
from mmgc_jax.ops.kernels import Kernels, kernels_for
from mmgc_jax.pretrained import vgg16
from tests.models.networks import POSTERS, WIDTHS, build, relative_error, run

WEIGHTS = pathlib.Path(__file__).parents[3] / "shared" / "weights"
DEPTHS = (2, 2, 3, 3, 3)


def numpy_blocks(params, x):
    """Computes every block in float64, with convolutions as sums of nine shifted copies."""
    x, outputs = np.float64(x), {}
    for block, depth in enumerate(DEPTHS, start=1):
        for layer in range(1, depth + 1):
            conv = params[f"block{block}_conv{layer}"]
            height, width = x.shape[1:3]
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = sum(
                padded[:, dy : dy + height, dx : dx + width] @ np.float64(conv["kernel"][dy, dx])
                for dy in range(3)
                for dx in range(3)
            )
            x = np.maximum(x + conv["bias"], 0)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
        outputs[f"block{block}_pool"] = x
    return outputs


def colour_input(params, posters=POSTERS):
    """Preprocesses colour posters in float64."""
    preprocessing = params["preprocessing"]
    return (np.float64(posters) - preprocessing["mean"]) / preprocessing["std"]


def grey_input(params, posters=POSTERS):
    """Preprocesses the posters' luma (ITU-R BT.601) in float64."""
    luma = np.array([0.299, 0.587, 0.114])
    mean, std = (params["preprocessing"][part] @ luma for part in ("mean", "std"))
    return (np.float64(posters) @ luma - mean)[..., None] / std


@pytest.mark.parametrize(
    ("num_classes", "layers", "parameters"),
    # As printed by Keras's model.summary() for VGG16(include_top=False) and VGG16().
    [(None, 13, 14_714_688), (1000, 16, 138_357_544)],
)
def test_layers_and_parameters_are_the_published_ones(num_classes, layers, parameters):
    network = VGG16(num_classes=num_classes)
    params = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.uint8))
    del params["params"]["preprocessing"]
    assert len(params["params"]) == layers
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """Returns a file of weights, the network's widths, images and their block5_pool."""
    if WEIGHTS.is_dir():
        with np.load(WEIGHTS / "golden" / "block5_pool.npz") as arrays:
            # These were computed in float64 by an independent implementation.
            pools = dict(arrays)
        images = [Image.open(WEIGHTS / "golden" / f"{name}_160x256.png") for name in pools]
        images = np.stack([np.asarray(image.convert("RGB")) for image in images])
        file = WEIGHTS / "vgg16_imagenet_notop.npz"
        return file, VGG16.widths, images, np.stack(list(pools.values()))
    # Random weights, with Keras's preprocessing and convolutions in numpy as the reference.
    widths = (16, 24, 32, 48, 64)
    params = build(VGG16(widths=widths))
    del params["preprocessing"]
    file = tmp_path_factory.mktemp("golden") / "weights.npz"
    vgg16.save(file, params)
    pools = numpy_blocks(params, POSTERS[..., ::-1] - np.array([103.939, 116.779, 123.68]))
    return file, widths, POSTERS, pools["block5_pool"]


@pytest.mark.parametrize(
    "chosen",
    [Kernels(), pytest.param(kernels.auto(), marks=pytest.mark.slow)],
    ids=["default", "auto"],
)
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_weights_from_a_file_give_the_golden_activations(golden, dtype, bound, chosen):
    file, widths, images, pools = golden
    network = VGG16(widths=widths, dtype=dtype, kernels=chosen)
    pooled = run(network, vgg16.load(file, network), images)["block5_pool"]
    assert len(pooled) == len(pools) >= 2
    for activations, expected in zip(pooled, pools):
        assert relative_error(activations, expected) < bound


def test_every_block_equals_convolutions_in_numpy():
    model = VGG16(widths=WIDTHS)
    params = build(model)
    expected = numpy_blocks(params, colour_input(params))
    pooled = run(model, params, POSTERS)
    assert pooled.keys() == expected.keys()
    for block, activations in pooled.items():
        assert activations.shape == expected[block].shape
        assert relative_error(activations, expected[block]) < 1e-5, block


def test_ranges_of_blocks_equal_the_whole_network():
    params = build(VGG16(widths=WIDTHS))
    whole = run(VGG16(widths=WIDTHS), params, POSTERS)
    below = run(VGG16(last_block=3, widths=WIDTHS), params, POSTERS)
    above = run(VGG16(first_block=4, widths=WIDTHS), params, below["block3_pool"])
    assert (below | above).keys() == whole.keys()
    for block, activations in (below | above).items():
        assert relative_error(activations, whole[block]) < 1e-5, block


@pytest.mark.parametrize("images", [1, 6])
@pytest.mark.parametrize("chosen", [Kernels(), kernels_for("cpu", 1, ())], ids=["default", "cpu"])
def test_applying_block_by_block_gives_the_same(chosen, images):
    network = VGG16(last_block=4, widths=WIDTHS, kernels=chosen)
    params = build(network)
    posters = np.tile(POSTERS[:1], (images, 1, 1, 1))
    whole, by_block = run(network, params, posters), apply_blocks(network, params, posters)
    assert by_block.keys() == whole.keys()
    for block, activations in by_block.items():
        assert relative_error(activations, whole[block]) < 1e-5, block


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "dtype", "bound"),
    [
        (kernels_for("cpu", 1, ()), "float32", 1e-4),
        (kernels_for("cpu", 1, ()), "bfloat16", 0.05),
        (kernels_for("cpu", 1, ("amx_bf16",)), "bfloat16", 0.05),
        (kernels_for("gpu", 1, ()), "float32", 1e-4),
    ],
)
def test_kernels_change_neither_activations_nor_gradients(chosen, dtype, bound):
    plain = VGG16(last_block=2, widths=(64, 128), depths=(1, 1), dtype=dtype)
    params = build(plain, POSTERS[:, :24, :20])
    made = [
        network.init(jax.random.key(0), POSTERS[:, :24, :20])
        for network in (plain, plain.clone(kernels=chosen))
    ]
    jax.tree.map(np.testing.assert_array_equal, *made)

    def loss(params, network):
        pooled = run(network, params, POSTERS[:, :24, :20])["block2_pool"]
        return (pooled.astype(jnp.float32) ** 2).mean(), pooled.astype(jnp.float32)

    (found, activations), (expected, expected_activations) = (
        jax.grad(loss, has_aux=True)(params, network)
        for network in (plain.clone(kernels=chosen), plain)
    )
    assert relative_error(activations, expected_activations) < bound
    for layer in ("block1_conv1", "block2_conv1"):
        for part in ("kernel", "bias"):
            assert relative_error(found[layer][part], expected[layer][part]) < bound, (layer, part)


def test_a_part_has_the_parameters_of_its_blocks_only():
    part = VGG16(first_block=4, last_block=4, widths=WIDTHS)
    params = build(part, np.zeros((1, 8, 4, WIDTHS[2]), np.float32))
    assert sorted(params) == ["block4_conv1", "block4_conv2", "block4_conv3"]


def test_grey_network_equals_the_colour_network_on_three_copies_of_the_channel():
    colour = build(VGG16(widths=WIDTHS))
    first = colour["block1_conv1"]
    grey = colour | {"block1_conv1": first | {"kernel": to_grey_kernel(first["kernel"])}}
    expected = numpy_blocks(colour, np.repeat(grey_input(colour), 3, axis=-1))
    for block, activations in run(VGG16(grey=True, widths=WIDTHS), grey, POSTERS).items():
        assert relative_error(activations, expected[block]) < 1e-5, block


def test_preprocessing_by_hand():
    pixel = np.array([[[[10, 20, 30]]]], np.uint8)
    mean, std = np.float32([100, 120, 140]), np.float32([10, 20, 40])
    np.testing.assert_allclose(preprocess(pixel, mean, std), [[[[-9, -5, -2.75]]]], rtol=1e-6)
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15; the same for mean and std.
    grey = (18.15 - 116.3) / 19.29
    np.testing.assert_allclose(preprocess(pixel, mean, std, grey=True), [[[[grey]]]], rtol=1e-6)


def test_grey_is_the_luma_of_pillow():
    pillow = np.stack([np.asarray(Image.fromarray(poster).convert("L")) for poster in POSTERS])
    luma = preprocess(POSTERS, np.zeros(3, np.float32), np.ones(3, np.float32), grey=True)
    # Pillow rounds to integers.
    assert np.abs(luma[..., 0] - pillow).max() < 0.51


def test_initial_preprocessing_is_that_of_keras():
    params = VGG16(last_block=1, widths=WIDTHS).init(jax.random.key(0), POSTERS)["params"]
    # From keras.applications.imagenet_utils, mode "caffe", which lists them in the order BGR.
    np.testing.assert_array_equal(
        params["preprocessing"]["mean"], np.float32([123.68, 116.779, 103.939])
    )
    np.testing.assert_array_equal(params["preprocessing"]["std"], np.ones(3))


@pytest.mark.parametrize("grey", [False, True])
def test_the_preprocessing_has_no_gradient(grey):
    network = VGG16(last_block=1, grey=grey, widths=WIDTHS)
    params = build(network)

    def loss(params):
        return (network.apply({"params": params}, POSTERS)["block1_pool"] ** 2).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    assert np.abs(gradients["block1_conv1"]["kernel"]).min() > 0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradients["preprocessing"])


IMAGES = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), np.uint8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_layers_follow_the_blocks(dtype):
    network = VGG16(widths=WIDTHS, num_classes=8, top_widths=(11, 9), dtype=dtype)
    params = build(network, IMAGES)
    outputs = run(network, params, IMAGES)
    x = np.float64(outputs["block5_pool"]).reshape(2, -1)
    bound = 1e-5 if dtype == "float32" else 1e-2
    for name in ("fc1", "fc2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        assert relative_error(outputs[name], x) < bound, name
    logits = x @ params["predictions"]["kernel"] + params["predictions"]["bias"]
    assert outputs["logits"].shape == (2, 8) and outputs["logits"].dtype == jnp.float32
    assert relative_error(outputs["logits"], logits) < bound


def test_dense_layers_refuse_posters_of_another_size():
    network = VGG16(widths=WIDTHS, num_classes=8, top_widths=(11, 9))
    params = build(network, IMAGES)
    for size in ((256, 160), (49 * 32, 32)):
        with pytest.raises(ValueError, match="posters of 224 x 224 pixels"):
            run(network, params, np.zeros((1, *size, 3), np.uint8))
    with pytest.raises(ValueError, match="last_block=4"):
        build(network.clone(last_block=4), IMAGES)


def test_gradients_of_biases_are_summed_up_in_float32():
    """With zero kernels each output pixel adds 1; bfloat16 cannot represent the sum, 3362."""
    network = VGG16(last_block=1, widths=(2,), depths=(1,), dtype="bfloat16")
    posters = np.zeros((2, 82, 82, 3), np.uint8)
    params = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0), posters)["params"])
    params["preprocessing"]["std"] += 1
    params["block1_conv1"]["bias"] += 1

    def total(params):
        return run(network, params, posters)["block1_pool"].astype(jnp.float32).sum()

    gradients = jax.grad(total)(params)["block1_conv1"]["bias"]
    np.testing.assert_array_equal(gradients, [2 * 41 * 41] * 2)


def test_bfloat16_changes_the_computation_but_not_the_parameters():
    half = VGG16(widths=WIDTHS, dtype="bfloat16")
    params = jax.eval_shape(half.init, jax.random.key(0), POSTERS)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}

    params = build(half)
    exact = run(VGG16(widths=WIDTHS), params, POSTERS)["block5_pool"]
    pooled = run(half, params, POSTERS)["block5_pool"]
    assert pooled.dtype == jnp.bfloat16
    # 13 layers with 8 bits of precision: close, but not equal.
    assert 1e-4 < relative_error(pooled, exact) < 0.1
