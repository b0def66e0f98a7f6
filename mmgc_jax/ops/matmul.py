"""Matrix multiplication with factors in float32 or bfloat16 and sums in float32."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def matmul(x: jax.Array, kernel: jax.Array, dtype: str, transpose_first: bool = False) -> jax.Array:
    """Multiplies matrices; the reference is `x @ kernel` with factors rounded to `dtype`.

    Args:
      x: <float32>[..., in].
      kernel: <float32>[in, out].
      dtype: `float32` or `bfloat16`, the dtype of the factors, also in the gradient's matmuls.
      transpose_first: for the kernel's gradient; see `matmul_transposed`.

    Returns:
      <float32>[..., out].
    """
    return matmul_bfloat16(x, kernel, transpose_first) if dtype == "bfloat16" else x @ kernel


def matmul_transposed(
    x: jax.Array, y: jax.Array, dtype: str, transpose_first: bool = False
) -> jax.Array:
    """Multiplies x transposed by y; the reference is `x.T @ y` with factors rounded to `dtype`.

    Args:
      x: <float32>[rows, in].
      y: <float32>[rows, out].
      dtype: `float32` or `bfloat16`, the dtype of the factors.
      transpose_first: whether to transpose x before a bfloat16 matmul instead of inside it, for
        CPUs (see `kernels.Kernels`). Ignored if the number of rows is odd.

    Returns:
      <float32>[in, out].
    """
    return _transposed_bfloat16(x, y, transpose_first) if dtype == "bfloat16" else x.T @ y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul_bfloat16(x: jax.Array, kernel: jax.Array, transpose_first: bool = False) -> jax.Array:
    """Computes `matmul` with `dtype="bfloat16"`.

    The gradient is written out because the one that JAX derives multiplies bfloat16 by float32,
    which on a CPU is no faster than float32 by float32.

    Args:
      x: <float32>[..., in].
      kernel: <float32>[in, out].
      transpose_first: for the kernel's gradient; see `matmul_transposed`.

    Returns:
      <float32>[..., out].
    """
    return _einsum("...i,io->...o", x, kernel)


def _forward(x, kernel, transpose_first):
    result = matmul_bfloat16(x, kernel, transpose_first)
    return result, (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))


def _backward(transpose_first, factors, gradient):
    x, kernel = factors
    gradient = gradient.astype(jnp.bfloat16)
    return (
        _einsum("...o,io->...i", gradient, kernel),
        _transposed_bfloat16(_rows(x), _rows(gradient), transpose_first),
    )


matmul_bfloat16.defvjp(_forward, _backward)


def dot(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies <float>[rows, in] by <float>[in, out] with float32 sums; returns <float32>."""
    return lax.dot(left, right, preferred_element_type=jnp.float32)


def _transposed_bfloat16(x: jax.Array, y: jax.Array, transpose_first: bool) -> jax.Array:
    if not transpose_first or len(x) % 2:
        return _einsum("ni,no->io", x, y)
    # A loop between the transposition and the matmul keeps XLA from merging the two. The shortest
    # loop has two iterations, one for each half of the rows.
    x, y = (to_bits(side.astype(jnp.bfloat16)).reshape(2, -1, side.shape[-1]) for side in (x, y))

    def add(total: jax.Array, half: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        transposed, y = (from_bits(bits) for bits in half)
        return total + dot(transposed, y), None

    total = jnp.zeros((x.shape[-1], y.shape[-1]))
    return lax.scan(add, total, (x.swapaxes(1, 2), y))[0]


def to_bits(numbers: jax.Array) -> jax.Array:
    """Views <bfloat16>[...] as <uint16>[...].

    On a CPU, XLA converts bfloat16 arrays to float32 in order to pad, slice or concatenate them,
    but copies integers directly. Handling the bits halves the time of VGG16's convolutions and
    their gradients.
    """
    return lax.bitcast_convert_type(numbers, jnp.uint16)


def from_bits(bits: jax.Array) -> jax.Array:
    """Views <uint16>[...] as <bfloat16>[...]; the inverse of `to_bits`."""
    return lax.bitcast_convert_type(bits, jnp.bfloat16)


def _einsum(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
