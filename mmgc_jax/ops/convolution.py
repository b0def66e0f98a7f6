"""The 3 x 3 convolution, with a choice of implementations."""

import jax

from mmgc_jax.ops.conv3x3 import conv3x3_xla
from mmgc_jax.ops.conv3x3_amx import conv3x3_amx
from mmgc_jax.ops.conv3x3_onednn import conv3x3_onednn
from mmgc_jax.ops.winograd import conv3x3_winograd

IMPLEMENTATIONS = {
    "xla": conv3x3_xla,
    "winograd": conv3x3_winograd,
    "amx": conv3x3_amx,
    "onednn": conv3x3_onednn,
}

# Below these sizes our own kernels' matrices are mostly padding, or too small to be worth it.
_MIN_CHANNELS = 64
_MIN_SIDE = 8


def convolve(images: jax.Array, kernel: jax.Array, implementation: str = "xla") -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel; the reference is `conv3x3_xla`.

    Instead of our own kernels, `winograd` and `amx`, small images and images or outputs with few
    channels are convolved by XLA.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], same dtype as the images.
      implementation: `xla`, `winograd`, `onednn` or, for bfloat16 only, `amx`; see
        `kernels.Kernels`.

    Returns:
      <float>[batch, height, width, out], same dtype as the images.

    Raises:
      ValueError: if there is no such implementation, or it does not support this dtype.
    """
    if implementation not in IMPLEMENTATIONS:
        names = ", ".join(IMPLEMENTATIONS)
        raise ValueError(
            f"the convolution's implementation is {implementation!r}, not one of {names}"
        )
    is_small = min(images.shape[1:3]) < _MIN_SIDE or min(kernel.shape[2:]) < _MIN_CHANNELS
    if is_small and implementation in ("winograd", "amx"):
        return conv3x3_xla(images, kernel)
    return IMPLEMENTATIONS[implementation](images, kernel)
