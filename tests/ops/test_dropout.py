"""Tests that Dropout drops the right fraction, preserves the mean and depends only on its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.ops.dropout import Dropout

ONES = jnp.ones((40, 50, 31))  # 31 is not a multiple of 4


def drop(rate, seed=0, x=ONES, deterministic=False):
    return Dropout(rate, deterministic).apply({}, x, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_drops_the_right_fraction_everywhere_and_preserves_the_mean(rate):
    share = round(256 * rate) / 256
    dropped = np.asarray(drop(rate))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 1 / (1 - share), rtol=1e-6)
    # Five standard deviations of 62,000 draws, and of the 2,000 of each column.
    assert kept.mean() == pytest.approx(1 - share, abs=0.01)
    np.testing.assert_allclose(kept.mean(axis=(0, 1)), 1 - share, atol=0.06)
    # Bytes of one 32-bit word are as independent as those of different words.
    neighbours = np.corrcoef(kept[..., :-1].ravel(), kept[..., 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_it_depends_on_its_key():
    np.testing.assert_array_equal(drop(0.5, seed=1), drop(0.5, seed=1))
    assert (drop(0.5, seed=1) != drop(0.5, seed=2)).any()


@pytest.mark.parametrize(("rate", "deterministic"), [(0.0, False), (0.5, True)])
def test_it_returns_the_input_unchanged_without_dropout(rate, deterministic):
    assert Dropout(rate, deterministic).apply({}, ONES) is ONES


def test_a_rate_of_one_drops_every_value():
    np.testing.assert_array_equal(drop(1.0), 0)


def test_gradients_flow_through_kept_values_only():
    x = jnp.linspace(-1, 1, 24).reshape(4, 6)
    gradient = jax.grad(lambda x: drop(0.5, x=x).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.where(drop(0.5, x=x) == 0, 0, 2))
