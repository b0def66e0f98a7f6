"""Tests the poster encoder and its head."""

import jax
import numpy as np
import pytest

from mmgc_jax.models import VGG16, GenreHead, PosterVGG16, pool_blocks
from tests.models.networks import POSTERS, WIDTHS, build, run

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


def test_head_has_hidden_layers_of_the_given_sizes():
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

    # VGG16 and the head, applied one after the other.
    pooled = run(VGG16(widths=WIDTHS), params["vgg16"], POSTERS)
    by_hand, _ = run(GenreHead(hidden=(8,)), params["head"], pooled["block5_pool"])
    np.testing.assert_allclose(by_hand, logits, rtol=1e-4, atol=1e-4)

    inputs = POSTERS if first_block == 1 else intermediates[f"block{first_block - 1}_pool"]
    part = PosterVGG16(first_block=first_block, widths=WIDTHS, hidden=(8,))
    np.testing.assert_allclose(run(part, params, inputs)[0], logits, rtol=1e-4, atol=1e-4)


def test_several_blocks_are_pooled_side_by_side():
    model = PosterVGG16(head_blocks=(4, 5), widths=WIDTHS, hidden=(8,))
    _, intermediates = run(model, build(model), POSTERS)
    maps = [np.asarray(intermediates[f"block{block}_pool"]) for block in (4, 5)]
    expected = [f(m, axis=(1, 2)) for m in maps for f in (np.mean, np.max)]
    np.testing.assert_allclose(intermediates["features"], np.concatenate(expected, 1), rtol=1e-5)
    pooled = pool_blocks(intermediates, (5,), "max")
    np.testing.assert_allclose(pooled, maps[1].max(axis=(1, 2)), rtol=1e-6)
