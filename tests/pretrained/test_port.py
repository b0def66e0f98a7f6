"""Tests the checks and conversions of arrays from files of weights."""

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest

from mmgc_jax.pretrained import port
from mmgc_jax.runtime.errors import InputError


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, use_bias=False, name="out")(nn.Dense(5, name="hidden")(x))


def test_parameter_shapes_are_known_without_computing():
    shapes = port.parameter_shapes(Network(), jax.ShapeDtypeStruct((1, 1 << 40), np.float32))
    assert shapes == {"hidden/kernel": (1 << 40, 5), "hidden/bias": (5,), "out/kernel": (5, 3)}


def read(array, shape=(2, 3), **arguments):
    return port.read_param("w.npz", port.Source("a", shape, **arguments), {"a": array}.get)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, ">f4"])
def test_any_kind_of_float_becomes_contiguous_float32(dtype):
    stored = np.arange(6).reshape(2, 3).astype(dtype)
    param = read(stored, to_param=np.transpose)
    assert param.dtype == np.dtype("float32") and param.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(param, [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 2), np.float32), "a has the shape (3, 2), not (2, 3)"),
        (np.ones((2, 3), np.int32), "a holds int32, not floats"),
        (np.ones((2, 3), np.complex64), "a holds complex64, not floats"),
        (np.ones((2, 3), bool), "a holds bool, not floats"),
        (np.full((2, 3), np.nan, ml_dtypes.bfloat16), "a holds values that are not finite"),
        (np.full((2, 3), -np.inf, np.float32), "a holds values that are not finite"),
        (np.full((2, 3), 1e39), "a holds values that are not finite in float32"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_invalid_arrays_are_refused(array, message):
    with pytest.raises(InputError) as caught:
        read(array)
    assert str(caught.value).startswith("w.npz: ") and message in str(caught.value)


@pytest.mark.parametrize(("shape", "dtype"), [((1 << 40,), np.float32), ((2, 3), object)])
def test_an_array_of_the_wrong_shape_or_dtype_is_never_read(shape, dtype):
    class Unread:
        def __init__(self):
            self.shape, self.dtype = shape, np.dtype(dtype)

        def __array__(self, *_, **__):
            raise AssertionError("it was read")

    with pytest.raises(InputError):
        read(Unread())


def test_errors_of_libraries_name_the_file():
    for error in (ValueError("odd"), KeyError("odd"), RuntimeError("odd")):
        with (
            pytest.raises(InputError, match=r"w\.npz cannot be read: .*odd") as caught,
            port.library_errors("w.npz"),
        ):
            raise error
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InputError("as it is"), MemoryError(), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, port.library_errors("w.npz"):
        raise error
    assert caught.value is error
