"""The 3 x 3 convolution of VGG16, done in the way that suits the processor.

XLA's own convolution computes in float32 on a CPU, whatever it is given, and is far from what the
processor can do. `winograd.convolve` takes fewer multiplications; where AMX multiplies bfloat16
numbers many times faster than float32, the matrix products of `conv3x3_amx.convolve` are faster yet.
"""

import functools
import pathlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmgc_jax.ops import conv3x3_amx, winograd
from mmgc_jax.ops.matmul import is_one_cpu

# Of a CPU, as Linux lists it: matrix products of bfloat16 numbers.
_AMX = "amx_bf16"
# Of images that are taken through a block at once.
_PIXELS_AT_ONCE = 2048
# Where there is less, products are too small to pay, and tiles are mostly padding.
_FEWEST_CHANNELS = 64
_SMALLEST_SIDE = 8  # of images


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution with stride 1 that keeps height and width: zeros are beyond the edges.

    On a single CPU it is `winograd.convolve`, or in bfloat16 with AMX `conv3x3_amx.convolve`; on other
    devices, with few channels and on small images XLA's.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], of the same dtype.

    Returns:
      <float>[batch, height, width, out], of the same dtype.
    """
    large = min(images.shape[1:3]) >= _SMALLEST_SIDE and min(kernel.shape[2:]) >= _FEWEST_CHANNELS
    if large and is_one_cpu():
        if images.dtype == jnp.bfloat16 and _AMX in _cpu_flags():
            return conv3x3_amx.convolve(images, kernel)
        return winograd.convolve(images, kernel)
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(images: jax.Array) -> jax.Array:
    """The largest of each 2 x 2 pixels; a last odd row or column is left out.

    Where several pixels are largest, the gradient is divided between them. On a TPU, whose layouts
    axes of two do not suit, it is Flax's, which gives it to the first. On others XLA scatters the
    gradient of that one, and a step of VGG16 took a quarter longer (128 posters of 256 x 160,
    bfloat16, H100).

    Args:
      images: <float>[batch, height, width, channels].

    Returns:
      <float>[batch, height // 2, width // 2, channels], of the same dtype.
    """
    if jax.default_backend() == "tpu":
        return nn.max_pool(images, (2, 2), strides=(2, 2))
    batch, height, width, channels = images.shape
    height, width = height // 2, width // 2
    whole = images[:, : 2 * height, : 2 * width]
    return _largest(whole.reshape(batch, height, 2, width, 2, channels))


@jax.custom_vjp
def _largest(windows: jax.Array) -> jax.Array:
    """[batch, height, 2, width, 2, channels] to [batch, height, width, channels]."""
    return windows.max(axis=(2, 4))


def _largest_forward(windows: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = _largest(windows)
    return largest, (windows, largest)


def _largest_backward(
    residuals: tuple[jax.Array, jax.Array], gradients: jax.Array
) -> tuple[jax.Array]:
    windows, largest = residuals
    # Four arrays are added up ten times as fast as over axes, as XLA's own gradient does.
    count = sum(
        (windows[:, :, row, :, column] == largest).astype(gradients.dtype)
        for row in range(2)
        for column in range(2)
    )
    shares = (gradients / count)[:, :, None, :, None]
    return (jnp.where(windows == largest[:, :, None, :, None], shares, 0),)


_largest.defvjp(_largest_forward, _largest_backward)


def map_images(function: Callable[[jax.Array], jax.Array], images: jax.Array) -> jax.Array:
    """Applies a function to a batch of images, on a single CPU to a few of them at a time.

    What some layers compute of large images stays in the processor's cache then; small ones are
    taken together, so that there is something to compute for each kernel that is fetched.

    Args:
      function: [any, ...] to [any, ...], each image by itself.
      images: [batch, height, width, channels].
    """
    batch, height, width, _ = images.shape
    most = max(1, _PIXELS_AT_ONCE // (height * width))
    if not is_one_cpu() or most >= batch:
        return function(images)
    group = winograd.largest_divisor(batch, most)
    parts = lax.map(function, images.reshape(-1, group, *images.shape[1:]))
    return parts.reshape(batch, *parts.shape[2:])


@functools.cache
def _cpu_flags() -> set[str]:
    """What the processor can do, as Linux names it; empty where it does not tell."""
    description = pathlib.Path("/proc/cpuinfo")
    return set(description.read_text().split()) if description.exists() else set()
