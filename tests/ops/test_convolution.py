import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mmgc_jax.ops import conv3x3_amx, convolution, winograd

# Of several strips, of three images in a strip, of a height without divisors, narrower than its
# kernel; rows end with one zero, with two and with none.
SHAPES = [(2, 48, 160, 16, 128), (3, 8, 6, 16, 24), (1, 13, 8, 32, 16), (2, 4, 1, 16, 16)]


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
@pytest.mark.parametrize(
    ("function", "dtype", "tolerance"),
    [
        (conv3x3_amx.convolve, "bfloat16", 2**-8),
        (winograd.convolve, "bfloat16", 2**-8),
        (winograd.convolve, "float32", 1e-5),
    ],
)
def test_both_are_the_convolution_and_its_gradients(monkeypatch, function, shape, dtype, tolerance):
    monkeypatch.setattr(winograd, "_FEWEST_CHANNELS", 0)
    monkeypatch.setattr(winograd, "_AT_ONCE", 0)  # one image after the other
    images, kernel, gradients = arrays(shape, dtype)
    result, back = jax.vjp(jax.jit(function), images, kernel)
    exact = [array.astype(jnp.float32) for array in (images, kernel, gradients)]
    expected, expected_back = jax.vjp(xla, *exact[:2])

    assert result.dtype == images.dtype
    assert difference(result, expected) < tolerance
    for ours, theirs in zip(back(gradients), expected_back(exact[2])):
        assert ours.dtype == images.dtype
        assert difference(ours, theirs) < tolerance


@pytest.mark.parametrize(
    ("shape", "out", "count", "rows"),
    [
        ((1, 256, 160, 64), 64, 1, 64),
        ((8, 128, 80, 64), 128, 1, 64),
        ((1, 16, 10, 512), 512, 1, 16),
        ((16, 16, 10, 512), 512, 8, 16),
        ((6, 16, 10, 512), 512, 6, 16),
        ((1, 1009, 4096, 512), 512, 1, 1),
    ],
)
def test_strips_are_of_whole_rows_or_images_and_fit(shape, out, count, rows):
    assert conv3x3_amx._strip_size(shape, out, 655_360) == (count, rows)


def test_images_taken_together_give_the_same(monkeypatch):
    images, kernel, gradients = arrays((6, 9, 5, 96, 96), "float32")
    results = []
    for of_images in (1, 2, 6):
        monkeypatch.setattr(winograd, "_AT_ONCE", of_images * 36 * 4 * 3 * 2 * 192)
        assert winograd._tiling(images.shape, 96) == (3, 2, of_images)
        result, back = jax.vjp(lambda *given: winograd.convolve(*given), images, kernel)
        results.append((result, *back(gradients)))
    for other in results[1:]:
        for one, another in zip(results[0], other):
            assert difference(another, one) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "shape", "flags", "devices", "chosen"),
    [
        ("bfloat16", (9, 8, 64), "fpu amx_bf16", 1, "strips"),
        ("bfloat16", (9, 8, 64), "fpu avx512_bf16", 1, "winograd"),
        ("float32", (9, 8, 64), "fpu amx_bf16", 1, "winograd"),
        ("float32", (9, 8, 3), "fpu amx_bf16", 1, "xla"),
        ("bfloat16", (9, 8, 3), "fpu amx_bf16", 1, "xla"),
        ("float32", (9, 7, 64), "fpu", 1, "xla"),
        ("bfloat16", (9, 8, 64), "fpu amx_bf16", 8, "xla"),
        ("float32", (9, 8, 64), "fpu amx_bf16", 8, "xla"),
    ],
)
def test_what_is_chosen(monkeypatch, dtype, shape, flags, devices, chosen):
    called = []
    for module, name in ((strips, "strips"), (winograd, "winograd")):
        monkeypatch.setattr(module, "convolve", lambda *_, name=name: called.append(name))
    monkeypatch.setattr(convolution, "_cpu_flags", lambda: set(flags.split()))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    images, kernel, _ = arrays((1, *shape, 64), dtype)
    result = convolution.convolve(images, kernel)
    assert called == ([] if chosen == "xla" else [chosen])
    if chosen == "xla":
        assert result.dtype == images.dtype


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_max_pool_is_that_of_flax(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    images = rng.permutation(2 * 7 * 9 * 3).astype(np.float32).reshape(2, 7, 9, 3)
    gradients = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)

    def run(pool):
        pooled, backward = jax.vjp(pool, images)
        return pooled, *backward(gradients)

    expected = run(lambda images: nn.max_pool(images, (2, 2), strides=(2, 2)))
    jax.tree.map(np.testing.assert_array_equal, run(convolution.max_pool), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_max_pool_divides_the_gradient_between_the_largest(dtype):
    windows = [[[3, 3], [3, 3]], [[5, 1], [5, 0]], [[2, 7], [1, 0]]]
    images = jnp.asarray(windows, dtype)[..., None]
    _, backward = jax.vjp(convolution.max_pool, images)
    (gradients,) = backward(jnp.full((3, 1, 1, 1), 8, dtype))
    assert gradients.dtype == images.dtype
    expected = [[[2, 2], [2, 2]], [[4, 0], [4, 0]], [[0, 8], [0, 0]]]
    np.testing.assert_array_equal(gradients[..., 0].astype(np.float32), expected)


@pytest.mark.parametrize(("batch", "side"), [(1, 64), (6, 32), (5, 16), (6, 24)])
def test_map_images_changes_nothing(batch, side):
    images = np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)
    result = convolution.map_images(lambda a: jnp.tanh(a).max(axis=(1, 2)), images)
    np.testing.assert_allclose(result, np.tanh(images).max(axis=(1, 2)), rtol=1e-5)
