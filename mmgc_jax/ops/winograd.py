"""The 3 x 3 convolution with a quarter of the multiplications, by Winograd's minimal filtering.

F(4 x 4, 3 x 3) of Lavin and Gray (arXiv 1509.09308): a tile of 4 x 4 results takes 36
multiplications for each pair of channels in place of 144. Small matrices transform the kernel, the
tiles of 6 x 6 pixels, which overlap by two, and the results; in between, for each of the 36 places
of a transformed tile, is a matrix product over the channels. In float32 the results differ from the
plain sum's by about 1e-5 of the largest.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# The paper's B^T, G and A^T, of the pixels, the kernel and the results.
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
_RESULTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)

# Bytes of the transformed tiles that are taken at once (AMD EPYC, 32 MiB of cache; a quarter as
# much took up to a third more time, since kernels are fetched more often).
_AT_ONCE = 64 * 2**20
# With fewer channels, in and out together, transforms take longer than the products save.
_FEWEST_CHANNELS = 192

# XLA would else compute a transform again in each operation that takes a part of it.
_apart = lax.optimization_barrier


def with_gradients(convolve, kernel_gradient):
    """Gives a convolution its gradients.

    Args:
      convolve: images <float>[batch, height, width, in] and a kernel <float>[3, 3, in, out] to
        <float>[batch, height, width, out]; that of the images is made by it, too.
      kernel_gradient: images and the gradients of what came out to [3, 3, in, out].
    """
    convolve = jax.custom_vjp(convolve)

    def forward(images, kernel):
        return convolve(images, kernel), (images, kernel)

    def backward(residuals, gradients):
        images, kernel = residuals
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        return convolve(gradients, turned), kernel_gradient(images, gradients).astype(kernel.dtype)

    convolve.defvjp(forward, backward)
    return convolve


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution with stride 1 that keeps height and width: zeros are beyond the edges.

    It and both of its gradients are computed in float32, whatever is given.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out].

    Returns:
      <float>[batch, height, width, out], of the images' dtype.
    """
    if images.shape[-1] + kernel.shape[-1] < _FEWEST_CHANNELS:
        result = lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return result.astype(images.dtype)
    batch, height, width, _ = images.shape
    weights = _flat(_transform(_KERNEL, [[kernel[i, j] for j in range(3)] for i in range(3)]))
    down, across, group = _tiling(images.shape, kernel.shape[-1])
    padded = _pad(images, 1)

    def convolve_some(images: jax.Array) -> jax.Array:
        products = [
            lax.dot(tiles, weight) for tiles, weight in zip(_tiles_of_images(images), weights)
        ]
        return _images_of(_apart(products), group, down, across).astype(padded.dtype)

    if group == batch:
        result = convolve_some(padded)
    else:
        result = lax.map(convolve_some, _in_groups(padded, group))
    return result.reshape(batch, 4 * down, 4 * across, -1)[:, :height, :width]


def _kernel_gradient(images: jax.Array, gradients: jax.Array) -> jax.Array:
    """<float32>[3, 3, in, out], from what went in and the gradients of what came out."""
    channels, out = images.shape[-1], gradients.shape[-1]
    _, _, group = _tiling(images.shape, out)
    padded = _in_groups(_pad(images, 1), group), _in_groups(_pad(gradients, 0), group)

    def add(totals: list[jax.Array], some: tuple[jax.Array, jax.Array]):
        tiles, of_results = _tiles_of_images(some[0]), _tiles_of_gradients(some[1])
        contracted = (((0,), (0,)), ((), ()))
        products = [lax.dot_general(a, b, contracted) for a, b in zip(tiles, of_results)]
        return [total + product for total, product in zip(totals, products)], None

    totals = [jnp.zeros((channels, out))] * 36
    totals, _ = lax.scan(add, totals, padded)
    of_kernel = _transform(tuple(zip(*_KERNEL)), [totals[6 * i : 6 * i + 6] for i in range(6)])
    return jnp.stack([jnp.stack(row) for row in of_kernel])


convolve = with_gradients(convolve, _kernel_gradient)


def _tiling(shape: tuple[int, ...], out: int) -> tuple[int, int, int]:
    """How many tiles are below and beside each other, and how many images are taken at once."""
    batch, height, width, channels = shape
    down, across = -(-height // 4), -(-width // 4)
    most = max(1, _AT_ONCE // (36 * 4 * down * across * (channels + out)))
    return down, across, largest_divisor(batch, most)


def largest_divisor(number: int, most: int) -> int:
    """The largest that is not above `most`, which is at least 1."""
    return next(n for n in range(min(most, number), 0, -1) if number % n == 0)


def _pad(images: jax.Array, edge: int) -> jax.Array:
    """Zeros, so that whole tiles cover all, and a number of them around it."""
    sides = [(edge, edge - size % -4) for size in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), *sides, (0, 0)))


def _in_groups(images: jax.Array, group: int) -> jax.Array:
    return images.reshape(-1, group, *images.shape[1:])


def _tiles_of_images(padded: jax.Array) -> list[jax.Array]:
    """The transformed tiles, for each of their 36 places <float32>[tiles, channels]."""
    padded = _apart(padded.astype(jnp.float32))
    ends = [size - 5 for size in padded.shape[1:3]]
    rows = _apart([_sum(w, [padded[:, i : i + ends[0] : 4] for i in range(6)]) for w in _PIXELS])
    return _apart(
        [
            _sum(w, [row[:, :, j : j + ends[1] : 4] for j in range(6)]).reshape(-1, row.shape[-1])
            for row in rows
            for w in _PIXELS
        ]
    )


def _tiles_of_gradients(padded: jax.Array) -> list[jax.Array]:
    """Likewise, of the gradients of tiles of results."""
    padded = _apart(padded.astype(jnp.float32))
    matrix = tuple(zip(*_RESULTS))
    rows = _apart([_sum(w, [padded[:, i::4] for i in range(4)]) for w in matrix])
    return _apart(
        [
            _sum(w, [row[:, :, j::4] for j in range(4)]).reshape(-1, row.shape[-1])
            for row in rows
            for w in matrix
        ]
    )


def _images_of(products: list[jax.Array], images: int, down: int, across: int) -> jax.Array:
    """<float32>[images, 4 * down, 4 * across, channels] of the products of each place."""
    channels = products[0].shape[-1]
    parts = _apart(_transform(_RESULTS, [products[6 * i : 6 * i + 6] for i in range(6)]))
    rows = [
        jnp.concatenate(row, axis=-1).reshape(images, down, 1, 4 * across, channels)
        for row in parts
    ]
    return _apart(jnp.concatenate(rows, axis=2).reshape(images, 4 * down, 4 * across, channels))


def _transform(matrix, parts: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """matrix x parts x matrix^T, where parts are a matrix whose elements are arrays."""
    rows = [[_sum(weights, column) for column in zip(*parts)] for weights in matrix]
    return [[_sum(weights, row) for weights in matrix] for row in rows]


def _flat(parts: list[list[jax.Array]]) -> list[jax.Array]:
    return _apart([part for row in parts for part in row])


def _sum(weights, arrays) -> jax.Array:
    """The weighted sum, without what weighs nothing."""
    terms = [np.float32(w) * array for w, array in zip(weights, arrays) if w]
    return sum(terms[1:], terms[0])
