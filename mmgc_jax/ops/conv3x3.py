"""The 3 x 3 convolution in plain XLA, and what its CPU kernels share."""

from collections.abc import Callable

import jax
from jax import lax

Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def conv3x3_xla(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel: the reference of the CPU kernels.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], of the same dtype.

    Returns:
      <float>[batch, height, width, out], of the same dtype.
    """
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def with_gradients(convolve: Convolution, kernel_gradient: Convolution) -> Convolution:
    """Makes a convolution differentiable by kernels of its own.

    The gradient with respect to the images is the same convolution, of the output's gradients with
    the flipped kernel.

    Args:
      convolve: as `conv3x3_xla`.
      kernel_gradient: maps images and the output's gradients, <float>[batch, height, width, out],
        to the gradient with respect to the kernel, <float>[3, 3, in, out].
    """
    convolve = jax.custom_vjp(convolve)

    def forward(images, kernel):
        return convolve(images, kernel), (images, kernel)

    def backward(residuals, gradients):
        images, kernel = residuals
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return convolve(gradients, flipped), kernel_gradient(images, gradients).astype(kernel.dtype)

    convolve.defvjp(forward, backward)
    return convolve


def largest_divisor(number: int, limit: int) -> int:
    """Returns the largest divisor of a number that is at most `limit`, which is at least 1."""
    return next(n for n in range(min(limit, number), 0, -1) if number % n == 0)
