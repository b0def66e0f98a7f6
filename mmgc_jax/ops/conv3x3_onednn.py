"""The 3 x 3 convolution of bfloat16 images by oneDNN, for CPUs that multiply bfloat16 numbers.

XLA gives a convolution to oneDNN if it compiles with `COMPILER_OPTIONS`. On CPUs with AMX, this
makes the kernel gradients that JAX derives wrong (jaxlib 0.11.2 and 0.12.0.1). Here the kernel
gradient is therefore Winograd's, which has no convolution; the image gradient is a convolution like
the one that `is_available` tries.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.ops.conv3x3 import conv3x3_xla, with_gradients
from mmgc_jax.ops.winograd import kernel_gradient

logger = logging.getLogger(__name__)

# Options of `jax.jit`. XLA may know them and yet have no oneDNN, as jaxlib 0.10.2 does.
COMPILER_OPTIONS = {"xla_cpu_experimental_onednn_custom_call": True}

# The name of oneDNN's convolutions in compiled programs.
_CUSTOM_CALL = "__onednn$convolution"
# Relative to the largest value; bfloat16 numbers are rounded by up to 2^-9 of theirs.
_TOLERANCE = 2**-7


def conv3x3_onednn(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel; the reference is `conv3x3_xla`.

    It is fast in programs that are compiled with `COMPILER_OPTIONS`, and right in all. The gradient
    with respect to the kernel is Winograd's.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], same dtype as the images.

    Returns:
      <float>[batch, height, width, out], same dtype as the images.
    """
    return _convolve(images, kernel)


_convolve = with_gradients(conv3x3_xla, kernel_gradient)


@functools.cache
def is_available() -> bool:
    """Returns whether XLA has oneDNN's convolution here, and its results are right.

    Compiles a small convolution and compares its result with the convolution in float32.
    """
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 8, 10, 64)), rng.normal(size=(3, 3, 64, 64))
    images, kernel = (jnp.asarray(array, jnp.bfloat16) for array in (images, kernel))
    try:
        program = jax.jit(conv3x3_onednn).lower(images, kernel).compile(COMPILER_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        logger.info("No oneDNN: %s", error)
        return False
    if _CUSTOM_CALL not in program.as_text():
        return False
    found = np.asarray(program(images, kernel), np.float32)
    expected = conv3x3_xla(images.astype(jnp.float32), kernel.astype(jnp.float32))
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    if difference > _TOLERANCE:
        logger.warning(
            "oneDNN's convolution is not used: a small one differs by %.2g of the largest value.",
            difference,
        )
    return bool(difference <= _TOLERANCE)
