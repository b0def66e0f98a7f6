"""Products of whole numbers, which bfloat16 holds and whose sums float32 holds, are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.ops.matmul import from_bits, product, product_over_rows, to_bits


def whole(*shape, seed=0):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [(6, 5), (3, 5)])
def test_products_and_their_gradients(rows, dtype):
    x, kernel, gradient = whole(*rows, 4), whole(4, 7, seed=1), whole(*rows, 7, seed=2)
    result, backward = jax.vjp(jax.jit(lambda *given: product(*given, dtype)), x, kernel)
    of_x, of_kernel = backward(jnp.asarray(gradient))
    np.testing.assert_array_equal(result, x @ kernel)
    np.testing.assert_array_equal(of_x, gradient @ kernel.T)
    np.testing.assert_array_equal(of_kernel, np.einsum("abi,abo->io", x, gradient))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("rows", [6, 7])
def test_products_over_rows(monkeypatch, rows, devices, dtype):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    x, y = whole(rows, 3), whole(rows, 5, seed=1)
    np.testing.assert_array_equal(product_over_rows(x, y, dtype), x.T @ y)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_factors_are_rounded_to_the_dtype(dtype):
    x, y = np.float32([[1 + 2**-9], [0]]), np.float32([[1], [0]])
    expected = 1 + 2**-9 if dtype == "float32" else 1
    for result in (product(x.T, y, dtype), product_over_rows(x, y, dtype)):
        np.testing.assert_array_equal(result, [[expected]])


def test_bits_are_those_of_the_numbers():
    numbers = jnp.asarray([0.0, 1.0, -2.0], jnp.bfloat16)
    np.testing.assert_array_equal(to_bits(numbers), [0, 0x3F80, 0xC000])
    np.testing.assert_array_equal(from_bits(to_bits(numbers)), numbers)
