"""Tests of the training loop: loss, step, checkpoints, and resuming after any interruption."""

import logging
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmgc_jax.data import pipeline
from mmgc_jax.evaluation import figures
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints, loop
from mmgc_jax.training.logging import JsonLinesWriter, TrainingLog
from mmgc_jax.training.optimizer import make_optimizer, make_schedule
from mmgc_jax.training.run import ApplyFn, TrainingRun
from tests.training.linear_problem import (
    PARAMS,
    STEPS_PER_EPOCH,
    apply,
    assert_same,
    batches,
    fit,
    latest,
    problem,
    settings,
    trained,
    validate,
)


def test_loss_by_hand():
    # sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4.
    logits = np.log([[1, 3], [3, 1]]).astype(np.float32)
    labels = np.array([[1, 0], [1, 1]], np.float32)
    expected = [(np.log(2) + np.log(4)) / 2, (np.log(4 / 3) + np.log(2)) / 2]
    loss = loop.multilabel_loss(logits, labels, np.ones(2))
    assert float(loss) == pytest.approx(np.mean(expected))


def test_loss_ignores_padding():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 24)).astype(np.float32)
    labels = rng.integers(0, 2, (5, 24)).astype(np.float32)
    mask = np.array([1, 1, 1, 0, 0], np.float32)

    def loss(logits):
        return loop.multilabel_loss(logits, labels, mask)

    alone = loop.multilabel_loss(logits[:3], labels[:3], np.ones(3))
    assert float(loss(logits)) == pytest.approx(float(alone), rel=1e-6)
    gradient = jax.grad(loss)(logits)
    assert (gradient[3:] == 0).all() and (gradient[:3] != 0).all()
    assert float(loop.multilabel_loss(logits, labels, np.zeros(5))) == 0


class TestStep:
    """Tests of the jitted training step, called directly."""

    BATCH = {  # noqa: RUF012 (not changed)
        "labels": np.zeros((2, 24), np.float32), "mask": np.ones(2, np.float32),
    }  # fmt: skip

    def step(self, apply, params, number=0, changed=None):
        """Does the step with the given number; returns the new state and the metrics."""
        changed = changed or settings()
        params = jax.tree.map(jnp.array, params)
        opt_state = make_optimizer(changed, 10).init(params)
        state = loop.TrainState(jnp.array(number), params, opt_state)
        return loop.make_train_step(ApplyFn(apply), changed, 10)(state, self.BATCH, np.uint32(7))

    def test_random_numbers_differ_between_steps_and_can_be_repeated(self):
        def noise(params, batch, key):
            return params["scale"] * jax.random.normal(key, batch["labels"].shape)

        def loss_at(number):
            state, found = self.step(noise, {"scale": np.ones(())}, number)
            assert int(state.step) == number + 1
            return float(found.loss)

        assert len({loss_at(number) for number in range(5)}) == 5
        assert loss_at(3) == loss_at(3)

    def test_the_norm_leaves_out_frozen_parts(self):
        def multiply(params, batch, key):
            return jnp.ones((2, 24)) * params["words"]["a"] * params["head"]["b"] * params["c"]

        params = {"words": {"a": 2.0}, "head": {"b": 3.0}, "c": 0.1}

        def loss(params):
            return loop.multilabel_loss(multiply(params, None, None), **self.BATCH)

        gradients = jax.grad(loss)(params)
        _, found = self.step(multiply, params)
        # The norm before clipping to 1.
        assert float(found.grad_norm) == pytest.approx(float(optax.global_norm(gradients)))
        assert float(found.grad_norm) > 1

        frozen = settings()
        frozen.learning_rate_scale.words = 0.0
        _, found = self.step(multiply, params, changed=frozen)
        del gradients["words"]
        assert float(found.grad_norm) == pytest.approx(float(optax.global_norm(gradients)))

    def test_the_learning_rate_is_that_of_the_schedule(self):
        schedule = make_schedule(settings(), 10)
        rates = [
            float(self.step(lambda p, *_: p["x"], {"x": np.zeros((2, 24))}, n)[1].learning_rate)
            for n in range(10)
        ]
        np.testing.assert_allclose(rates, [float(schedule(n)) for n in range(10)], rtol=1e-6)
        assert rates[0] == 0 and rates[1] == pytest.approx(0.02)

    def test_an_ordinary_step_is_finite(self):
        _, found = self.step(lambda p, *_: p["x"], {"x": np.zeros((2, 24))})
        assert found.finite and np.isfinite(found.loss) and np.isfinite(found.grad_norm)

    def test_a_loss_that_is_not_a_number_is_not_finite(self):
        """The gradient is zero here, so the parameters stay finite."""
        _, found = self.step(
            lambda p, *_: 0 * p["x"] + np.nan, {"x": np.zeros((2, 24))},
        )  # fmt: skip
        assert not found.finite and np.isnan(found.loss)

    def test_a_gradient_with_an_infinite_value_is_not_finite(self):
        """The loss is finite, and at step 0 the learning rate is zero."""
        _, found = self.step(square_root_of_zero, {"x": np.zeros((2, 24)), "y": np.zeros(())})
        assert not found.finite and np.isfinite(found.loss)
        assert not np.isfinite(found.grad_norm)

    def test_a_gradient_whose_norm_overflows_is_not_finite(self):
        """Its values are finite, but clipping would set them to zero."""
        _, found = self.step(lambda p, *_: 1e30 * p["x"], {"x": np.zeros((2, 24))})
        assert not found.finite and np.isfinite(found.loss)

    def test_parameters_that_overflow_are_not_finite(self):
        def constant(params, batch, key):
            """Returns logits of zero, whatever the parameters; the gradient is not zero."""
            return params["x"] - jax.lax.stop_gradient(params["x"])

        changed = settings(learning_rate=1e38)
        state, found = self.step(constant, {"x": np.full((2, 24), -3e38)}, 0, changed)
        assert found.finite  # the learning rate is still zero
        step = loop.make_train_step(ApplyFn(constant), changed, 10)
        _, found = step(state, self.BATCH, np.uint32(7))
        assert not found.finite
        assert np.isfinite(found.loss) and np.isfinite(found.grad_norm)


