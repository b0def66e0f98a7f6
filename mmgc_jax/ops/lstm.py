"""The states of an LSTM: by a scan that has its own gradient, or by NVIDIA's cuDNN.

Words come first in time here, <float32>[length, batch, dim]; states come first by plot.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import rnn

from mmgc_jax.ops.matmul import product, product_over_rows

# The parameters of a `flax.linen.OptimizedLSTMCell`.
Cell = Mapping[str, Mapping[str, jax.Array]]
_GATES = "ifgo"


def scan_states(
    words: jax.Array, lengths: jax.Array, cells: Sequence[Cell], dtype: str = "float32"
) -> jax.Array:
    """Every state; 0 in the padding.

    All inputs are multiplied with their kernels before the loop.

    Args:
      words: <float32>[length, batch, dim].
      lengths: <int32>[batch].
      cells: of each direction; the second reads from a plot's last word to its first.
      dtype: as of `recurrent_states`.

    Returns:
      <float32>[batch, length, hidden * directions].
    """
    inputs, kernels = [], []
    for cell in cells:
        input_kernel, kernel = (
            jnp.concatenate([cell[side + gate]["kernel"] for gate in _GATES], axis=1)
            for side in "ih"
        )
        bias = jnp.concatenate([cell[f"h{gate}"]["bias"] for gate in _GATES])
        inputs.append(product(words, input_kernel, dtype) + bias)
        kernels.append(kernel)
    return recurrent_states(inputs, lengths, kernels, dtype)


def recurrent_states(
    inputs: Sequence[jax.Array],
    lengths: jax.Array,
    kernels: Sequence[jax.Array],
    dtype: str = "float32",
) -> jax.Array:
    """Every state, of inputs that were multiplied with their kernel before; 0 in the padding.

    Args:
      inputs: of each direction, biases included, <float32>[length, batch, 4 * hidden], gates in
        the order i, f, g, o.
      lengths: <int32>[batch].
      kernels: of each direction, <float32>[hidden, 4 * hidden].
      dtype: `float32` or `bfloat16`, of the factors in matrix products; sums are float32.

    Returns:
      <float32>[batch, length, hidden * directions].
    """
    is_word = (jnp.arange(len(inputs[0]))[:, None] < lengths)[..., None].astype(jnp.float32)
    # Read backwards, the padding comes first, and leaves the state at 0.
    states = [
        _recur(of_words, kernel, is_word, dtype, backwards)
        for of_words, kernel, backwards in zip(inputs, kernels, (False, True))
    ]
    return jnp.swapaxes(jnp.concatenate(states, axis=-1), 0, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _recur(inputs, kernel, is_word, dtype, backwards):
    """The states of one direction, <float32>[length, batch, hidden]."""
    return _recur_forward(inputs, kernel, is_word, dtype, backwards)[0]


def _recur_forward(inputs, kernel, is_word, dtype, backwards):
    """Also what `_recur_backward` needs."""

    def step(state, of_word):
        c, h = state
        inputs, is_word = of_word
        i, f, g, o = jnp.split(inputs + product(h, kernel, dtype), 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        c = (f * c + i * g) * is_word
        h = o * jnp.tanh(c)
        return (c, h), (h, c, jnp.concatenate([i, f, g, o], axis=-1))

    start = jnp.zeros((inputs.shape[1], kernel.shape[0]))
    _, (h, c, gates) = jax.lax.scan(
        step, (start, start), (inputs, is_word), reverse=backwards, unroll=_words_in_a_turn()
    )
    return h, (kernel, is_word, h, c, gates)


def _recur_backward(dtype, backwards, saved, h_gradients):
    """Backpropagation through time; the kernel's gradient is one product, after the loop."""
    kernel, is_word, h, c, gates = saved
    # Once, before the loop: in bfloat16 a CPU takes three times as long for a product that does it.
    turned = jax.lax.optimization_barrier(kernel.T)

    def step(gradients, of_word):
        c_gradient, h_gradient = gradients
        from_above, c, c_before, gates, is_word = of_word
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        h_gradient += from_above
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
        return (c_gradient * f, product(inputs_gradient, turned, dtype)), inputs_gradient

    start = jnp.zeros_like(h[0])
    _, inputs_gradients = jax.lax.scan(
        step,
        (start, start),
        (h_gradients, c, _before(c, backwards), gates, is_word),
        reverse=not backwards,
        unroll=_words_in_a_turn(),
    )
    states = _before(h, backwards).reshape(-1, h.shape[-1])
    flat = inputs_gradients.reshape(-1, inputs_gradients.shape[-1])
    return inputs_gradients, product_over_rows(states, flat, dtype), jnp.zeros_like(is_word)


_recur.defvjp(_recur_forward, _recur_backward)


def _words_in_a_turn() -> int:
    """Of the loop, each turn of which costs a GPU time of its own.

    On an H100 8 took 21 ms, 1 took 35, 32 took 19 but twice as long to compile (8 batches of 64
    plots of 200 words, state of 128); on a CPU more than 1 did not help.
    """
    return 8 if jax.default_backend() == "gpu" else 1


def _before(states, backwards):
    """The state before each word, <float32>[length, batch, hidden]."""
    start = jnp.zeros_like(states[:1])
    both = [states[1:], start] if backwards else [start, states[:-1]]
    return jnp.concatenate(both)


def cudnn_states(words: jax.Array, lengths: jax.Array, cells: Sequence[Cell]) -> jax.Array:
    """As `scan_states`, in float32, by cuDNN."""
    hidden = cells[0]["hi"]["bias"].shape[0]
    zeros = jnp.zeros((len(cells), words.shape[1], hidden))
    sizes = (words.shape[2], hidden, 1, 0.0, len(cells) == 2)
    by_plot = jnp.swapaxes(words, 0, 1)
    return rnn.lstm(by_plot, zeros, zeros, cudnn_weights(cells), lengths, *sizes)[0]


def cudnn_weights(cells: Sequence[Cell]) -> jax.Array:
    """Parameters of `OptimizedLSTMCell`s, one for each direction, as cuDNN packs them.

    Kernels come first, each direction's input kernel before its recurrent one, then biases, in the
    gates' order i, f, g, o (jax.experimental.rnn). cuDNN has a second bias, of the input: 0.

    Returns:
      <float32>[weights].
    """
    kernels, biases = [], []
    for cell in cells:
        kernels += [cell[side + gate]["kernel"].T.ravel() for side in "ih" for gate in _GATES]
        bias = jnp.concatenate([cell[f"h{gate}"]["bias"] for gate in _GATES])
        biases += [jnp.zeros_like(bias), bias]
    return jnp.concatenate(kernels + biases)
