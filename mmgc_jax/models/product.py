"""Products of matrices whose factors are rounded to bfloat16, with sums in float32."""

import jax
import jax.numpy as jnp


def product(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """<float32>[..., in] times <float32>[in, out].

    Args:
      x: the rows.
      kernel: the matrix.
      dtype: `float32` or `bfloat16`, of the factors, in the gradients' products too.
    """
    return product_bfloat16(x, kernel) if dtype == "bfloat16" else x @ kernel


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
        _einsum("ni,no->io", _rows(x), _rows(gradient)),
    )


product_bfloat16.defvjp(_forward, _backward)


def _einsum(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
