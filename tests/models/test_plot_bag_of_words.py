"""Tests PlotBagOfWords against a sparse matmul."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from mmgc_jax.models import PlotBagOfWords

MODEL = PlotBagOfWords(vocabulary_size=9, num_genres=3)


def random_variables():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(9, 3)), "bias": rng.normal(size=3)}
    return {"params": {name: value.astype(np.float32) for name, value in params.items()}}


def test_logits_are_a_sparse_matmul():
    """The first plot has words 0, 2 and 8, the second none, the third word 5."""
    rows = scipy.sparse.csr_matrix(([0.5, 0.25, 1, 2], ([0, 0, 0, 2], [0, 2, 8, 5])), shape=(3, 9))
    tokens = np.array([[0, 2, 8, 0], [0] * 4, [5, 0, 0, 0]], np.int32)
    weights = np.array([[0.5, 0.25, 1, 0], [0] * 4, [2, 0, 0, 0]], np.float32)
    variables = random_variables()
    logits, intermediates = MODEL.apply(variables, tokens, weights)
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(logits, rows @ kernel + bias, atol=1e-6)
    np.testing.assert_allclose(logits[1], bias)
    assert logits.dtype == jnp.float32
    contributions = intermediates["contributions"]
    np.testing.assert_allclose(contributions[0, 2], kernel[8], atol=1e-6)
    np.testing.assert_allclose(contributions.sum(axis=1) + bias, logits, atol=1e-6)


def test_order_and_padding_change_nothing():
    tokens = np.array([[1, 4, 7]], np.int32)
    weights = np.array([[0.1, 0.2, 0.3]], np.float32)
    logits, _ = MODEL.apply(random_variables(), tokens, weights)
    padded = np.pad(weights, ((0, 0), (0, 2)))
    for other, scores in (
        (tokens[:, ::-1], weights[:, ::-1]),
        (np.array([[1, 4, 7, 0, 6]]), padded),
    ):
        found, _ = MODEL.apply(random_variables(), other, scores, train=True)
        np.testing.assert_allclose(found, logits, atol=1e-6)


def test_it_is_initialised_with_zeros():
    variables = MODEL.init(
        jax.random.key(0), np.zeros((1, 4), np.int32), np.zeros((1, 4), np.float32)
    )
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"kernel": (9, 3), "bias": (3,)}
    assert not any(leaf.any() for leaf in jax.tree.leaves(variables))
