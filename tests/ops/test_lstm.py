"""The LSTM's scan and its gradient, beside Flax's own LSTM and automatic differentiation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.models import PlotLSTM
from mmgc_jax.ops import lstm

LENGTH, BATCH, DIM, HIDDEN = 7, 3, 5, 4
LENGTHS = np.array([7, 4, 1], np.int32)


@pytest.fixture(scope="module")
def words():
    return np.random.default_rng(0).normal(size=(LENGTH, BATCH, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def cells(words):
    """Of two directions, random, biases not zero."""
    cell = nn.OptimizedLSTMCell(HIDDEN)
    carry = cell.initialize_carry(jax.random.key(0), words[0].shape)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, words[0])["params"]
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
        for _ in range(2)
    ]


def of_flax(words, lengths, cells):
    """Flax's states, 0 in the padding."""
    states = []
    for cell, order in zip(cells, ({}, {"reverse": True, "keep_order": True})):
        reader = nn.RNN(nn.OptimizedLSTMCell(HIDDEN), time_major=True, **order)
        states.append(reader.apply({"params": {"cell": cell}}, words, seq_lengths=lengths))
    is_word = (np.arange(LENGTH)[:, None] < lengths)[..., None]
    return jnp.swapaxes(jnp.concatenate(states, axis=-1) * is_word, 0, 1)


@pytest.mark.parametrize("words_in_a_turn", [1, 3, 8])
@pytest.mark.parametrize("directions", [1, 2])
def test_states_and_gradients_equal_those_of_flax(
    monkeypatch, words, cells, directions, words_in_a_turn
):
    monkeypatch.setattr(lstm, "_words_in_a_turn", lambda: words_in_a_turn)
    weights = np.random.default_rng(2).normal(size=(BATCH, LENGTH, directions * HIDDEN))

    def loss(states_of, words, cells):
        states = states_of(words, LENGTHS, cells)
        return (states * weights).sum(), states

    def run(states_of):
        gradient = jax.grad(functools.partial(loss, states_of), argnums=(0, 1), has_aux=True)
        return jax.jit(gradient)(words, cells[:directions])

    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, atol=2e-6),
        run(lstm.scan_states),
        run(of_flax),
    )


def test_bfloat16_rounds_the_factors_alone(words, cells):
    exact = lstm.scan_states(words, LENGTHS, cells)
    rounded = lstm.scan_states(words, LENGTHS, cells, "bfloat16")
    assert rounded.dtype == jnp.float32
    difference = np.abs(rounded - exact).max()
    assert 1e-5 < difference < 2e-2  # bfloat16 has 8 bits


def test_parameters_begin_as_those_of_flax():
    tokens, lengths = np.array([[2, 3, 4]], np.int32), np.array([3], np.int32)
    params = PlotLSTM(8, DIM, HIDDEN).init(jax.random.key(0), tokens, lengths)["params"]

    class Flax(nn.Module):
        @nn.compact
        def __call__(self, words):
            return nn.RNN(nn.OptimizedLSTMCell(HIDDEN, name="forward"))(words)

    expected = Flax().init(jax.random.key(0), np.zeros((1, 3, DIM)))["params"]
    jax.tree.map(np.testing.assert_array_equal, params["forward"], expected["forward"])
