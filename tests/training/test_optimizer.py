"""Tests of the optimizer: schedule, weight decay, clipping, frozen parts, learning-rate factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training.optimizer import make_optimizer, make_schedule, zero_frozen
from tests.training.linear_problem import settings


def optimize(settings, steps, params, gradients):
    """Returns the parameters before the first step and after each step."""
    optimizer = make_optimizer(settings, steps)
    state, path = optimizer.init(params), [params]
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        gradient = zero_frozen(gradient, settings)
        updates, state = update(gradient, state, path[-1])
        path.append(optax.apply_updates(path[-1], updates))
    return path


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    # With constant gradients, Adam changes parameters by the learning rate.
    changed = settings(learning_rate=0.1, warmup=0.25)
    ones = {"dense": {"bias": jnp.ones(1)}}
    path = [float(p["dense"]["bias"][0]) for p in optimize(changed, 16, ones, [ones] * 17)]
    rates = -np.diff(path)
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-5)
    half_way = 0.1 * (1 + np.cos(np.pi / 2)) / 2
    np.testing.assert_allclose(rates[10], half_way, atol=1e-5)
    assert (np.diff(rates[4:]) < 0).all()
    np.testing.assert_allclose(rates[16], 0, atol=1e-5)
    schedule = make_schedule(changed, 16)
    np.testing.assert_allclose([schedule(step) for step in range(17)], rates, atol=1e-5)


@pytest.mark.parametrize("warmup", [0.0, 0.8])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_schedule_of_very_few_steps_is_finite(steps, warmup):
    schedule = make_schedule(settings(warmup=warmup), steps)
    assert np.isfinite([schedule(step) for step in range(3)]).all()
    assert float(schedule(1)) == pytest.approx(0.02)


def test_weight_decay_applies_only_to_kernels():
    params = {
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "weights": jnp.ones((2, 24)),
    }
    still = jax.tree.map(jnp.zeros_like, params)
    changed = settings(learning_rate=0.1, weight_decay=0.5)
    *_, before, after = optimize(changed, 10, params, [still] * 3)
    # The second step of ten has the peak learning rate: 1 - 0.1 * 0.5.
    assert float(before["dense"]["kernel"][0, 0]) == pytest.approx(0.95)
    assert (after["dense"]["kernel"] < before["dense"]["kernel"]).all()
    assert (after["dense"]["bias"] == 1).all() and (after["weights"] == 1).all()


def test_a_part_with_factor_0_does_not_change():
    changed = settings(weight_decay=0.5)
    changed.learning_rate_scale.words = 0.0
    rng = np.random.default_rng(0)
    params = {
        name: {"embedding": jnp.array(rng.normal(size=(5, 3)), jnp.float32)}
        for name in ("words", "others")
    }
    gradients = [jax.tree.map(lambda p, n=n: p + n, params) for n in range(5)]
    last = optimize(changed, 5, params, gradients)[-1]
    np.testing.assert_array_equal(last["words"]["embedding"], params["words"]["embedding"])
    assert (last["others"]["embedding"] != params["others"]["embedding"]).all()

    # The optimizer keeps no moments for it, which saves memory.
    state = make_optimizer(changed, 5).init(params)
    kept = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert kept < 3 * params["others"]["embedding"].size


def test_zero_frozen_leaves_the_gradients_of_trained_parts():
    changed = settings()
    changed.learning_rate_scale.update({"words": 0.0, "vgg16": 0.1})
    gradients = {name: {"kernel": jnp.full((2, 2), 3.0)} for name in ("words", "vgg16", "head")}
    zeroed = zero_frozen(gradients, changed)
    assert {name: float(part["kernel"][0, 0]) for name, part in zeroed.items()} == {
        "words": 0.0, "vgg16": 3.0, "head": 3.0,
    }  # fmt: skip


def test_a_factor_scales_the_steps_of_its_part():
    changed = settings(weight_decay=0.1)
    changed.learning_rate_scale.vgg16 = 0.25
    one = jnp.array([[1.0, -2.0]])
    params = {"head": {"kernel": one}, "vgg16": {"kernel": one}}
    gradients = [jax.tree.map(lambda p: p * 0.3, params)] * 2
    last = optimize(changed, 10, params, gradients)[-1]
    head, scaled = (last[name]["kernel"] - one for name in ("head", "vgg16"))
    assert (jnp.abs(head) > 1e-3).all()
    np.testing.assert_allclose(scaled, 0.25 * head, rtol=1e-4)


def test_gradients_above_the_norm_are_clipped():
    params = {"dense": {"kernel": jnp.zeros((1, 2))}}

    def last(first_gradient):
        later = {"dense": {"kernel": jnp.array([[0.1, -0.1]])}}
        first = {"dense": {"kernel": jnp.array([first_gradient])}}
        path = optimize(settings(clip_norm=1.0), 10, params, [first, later, later])
        return path[-1]["dense"]["kernel"]

    np.testing.assert_allclose(last([300.0, 400.0]), last([0.6, 0.8]), rtol=1e-4)
    assert (
        np.abs(last([0.3, 0.4]) - last([0.6, 0.8])).max() > 1e-4
    )  # smaller gradients are not changed


def test_the_norm_for_clipping_includes_all_trained_parts():
    changed = settings(clip_norm=1.0)
    changed.learning_rate_scale.update({"vgg16": 0.5, "words": 0.0})
    params = {name: {"kernel": jnp.zeros((1, 1))} for name in ("head", "vgg16", "words")}

    def last(*first_gradients):
        gradients = [
            {name: {"kernel": jnp.array([[g]])} for name, g in zip(params, of_step)}
            for of_step in (first_gradients, (0.1, 0.1, 0.1), (0.1, 0.1, 0.1))
        ]
        path = optimize(changed, 10, params, gradients)
        return np.array([path[-1][name]["kernel"].item() for name in params])

    np.testing.assert_allclose(last(300.0, 400.0, 900.0), last(0.6, 0.8, 0.0), rtol=1e-4)


def test_a_factor_for_an_unknown_part_is_an_error():
    changed = settings()
    changed.learning_rate_scale.wrods = 0.1
    with pytest.raises(InputError, match="names wrods; the model's parts are words"):
        make_optimizer(changed, 5).init({"words": {"embedding": jnp.ones((2, 2))}})
