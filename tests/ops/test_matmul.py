"""Tests matmuls of small integers, which bfloat16 factors and float32 sums represent exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.ops.matmul import dot, from_bits, matmul, matmul_transposed, to_bits


def integers(*shape, seed=0):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
TRANSPOSE_FIRST = pytest.mark.parametrize("transpose_first", [False, True])


@DTYPES
@TRANSPOSE_FIRST
@pytest.mark.parametrize("rows", [(6, 5), (3, 5)])
def test_matmuls_and_their_gradients(rows, transpose_first, dtype):
    x, kernel = integers(*rows, 4), integers(4, 7, seed=1)
    gradient = integers(*rows, 7, seed=2)
    result, backward = jax.vjp(
        jax.jit(lambda x, kernel: matmul(x, kernel, dtype, transpose_first)), x, kernel
    )
    x_gradient, kernel_gradient = backward(jnp.asarray(gradient))
    np.testing.assert_array_equal(result, x @ kernel)
    np.testing.assert_array_equal(x_gradient, gradient @ kernel.T)
    np.testing.assert_array_equal(kernel_gradient, np.einsum("abi,abo->io", x, gradient))


@DTYPES
@TRANSPOSE_FIRST
@pytest.mark.parametrize("rows", [6, 7])
def test_transposed_matmuls(rows, transpose_first, dtype):
    x, y = integers(rows, 3), integers(rows, 5, seed=1)
    np.testing.assert_array_equal(matmul_transposed(x, y, dtype, transpose_first), x.T @ y)


@pytest.mark.parametrize(
    ("dtype", "rows", "transpose_first", "loops"),
    [
        ("bfloat16", 6, True, 1),
        ("bfloat16", 7, True, 0),
        ("bfloat16", 6, False, 0),
        ("float32", 6, True, 0),
    ],
)
def test_a_loop_keeps_the_transposition_apart(dtype, rows, transpose_first, loops):
    jaxpr = jax.make_jaxpr(lambda x: matmul_transposed(x, x, dtype, transpose_first))(
        integers(rows, 3)
    )
    assert str(jaxpr).count("scan[") == loops


@DTYPES
@TRANSPOSE_FIRST
def test_factors_are_rounded_to_the_dtype(dtype, transpose_first):
    x, y = np.float32([[1 + 2**-9], [0]]), np.float32([[1], [0]])
    expected = 1 + 2**-9 if dtype == "float32" else 1
    transposed = matmul_transposed(x, y, dtype, transpose_first)
    for result in (matmul(x.T, y, dtype), transposed):
        np.testing.assert_array_equal(result, [[expected]])


def test_sums_of_bfloat16_matmuls_are_float32():
    """The sum, 513, needs more bits than bfloat16 has."""
    left, right = jnp.ones((1, 513), jnp.bfloat16), jnp.ones((513, 1), jnp.bfloat16)
    result = dot(left, right)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, [[513]])


def test_bits_follow_the_bfloat16_format():
    numbers = jnp.asarray([0.0, 1.0, -2.0], jnp.bfloat16)
    np.testing.assert_array_equal(to_bits(numbers), [0, 0x3F80, 0xC000])
    np.testing.assert_array_equal(from_bits(to_bits(numbers)), numbers)
