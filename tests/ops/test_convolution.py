"""Tests the 3 x 3 convolutions and their gradients against XLA in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.ops import conv3x3_amx, conv3x3_onednn, winograd
from mmgc_jax.ops.conv3x3 import conv3x3_xla
from mmgc_jax.ops.convolution import IMPLEMENTATIONS, convolve

# Several chunks; three images in a chunk; a prime height; images narrower than the kernel. Between
# them, rows end with no padding, one zero and two zeros.
SHAPES = [(2, 48, 160, 16, 128), (3, 8, 6, 16, 24), (1, 13, 8, 32, 16), (2, 4, 1, 16, 16)]


def arrays(shape, dtype):
    """Makes random images, a kernel and an output gradient."""
    batch, height, width, channels, out = shape
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(3, 3, channels, out))
    gradients = rng.normal(size=(batch, height, width, out))
    return [jnp.asarray(array, dtype) for array in (images, kernel, gradients)]


def relative_difference(result, expected):
    """Returns the largest absolute difference divided by the largest expected value."""
    result, expected = np.float32(result), np.float32(expected)
    return np.abs(result - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "shape", [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:])]
)
@pytest.mark.parametrize(
    ("function", "dtype", "tolerance"),
    [
        (conv3x3_amx.conv3x3_amx, "bfloat16", 2**-8),
        pytest.param(winograd.conv3x3_winograd, "bfloat16", 2**-8, marks=pytest.mark.slow),
        # Winograd's sums lose a few bits. Of these arrays it is 1.3e-5 away from float64 on a CPU
        # with AVX2, and less with AVX-512, which sums in another order.
        (winograd.conv3x3_winograd, "float32", 2**-16),
    ],
)
def test_kernels_equal_the_convolution_and_its_gradients(
    monkeypatch, function, shape, dtype, tolerance
):
    monkeypatch.setattr(winograd, "_MIN_CHANNELS", 0)
    monkeypatch.setattr(winograd, "_MIN_TILES", 0)
    monkeypatch.setattr(winograd, "_GROUP_BYTES", 0)  # one image after the other
    images, kernel, gradients = arrays(shape, dtype)
    result, back = jax.vjp(jax.jit(function), images, kernel)
    exact = [array.astype(jnp.float32) for array in (images, kernel, gradients)]
    with jax.default_matmul_precision("highest"):
        expected, expected_back = jax.vjp(conv3x3_xla, *exact[:2])
        expected_gradients = expected_back(exact[2])

    assert result.dtype == images.dtype
    assert relative_difference(result, expected) < tolerance
    for found, reference in zip(back(gradients), expected_gradients):
        assert found.dtype == images.dtype
        assert relative_difference(found, reference) < tolerance


# VGG16's first layer, in colour and in grey; small and uneven images.
@pytest.mark.parametrize(
    "shape",
    [
        (2, 16, 10, 64, 64),
        *(
            pytest.param(shape, marks=pytest.mark.slow)
            for shape in [
                (2, 32, 20, 3, 64), (2, 32, 20, 1, 64), (1, 16, 10, 512, 512), (3, 7, 5, 64, 64),
                (5, 33, 21, 16, 48), (2, 4, 4, 8, 8), (1, 1, 1, 4, 4),
            ]
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("with_options", [False, True])
def test_onednn_equals_the_convolution_and_its_gradients(shape, with_options):
    if with_options and not conv3x3_onednn.is_available():
        pytest.skip("this CPU, or this version of XLA, has no oneDNN convolution in bfloat16")

    def outputs(function):
        def of(images, kernel, gradients):
            result, back = jax.vjp(function, images, kernel)
            return result, *back(gradients)

        return of

    options = conv3x3_onednn.COMPILER_OPTIONS if with_options else None
    onednn = functools.partial(convolve, implementation="onednn")
    given = arrays(shape, "bfloat16")
    found = jax.jit(outputs(onednn), compiler_options=options)(*given)
    with jax.default_matmul_precision("highest"):
        expected = outputs(conv3x3_xla)(*(array.astype(jnp.float32) for array in given))
    for array, reference in zip(found, expected, strict=True):
        assert array.dtype == jnp.bfloat16
        assert relative_difference(array, reference) < 2**-7


@pytest.mark.parametrize(
    ("options", "wrong", "available"),
    [
        ({"xla_cpu_no_such_option": True}, 0, False),
        (None, 0, False),  # programs without a call of oneDNN
        (None, None, True),  # as if this were one
        (None, 1, False),
    ],
)
def test_onednn_is_tried_before_it_is_used(monkeypatch, options, wrong, available):
    monkeypatch.setattr(conv3x3_onednn, "COMPILER_OPTIONS", options)
    if wrong != 0:
        monkeypatch.setattr(conv3x3_onednn, "_CUSTOM_CALL", "")  # found in all programs
    if wrong:
        original = conv3x3_onednn.conv3x3_xla
        monkeypatch.setattr(conv3x3_onednn, "conv3x3_xla", lambda *a: original(*a) + wrong)
    assert conv3x3_onednn.is_available.__wrapped__() == available


def test_the_reference_by_hand():
    """With a kernel of ones, each output is the sum of a 3 x 3 window."""
    images = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    result = conv3x3_xla(images, np.ones((3, 3, 1, 1), np.float32))
    np.testing.assert_array_equal(result[0, ..., 0], [[8, 15, 12], [8, 15, 12]])


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
def test_chunks_have_whole_rows_or_images_and_fit_the_cache(shape, out, count, rows):
    assert conv3x3_amx._chunk_shape(shape, out, 655_360) == (count, rows)


@pytest.mark.slow
def test_winograd_gives_the_same_for_every_group_size(monkeypatch):
    images, kernel, gradients = arrays((6, 9, 5, 96, 96), "float32")
    results = []
    for group in (1, 2, 6):
        monkeypatch.setattr(winograd, "_GROUP_BYTES", group * 36 * 4 * 3 * 2 * 192)
        assert winograd._tiling(images.shape, 96) == (3, 2, group)
        result, back = jax.vjp(lambda *args: winograd.conv3x3_winograd(*args), images, kernel)
        results.append((result, *back(gradients)))
    for other in results[1:]:
        for first, second in zip(results[0], other):
            assert relative_difference(second, first) < 1e-5


@pytest.mark.parametrize(
    ("implementation", "dtype", "shape", "chosen"),
    [
        ("amx", "bfloat16", (9, 8, 64), "amx"),
        ("winograd", "bfloat16", (9, 40, 64), "winograd"),
        ("winograd", "float32", (9, 40, 64), "winograd"),
        ("winograd", "float32", (13, 16, 64), "winograd"),
        ("xla", "float32", (9, 8, 64), "xla"),
        ("xla", "bfloat16", (9, 8, 64), "xla"),
        # Few channels and small images.
        ("winograd", "float32", (9, 40, 3), "xla"),
        ("amx", "bfloat16", (9, 8, 3), "xla"),
        ("winograd", "float32", (99, 7, 64), "xla"),
    ],
)
def test_the_implementation_and_its_fallback(implementation, dtype, shape, chosen):
    images, kernel, _ = arrays((1, *shape, 128), dtype)
    found = jax.make_jaxpr(functools.partial(convolve, implementation=implementation))(
        images, kernel
    )
    computations = {
        name: str(jax.make_jaxpr(lambda *args, f=function: f(*args))(images, kernel))
        for name, function in IMPLEMENTATIONS.items()
        if name != "amx" or dtype == "bfloat16"
    }
    assert len(set(computations.values())) == len(computations)
    assert str(found) == computations[chosen]


@pytest.mark.parametrize(
    ("shape", "out", "is_direct"),
    [
        ((1, 16, 10, 128), 128, True),  # 4 x 3 tiles
        ((1, 13, 16, 128), 128, False),  # 4 x 4 tiles
        ((2, 16, 10, 128), 128, False),
        ((2, 16, 10, 64), 64, True),  # few channels
    ],
)
def test_winograd_leaves_few_tiles_and_few_channels_to_xla(shape, out, is_direct):
    images, kernel, _ = arrays((*shape, out), "float32")
    jaxpr = str(jax.make_jaxpr(lambda *args: winograd.conv3x3_winograd(*args))(images, kernel))
    assert ("conv_general_dilated" in jaxpr) == is_direct


def test_unknown_implementations_and_unsupported_dtypes_are_refused():
    images, kernel, _ = arrays((1, 9, 8, 64, 64), "float32")
    with pytest.raises(ValueError, match="'fast', not one of xla, winograd, amx, onednn"):
        convolve(images, kernel, "fast")
    with pytest.raises(ValueError, match="amx needs bfloat16, but the images are float32"):
        convolve(images, kernel, "amx")
