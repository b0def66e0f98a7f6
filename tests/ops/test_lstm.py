"""Tests the LSTM's scan and its gradient against Flax's LSTM and automatic differentiation."""

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
    """Random parameters of two directions, with nonzero biases."""
    cell = nn.OptimizedLSTMCell(HIDDEN)
    carry = cell.initialize_carry(jax.random.key(0), words[0].shape)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, words[0])["params"]
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
        for _ in range(2)
    ]


def flax_states(words, lengths, cells):
    """Computes the states by Flax, with 0 at padding positions."""
    states = []
    for cell, order in zip(cells, ({}, {"reverse": True, "keep_order": True})):
        reader = nn.RNN(nn.OptimizedLSTMCell(HIDDEN), time_major=True, **order)
        states.append(reader.apply({"params": {"cell": cell}}, words, seq_lengths=lengths))
    is_word = (np.arange(LENGTH)[:, None] < lengths)[..., None]
    return jnp.swapaxes(jnp.concatenate(states, axis=-1) * is_word, 0, 1)


@pytest.mark.parametrize("unroll", [1, 3, 8])
@pytest.mark.parametrize("directions", [1, 2])
def test_states_and_gradients_equal_those_of_flax(words, cells, directions, unroll):
    weights = np.random.default_rng(2).normal(size=(BATCH, LENGTH, directions * HIDDEN))

    def loss(states_of, words, cells):
        states = states_of(words, LENGTHS, cells)
        return (states * weights).sum(), states

    def run(states_of):
        gradient = jax.grad(functools.partial(loss, states_of), argnums=(0, 1), has_aux=True)
        return jax.jit(gradient)(words, cells[:directions])

    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, atol=2e-6),
        run(functools.partial(lstm.scan_states, unroll=unroll)),
        run(flax_states),
    )


@pytest.mark.parametrize("unroll", [1, 4])
def test_the_scan_is_unrolled(words, cells, unroll):
    states = functools.partial(lstm.scan_states, unroll=unroll)
    text = str(jax.make_jaxpr(jax.grad(lambda words: states(words, LENGTHS, cells).sum()))(words))
    # Two directions, forward and backward.
    assert text.count(f"unroll={unroll}\n") == text.count("unroll=") == 4


@pytest.mark.parametrize("transpose_first", [False, True])
def test_bfloat16_rounds_only_the_factors(words, cells, transpose_first):
    def run(**options):
        def loss(words, cells):
            states = lstm.scan_states(words, LENGTHS, cells, **options)
            return (states**2).sum(), states

        gradients, states = jax.grad(loss, argnums=(0, 1), has_aux=True)(words, cells)
        return states, *jax.tree.leaves(gradients)

    rounded = run(dtype="bfloat16", transpose_first=transpose_first)
    for found, exact in zip(rounded, run()):
        assert found.dtype == jnp.float32
        # bfloat16 has a precision of 8 bits.
        assert 1e-5 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 2e-2


def test_initial_parameters_equal_those_of_flax():
    tokens, lengths = np.array([[2, 3, 4]], np.int32), np.array([3], np.int32)
    params = PlotLSTM(8, DIM, HIDDEN).init(jax.random.key(0), tokens, lengths)["params"]

    class Flax(nn.Module):
        @nn.compact
        def __call__(self, words):
            return nn.RNN(nn.OptimizedLSTMCell(HIDDEN, name="forward"))(words)

    expected = Flax().init(jax.random.key(0), np.zeros((1, 3, DIM)))["params"]
    jax.tree.map(np.testing.assert_array_equal, params["forward"], expected["forward"])


def test_without_a_reverse_scan_the_states_are_the_same(words, cells):
    def states(reverse_scan):
        return lstm.scan_states(words, LENGTHS, cells, reverse_scan=reverse_scan)

    np.testing.assert_allclose(states(False), states(True), atol=1e-6)
    jaxpr = str(jax.make_jaxpr(states, static_argnums=0)(False))
    assert "reverse=False" in jaxpr and "reverse=True" not in jaxpr
