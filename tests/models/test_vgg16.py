"""VGG16 against independent implementations, and the layers on top of it."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from mmgc_jax.configs import default
from mmgc_jax.models import VGG16, GenreHead, PosterVGG16, apply_blocks
from mmgc_jax.models.poster import preprocess, to_grey_kernel
from mmgc_jax.pretrained import vgg16
from mmgc_jax.training import loop

WEIGHTS = pathlib.Path(__file__).parents[3] / "shared" / "weights"
DEPTHS = (2, 2, 3, 3, 3)
WIDTHS = (3, 4, 5, 6, 7)
POSTERS = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), np.uint8)


def build(model, inputs=POSTERS):
    """Random parameters that keep the scale through the layers, biases not zero."""
    rng = np.random.default_rng(1)

    def random(path, like):
        if path[-1].key in ("mean", "std"):
            return rng.uniform(40, 130, like.shape).astype(np.float32)
        fan_in = np.prod(like.shape[:-1]) if len(like.shape) > 1 else 2
        return rng.normal(0, np.sqrt(2 / fan_in), like.shape).astype(np.float32)

    params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    return jax.tree_util.tree_map_with_path(random, params)


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


def colour_input(params, posters=POSTERS):
    """What the convolutions see of posters, in float64."""
    preprocessing = params["preprocessing"]
    return (np.float64(posters) - preprocessing["mean"]) / preprocessing["std"]


def grey_input(params, posters=POSTERS):
    """Likewise of their luma, ITU-R BT.601."""
    luma = np.array([0.299, 0.587, 0.114])
    mean, std = (params["preprocessing"][part] @ luma for part in ("mean", "std"))
    return (np.float64(posters) @ luma - mean)[..., None] / std


def relative_error(x, expected):
    return np.linalg.norm(np.float64(x) - expected) / np.linalg.norm(np.float64(expected))


@pytest.mark.parametrize(
    ("num_classes", "layers", "parameters"),
    # Keras's model summaries of VGG16(include_top=False) and VGG16().
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
    """A file of weights as Keras's, the network's widths, images and their block5_pool."""
    if WEIGHTS.is_dir():
        with np.load(WEIGHTS / "golden" / "block5_pool.npz") as arrays:
            # Computed in float64 by an independent implementation.
            pools = dict(arrays)
        images = [Image.open(WEIGHTS / "golden" / f"{name}_160x256.png") for name in pools]
        images = np.stack([np.asarray(image.convert("RGB")) for image in images])
        file = WEIGHTS / "vgg16_imagenet_notop.npz"
        return file, VGG16.widths, images, np.stack(list(pools.values()))
    # Random weights, of which Keras's preprocessing and numpy's convolutions make the reference.
    widths = (16, 24, 32, 48, 64)
    params = build(VGG16(widths=widths))
    del params["preprocessing"]
    file = tmp_path_factory.mktemp("golden") / "weights.npz"
    vgg16.save(file, params)
    pools = numpy_blocks(params, POSTERS[..., ::-1] - np.array([103.939, 116.779, 123.68]))
    return file, widths, POSTERS, pools["block5_pool"]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_weights_from_a_file_give_the_golden_activations(golden, dtype, bound):
    file, widths, images, pools = golden
    network = VGG16(widths=widths, dtype=dtype)
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


def test_blocks_run_in_parts_equal_all_at_once():
    params = build(VGG16(widths=WIDTHS))
    whole = run(VGG16(widths=WIDTHS), params, POSTERS)
    below = run(VGG16(last_block=3, widths=WIDTHS), params, POSTERS)
    above = run(VGG16(first_block=4, widths=WIDTHS), params, below["block3_pool"])
    assert (below | above).keys() == whole.keys()
    for block, activations in (below | above).items():
        assert relative_error(activations, whole[block]) < 1e-5, block


@pytest.mark.parametrize("images", [1, 6])
def test_block_by_block_the_network_gives_the_same(images):
    network = VGG16(last_block=4, widths=WIDTHS)
    params = build(network)
    posters = np.tile(POSTERS[:1], (images, 1, 1, 1))
    whole, by_block = run(network, params, posters), apply_blocks(network, params, posters)
    assert by_block.keys() == whole.keys()
    for block, activations in by_block.items():
        assert relative_error(activations, whole[block]) < 1e-5, block


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
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15; likewise of mean and std.
    grey = (18.15 - 116.3) / 19.29
    np.testing.assert_allclose(preprocess(pixel, mean, std, grey=True), [[[[grey]]]], rtol=1e-6)


def test_grey_is_the_luma_of_pillow():
    pillow = np.stack([np.asarray(Image.fromarray(poster).convert("L")) for poster in POSTERS])
    luma = preprocess(POSTERS, np.zeros(3, np.float32), np.ones(3, np.float32), grey=True)
    # Pillow rounds to whole values.
    assert np.abs(luma[..., 0] - pillow).max() < 0.51


def test_preprocessing_is_keras_until_weights_bring_their_own():
    params = VGG16(last_block=1, widths=WIDTHS).init(jax.random.key(0), POSTERS)["params"]
    # keras.applications.imagenet_utils, mode "caffe", there as BGR.
    np.testing.assert_array_equal(
        params["preprocessing"]["mean"], np.float32([123.68, 116.779, 103.939])
    )
    np.testing.assert_array_equal(params["preprocessing"]["std"], np.ones(3))


@pytest.mark.parametrize("grey", [False, True])
def test_training_leaves_the_preprocessing_alone(grey):
    network = VGG16(last_block=1, grey=grey, widths=WIDTHS)
    before = build(network)

    def loss(params):
        return (network.apply({"params": params}, POSTERS)["block1_pool"] ** 2).mean()

    gradients = jax.jit(jax.grad(loss))(before)
    assert np.abs(gradients["block1_conv1"]["kernel"]).min() > 0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradients["preprocessing"])

    settings = default.get_config().poster.training
    settings.learning_rate_scale = {}
    optimizer = loop.make_optimizer(settings, steps=2)
    params, state = before, optimizer.init(before)
    for _ in range(2):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, params["preprocessing"], before["preprocessing"])
    assert (params["block1_conv1"]["kernel"] != before["block1_conv1"]["kernel"]).any()


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


def test_gradients_of_biases_are_summed_up_in_float32():
    """With kernels of zeros each of the map's pixels gives them 1; bfloat16 has no 3362."""
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
    # 13 layers with 8 bits of precision: close, not equal.
    assert 1e-4 < relative_error(pooled, exact) < 0.1
