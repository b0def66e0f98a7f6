"""Tests the choice of kernels for each platform and for the current process."""

import dataclasses

import jax
import pytest

from mmgc_jax.ops import kernels
from mmgc_jax.ops.kernels import Kernels, kernels_for

SINGLE_CPU = Kernels(
    convolution="winograd",
    convolution_bfloat16="winograd",
    max_pool="reshape",
    pixels_per_group=2048,
    transpose_first=True,
)
SINGLE_CPU_WITH_AMX = dataclasses.replace(SINGLE_CPU, convolution_bfloat16="amx")
AMX = ("fpu", "amx_bf16")


@pytest.mark.parametrize(
    ("platform", "num_devices", "cpu_features", "expected"),
    [
        ("cpu", 1, AMX, SINGLE_CPU_WITH_AMX),
        ("cpu", 1, ("fpu", "avx512_bf16"), SINGLE_CPU),
        ("cpu", 1, (), SINGLE_CPU),
        ("cpu", 8, AMX, Kernels(max_pool="reshape")),
        ("gpu", 1, AMX, Kernels(max_pool="reshape", scan_unroll=8)),
        ("gpu", 8, (), Kernels(max_pool="reshape", scan_unroll=8)),
        ("cuda", 1, (), Kernels(max_pool="reshape", scan_unroll=8)),
        ("tpu", 1, AMX, Kernels()),
        ("tpu", 8, (), Kernels()),
        ("unknown", 1, AMX, Kernels(max_pool="reshape")),
    ],
)
def test_kernels_for_each_platform(platform, num_devices, cpu_features, expected):
    assert kernels_for(platform, num_devices, cpu_features) == expected


@pytest.mark.parametrize(
    ("platform", "cpu_features", "expected"),
    [
        ("cpu", AMX, "bfloat16"),
        ("cpu", ("fpu", "avx512_bf16"), "float32"),
        ("gpu", (), "bfloat16"),
        ("cuda", (), "bfloat16"),
        ("tpu", (), "bfloat16"),
        ("unknown", AMX, "float32"),
    ],
)
def test_the_fastest_dtype_of_each_platform(platform, cpu_features, expected):
    assert kernels.dtype_for(platform, cpu_features) == expected


def test_defaults_are_plain_xla():
    assert Kernels() == Kernels("xla", "xla", "reduce_window", None, False, 1)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "winograd"), ("bfloat16", "amx"), ("float16", "winograd")]
)
def test_convolutions_are_chosen_by_dtype(dtype, expected):
    assert SINGLE_CPU_WITH_AMX.convolution_for(dtype) == expected


def test_auto_returns_the_kernels_for_this_process():
    expected = kernels_for(jax.default_backend(), jax.device_count(), kernels._cpu_features())
    assert kernels.auto() == expected
    assert hash(kernels.auto()) == hash(expected)  # Flax modules hash their attributes.
    dtype = kernels.dtype_for(jax.default_backend(), kernels._cpu_features())
    assert kernels.auto_dtype() == dtype
