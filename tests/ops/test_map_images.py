"""Tests that mapping over groups of images gives the same as mapping over the whole batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.ops.map_images import map_images


@pytest.mark.parametrize(
    ("batch", "side", "pixels_per_group", "group"),
    [
        (6, 32, None, 6),
        (1, 64, 2048, 1),
        (6, 32, 2048, 2),
        (5, 16, 2048, 5),
        (6, 24, 2048, 3),
        (5, 24, 2048, 1),  # 3 would fit, but 5 is prime.
        (2, 64, 2048, 1),  # One image is larger than a group.
    ],
)
def test_results_equal_those_of_the_whole_batch(batch, side, pixels_per_group, group):
    images = np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)
    sizes = []

    def function(images):
        sizes.append(len(images))
        return jnp.tanh(images).max(axis=(1, 2))

    result = map_images(function, images, pixels_per_group)
    assert set(sizes) == {group}
    np.testing.assert_allclose(result, np.tanh(images).max(axis=(1, 2)), rtol=1e-5)