def square_root_of_zero(params, batch, key):
    """Returns the logits `x`, with an infinite gradient of `y` where `y` is zero."""
    root = jnp.sqrt(params["y"])
    return params["x"] + root


def losses(workdir):
    return {e["step"]: e["loss"] for e in figures.read_metrics(workdir) if "loss" in e}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A working directory with an uninterrupted training of three epochs, and its parameters."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, fit(workdir)


def test_training_learns(tmp_path):
    before = validate(PARAMS)
    params = fit(tmp_path, epochs=10, learning_rate=0.1, checkpoint_every=100)
    assert before < 0.65
    assert validate(params) > 0.9


def test_compiling_is_logged_before_the_first_step(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "mmgc_jax")
    logged = []  # what the log has when each step begins

    def make_train_step(*arguments, make=loop.make_train_step):
        step = make(*arguments)

        def watched(*state_and_batch):
            logged.append(caplog.messages.count("fusion: compiling"))
            return step(*state_and_batch)

        return watched

    monkeypatch.setattr(loop, "make_train_step", make_train_step)
    fit(tmp_path, epochs=1)
    assert logged == [1] * STEPS_PER_EPOCH


def test_the_initial_parameters_are_not_changed(undisturbed):
    _, params = undisturbed
    assert np.abs(params["genres"]["kernel"] - PARAMS["genres"]["kernel"]).max() > 1e-3
    assert (PARAMS["genres"]["bias"] == 0).all()


class Stop(Exception):
    """Stands for a crash, such as a power failure."""


def stop_in_the_midst_of_an_epoch(monkeypatch):
    class Interrupted(pipeline.Batches):
        def __getitem__(self, step):
            if step == 7:
                raise Stop
            return super().__getitem__(step)

    return {"batches": lambda epochs: batches(epochs, Interrupted)}


def stop_before_the_trained_parameters_are_written(monkeypatch):
    save = checkpoints.save

    def interrupted(directory, *arguments, **options):
        if directory.name == "trained":
            raise Stop
        save(directory, *arguments, **options)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    return {}


