"""The 3 x 3 convolution by a chosen implementation."""

import jax

from mmgc_jax.ops.conv3x3 import conv3x3_xla
from mmgc_jax.ops.conv3x3_amx import conv3x3_amx
from mmgc_jax.ops.winograd import conv3x3_winograd

IMPLEMENTATIONS = {"xla": conv3x3_xla, "winograd": conv3x3_winograd, "amx": conv3x3_amx}

# Below these sizes the CPU kernels' matrices are too small to pay, or mostly padding.
_MIN_CHANNELS = 64
_MIN_SIDE = 8


def convolve(images: jax.Array, kernel: jax.Array, implementation: str = "xla") -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel; the reference is `conv3x3_xla`.

    With few channels and on small images XLA computes it, whatever the implementation.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], of the same dtype.
      implementation: `xla`, `winograd` or, for bfloat16 alone, `amx`; see `kernels.Kernels`.

    Returns:
      <float>[batch, height, width, out], of the same dtype.

    Raises:
      ValueError: if there is no such implementation, or it does not take images of this dtype.
    """
    if implementation not in IMPLEMENTATIONS:
        names = ", ".join(IMPLEMENTATIONS)
        raise ValueError(
            f"the convolution's implementation is {implementation!r}, not one of {names}"
        )
    if min(images.shape[1:3]) < _MIN_SIDE or min(kernel.shape[2:]) < _MIN_CHANNELS:
        return conv3x3_xla(images, kernel)
    return IMPLEMENTATIONS[implementation](images, kernel)
