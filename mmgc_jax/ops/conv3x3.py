"""The 3 x 3 convolution in plain XLA, and helpers that the CPU kernels share."""

from collections.abc import Callable

import jax
from jax import lax

Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def conv3x3_xla(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding of one pixel, by XLA's own convolution.

    The CPU kernels are tested against this function.

    Args:
      images: <float>[batch, height, width, in].
      kernel: <float>[3, 3, in, out], same dtype as the images.

    Returns:
      <float>[batch, height, width, out], same dtype as the images.
    """
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def with_gradients(convolve: Convolution, kernel_gradient: Convolution) -> Convolution:
    """Adds a custom gradient to a convolution.

    The gradient with respect to the images applies the same convolution to the output's gradient,
    with the kernel flipped and its channels swapped.

    Args:
      convolve: a function with the arguments and the result of `conv3x3_xla`.
      kernel_gradient: computes the gradient with respect to the kernel, <float>[3, 3, in, out],
        from the images and the output's gradient <float>[batch, height, width, out].

    Returns:
      The convolution with a custom VJP.
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
    """Returns the largest divisor of a positive `number` that is at most `limit` (at least 1)."""
    return next(n for n in range(min(limit, number), 0, -1) if number % n == 0)
