"""The choice of implementations: portable by default, or the fastest ones for a device.

Models and operations take the choice as an argument, so that a function can be exported from one
platform for another:

    model = VGG16(kernels=kernels.auto())  # the fastest ones for this process
    model = VGG16()  # plain XLA, which runs on every platform and can be exported for it
"""

import dataclasses
import pathlib
from collections.abc import Collection

import jax
import jax.numpy as jnp

# The flag in /proc/cpuinfo of CPUs with tile matrix multiplication of bfloat16 numbers.
_AMX = "amx_bf16"


@dataclasses.dataclass(frozen=True)
class Kernels:
    """One implementation for each operation that has several. The defaults are plain XLA.

    All implementations of an operation equal the same reference up to rounding. Where the shapes
    given do not suit an implementation, the operation falls back to XLA by itself.

    Attributes:
      convolution: 3 x 3 convolutions of float32 images: `xla` or `winograd`. XLA's own convolution
        is far from a CPU's peak; Winograd's takes a quarter of the multiplications. It computes
        one group of images after the other, which cannot be sharded over several devices.
      convolution_bfloat16: likewise of bfloat16 images: `xla`, `winograd`, or `amx`, for CPUs with
        AMX. On a CPU XLA's and Winograd's compute in float32 all the same; AMX multiplies bfloat16
        matrices many times faster than float32 ones.
      max_pool: 2 x 2 max pooling: `reduce_window`, XLA's operation, or `reshape`, with a gradient
        of its own. XLA scatters the gradient of `reduce_window` on a GPU: a training step of VGG16
        took a quarter longer with it (128 posters of 256 x 160 pixels, bfloat16, H100). On a TPU,
        whose memory layout does not suit axes of length two, `reduce_window` is better.
      pixels_per_group: `map_images` takes a batch in groups of images of at most this many pixels,
        so that intermediate results stay in a CPU's cache; None takes the batch as a whole. Groups
        run one after the other, which cannot be sharded over several devices.
      transpose_first: whether to transpose the left factor of `x.T @ y` before a bfloat16 matmul
        rather than within it. On a CPU the matmul takes several times as long if it transposes.
        The transposition is a loop over two halves, which cannot be sharded over several devices.
      scan_unroll: unroll factor of the LSTM's scan. On a GPU every iteration has launch overhead:
        a factor of 8 took 21 ms, 1 took 35, and 32 took 19 but twice as long to compile (8 batches
        of 64 plots of 200 words, state of 128, H100). On a CPU more than 1 did not help.
    """

    convolution: str = "xla"
    convolution_bfloat16: str = "xla"
    max_pool: str = "reduce_window"
    pixels_per_group: int | None = None
    transpose_first: bool = False
    scan_unroll: int = 1

    def convolution_for(self, dtype: str) -> str:
        """Returns the implementation of convolutions of images of this dtype."""
        is_bfloat16 = jnp.dtype(dtype) == jnp.bfloat16
        return self.convolution_bfloat16 if is_bfloat16 else self.convolution


def kernels_for(platform: str, num_devices: int, cpu_features: Collection[str]) -> Kernels:
    """Returns the fastest kernels for a platform, as measured.

    Args:
      platform: `cpu`, `gpu` or `tpu`, as `jax.default_backend` names them; also `cuda` and `rocm`,
        as `jax.export` does. Any other one gets kernels that run everywhere.
      num_devices: number of devices that share the computation, of all processes.
      cpu_features: flags of the CPU, as Linux lists them in /proc/cpuinfo. Looked at only if the
        platform is `cpu`.
    """
    if platform == "tpu":
        return Kernels(max_pool="reduce_window")
    if platform in ("gpu", "cuda", "rocm"):
        return Kernels(max_pool="reshape", scan_unroll=8)
    if platform == "cpu" and num_devices == 1:
        return Kernels(
            convolution="winograd",
            convolution_bfloat16="amx" if _AMX in cpu_features else "winograd",
            max_pool="reshape",
            pixels_per_group=2048,
            transpose_first=True,
        )
    return Kernels(max_pool="reshape")


def auto() -> Kernels:
    """Returns the fastest kernels for the devices and the CPU of this process."""
    return kernels_for(jax.default_backend(), jax.device_count(), _cpu_features())


def _cpu_features() -> frozenset[str]:
    """Reads the CPU's flags; none where the system has no /proc/cpuinfo."""
    description = pathlib.Path("/proc/cpuinfo")
    return frozenset(description.read_text().split()) if description.exists() else frozenset()