@pytest.mark.parametrize("checkpoint_every", [2, 100])  # with 100 all steps are repeated
@pytest.mark.parametrize(
    "stop", [stop_in_the_midst_of_an_epoch, stop_before_the_trained_parameters_are_written]
)
def test_an_interrupted_training_has_the_result_of_an_uninterrupted_one(
    tmp_path, undisturbed, monkeypatch, stop, checkpoint_every
):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        fit(tmp_path, checkpoint_every=checkpoint_every, **stop(patch))
    assert not (tmp_path / "checkpoints" / "fusion" / "trained").exists()
    if checkpoint_every == 2:
        assert 0 < int(latest(tmp_path)["step"]) < 3 * STEPS_PER_EPOCH
    else:
        assert latest(tmp_path) is None

    workdir, expected = undisturbed
    assert_same(fit(tmp_path, checkpoint_every=checkpoint_every), expected)
    assert_same(trained(tmp_path), expected)
    if checkpoint_every == 2:  # otherwise the logged losses are averages over other steps
        assert losses(tmp_path) == losses(workdir)


def test_a_training_resumes_from_its_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        fit(tmp_path, **stop_in_the_midst_of_an_epoch(patch))

    class FromStep6(pipeline.Batches):
        def __getitem__(self, step):
            assert step >= 6
            return super().__getitem__(step)

    fit(tmp_path, batches=lambda epochs: batches(epochs, FromStep6))


