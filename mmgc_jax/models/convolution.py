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
# Numbers in a strip. What is computed of it then stays in the processor's cache: twice and half as
# much took up to a tenth more time (Intel Xeon with AMX, 2 MiB each core).
_STRIP = 327_680
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
    """The convolution as a matrix product for each strip of rows, whose sums are in float32.

    Pixels with their neighbours to the left and right make the rows of one matrix, the kernel's
    three rows stand side by side in the other. So the product has three parts, which are shifted by
    -1, 0 and 1 rows and added up. Both gradients are made of such products as well.

    Args:
      images: <bfloat16>[batch, height, width, in].
      kernel: <bfloat16>[3, 3, in, out].

    Returns:
      <bfloat16>[batch, height, width, out].
    """
    (batch, height, width, channels), out = images.shape, kernel.shape[-1]
    count, rows = _strip_size(images.shape, out)
    padded, across = _pad(images, edge=1)
    by_column = kernel.transpose(1, 2, 0, 3).reshape(3 * channels, 3 * out)

    def convolve_strip(number: jax.Array) -> jax.Array:
        image, row = _place(number, count, rows, height)
        windows = _windows(padded, image, row * across, (count, (rows + 2) * across))
        products = _product(windows, by_column).reshape(3, count, rows + 2, across // 3, 3, out)
        sums = sum(products[:, :, row : row + rows, :, row] for row in range(3))
        in_order = _bits(sums.astype(images.dtype)).transpose(1, 2, 3, 0, 4)
        return in_order.reshape(count, rows, across, out)[:, :, 1 : width + 1]

    strips = lax.map(convolve_strip, jnp.arange(batch * height // (count * rows)))
    return _numbers(strips).reshape(batch, height, width, out)


def _kernel_gradient(images: jax.Array, gradients: jax.Array) -> jax.Array:
    """<float32>[3, 3, in, out], from what went in and the gradients of what came out."""
    (batch, height, _, channels), out = images.shape, gradients.shape[-1]
    count, rows = _strip_size(images.shape, out)
    padded, across = _pad(gradients, edge=0)
    # The other matrix has a row for each channel, three times, shifted by -1, 0 and 1 rows of
    # pixels. It is turned here, since a product that turns its left side takes twice as long.
    thirds = across // 3
    pixels = _pad(images, edge=1)[0][:, 1:-1].reshape(batch, -1, 3, channels)
    turned = lax.optimization_barrier(pixels.transpose(3, 2, 0, 1))

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        image, row = _place(number, count, rows, height)
        windows = _windows(padded, image, row * across, (count, rows * across))
        shifted = [
            lax.dynamic_slice(
                turned,
                (0, 0, image, (row + shift) * thirds),
                (channels, 3, count, rows * thirds),
            )
            for shift in range(3)
        ]
        left = _numbers(jnp.stack(shifted)).reshape(3 * channels, -1)
        return total + _product(left, windows), None

    total = jnp.zeros((3 * channels, 3 * out))
    total, _ = lax.scan(add, total, jnp.arange(batch * height // (count * rows)))
    # What has its gradient on the left is on that one's right.
    return total.reshape(3, channels, 3, out)[:, :, ::-1].transpose(0, 2, 1, 3)


by_products = winograd.with_gradients(by_products, _kernel_gradient)


def _strip_size(shape: tuple[int, ...], out: int) -> tuple[int, int]:
    """How many images a strip is of, and how many rows of each; they make equal strips."""
    batch, height, width, channels = shape
    of_row = width * max(channels, out)
    rows = winograd.largest_divisor(height, max(1, _STRIP // of_row))
    count = max(1, _STRIP // (height * of_row)) if rows == height else 1
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
      <uint16>[batch, 1 + (height + 2 * edge) * across + 1, channels], as of `_bits`, where each
      row begins with a zero, and `across`, of one row, which is divisible by 3.
    """
    batch, _, width, channels = images.shape
    right = -(width + 1) % 3
    padded = jnp.pad(_bits(images), ((0, 0), (edge, edge), (1, right), (0, 0)))
    # The last row may end without a zero. One is before the first for `_windows`.
    in_a_row = padded.reshape(batch, -1, channels)
    return jnp.pad(in_a_row, ((0, 0), (1, 1), (0, 0))), width + 1 + right


def _windows(
    padded: jax.Array, image: jax.Array, pixel: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Pixels of some images, each with its neighbours to the left and right.

    If every third pixel is taken, their windows are all pixels in a row, as they are in memory. So
    there are three parts, of which each is a copy that begins one pixel after the one before it.

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
        lax.dynamic_slice(padded, (image, pixel + third, 0), (*size, channels)) for third in range(3)
    ]
    return _numbers(jnp.stack(parts)).reshape(-1, 3 * channels)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return lax.dot(left, right, preferred_element_type=jnp.float32)


# On a CPU XLA pads, cuts and joins bfloat16 numbers by way of float32, but integers as they are:
# VGG16's convolutions and their gradients take half the time with these.
def _bits(numbers: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(numbers, jnp.uint16)


def _numbers(bits: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(bits, jnp.bfloat16)
