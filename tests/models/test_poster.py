"""VGG16 against independent implementations, and the layers on top of it."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmgc_jax.models import VGG16, GenreHead, PosterVGG16
from mmgc_jax.models.poster import preprocess, to_grey_kernel
from mmgc_jax.pretrained import vgg16

WEIGHTS = pathlib.Path(__file__).parents[3] / "shared" / "weights"
DEPTHS = (2, 2, 3, 3, 3)
WIDTHS = (3, 4, 5, 6, 7)
POSTERS = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), np.uint8)


def build(model, inputs=POSTERS):
    """Random parameters that keep the scale through the layers, biases not zero."""
    rng = np.random.default_rng(1)

    def random(like):
        fan_in = np.prod(like.shape[:-1]) if len(like.shape) > 1 else 2
        return rng.normal(0, np.sqrt(2 / fan_in), like.shape).astype(np.float32)

    return jax.tree.map(random, jax.eval_shape(model.init, jax.random.key(0), inputs)["params"])


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, inputs):
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, inputs)


def numpy_blocks(params, x):
    """VGG16 as a sum over nine shifted copies, in float64: every block's output."""
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


def relative_error(x, expected):
    return np.linalg.norm(np.float64(x) - expected) / np.linalg.norm(np.float64(expected))


def test_thirteen_convolutions_with_the_published_number_of_parameters():
    params = jax.eval_shape(VGG16().init, jax.random.key(0), POSTERS)["params"]
    assert len(params) == 13
    # Keras's model summary of VGG16(include_top=False).
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 14_714_688


def test_photographs_give_the_golden_activations():
    if not WEIGHTS.is_dir():
        pytest.skip(f"no ImageNet weights and no photographs: {WEIGHTS} is not there")
    params = vgg16.load(WEIGHTS / "vgg16_imagenet_notop.npz")
    with np.load(WEIGHTS / "golden" / "block5_pool.npz") as golden:
        assert len(golden.files) == 3
        for name, expected in golden.items():
            photograph = Image.open(WEIGHTS / "golden" / f"{name}_160x256.png").convert("RGB")
            pooled = run(VGG16(), params, np.asarray(photograph)[None])["block5_pool"]
            # Computed in float64 by an independent implementation.
            assert relative_error(pooled[0], expected) < 1e-5, name


def test_every_block_equals_convolutions_in_numpy():
    model = VGG16(widths=WIDTHS)
    params = build(model)
    expected = numpy_blocks(params, preprocess(POSTERS, grey=False))
    pooled = run(model, params, POSTERS)
    assert pooled.keys() == expected.keys()
    for block, activations in pooled.items():
        assert activations.shape == expected[block].shape
        assert relative_error(activations, expected[block]) < 1e-5, block


def test_blocks_run_in_parts_equal_all_at_once():
    params = build(VGG16(widths=WIDTHS))
    whole = run(VGG16(widths=WIDTHS), params, POSTERS)
    below = run(VGG16(last_block=3, widths=WIDTHS), params, POSTERS)
    above = run(VGG16(first_block=4, widths=WIDTHS), params, below["block3_pool"])
    assert (below | above).keys() == whole.keys()
    for block, activations in (below | above).items():
        assert relative_error(activations, whole[block]) < 1e-5, block


def test_a_part_has_the_parameters_of_its_blocks_only():
    part = VGG16(first_block=4, last_block=4, widths=WIDTHS)
    params = build(part, np.zeros((1, 8, 4, WIDTHS[2]), np.float32))
    assert sorted(params) == ["block4_conv1", "block4_conv2", "block4_conv3"]


def test_grey_network_equals_the_colour_network_on_three_copies_of_the_channel():
    colour = build(VGG16(widths=WIDTHS))
    first = colour["block1_conv1"]
    grey = colour | {"block1_conv1": first | {"kernel": to_grey_kernel(first["kernel"])}}
    expected = numpy_blocks(colour, np.repeat(preprocess(POSTERS, grey=True), 3, axis=-1))
    for block, activations in run(VGG16(grey=True, widths=WIDTHS), grey, POSTERS).items():
        assert relative_error(activations, expected[block]) < 1e-5, block


def test_preprocessing_by_hand():
    pixel = np.array([[[[10, 20, 30]]]], np.uint8)
    # 30 - 103.939, 20 - 116.779, 10 - 123.68: BGR.
    np.testing.assert_allclose(
        preprocess(pixel, grey=False), [[[[-73.939, -96.779, -113.68]]]], rtol=1e-6
    )
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 - 117.378639.
    np.testing.assert_allclose(preprocess(pixel, grey=True), [[[[-99.228639]]]], rtol=1e-6)


