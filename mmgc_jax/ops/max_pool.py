"""2 x 2 max pooling, with a gradient that is fast on GPUs and CPUs."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def max_pool(images: jax.Array, implementation: str = "reduce_window") -> jax.Array:
    """Takes the maximum of each 2 x 2 pixels; the reference is `flax.linen.max_pool`.

    An odd last row or column is dropped. Where several pixels tie for the maximum, `reduce_window`
    passes the gradient to the first of them, and `reshape` divides it evenly among them.

    Args:
      images: <float>[batch, height, width, channels].
      implementation: `reduce_window` or `reshape`; see `kernels.Kernels`.

    Returns:
      <float>[batch, height // 2, width // 2, channels], same dtype as the images.

    Raises:
      ValueError: if there is no such implementation.
    """
    if implementation == "reduce_window":
        return nn.max_pool(images, (2, 2), strides=(2, 2))
    if implementation != "reshape":
        raise ValueError(
            f"max pooling's implementation is {implementation!r}, not one of reduce_window, reshape"
        )
    batch, height, width, channels = images.shape
    height, width = height // 2, width // 2
    whole = images[:, : 2 * height, : 2 * width]
    return _max_of_windows(whole.reshape(batch, height, 2, width, 2, channels))


@jax.custom_vjp
def _max_of_windows(windows: jax.Array) -> jax.Array:
    """Maps [batch, height, 2, width, 2, channels] to [batch, height, width, channels]."""
    return windows.max(axis=(2, 4))


def _forward(windows: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    maximum = _max_of_windows(windows)
    return maximum, (windows, maximum)


def _backward(residuals: tuple[jax.Array, jax.Array], gradients: jax.Array) -> tuple[jax.Array]:
    windows, maximum = residuals
    # Adding four arrays is ten times as fast as summing over two axes, as JAX's own gradient does.
    count = sum(
        (windows[:, :, row, :, column] == maximum).astype(gradients.dtype)
        for row in range(2)
        for column in range(2)
    )
    shares = (gradients / count)[:, :, None, :, None]
    return (jnp.where(windows == maximum[:, :, None, :, None], shares, 0),)


_max_of_windows.defvjp(_forward, _backward)
