"""Products of matrices whose factors are rounded to bfloat16, with sums in float32."""

import jax
import jax.numpy as jnp
from jax import lax


def product(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """<float32>[..., in] times <float32>[in, out].

    Args:
      x: the rows.
      kernel: the matrix.
      dtype: `float32` or `bfloat16`, of the factors, in the gradients' products too.
    """
    return product_bfloat16(x, kernel) if dtype == "bfloat16" else x @ kernel


def product_over_rows(x: jax.Array, y: jax.Array, dtype: str) -> jax.Array:
    """<float32>[rows, in] and <float32>[rows, out] to <float32>[in, out]: x transposed times y.

    Args:
      x: the left side, before it is transposed.
      y: the right side.
      dtype: as of `product`.
    """
    return _over_rows(x, y) if dtype == "bfloat16" else x.T @ y


@jax.custom_vjp
def product_bfloat16(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`product` in bfloat16.

    Its gradient is written out, since the one that JAX derives multiplies bfloat16 by float32,
    which on a CPU is no faster than float32 alone.
    """
    return _einsum("...i,io->...o", x, kernel)


def _forward(x, kernel):
    return product_bfloat16(x, kernel), (x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))


def _backward(factors, gradient):
    x, kernel = factors
    gradient = gradient.astype(jnp.bfloat16)
    return (
        _einsum("...o,io->...i", gradient, kernel),
        _over_rows(_rows(x), _rows(gradient)),
    )


product_bfloat16.defvjp(_forward, _backward)


def _over_rows(x: jax.Array, y: jax.Array) -> jax.Array:
    """Where a CPU turns x within the product, it takes several times as long as before it.

    XLA would put both together, were it not for the loop over two halves between them.
    """
    if not is_one_cpu() or len(x) % 2:
        return _einsum("ni,no->io", x, y)
    x, y = (to_bits(side.astype(jnp.bfloat16)).reshape(2, -1, side.shape[-1]) for side in (x, y))

    def add(total: jax.Array, half: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        turned, y = (from_bits(bits) for bits in half)
        return total + lax.dot(turned, y, preferred_element_type=jnp.float32), None

    total = jnp.zeros((x.shape[-1], y.shape[-1]))
    return lax.scan(add, total, (x.swapaxes(1, 2), y))[0]


def is_one_cpu() -> bool:
    """Whether a CPU computes all: what is done in turns cannot be shared out to several devices."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def to_bits(numbers: jax.Array) -> jax.Array:
    """<bfloat16>[...] as <uint16>[...].

    On a CPU XLA pads, cuts and joins bfloat16 numbers by way of float32, but integers as they are:
    VGG16's convolutions and their gradients take half the time with these.
    """
    return lax.bitcast_convert_type(numbers, jnp.uint16)


def from_bits(bits: jax.Array) -> jax.Array:
    """What `to_bits` was given."""
    return lax.bitcast_convert_type(bits, jnp.bfloat16)


def _einsum(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
