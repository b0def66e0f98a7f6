import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mmgc_jax.models import convolution

# Of several strips, of one, of a height without divisors, and narrower than its kernel.
SHAPES = [(2, 48, 160, 16, 128), (3, 8, 6, 16, 24), (1, 13, 7, 32, 16), (2, 4, 1, 16, 16)]


def xla(images, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=dimensions, precision="highest"
    )


def arrays(shape, dtype):
    batch, height, width, channels, out = shape
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(3, 3, channels, out))
    gradients = rng.normal(size=(batch, height, width, out))
    return [jnp.asarray(array, dtype) for array in (images, kernel, gradients)]


def difference(result, expected):
    """The largest, beside the largest number expected."""
    result, expected = np.float32(result), np.float32(expected)
    return np.abs(result - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-8)])
def test_products_are_the_convolution_and_its_gradients(shape, dtype, tolerance):
    images, kernel, gradients = arrays(shape, dtype)
    result, back = jax.vjp(jax.jit(convolution.by_products), images, kernel)
    exact = [array.astype(jnp.float32) for array in (images, kernel, gradients)]
    expected, expected_back = jax.vjp(xla, *exact[:2])

    assert result.dtype == images.dtype
    assert difference(result, expected) < tolerance
    for ours, theirs in zip(back(gradients), expected_back(exact[2])):
        assert ours.dtype == images.dtype
        assert difference(ours, theirs) < tolerance


def test_strips_are_of_whole_rows_and_fit():
    assert convolution._rows_of_strip((1, 256, 160, 64), 64) == 64
    assert convolution._rows_of_strip((1, 128, 80, 64), 128) == 64
    assert convolution._rows_of_strip((1, 16, 10, 512), 512) == 16
    assert convolution._rows_of_strip((1, 1009, 4096, 512), 512) == 1


@pytest.mark.parametrize(
    ("dtype", "channels", "flags", "chosen"),
    [
        ("bfloat16", 16, "fpu avx512_bf16", True),
        ("bfloat16", 16, "fpu amx_bf16", True),
        ("bfloat16", 16, "fpu avx512f", False),
        ("bfloat16", 3, "fpu avx512_bf16", False),
        ("float32", 16, "fpu avx512_bf16", False),
    ],
)
def test_products_are_chosen_where_they_pay(monkeypatch, dtype, channels, flags, chosen):
    called = []
    monkeypatch.setattr(convolution, "by_products", lambda *_: called.append(True))
    monkeypatch.setattr(convolution, "_cpu_flags", lambda: set(flags.split()))
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    images, kernel, _ = arrays((1, 4, 4, channels, 16), dtype)
    convolution.convolve(images, kernel)
    assert bool(called) == chosen


def test_several_devices_share_the_convolution(monkeypatch):
    called = []
    monkeypatch.setattr(convolution, "by_products", lambda *_: called.append(True))
    monkeypatch.setattr(convolution, "_cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    images, kernel, _ = arrays((1, 4, 4, 16, 16), "bfloat16")
    result = convolution.convolve(images, kernel)
    assert not called
    assert result.dtype == jnp.bfloat16


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_map_images_changes_nothing(batch):
    images = np.random.default_rng(0).normal(size=(batch, 4, 3)).astype(np.float32)
    result = convolution.map_images(lambda a: jnp.tanh(a).sum(axis=(1, 2)), images)
    np.testing.assert_allclose(result, np.tanh(images).sum(axis=(1, 2)), rtol=1e-5)