def test_grey_is_the_luma_of_pillow():
    pillow = np.stack([np.asarray(Image.fromarray(poster).convert("L")) for poster in POSTERS])
    # The mean: ImageNet's, as luma. Pillow rounds to whole values.
    luma = preprocess(POSTERS, grey=True)[..., 0] + 117.378639
    assert np.abs(luma - pillow).max() < 0.51


ACTIVATIONS = np.random.default_rng(2).gamma(1, 50, (2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["flatten", "mean", "max", "mean_max"])
def test_head_pools_takes_roots_and_normalises(pooling):
    head = GenreHead(hidden=(), pooling=pooling)
    params = build(head, ACTIVATIONS)
    logits, intermediates = run(head, params, ACTIVATIONS)

    mean, highest = ACTIVATIONS.mean(axis=(1, 2)), ACTIVATIONS.max(axis=(1, 2))
    pooled = {"flatten": ACTIVATIONS.reshape(2, -1), "mean": mean, "max": highest,
              "mean_max": np.concatenate([mean, highest], axis=1)}[pooling]  # fmt: skip
    roots = np.sqrt(pooled)
    normal = (roots - roots.mean(axis=1, keepdims=True)) / roots.std(axis=1, keepdims=True)
    expected = normal * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(intermediates["embedding"], expected, atol=1e-4)
    last = params["genres"]
    np.testing.assert_allclose(logits, expected @ last["kernel"] + last["bias"], atol=1e-3)
    assert logits.shape == (2, 24)


def test_head_has_the_hidden_layers_asked_for():
    head = GenreHead(hidden=(8, 6))
    params = build(head, ACTIVATIONS)
    shapes = {name: params[name]["kernel"].shape for name in ("dense1", "dense2", "genres")}
    assert shapes == {"dense1": (10, 8), "dense2": (8, 6), "genres": (6, 24)}
    assert run(head, params, ACTIVATIONS)[1]["embedding"].shape == (2, 6)


def test_head_on_a_map_of_zeros_has_finite_gradients():
    head = GenreHead(hidden=())
    black = np.zeros_like(ACTIVATIONS)
    params = build(head, black)
    gradients = jax.grad(lambda p, x: run(head, p, x)[0].sum(), argnums=(0, 1))(params, black)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_head_drops_out_only_in_training():
    head = GenreHead(dropout=0.5)
    params = build(head, ACTIVATIONS)

    @jax.jit
    def training(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return head.apply({"params": params}, ACTIVATIONS, train=True, rngs=rngs)[0]

    still, _ = run(head, params, ACTIVATIONS)
    assert np.abs(training(1) - training(2)).max() > 1e-3
    assert np.abs(training(1) - still).max() > 1e-3
    # The rate changes nothing outside training.
    np.testing.assert_array_equal(run(GenreHead(dropout=0.0), params, ACTIVATIONS)[0], still)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match=r"'sum', not one of flatten, mean, max, mean_max"):
        build(GenreHead(pooling="sum"), ACTIVATIONS)


@pytest.mark.parametrize("first_block", [1, 3, 6])
def test_the_encoder_from_any_block_on_gives_the_same_logits(first_block):
    whole = PosterVGG16(widths=WIDTHS, hidden=(8,))
    params = build(whole)
    logits, intermediates = run(whole, params, POSTERS)
    assert logits.shape == (2, 24)

    # The blocks below and the head, put together by hand.
    pooled = run(VGG16(widths=WIDTHS), params["vgg16"], POSTERS)
    by_hand, _ = run(GenreHead(hidden=(8,)), params["head"], pooled["block5_pool"])
    np.testing.assert_allclose(by_hand, logits, rtol=1e-4, atol=1e-4)

    inputs = POSTERS if first_block == 1 else intermediates[f"block{first_block - 1}_pool"]
    part = PosterVGG16(first_block=first_block, widths=WIDTHS, hidden=(8,))
    np.testing.assert_allclose(run(part, params, inputs)[0], logits, rtol=1e-4, atol=1e-4)


def test_bfloat16_changes_the_computation_but_not_the_parameters():
    half = VGG16(widths=WIDTHS, dtype="bfloat16")
    params = jax.eval_shape(half.init, jax.random.key(0), POSTERS)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}

    params = build(half)
    exact = run(VGG16(widths=WIDTHS), params, POSTERS)["block5_pool"]
    pooled = run(half, params, POSTERS)["block5_pool"]
    assert pooled.dtype == jnp.bfloat16
    # 13 layers with 8 bits of precision: close, not equal.
    assert 1e-4 < relative_error(pooled, exact) < 0.1
