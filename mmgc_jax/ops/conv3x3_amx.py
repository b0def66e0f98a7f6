"""The 3 x 3 convolution as bfloat16 matmuls, for CPUs with AMX.

The batch is cut into chunks: some rows of one large image, or several small images. Each chunk
takes one matmul with float32 sums. Each row of the left matrix is a pixel with its neighbours to
the left and right. The right matrix has the kernel's three rows side by side. The result therefore
has three parts, one for each row of the kernel; they are shifted by -1, 0 and 1 rows of pixels and
added up.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mmgc_jax.ops.conv3x3 import largest_divisor, with_gradients
from mmgc_jax.ops.matmul import dot, from_bits, to_bits

# Array elements in a chunk, few enough that its intermediate results fit the CPU's cache. On an
# Intel Xeon, VGG16 took 8 % longer with half as many, and one layer 70 % longer with twice as many.
_CHUNK_SIZE = 655_360
# The same for the kernel's gradient: twice as many took 6 % longer, half as many took 8 % longer.
_GRADIENT_CHUNK_SIZE = 327_680


def conv3x3_amx(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel; the reference is `conv3x3_xla`.

    Both gradients are computed by bfloat16 matmuls, too. It runs on every CPU, but it is fast only
    on CPUs with AMX.

    Args:
      images: <bfloat16>[batch, height, width, in].
      kernel: <bfloat16>[3, 3, in, out].

    Returns:
      <bfloat16>[batch, height, width, out].

    Raises:
      ValueError: if the images or the kernel are not bfloat16.
    """
    if not images.dtype == kernel.dtype == jnp.bfloat16:
        raise ValueError(
            f"conv3x3_amx needs bfloat16, but the images are {images.dtype} and the kernel is "
            f"{kernel.dtype}; use the implementation xla or winograd"
        )
    return _convolve(images, kernel)


def _convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    (batch, height, width, channels), out = images.shape, kernel.shape[-1]
    count, rows = _chunk_shape(images.shape, out, _CHUNK_SIZE)
    padded, row_length = _pad(images, edge=1)
    by_column = kernel.transpose(1, 2, 0, 3).reshape(3 * channels, 3 * out)

    def convolve_chunk(number: jax.Array) -> jax.Array:
        image, row = _chunk_start(number, count, rows, height)
        windows = _windows(padded, image, row * row_length, (count, (rows + 2) * row_length))
        by_row = dot(windows, by_column).reshape(3, count, rows + 2, row_length // 3, 3, out)
        sums = sum(by_row[:, :, row : row + rows, :, row] for row in range(3))
        in_order = to_bits(sums.astype(images.dtype)).transpose(1, 2, 3, 0, 4)
        return in_order.reshape(count, rows, row_length, out)[:, :, 1 : width + 1]

    chunks = lax.map(convolve_chunk, jnp.arange(batch * height // (count * rows)))
    return from_bits(chunks).reshape(batch, height, width, out)


def _kernel_gradient(images: jax.Array, gradients: jax.Array) -> jax.Array:
    """Computes the kernel's gradient, <float32>[3, 3, in, out], from the output's gradient."""
    (batch, height, _, channels), out = images.shape, gradients.shape[-1]
    count, rows = _chunk_shape(images.shape, out, _GRADIENT_CHUNK_SIZE)
    padded, row_length = _pad(gradients, edge=0)
    # The left matrix has three rows for each channel, shifted by -1, 0 and 1 rows of pixels. It is
    # transposed before the matmul: a matmul that transposes its left factor takes twice as long.
    thirds = row_length // 3
    pixels = _pad(images, edge=1)[0][:, 1:-1].reshape(batch, -1, 3, channels)
    transposed = pixels.transpose(0, 3, 2, 1)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        image, row = _chunk_start(number, count, rows, height)
        windows = _windows(padded, image, row * row_length, (count, rows * row_length))
        shifted = [
            lax.dynamic_slice(
                transposed,
                (image, 0, 0, (row + shift) * thirds),
                (count, channels, 3, rows * thirds),
            ).transpose(1, 2, 0, 3)
            for shift in range(3)
        ]
        left = from_bits(jnp.stack(shifted)).reshape(3 * channels, -1)
        return total + dot(left, windows), None

    total = jnp.zeros((3 * channels, 3 * out))
    total, _ = lax.scan(add, total, jnp.arange(batch * height // (count * rows)))
    # The windows slide over the gradient, not the pixels, so the kernel's columns are reversed.
    return total.reshape(3, channels, 3, out)[:, :, ::-1].transpose(0, 2, 1, 3)


_convolve = with_gradients(_convolve, _kernel_gradient)


def _chunk_shape(shape: tuple[int, ...], out: int, size: int) -> tuple[int, int]:
    """Returns the images in a chunk and the rows of each image; all chunks have equal size."""
    batch, height, width, channels = shape
    row_size = width * max(channels, out)
    rows = largest_divisor(height, max(1, size // row_size))
    count = max(1, size // (height * row_size)) if rows == height else 1
    return largest_divisor(batch, count), rows


def _chunk_start(
    number: jax.Array, count: int, rows: int, height: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the indices of a chunk's first image and first row."""
    image, chunk_of_image = jnp.divmod(number, height // rows)
    return image * count, chunk_of_image * rows


def _pad(images: jax.Array, edge: int) -> tuple[jax.Array, int]:
    """Pads images with zeros and joins the rows of each image into one.

    Args:
      images: <bfloat16>[batch, height, width, channels].
      edge: rows of zeros above and below.

    Returns:
      <uint16>[batch, 1 + (height + 2 * edge) * row_length + 1, channels], the padded images' bits
      (see `to_bits`), where each row begins with a zero pixel; and `row_length` in pixels, a
      multiple of 3.
    """
    batch, _, width, channels = images.shape
    right = -(width + 1) % 3
    padded = jnp.pad(to_bits(images), ((0, 0), (edge, edge), (1, right), (0, 0)))
    joined = padded.reshape(batch, -1, channels)
    # `_windows` reads one pixel before the first row and may read one after the last row.
    return jnp.pad(joined, ((0, 0), (1, 1), (0, 0))), width + 1 + right


def _windows(
    padded: jax.Array, image: jax.Array, pixel: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Gathers the pixels of some images, each with its neighbours to the left and right.

    The windows around every third pixel do not overlap, so together they are a plain copy of the
    pixels in memory. Three such copies, each starting one pixel later, give all windows.

    Args:
      padded: <uint16>[batch, pixels, channels], from `_pad`.
      image: index of the first image.
      pixel: index of the first pixel in each image.
      size: number of images, and number of pixels in each, a multiple of 3.

    Returns:
      <bfloat16>[images * pixels, 3 * channels], ordered by the pixel's remainder modulo 3, by image
      and by pixel.
    """
    channels = padded.shape[-1]
    parts = [
        lax.dynamic_slice(padded, (image, pixel + third, 0), (*size, channels))
        for third in range(3)
    ]
    return from_bits(jnp.stack(parts)).reshape(-1, 3 * channels)
