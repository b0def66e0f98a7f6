"""Chooses kernel implementations: portable ones by default, or the fastest for a device.

Models and operations take the choice as an argument, so that a function can be exported from one
platform for another:

    fastest = kernels.auto()  # for this process
    model = VGG16(dtype="bfloat16", kernels=fastest)
    features = jax.jit(model.apply, compiler_options=fastest.compiler_options("bfloat16"))

    model = VGG16()  # plain XLA: runs on every platform, and can be exported for any of them
"""

import dataclasses
import pathlib
from collections.abc import Collection

import jax
import jax.numpy as jnp

from mmgc_jax.ops import conv3x3_onednn

# Flags in /proc/cpuinfo of CPUs that multiply bfloat16 matrices (AMX) or vectors (AVX-512).
_AMX = "amx_bf16"
_BFLOAT16 = (_AMX, "avx512_bf16")


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The implementation of each operation that has more than one. The defaults are plain XLA.

    All implementations of an operation match the same reference up to rounding. An operation falls
    back to XLA for shapes that its implementation does not support or handles slowly.

    Attributes:
      convolution: implementation of 3 x 3 convolutions of float32 images, `xla` or `winograd`. XLA
        stays far below a CPU's peak speed; Winograd needs a quarter of the multiplications, but
        runs one group of images after the other and so cannot be sharded over several devices.
      convolution_bfloat16: implementation of 3 x 3 convolutions of bfloat16 images: `xla`,
        `winograd`, `amx` for CPUs with AMX, or `onednn` for CPUs that multiply bfloat16 numbers. On
        a CPU the first two compute in float32 anyway.
      inference_bfloat16: the same for layers that are not trained, and for prediction with a
        finished experiment; None for `convolution_bfloat16`. It differs on CPUs with AMX: there
        `onednn` computes outputs 2.2 to 2.5 times as fast as `amx`, but its gradients were not
        timed.
      max_pool: implementation of 2 x 2 max pooling: `reduce_window`, XLA's operation, or `reshape`,
        which has a custom gradient. On a GPU, XLA computes the gradient of `reduce_window` by a
        scatter, which makes a VGG16 training step a quarter longer (128 posters of 256 x 160
        pixels, bfloat16, H100). On a TPU `reduce_window` is better, because the memory layout
        does not suit axes of length two.
      pixels_per_group: `map_images` splits a batch into groups of images with at most this many
        pixels, so that intermediate results stay in a CPU's cache. None: the whole batch at once.
        Groups run one after the other and so cannot be sharded over several devices. Not used
        with `onednn`, which is faster for the whole batch.
      transpose_first: whether to transpose the left factor of `x.T @ y` before a bfloat16 matmul
        instead of inside it. On a CPU a matmul that transposes takes several times as long.
        The transposition runs as a loop over two halves, which cannot be sharded over several
        devices.
      scan_unroll: unroll factor of the LSTM's scan. On a GPU every iteration has launch overhead:
        a factor of 1 took 35 ms, 8 took 21 ms, and 32 took 19 ms but twice as long to compile (8
        batches of 64 plots of 200 words, state of 128, H100). On a CPU, unrolling did not help.
      reverse_scan: whether an LSTM that reads backwards scans from the last step to the first. If
        False, its inputs and states are reversed, for converters that know forward scans alone.
    """

    convolution: str = "xla"
    convolution_bfloat16: str = "xla"
    inference_bfloat16: str | None = None
    max_pool: str = "reduce_window"
    pixels_per_group: int | None = None
    transpose_first: bool = False
    scan_unroll: int = 1
    reverse_scan: bool = True

    def convolution_for(self, dtype: str) -> str:
        """Returns the implementation of convolutions for images of this dtype."""
        is_bfloat16 = jnp.dtype(dtype) == jnp.bfloat16
        return self.convolution_bfloat16 if is_bfloat16 else self.convolution

    def for_inference(self) -> "Kernels":
        """Returns these kernels with `inference_bfloat16`, for functions without gradients."""
        return dataclasses.replace(
            self, convolution_bfloat16=self.inference_bfloat16 or self.convolution_bfloat16
        )

    def pixels_per_group_for(self, dtype: str) -> int | None:
        """Returns `pixels_per_group` for images of this dtype."""
        return None if self.convolution_for(dtype) == "onednn" else self.pixels_per_group

    def compiler_options(self, dtype: str) -> dict[str, bool] | None:
        """Returns the options of `jax.jit` for functions that convolve images of this dtype.

        Without them, `onednn` is as slow as `xla`. A function that was jitted with options cannot
        be called within another one.
        """
        is_onednn = self.convolution_for(dtype) == "onednn"
        return conv3x3_onednn.COMPILER_OPTIONS if is_onednn else None


def kernels_for(
    platform: str, num_devices: int, cpu_features: Collection[str], has_onednn: bool = False
) -> Kernels:
    """Returns the kernels that were measured to be fastest on a platform.

    Args:
      platform: `cpu`, `gpu` or `tpu`, the names of `jax.default_backend`; also `cuda` and `rocm`,
        the names of `jax.export`. Any other platform gets kernels that run everywhere.
      num_devices: number of devices that share the computation, over all processes.
      cpu_features: the CPU's flags in Linux's /proc/cpuinfo; only used for the platform `cpu`.
      has_onednn: whether XLA has oneDNN's convolution of bfloat16 images.
    """
    if platform == "tpu":
        return Kernels(max_pool="reduce_window")
    if platform in ("gpu", "cuda", "rocm"):
        return Kernels(max_pool="reshape", scan_unroll=8)
    if platform == "cpu" and num_devices == 1:
        inference = "onednn" if has_onednn else "amx" if _AMX in cpu_features else "winograd"
        return Kernels(
            convolution="winograd",
            convolution_bfloat16="amx" if _AMX in cpu_features else inference,
            inference_bfloat16=inference,
            max_pool="reshape",
            pixels_per_group=2048,
            transpose_first=True,
        )
    return Kernels(max_pool="reshape")


def auto() -> Kernels:
    """Returns the fastest kernels for the devices and the CPU of this process."""
    platform, num_devices, features = jax.default_backend(), jax.device_count(), _cpu_features()
    can_use = platform == "cpu" and num_devices == 1 and not features.isdisjoint(_BFLOAT16)
    has_onednn = can_use and conv3x3_onednn.is_available()
    return kernels_for(platform, num_devices, features, has_onednn)


def dtype_for(platform: str, cpu_features: Collection[str]) -> str:
    """Returns the dtype in which a platform multiplies matrices fastest.

    Args:
      platform: see `kernels_for`.
      cpu_features: see `kernels_for`.

    Returns:
      `bfloat16` for a GPU, a TPU and a CPU that multiplies bfloat16 numbers, otherwise `float32`.
    """
    is_fast = platform in ("gpu", "cuda", "rocm", "tpu")
    is_fast |= platform == "cpu" and not set(_BFLOAT16).isdisjoint(cpu_features)
    return "bfloat16" if is_fast else "float32"


def auto_dtype() -> str:
    """Returns the fastest dtype for the devices and the CPU of this process."""
    return dtype_for(jax.default_backend(), _cpu_features())


def _cpu_features() -> frozenset[str]:
    """Reads the CPU's flags from /proc/cpuinfo; empty on systems without that file."""
    description = pathlib.Path("/proc/cpuinfo")
    return frozenset(description.read_text().split()) if description.exists() else frozenset()
