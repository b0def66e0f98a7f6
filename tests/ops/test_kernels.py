"""Tests the choice of kernels for each platform and for the current process."""

import dataclasses

import jax
import pytest

from mmgc_jax.ops import conv3x3_onednn, kernels
from mmgc_jax.ops.kernels import Kernels, kernels_for

SINGLE_CPU = Kernels(
    convolution="winograd",
    convolution_bfloat16="winograd",
    inference_bfloat16="winograd",
    max_pool="reshape",
    pixels_per_group=2048,
    transpose_first=True,
)
SINGLE_CPU_WITH_AMX = dataclasses.replace(
    SINGLE_CPU, convolution_bfloat16="amx", inference_bfloat16="amx"
)
AMX, AVX512 = ("fpu", "amx_bf16"), ("fpu", "avx512_bf16")


@pytest.mark.parametrize(
    ("platform", "num_devices", "cpu_features", "expected"),
    [
        ("cpu", 1, AMX, SINGLE_CPU_WITH_AMX),
        ("cpu", 1, AVX512, SINGLE_CPU),
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
    ("num_devices", "cpu_features", "training", "inference"),
    [
        (1, AVX512, "onednn", "onednn"),
        (1, AMX, "amx", "onednn"),
        (8, AVX512, "xla", "xla"),
    ],
)
def test_onednn_where_xla_has_it(num_devices, cpu_features, training, inference):
    chosen = kernels_for("cpu", num_devices, cpu_features, has_onednn=True)
    assert chosen.convolution_for("bfloat16") == training
    assert chosen.for_inference().convolution_for("bfloat16") == inference
    assert chosen.for_inference().convolution_for("float32") == chosen.convolution
    for kernel, name in ((chosen, training), (chosen.for_inference(), inference)):
        is_onednn = name == "onednn"
        options = conv3x3_onednn.COMPILER_OPTIONS if is_onednn else None
        assert kernel.compiler_options("bfloat16") == options
        assert kernel.pixels_per_group_for("bfloat16") == (
            None if is_onednn else chosen.pixels_per_group
        )
        assert kernel.compiler_options("float32") is None
        assert kernel.pixels_per_group_for("float32") == chosen.pixels_per_group


@pytest.mark.parametrize("features", [AMX, AVX512, ("fpu",)])
@pytest.mark.parametrize("works", [True, False])
def test_onednn_is_chosen_after_it_was_tried(monkeypatch, features, works):
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        pytest.skip("oneDNN is for a single CPU device")
    monkeypatch.setattr(kernels, "_cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(conv3x3_onednn, "is_available", lambda: works)
    chosen = kernels.auto().for_inference().convolution_for("bfloat16")
    assert (chosen == "onednn") == (works and features != ("fpu",))


@pytest.mark.parametrize(
    ("platform", "cpu_features", "expected"),
    [
        ("cpu", AMX, "bfloat16"),
        ("cpu", AVX512, "bfloat16"),
        ("cpu", ("fpu", "avx512f"), "float32"),
        ("gpu", (), "bfloat16"),
        ("cuda", (), "bfloat16"),
        ("tpu", (), "bfloat16"),
        ("unknown", AMX, "float32"),
    ],
)
def test_the_fastest_dtype_of_each_platform(platform, cpu_features, expected):
    assert kernels.dtype_for(platform, cpu_features) == expected


def test_defaults_are_plain_xla():
    assert Kernels() == Kernels("xla", "xla", None, "reduce_window", None, False, 1)
    assert Kernels().for_inference() == Kernels()
    assert Kernels(convolution_bfloat16="amx").for_inference().convolution_bfloat16 == "amx"


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "winograd"), ("bfloat16", "amx"), ("float16", "winograd")]
)
def test_convolutions_are_chosen_by_dtype(dtype, expected):
    assert SINGLE_CPU_WITH_AMX.convolution_for(dtype) == expected


def test_auto_returns_the_kernels_for_this_process():
    platform, features = jax.default_backend(), kernels._cpu_features()
    possible = [
        kernels_for(platform, jax.device_count(), features, has_onednn)
        for has_onednn in (False, True)
    ]
    assert kernels.auto() in possible
    assert hash(kernels.auto()) == hash(kernels.auto())  # Flax modules hash their attributes.
    assert kernels.auto_dtype() == kernels.dtype_for(platform, features)
