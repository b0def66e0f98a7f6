"""The 3 x 3 convolution as matrix products of bfloat16 numbers, for processors with AMX.

Each strip of rows, or of small images as a whole, is one product whose sums are in float32. Pixels
with their neighbours to the left and right make the rows of one matrix, the kernel's three rows
stand side by side in the other; so the product has three parts, which are shifted by -1, 0 and 1
rows and added up.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mmgc_jax.ops import winograd
from mmgc_jax.ops.matmul import from_bits, to_bits

# Numbers in a strip. What is computed of it then stays in the processor's cache: with half as much
# VGG16 took 8 % more time, with twice as much one of its layers 70 % (Intel Xeon with AMX).
_STRIP = 655_360
# For a kernel's gradient, where as much as that took 6 % more, and half of this 8 %.
_STRIP_OF_GRADIENT = 327_680


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution with stride 1 that keeps height and width: zeros are beyond the edges.

    Both of its gradients are made of such products as well.

    Args:
      images: <bfloat16>[batch, height, width, in].
      kernel: <bfloat16>[3, 3, in, out].

    Returns:
      <bfloat16>[batch, height, width, out].
    """
    (batch, height, width, channels), out = images.shape, kernel.shape[-1]
    count, rows = _strip_size(images.shape, out, _STRIP)
    padded, across = _pad(images, edge=1)
    by_column = kernel.transpose(1, 2, 0, 3).reshape(3 * channels, 3 * out)

    def convolve_strip(number: jax.Array) -> jax.Array:
        image, row = _place(number, count, rows, height)
        windows = _windows(padded, image, row * across, (count, (rows + 2) * across))
        products = _product(windows, by_column).reshape(3, count, rows + 2, across // 3, 3, out)
        sums = sum(products[:, :, row : row + rows, :, row] for row in range(3))
        in_order = to_bits(sums.astype(images.dtype)).transpose(1, 2, 3, 0, 4)
        return in_order.reshape(count, rows, across, out)[:, :, 1 : width + 1]

    strips = lax.map(convolve_strip, jnp.arange(batch * height // (count * rows)))
    return from_bits(strips).reshape(batch, height, width, out)


def _kernel_gradient(images: jax.Array, gradients: jax.Array) -> jax.Array:
    """<float32>[3, 3, in, out], from what went in and the gradients of what came out."""
    (batch, height, _, channels), out = images.shape, gradients.shape[-1]
    count, rows = _strip_size(images.shape, out, _STRIP_OF_GRADIENT)
    padded, across = _pad(gradients, edge=0)
    # The other matrix has a row for each channel, three times, shifted by -1, 0 and 1 rows of
    # pixels. It is turned here, since a product that turns its left side takes twice as long.
    thirds = across // 3
    pixels = _pad(images, edge=1)[0][:, 1:-1].reshape(batch, -1, 3, channels)
    turned = pixels.transpose(0, 3, 2, 1)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        image, row = _place(number, count, rows, height)
        windows = _windows(padded, image, row * across, (count, rows * across))
        shifted = [
            lax.dynamic_slice(
                turned,
                (image, 0, 0, (row + shift) * thirds),
                (count, channels, 3, rows * thirds),
            ).transpose(1, 2, 0, 3)
            for shift in range(3)
        ]
        left = from_bits(jnp.stack(shifted)).reshape(3 * channels, -1)
        return total + _product(left, windows), None

    total = jnp.zeros((3 * channels, 3 * out))
    total, _ = lax.scan(add, total, jnp.arange(batch * height // (count * rows)))
    # A pixel to the left of a gradient has that one to the right: neighbours are in reverse.
    return total.reshape(3, channels, 3, out)[:, :, ::-1].transpose(0, 2, 1, 3)


convolve = winograd.with_gradients(convolve, _kernel_gradient)


def _strip_size(shape: tuple[int, ...], out: int, numbers: int) -> tuple[int, int]:
    """How many images a strip is of, and how many rows of each; they make equal strips."""
    batch, height, width, channels = shape
    of_row = width * max(channels, out)
    rows = winograd.largest_divisor(height, max(1, numbers // of_row))
    count = max(1, numbers // (height * of_row)) if rows == height else 1
    return winograd.largest_divisor(batch, count), rows


def _place(number: jax.Array, count: int, rows: int, height: int) -> tuple[jax.Array, jax.Array]:
    """The first image and the first row of a strip."""
    image, place = jnp.divmod(number, height // rows)
    return image * count, place * rows


def _pad(images: jax.Array, edge: int) -> tuple[jax.Array, int]:
    """Pixels in a row, with zeros where there are none.

    Args:
      images: <bfloat16>[batch, height, width, channels].
      edge: rows of zeros above and below.

    Returns:
      <uint16>[batch, 1 + (height + 2 * edge) * across + 1, channels], as of `to_bits`, where each
      row begins with a zero, and `across`, of one row, which is divisible by 3.
    """
    batch, _, width, channels = images.shape
    right = -(width + 1) % 3
    padded = jnp.pad(to_bits(images), ((0, 0), (edge, edge), (1, right), (0, 0)))
    # The last row may end without a zero. One is before the first for `_windows`.
    in_a_row = padded.reshape(batch, -1, channels)
    return jnp.pad(in_a_row, ((0, 0), (1, 1), (0, 0))), width + 1 + right


def _windows(
    padded: jax.Array, image: jax.Array, pixel: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Pixels of some images, each with its neighbours to the left and right.

    The windows of every third pixel, one after the other, are the pixels as they lie in memory. So
    each of three parts is a plain copy, which begins one pixel after that of the part before.

    Args:
      padded: as of `_pad`.
      image: the first.
      pixel: the first of each.
      size: how many images, and how many pixels of each, divisible by 3.

    Returns:
      <bfloat16>[images * pixels, 3 * channels], ordered by third, image and place.
    """
    channels = padded.shape[-1]
    parts = [
        lax.dynamic_slice(padded, (image, pixel + third, 0), (*size, channels))
        for third in range(3)
    ]
    return from_bits(jnp.stack(parts)).reshape(-1, 3 * channels)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return lax.dot(left, right, preferred_element_type=jnp.float32)
