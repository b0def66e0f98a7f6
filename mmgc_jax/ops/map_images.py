"""Applies a function to a batch of images in groups that fit a CPU's cache."""

from collections.abc import Callable

import jax
from jax import lax

from mmgc_jax.ops.conv3x3 import largest_divisor


def map_images(
    function: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    pixels_per_group: int | None = None,
) -> jax.Array:
    """Applies a function to a batch, one group of images at a time.

    Large images form small groups, so that the results of consecutive layers stay in the cache.
    Small images form larger groups, so that each weight loaded from memory is used more often.

    Args:
      function: maps [images, height, width, channels] to [images, ...], each image independently of
        the others.
      images: [batch, height, width, channels].
      pixels_per_group: maximum number of pixels in a group; a group has at least one image. None
        applies the function to the whole batch at once.

    Returns:
      [batch, ...], equal to `function(images)`.
    """
    batch, height, width, _ = images.shape
    if pixels_per_group is None:
        return function(images)
    limit = max(1, pixels_per_group // (height * width))
    if limit >= batch:
        return function(images)
    group = largest_divisor(batch, limit)
    results = lax.map(function, images.reshape(-1, group, *images.shape[1:]))
    return results.reshape(batch, *results.shape[2:])
