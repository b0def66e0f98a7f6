"""The 3 x 3 convolution by Winograd's minimal filtering, with a quarter of the multiplications.

This is F(4 x 4, 3 x 3) of Lavin and Gray (arXiv 1509.09308): a tile of 4 x 4 outputs takes 36
multiplications for each pair of input and output channels instead of 144. Small matrices transform
the kernel, the input tiles (6 x 6 pixels, overlapping by two) and the outputs. Between the
transforms there is one matmul over the channels for each of a tile's 36 positions. In float32 the
results differ from a direct sum by about 1e-5 of the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmgc_jax.ops.conv3x3 import conv3x3_xla, largest_divisor, with_gradients

# The matrices B^T, G and A^T of the paper, which transform pixels, kernel and outputs.
_PIXELS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)

# Size in bytes of the transformed tiles of one group of images. A quarter of it took up to a third
# longer, because the kernels are loaded from memory more often (AMD EPYC, 32 MiB of cache).
_GROUP_BYTES = 64 * 2**20
# With fewer channels (input plus output), the transforms cost more time than the matmuls save.
_MIN_CHANNELS = 192
# With fewer tiles, transforming the kernel takes longer than the matmuls save: for one image of
# 16 x 10 pixels with 512 channels, 9.2 ms against XLA's 7.4 (AMD EPYC).
_MIN_TILES = 16

# Keeps XLA from recomputing a transform in each operation that uses a part of it.
_barrier = lax.optimization_barrier


def conv3x3_winograd(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel; the reference is `conv3x3_xla`.

    The convolution and its gradients are computed in float32, whatever the dtype of the arguments.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], same dtype as the images.

    Returns:
      <float>[batch, height, width, out], same dtype as the images.
    """
    batch, height, width, channels = images.shape
    down, across, group = _tiling(images.shape, kernel.shape[-1])
    if channels + kernel.shape[-1] < _MIN_CHANNELS or batch * down * across < _MIN_TILES:
        return conv3x3_xla(images, kernel)
    weights = _flat(_transform(_KERNEL, [[kernel[i, j] for j in range(3)] for i in range(3)]))
    padded = _pad(images, 1)

    def convolve_group(images: jax.Array) -> jax.Array:
        outputs = [lax.dot(tiles, weight) for tiles, weight in zip(_image_tiles(images), weights)]
        return _join_tiles(_barrier(outputs), group, down, across).astype(padded.dtype)

    if group == batch:
        result = convolve_group(padded)
    else:
        result = lax.map(convolve_group, _in_groups(padded, group))
    return result.reshape(batch, 4 * down, 4 * across, -1)[:, :height, :width]


def kernel_gradient(images: jax.Array, gradients: jax.Array) -> jax.Array:
    """Computes the gradient with respect to the kernel, in float32.

    Args:
      images: <float>[batch, height, width, in].
      gradients: the output's gradient, <float>[batch, height, width, out].

    Returns:
      <float32>[3, 3, in, out].
    """
    channels, out = images.shape[-1], gradients.shape[-1]
    _, _, group = _tiling(images.shape, out)
    padded = _in_groups(_pad(images, 1), group), _in_groups(_pad(gradients, 0), group)

    def add(totals: list[jax.Array], group: tuple[jax.Array, jax.Array]):
        tiles, gradient_tiles = _image_tiles(group[0]), _gradient_tiles(group[1])
        over_tiles = (((0,), (0,)), ((), ()))
        sums = [lax.dot_general(a, b, over_tiles) for a, b in zip(tiles, gradient_tiles)]
        return [total + of_group for total, of_group in zip(totals, sums)], None

    totals = [jnp.zeros((channels, out))] * 36
    totals, _ = lax.scan(add, totals, padded)
    matrix = tuple(zip(*_KERNEL))
    gradient = _transform(matrix, [totals[6 * i : 6 * i + 6] for i in range(6)])
    return jnp.stack([jnp.stack(row) for row in gradient])


conv3x3_winograd = with_gradients(conv3x3_winograd, kernel_gradient)


def _tiling(shape: tuple[int, ...], out: int) -> tuple[int, int, int]:
    """Returns the rows and columns of tiles in an image, and the number of images in a group."""
    batch, height, width, channels = shape
    down, across = -(-height // 4), -(-width // 4)
    limit = max(1, _GROUP_BYTES // (36 * 4 * down * across * (channels + out)))
    return down, across, largest_divisor(batch, limit)


def _pad(images: jax.Array, edge: int) -> jax.Array:
    """Pads images with zeros to a whole number of tiles, plus `edge` pixels on each side."""
    sides = [(edge, edge - size % -4) for size in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), *sides, (0, 0)))


def _in_groups(images: jax.Array, group: int) -> jax.Array:
    return images.reshape(-1, group, *images.shape[1:])


def _image_tiles(padded: jax.Array) -> list[jax.Array]:
    """Transforms tiles of pixels; returns <float32>[tiles, channels] for each of 36 positions."""
    padded = _barrier(padded.astype(jnp.float32))
    ends = [size - 5 for size in padded.shape[1:3]]
    rows = _barrier([_sum(w, [padded[:, i : i + ends[0] : 4] for i in range(6)]) for w in _PIXELS])
    return _barrier(
        [
            _sum(w, [row[:, :, j : j + ends[1] : 4] for j in range(6)]).reshape(-1, row.shape[-1])
            for row in rows
            for w in _PIXELS
        ]
    )


def _gradient_tiles(padded: jax.Array) -> list[jax.Array]:
    """Transforms tiles of the output's gradient; returns arrays shaped as by `_image_tiles`."""
    padded = _barrier(padded.astype(jnp.float32))
    matrix = tuple(zip(*_OUTPUTS))
    rows = _barrier([_sum(w, [padded[:, i::4] for i in range(4)]) for w in matrix])
    return _barrier(
        [
            _sum(w, [row[:, :, j::4] for j in range(4)]).reshape(-1, row.shape[-1])
            for row in rows
            for w in matrix
        ]
    )


def _join_tiles(outputs: list[jax.Array], images: int, down: int, across: int) -> jax.Array:
    """Transforms tiles back to images.

    Args:
      outputs: <float32>[tiles, channels] for each of 36 positions.
      images: number of images.
      down: rows of tiles in an image.
      across: columns of tiles in an image.

    Returns:
      <float32>[images, 4 * down, 4 * across, channels].
    """
    channels = outputs[0].shape[-1]
    parts = _barrier(_transform(_OUTPUTS, [outputs[6 * i : 6 * i + 6] for i in range(6)]))
    rows = [
        jnp.concatenate(row, axis=-1).reshape(images, down, 1, 4 * across, channels)
        for row in parts
    ]
    return _barrier(jnp.concatenate(rows, axis=2).reshape(images, 4 * down, 4 * across, channels))


def _transform(matrix, parts: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """Computes matrix @ parts @ matrix.T, where each element of `parts` is an array."""
    rows = [[_sum(weights, column) for column in zip(*parts)] for weights in matrix]
    return [[_sum(weights, row) for weights in matrix] for row in rows]


def _flat(parts: list[list[jax.Array]]) -> list[jax.Array]:
    return _barrier([part for row in parts for part in row])


def _sum(weights, arrays) -> jax.Array:
    """Computes a weighted sum, skipping arrays whose weight is 0."""
    terms = [np.float32(w) * array for w, array in zip(weights, arrays) if w]
    return sum(terms[1:], terms[0])
