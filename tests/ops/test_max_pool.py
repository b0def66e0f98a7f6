"""Tests max pooling and its gradient against Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.ops.max_pool import max_pool


@pytest.mark.parametrize("implementation", ["reduce_window", "reshape"])
def test_it_equals_flax_where_no_two_pixels_are_equal(implementation):
    rng = np.random.default_rng(0)
    images = rng.permutation(2 * 7 * 9 * 3).astype(np.float32).reshape(2, 7, 9, 3)
    gradients = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)

    def run(pool):
        pooled, backward = jax.vjp(pool, images)
        return pooled, *backward(gradients)

    expected = run(lambda images: nn.max_pool(images, (2, 2), strides=(2, 2)))
    found = run(lambda images: max_pool(images, implementation))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("implementation", "expected"),
    [
        ("reshape", [[[2, 2], [2, 2]], [[4, 0], [4, 0]], [[0, 8], [0, 0]]]),
        ("reduce_window", [[[8, 0], [0, 0]], [[8, 0], [0, 0]], [[0, 8], [0, 0]]]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_where_pixels_are_equal(dtype, implementation, expected):
    windows = [[[3, 3], [3, 3]], [[5, 1], [5, 0]], [[2, 7], [1, 0]]]
    images = jnp.asarray(windows, dtype)[..., None]
    _, backward = jax.vjp(lambda images: max_pool(images, implementation), images)
    (gradients,) = backward(jnp.full((3, 1, 1, 1), 8, dtype))
    assert gradients.dtype == images.dtype
    np.testing.assert_array_equal(gradients[..., 0].astype(np.float32), expected)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="'slices', not one of reduce_window, reshape"):
        max_pool(jnp.zeros((1, 2, 2, 1)), "slices")
