"""The 3 x 3 convolution of VGG16, done in the way that suits the processor.

XLA's own convolution computes in float32 on a CPU, whatever it is given, and is far from what the
processor can do. `winograd.convolve` takes fewer multiplications; where AMX multiplies bfloat16
numbers many times faster than float32, matrix products of these, `by_products`, are faster yet.
"""

import functools
import pathlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmgc_jax.models import winograd

# Of a CPU, as Linux lists it: matrix products of bfloat16 numbers.
_AMX = "amx_bf16"
# Numbers in a strip of an image. Its three copies and its sums then stay in the processor's cache:
# twice as much took up to a fifth more time, a quarter of it a third (AMD EPYC, 1 MiB each core).
_STRIP = 655_360
# Of images that are taken through a block at once.
_PIXELS_AT_ONCE = 2048
# Where there is less, products are too small to pay, and tiles are mostly padding.
_FEWEST_CHANNELS = 64
_SMALLEST_SIDE = 8  # of images


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution with stride 1 that keeps height and width: zeros are beyond the edges.

    On a single CPU it is `winograd.convolve`, or in bfloat16 with AMX `by_products`; on other
    devices, with few channels and on small images XLA's.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], of the same dtype.

    Returns:
      <float>[batch, height, width, out], of the same dtype.
    """
    large = min(images.shape[1:3]) >= _SMALLEST_SIDE and min(kernel.shape[2:]) >= _FEWEST_CHANNELS
    if large and _is_one_cpu():
        if images.dtype == jnp.bfloat16 and _AMX in _cpu_flags():
            return by_products(images, kernel)
        return winograd.convolve(images, kernel)
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(images: jax.Array) -> jax.Array:
    """The largest of each 2 x 2 pixels; a last odd row or column is left out.

    On a GPU it is a maximum over axes, since XLA scatters the gradient of a window's maximum there:
    a step of VGG16 took 29 ms with that, and 23 with this (128 posters of 256 x 160, bfloat16,
    H100). Where several pixels are largest, it divides the gradient between them; a window gives
    it to the first.

    Args:
      images: <float>[batch, height, width, channels].

    Returns:
      <float>[batch, height // 2, width // 2, channels], of the same dtype.
    """
    if jax.default_backend() != "gpu":
        return nn.max_pool(images, (2, 2), strides=(2, 2))
    batch, height, width, channels = images.shape
    height, width = height // 2, width // 2
    whole = images[:, : 2 * height, : 2 * width]
    return whole.reshape(batch, height, 2, width, 2, channels).max(axis=(2, 4))


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
    if not _is_one_cpu() or most >= batch:
        return function(images)
    group = winograd.largest_divisor(batch, most)
    parts = lax.map(function, images.reshape(-1, group, *images.shape[1:]))
    return parts.reshape(batch, *parts.shape[2:])


def _is_one_cpu() -> bool:
    # What is taken one after the other cannot be shared out to several devices.
    return jax.default_backend() == "cpu" and jax.device_count() == 1


@functools.cache
def _cpu_flags() -> set[str]:
    """What the processor can do, as Linux names it; empty where it does not tell."""
    description = pathlib.Path("/proc/cpuinfo")
    return set(description.read_text().split()) if description.exists() else set()


def by_products(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as matrix products of strips of rows, whose sums are in float32.

    A strip's copies, shifted by -1, 0 and 1 columns, stand side by side in a matrix with a row for
    each pixel; three products with it, shifted by rows, sum up to the strip's result.

    Args and result as of `convolve`. Both gradients are made of such products as well.
    """
    (batch, height, width, _), channels = images.shape, kernel.shape[-1]
    by_row = kernel.reshape(3, -1, channels)
    rows = _rows_of_strip(images.shape, channels)
    padded = _pad(images)

    def strip(number: jax.Array) -> jax.Array:
        columns = _columns(padded, number, rows)
        return sum(
            _product(columns[row : row + rows].reshape(rows * width, -1), by_row[row])
            for row in range(3)
        ).astype(images.dtype)

    strips = lax.map(strip, jnp.arange(batch * height // rows))
    return strips.reshape(batch, height, width, channels)


def _kernel_gradient(images: jax.Array, gradients: jax.Array) -> jax.Array:
    """<float32>[3, 3, in, out], from what went in and the gradients of what came out."""
    (_, _, width, channels), out = images.shape, gradients.shape[-1]
    rows = _rows_of_strip(images.shape, out)
    padded = _pad(images)
    of_strips = gradients.reshape(-1, rows * width, out)

    def add(total: jax.Array, number: jax.Array):
        columns = _columns(padded, number, rows).reshape((rows + 2) * width, -1)
        # Turned here once: a product that turns its left side on the way takes twice as long.
        columns = lax.optimization_barrier(columns.T)
        of_rows = [
            _product(columns[:, row * width : (row + rows) * width], of_strips[number])
            for row in range(3)
        ]
        return total + jnp.stack(of_rows), None

    total = jnp.zeros((3, 3 * channels, out))
    total, _ = lax.scan(add, total, jnp.arange(len(of_strips)))
    return total.reshape(3, 3, channels, out)


by_products = winograd.with_gradients(by_products, _kernel_gradient)


def _rows_of_strip(shape: tuple[int, ...], out: int) -> int:
    """The most rows that make equal strips of at most `_STRIP` numbers."""
    _, height, width, channels = shape
    most = max(1, _STRIP // (width * max(channels, out)))
    return winograd.largest_divisor(height, most)


def _pad(images: jax.Array) -> jax.Array:
    return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _columns(padded: jax.Array, number: jax.Array, rows: int) -> jax.Array:
    """The three copies of a strip and of a row above and below it, [rows + 2, width, 3 * in]."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    image, place = jnp.divmod(number, height // rows)
    sizes = (1, rows + 2, *padded.shape[2:])
    (strip,) = lax.dynamic_slice(padded, (image, place * rows, 0, 0), sizes)
    shifted = [strip[:, shift : shift + width] for shift in range(3)]
    return lax.optimization_barrier(jnp.concatenate(shifted, axis=-1))


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return lax.dot(left, right, preferred_element_type=jnp.float32)
