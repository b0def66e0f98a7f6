"""Applying a function to a batch of images in groups that fit a CPU's cache."""

from collections.abc import Callable

import jax
from jax import lax

from mmgc_jax.ops.conv3x3 import largest_divisor


def map_images(
    function: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    pixels_per_group: int | None = None,
) -> jax.Array:
    """Applies a function to a batch, one group of images at a time; equals `function(images)`.

    Of large images a group has few, so that what several layers compute of them stays in the
    cache. Of small ones it has more, so that each kernel that is fetched has more to compute.

    Args:
      function: [any, ...] to [any, ...], of each image independently.
      images: [batch, height, width, channels].
      pixels_per_group: most pixels of a group, which has at least one image; None takes the batch
        as a whole.
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
