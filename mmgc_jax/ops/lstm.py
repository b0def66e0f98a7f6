"""An LSTM as a scan with a custom gradient.

Inputs are time-major, <float32>[length, batch, dim]; the returned states are batch-major.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.matmul import matmul, matmul_transposed

# The parameters of a `flax.linen.OptimizedLSTMCell`.
Cell = Mapping[str, Mapping[str, jax.Array]]
_GATES = "ifgo"


def scan_states(
    words: jax.Array,
    lengths: jax.Array,
    cells: Sequence[Cell],
    dtype: str = "float32",
    unroll: int = 1,
    transpose_first: bool = False,
    reverse_scan: bool = True,
) -> jax.Array:
    """Computes an LSTM's state after every word.

    The reference is `flax.linen.RNN` over an `OptimizedLSTMCell`. Unlike there, all inputs are
    multiplied by the input kernels in one matmul before the scan.

    Args:
      words: word vectors <float32>[length, batch, dim], padded at the end.
      lengths: <int32>[batch], number of words in each plot, without padding.
      cells: parameters of one or two directions. The first reads a plot from the first word to the
        last, the second from the last word to the first.
      dtype: see `recurrent_states`.
      unroll: see `recurrent_states`.
      transpose_first: see `recurrent_states`.
      reverse_scan: see `recurrent_states`.

    Returns:
      <float32>[batch, length, hidden * directions], 0 at padding positions.
    """
    inputs, kernels = [], []
    for cell in cells:
        input_kernel, kernel = (
            jnp.concatenate([cell[side + gate]["kernel"] for gate in _GATES], axis=1)
            for side in "ih"
        )
        bias = jnp.concatenate([cell[f"h{gate}"]["bias"] for gate in _GATES])
        inputs.append(matmul(words, input_kernel, dtype, transpose_first) + bias)
        kernels.append(kernel)
    return recurrent_states(inputs, lengths, kernels, dtype, unroll, transpose_first, reverse_scan)


def recurrent_states(
    inputs: Sequence[jax.Array],
    lengths: jax.Array,
    kernels: Sequence[jax.Array],
    dtype: str = "float32",
    unroll: int = 1,
    transpose_first: bool = False,
    reverse_scan: bool = True,
) -> jax.Array:
    """Computes an LSTM's state after every word, from inputs already multiplied by input kernels.

    Args:
      inputs: for each direction <float32>[length, batch, 4 * hidden], biases included, gates in the
        order input (i), forget (f), candidate (g), output (o).
      lengths: <int32>[batch], number of words in each plot, without padding.
      kernels: recurrent kernel <float32>[hidden, 4 * hidden] for each direction.
      dtype: `float32` or `bfloat16`, the dtype to which the factors of matmuls are rounded; sums
        are float32.
      unroll: scan unroll factor; every GPU iteration has launch overhead (see `kernels.Kernels`).
      transpose_first: see `matmul.matmul_transposed`.
      reverse_scan: whether the second direction scans from the last word to the first; otherwise
        the inputs and states are reversed instead (see `kernels.Kernels`).

    Returns:
      <float32>[batch, length, hidden * directions], 0 at padding positions.
    """
    is_word = (jnp.arange(len(inputs[0]))[:, None] < lengths)[..., None].astype(jnp.float32)

    def recur(x, kernel, backwards):
        if backwards and not reverse_scan:
            states = _recur(x[::-1], kernel, is_word[::-1], dtype, False, unroll, transpose_first)
            return states[::-1]
        return _recur(x, kernel, is_word, dtype, backwards, unroll, transpose_first)

    # The backward direction starts in the padding, where the mask keeps its state at 0.
    states = [recur(*direction) for direction in zip(inputs, kernels, (False, True))]
    return jnp.swapaxes(jnp.concatenate(states, axis=-1), 0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _recur(inputs, kernel, is_word, dtype, backwards, unroll, transpose_first):
    """Computes the states of one direction, <float32>[length, batch, hidden]."""
    return _recur_forward(inputs, kernel, is_word, dtype, backwards, unroll, transpose_first)[0]


def _recur_forward(inputs, kernel, is_word, dtype, backwards, unroll, transpose_first):
    """Computes the states, and the residuals for `_recur_backward`."""

    def step(state, word):
        c, h = state
        inputs, is_word = word
        gates = inputs + matmul(h, kernel, dtype, transpose_first)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        c = (f * c + i * g) * is_word
        h = o * jnp.tanh(c)
        # Kept apart: on a CPU, splitting a joint array takes a third of the backward scan's time.
        return (c, h), (h, c, (i, f, g, o))

    start = jnp.zeros((inputs.shape[1], kernel.shape[0]))
    _, (h, c, gates) = jax.lax.scan(
        step, (start, start), (inputs, is_word), reverse=backwards, unroll=unroll
    )
    return h, (kernel, is_word, h, c, gates)


def _recur_backward(dtype, backwards, unroll, transpose_first, residuals, h_gradients):
    """Backpropagates through time; computes the kernel's gradient in one matmul after the scan."""
    kernel, is_word, h, c, gates = residuals
    # On a CPU a bfloat16 matmul that transposes takes three times as long. The barrier keeps XLA
    # from moving the transposition into the scan.
    transposed = jax.lax.optimization_barrier(kernel.T)

    def step(gradients, word):
        c_gradient, h_gradient = gradients
        h_gradient_above, c, c_before, (i, f, g, o), is_word = word
        h_gradient += h_gradient_above
        tanh_c = jnp.tanh(c)
        c_gradient = (c_gradient + h_gradient * o * (1 - tanh_c**2)) * is_word
        inputs_gradient = jnp.concatenate(
            [
                c_gradient * g * i * (1 - i),
                c_gradient * c_before * f * (1 - f),
                c_gradient * i * (1 - g**2),
                h_gradient * tanh_c * o * (1 - o),
            ],
            axis=-1,
        )
        h_gradient = matmul(inputs_gradient, transposed, dtype, transpose_first)
        return (c_gradient * f, h_gradient), inputs_gradient

    start = jnp.zeros_like(h[0])
    _, inputs_gradients = jax.lax.scan(
        step,
        (start, start),
        (h_gradients, c, _previous(c, backwards), gates, is_word),
        reverse=not backwards,
        unroll=unroll,
    )
    states = _previous(h, backwards).reshape(-1, h.shape[-1])
    flat = inputs_gradients.reshape(-1, inputs_gradients.shape[-1])
    kernel_gradient = matmul_transposed(states, flat, dtype, transpose_first)
    return inputs_gradients, kernel_gradient, jnp.zeros_like(is_word)


_recur.defvjp(_recur_forward, _recur_backward)


def _previous(states, backwards):
    """Shifts states by one word, to the state before each: <float32>[length, batch, hidden]."""
    start = jnp.zeros_like(states[:1])
    both = [states[1:], start] if backwards else [start, states[:-1]]
    return jnp.concatenate(both)