def saved_steps(monkeypatch, workdir, **changes):
    """Trains; returns the steps at which the state was saved."""
    steps = []
    save = checkpoints.save

    def remember(directory, step, tree, **options):
        if isinstance(tree, loop.TrainState):
            steps.append(step)
        save(directory, step, tree, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", remember)
        fit(workdir, **changes)
    assert (workdir / "checkpoints" / "fusion" / "trained").is_dir()
    return steps


def test_a_fast_training_saves_its_parameters_alone(tmp_path, monkeypatch):
    assert saved_steps(monkeypatch, tmp_path, checkpoint_every=100) == []


def test_the_settings_say_how_often_to_save(tmp_path, monkeypatch):
    assert saved_steps(monkeypatch, tmp_path, checkpoint_every=4) == [4, 8, 12]


def test_slow_epochs_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    assert saved_steps(monkeypatch, tmp_path, checkpoint_every=100) == [5, 10]


def test_the_time_between_checkpoints_starts_at_the_last_one(tmp_path, monkeypatch):
    """Epochs take 4 seconds of a fake clock; checkpoints are at least 10 seconds apart."""
    now = [0.0]
    epoch_done = TrainingLog.epoch_done

    def slow(self, epoch):
        epoch_done(self, epoch)
        now[0] += 4

    monkeypatch.setattr(TrainingLog, "epoch_done", slow)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    steps = saved_steps(monkeypatch, tmp_path, checkpoint_every=1000, epochs=10)
    # Epoch 4 ends 12 seconds after the start, and is saved 4 seconds later. From then on epoch 8
    # is the first to end more than 10 seconds later.
    assert steps == [20, 40]


def test_a_requested_stop_finishes_and_saves_the_current_step(tmp_path, undisturbed, monkeypatch):
    write = JsonLinesWriter.write

    def ask_at_step_7(self, run, step, metrics):
        write(self, run, step, metrics)
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    seldom = {"checkpoint_every": 100, "log_every": 1}
    with monkeypatch.context() as patch, preemption.listening():
        patch.setattr(JsonLinesWriter, "write", ask_at_step_7)
        with pytest.raises(preemption.Interrupted):
            fit(tmp_path, **seldom)
    assert int(latest(tmp_path)["step"]) == 8

    assert_same(fit(tmp_path, **seldom), undisturbed[1])


def nothing_more(*args):
    raise AssertionError("a finished training must not do anything")


def no_batches(epochs):
    class NoBatch(pipeline.Batches):
        __getitem__ = nothing_more

    return batches(epochs, NoBatch)


def test_a_finished_training_returns_at_once(undisturbed):
    workdir, expected = undisturbed
    before = (workdir / "metrics.jsonl").read_text()
    assert_same(fit(workdir, batches=no_batches), expected)
    assert (workdir / "metrics.jsonl").read_text() == before
    assert_same(trained(workdir), expected)


def spoiled_from(first_step):
    """Makes batches whose features are NaN from a step on; steps count from 1."""

    class Spoiled(pipeline.Batches):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return batch | {"x": batch["x"] * np.nan} if step + 1 >= first_step else batch

    return lambda epochs: batches(epochs, Spoiled)


def movies_of(step, name=str):
    """Returns the movies of a step, counted from 1, as error messages list them."""
    return ", ".join(map(name, batches(3)[step - 1]["indices"]))


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint(tmp_path, undisturbed):
    with pytest.raises(InputError, match=r"^plot/fold_1: the loss at step 7 is nan") as caught:
        fit(tmp_path, "plot/fold_1", batches=spoiled_from(7))
    assert f"(movies {movies_of(7)})" in str(caught.value)
    state = latest(tmp_path, "plot/fold_1")
    assert int(state["step"]) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert max(losses(tmp_path)) == 6

    # With good batches it continues from step 6.
    assert_same(fit(tmp_path, "plot/fold_1"), undisturbed[1])


def test_the_error_names_the_field_of_the_settings(tmp_path):
    with pytest.raises(InputError, match=r"clip_norm in config\.poster\.head_training, in a"):
        fit(tmp_path, batches=spoiled_from(1), field="poster.head_training", log_every=1)


def test_a_gradient_that_is_not_finite_is_found_at_its_step(tmp_path):
    """The error must not name the next step, whose loss is not finite either."""

    class Spoiled(pipeline.Batches):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return batch | {"spoiled": np.full(len(batch["mask"]), step + 1 == 7)}

    @ApplyFn
    def spoil(params, batch, key):
        zero = jnp.where(batch["spoiled"].any(), 0 * params["genres"]["bias"].sum(), 1.0)
        return apply(params, batch, key) + jnp.sqrt(zero) - jax.lax.stop_gradient(jnp.sqrt(zero))

    run = TrainingRun("fusion", tmp_path, seed=7, movie="number {}".format)
    movies = movies_of(7, "number {}".format)
    with pytest.raises(
        InputError, match=rf"the gradient at step 7, .*is not finite \(movies {movies}\)"
    ):
        loop.fit(run, spoil, PARAMS, batches(3, Spoiled), settings())
    assert int(latest(tmp_path)["step"]) == 6


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    """Here the loss, the gradients and their norm are finite."""
    params = PARAMS | {"free": {"x": np.full(24, -3e38, np.float32)}}

    @ApplyFn
    def with_free_part(params, batch, key):
        free = params["free"]["x"]
        return apply({"genres": params["genres"]}, batch, key) + free - jax.lax.stop_gradient(free)

    # The first step has a learning rate of zero. All labels are 0, so the logits must decrease.
    changed = settings(learning_rate=1.0, checkpoint_every=1, log_every=1)
    changed.learning_rate_scale.free = 1e38
    examples, labels = problem()
    no_genres = np.zeros_like(labels)
    whole = pipeline.Batches(examples, no_genres, np.arange(40), 8, shuffle_seed=0, epochs=3)
    run = TrainingRun("fusion", tmp_path, seed=7)
    message = "the parameters after step 2 are not all finite"
    with pytest.raises(InputError, match=rf"{message} \(movies {movies_of(2)}\)"):
        loop.fit(run, with_free_part, params, whole, changed)
    state = latest(tmp_path)
    assert int(state["step"]) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_finiteness_is_computed_within_the_step(tmp_path, monkeypatch):
    """Checking sharded arrays one by one outside of it can deadlock.

    Each check would be a program of its own with an all-reduce, and devices may start these
    programs in different orders.
    """
    is_finite = loop.is_finite

    def only_traced(tree):
        assert all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
        return is_finite(tree)

    monkeypatch.setattr(loop, "is_finite", only_traced)
    fit(tmp_path)


def test_restoring_without_a_trained_model_is_an_error(tmp_path):
    with pytest.raises(InputError, match="has plot finished"):
        loop.restore_trained(TrainingRun("plot", tmp_path, seed=0))
