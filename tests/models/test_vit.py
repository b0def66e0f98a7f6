"""Tests of vision transformers: shapes, ranges of layers, pooling, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.models import PosterViT, ViT
from mmgc_jax.models.vit import block_of

FAMILIES = {
    "clip": {"embedding_norm": True, "patch_bias": False, "activation": "quick_gelu"},
    "siglip": {"class_token": False, "attention_pooling": True, "activation": "gelu_tanh"},
    "dinov2": {"layer_scale": True, "registers": 2},
}
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
TOKENS = {"clip": 7, "siglip": 6, "dinov2": 9}


def small(family, **more):
    sizes = {
        "image_size": (26, 17),  # three rows of two patches, and some pixels that are left over
        "patch_size": 8,
        "hidden": 8,
        "layers": 2,
        "heads": 2,
        "intermediate": 12,
    }
    return ViT(**(sizes | FAMILIES[family] | more))


@pytest.fixture(scope="module")
def posters():
    return np.random.default_rng(0).integers(0, 256, (2, 26, 17, 3), dtype=np.uint8)


def shapes_of(network, inputs):
    return jax.eval_shape(network.init, jax.random.key(0), inputs)["params"]


def random_params(network, posters):
    """Makes random parameters, also those that begin as 0 or 1."""
    rng = np.random.default_rng(0)
    shapes = shapes_of(network, posters)
    params = jax.tree.map(lambda like: rng.normal(0, 0.3, like.shape).astype(np.float32), shapes)
    preprocessing = {"mean": np.full(3, 120, np.float32), "std": np.full(3, 60, np.float32)}
    return params | {"preprocessing": preprocessing}


def run(network, params, inputs):
    return jax.jit(network.apply)({"params": params}, inputs)


@EACH_FAMILY
def test_shapes(family, posters):
    network = small(family, projection=5)
    outputs = jax.eval_shape(network.apply, {"params": shapes_of(network, posters)}, posters)
    states = {f"layer{number}": (2, TOKENS[family], 8) for number in range(3)}
    shapes = {name: array.shape for name, array in outputs.items()}
    assert shapes == states | {"features": (2, 8), "projected": (2, 5)}
    assert {array.dtype for array in outputs.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("family", "dtype"), [("clip", "float32"), ("siglip", "bfloat16"), ("dinov2", "float32")]
)
def test_ranges_of_layers_compose_to_the_whole(family, dtype, posters):
    network = small(family, dtype=dtype)
    params = random_params(network, posters)
    whole = run(network, params, posters)
    assert np.abs(np.diff(whole["features"], axis=0)).max() > 0.01
    below = run(network.clone(last_layer=1), params, posters)
    assert list(below) == ["layer0", "layer1"]
    above = network.clone(first_layer=2)
    parts = {part for part in params if block_of(part, 2) == 2}
    assert shapes_of(above, below["layer1"]).keys() == parts
    found = run(above, params, below["layer1"])
    np.testing.assert_allclose(found["features"], whole["features"], atol=1e-5)
    embeddings = network.clone(last_layer=0)
    assert shapes_of(embeddings, posters).keys() == {
        part for part in params if block_of(part, 2) == 1 and part != "layer1"
    }


def test_patches_are_read_row_by_row(posters):
    """Only the token of a patch changes with its pixels, and none with pixels left over."""
    network = small("clip", last_layer=0)
    params = random_params(network, posters)
    changed = posters.copy()
    changed[:, 8:16, 8:16] ^= 255  # the second row, the second column: patch 3
    changed[:, 24:] ^= 255
    before, after = (run(network, params, images)["layer0"] for images in (posters, changed))
    assert np.flatnonzero(np.abs(after - before).max(axis=(0, 2)) > 1e-6).tolist() == [1 + 3]


@pytest.mark.parametrize("family", ["siglip", "dinov2"])
def test_gradients_reach_all_parameters_but_the_preprocessing(family, posters):
    network = small(family, layers=1)
    params = random_params(network, posters)

    def loss(params):
        features = network.apply({"params": params}, posters)["features"]
        return jnp.sum(features * jnp.arange(8))

    gradients = jax.jit(jax.grad(loss))(params)
    assert not any(map(np.any, jax.tree.leaves(gradients.pop("preprocessing"))))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(leaf), path


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"first_layer": 4}, "first_layer=4 and last_layer=None are not a range of 2 layers"),
        ({"last_layer": 4}, "first_layer=1 and last_layer=4 are not a range of 2 layers"),
        ({"hidden": 9}, "hidden=9 is not a multiple of heads=2"),
        ({"activation": "relu"}, "activation is 'relu', not one of gelu, gelu_tanh, quick_gelu"),
        ({"dtype": "float16"}, "dtype is 'float16', not one of float32, bfloat16"),
        ({"class_token": False}, "without a class token, attention_pooling and no registers"),
        ({"image_size": (32, 32)}, r"the shape \(26, 17, 3\), but image_size=\(32, 32\)"),
        ({"patch_size": 18}, r"image_size=\(26, 17\) is below patch_size=18"),
    ],
)
def test_invalid_attributes(attributes, message, posters):
    with pytest.raises(ValueError, match=message):
        shapes_of(small("clip", **attributes), posters)


def test_the_head_alone_equals_the_head_of_the_whole(posters):
    model = PosterViT(small("siglip"), hidden=(6,), num_genres=4)
    params = jax.jit(model.init)(jax.random.key(0), posters)["params"]
    logits, outputs = run(model, params, posters)
    assert logits.shape == (2, 4) and outputs["embedding"].shape == (2, 6)
    alone = PosterViT(small("siglip", first_layer=3), hidden=(6,), num_genres=4)
    found, _ = run(alone, {"head": params["head"]}, outputs["features"])
    np.testing.assert_allclose(found, logits, atol=1e-6)


def test_dropout_is_for_training_alone(posters):
    model = PosterViT(small("dinov2", dropout=0.5, layers=1), head_dropout=0.0, num_genres=4)
    params = jax.jit(model.init)(jax.random.key(0), posters)["params"]

    @jax.jit
    def train(key):
        return model.apply({"params": params}, posters, train=True, rngs={"dropout": key})[0]

    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3
    run(model, params, posters)  # without a random stream
