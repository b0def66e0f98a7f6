"""Training: the loss, the optimizer, and a loop that may be stopped at any moment."""

import json
import os
import re
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmgc_jax.configs import default
from mmgc_jax.data import pipeline
from mmgc_jax.evaluation import report, results
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints, inference, loop

# Of the small problem below: 40 movies to train on, in batches of 8.
STEPS_PER_EPOCH = 5


def settings(**changes):
    """Of a small training; the fields are those of the default config."""
    values = dict(
        learning_rate=0.02, weight_decay=0.0, patience=10, log_every=3, checkpoint_every=2
    )
    result = default.get_config().fusion.training
    result.update(values | changes)
    return result


def test_loss_by_hand():
    # sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4.
    logits = np.log([[1, 3], [3, 1]]).astype(np.float32)
    labels = np.array([[1, 0], [1, 1]], np.float32)
    expected = [(np.log(2) + np.log(4)) / 2, (np.log(4 / 3) + np.log(2)) / 2]
    loss = loop.multilabel_loss(logits, labels, np.ones(2), np.ones(2))
    assert float(loss) == pytest.approx(np.mean(expected))

    # The weights count for present genres only.
    weighted = [(10 * np.log(2) + np.log(4)) / 2, (10 * np.log(4 / 3) + 100 * np.log(2)) / 2]
    loss = loop.multilabel_loss(logits, labels, np.ones(2), np.array([10, 100]))
    assert float(loss) == pytest.approx(np.mean(weighted))


def test_loss_ignores_padding():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 24)).astype(np.float32)
    labels = rng.integers(0, 2, (5, 24)).astype(np.float32)
    mask = np.array([1, 1, 1, 0, 0], np.float32)

    def loss(logits):
        return loop.multilabel_loss(logits, labels, mask, np.ones(24))

    alone = loop.multilabel_loss(logits[:3], labels[:3], np.ones(3), np.ones(24))
    assert float(loss(logits)) == pytest.approx(float(alone), rel=1e-6)
    gradient = jax.grad(loss)(logits)
    assert (gradient[3:] == 0).all() and (gradient[:3] != 0).all()
    assert float(loop.multilabel_loss(logits, labels, np.zeros(5), np.ones(24))) == 0


def test_positive_weights_by_hand():
    # Of 5 movies, the genres have 1, 4, 0 and 5.
    labels = np.zeros((5, 4), np.float32)
    labels[0, 0] = labels[:4, 1] = labels[:, 3] = 1
    assert loop.positive_weights(labels, 1.0)[:2].tolist() == [4, 0.25]
    assert loop.positive_weights(labels, 0.5)[:2].tolist() == [2, 0.5]
    assert loop.positive_weights(labels, 0.0).tolist() == [1, 1, 1, 1]
    # A genre that all movies have or none: a weight that is finite and positive.
    assert np.isfinite(loop.positive_weights(labels, 1.0)).all()
    assert (loop.positive_weights(labels, 1.0) > 0).all()


def optimize(optimizer, params, gradients):
    """Parameters before and after each of several steps."""
    state, path = optimizer.init(params), [params]
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, path[-1])
        path.append(optax.apply_updates(path[-1], updates))
    return path


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    # Adam moves by the learning rate where gradients do not change.
    optimizer = loop.make_optimizer(settings(learning_rate=0.1, warmup=0.25), 16)
    ones = {"dense": {"bias": jnp.ones(1)}}
    path = [float(p["dense"]["bias"][0]) for p in optimize(optimizer, ones, [ones] * 17)]
    rates = -np.diff(path)
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-5)
    half_way = 0.1 * (1 + np.cos(np.pi / 2)) / 2
    np.testing.assert_allclose(rates[10], half_way, atol=1e-5)
    assert (np.diff(rates[4:]) < 0).all()
    np.testing.assert_allclose(rates[16], 0, atol=1e-5)


def test_weight_decay_acts_on_kernels_alone():
    optimizer = loop.make_optimizer(settings(learning_rate=0.1, weight_decay=0.5), 10)
    params = {
        "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "weights": jnp.ones((2, 24)),
    }
    still = jax.tree.map(jnp.zeros_like, params)
    *_, before, after = optimize(optimizer, params, [still] * 3)
    # The second step of ten has the peak learning rate: 1 - 0.1 * 0.5.
    assert float(before["dense"]["kernel"][0, 0]) == pytest.approx(0.95)
    assert (after["dense"]["kernel"] < before["dense"]["kernel"]).all()
    assert (after["dense"]["bias"] == 1).all() and (after["weights"] == 1).all()


def test_a_part_with_factor_0_stays_bit_for_bit_the_same():
    changed = settings(weight_decay=0.5)
    changed.learning_rate_scale.words = 0.0
    rng = np.random.default_rng(0)
    params = {
        name: {"embedding": jnp.array(rng.normal(size=(5, 3)), jnp.float32)}
        for name in ("words", "others")
    }
    gradients = [jax.tree.map(lambda p, n=n: p + n, params) for n in range(5)]
    optimizer = loop.make_optimizer(changed, 5)
    last = optimize(optimizer, params, gradients)[-1]
    np.testing.assert_array_equal(last["words"]["embedding"], params["words"]["embedding"])
    assert (last["others"]["embedding"] != params["others"]["embedding"]).all()

    # "Costs nothing": no moments are kept for it.
    kept = sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(params)))
    assert kept < 3 * params["others"]["embedding"].size


def test_a_factor_scales_the_steps_of_its_part():
    changed = settings(weight_decay=0.1)
    changed.learning_rate_scale.vgg16 = 0.25
    one = jnp.array([[1.0, -2.0]])
    params = {"head": {"kernel": one}, "vgg16": {"kernel": one}}
    gradients = [jax.tree.map(lambda p: p * 0.3, params)] * 2
    last = optimize(loop.make_optimizer(changed, 10), params, gradients)[-1]
    head, scaled = (last[name]["kernel"] - one for name in ("head", "vgg16"))
    assert (jnp.abs(head) > 1e-3).all()
    np.testing.assert_allclose(scaled, 0.25 * head, rtol=1e-4)


def test_large_gradients_are_cut_to_the_norm():
    optimizer = loop.make_optimizer(settings(clip_norm=1.0), 10)
    params = {"dense": {"kernel": jnp.zeros((1, 2))}}

    def last(first_gradient):
        later = {"dense": {"kernel": jnp.array([[0.1, -0.1]])}}
        first = {"dense": {"kernel": jnp.array([first_gradient])}}
        return optimize(optimizer, params, [first, later, later])[-1]["dense"]["kernel"]

    np.testing.assert_allclose(last([300.0, 400.0]), last([0.6, 0.8]), rtol=1e-4)
    assert np.abs(last([0.3, 0.4]) - last([0.6, 0.8])).max() > 1e-4  # smaller ones are left alone


def test_the_norm_is_that_of_all_parts_that_train():
    changed = settings(clip_norm=1.0)
    changed.learning_rate_scale.update({"vgg16": 0.5, "words": 0.0})
    params = {name: {"kernel": jnp.zeros((1, 1))} for name in ("head", "vgg16", "words")}

    def last(*first_gradients):
        path = optimize(
            loop.make_optimizer(changed, 10),
            params,
            [
                dict(zip(params, ({"kernel": jnp.array([[g]])} for g in gradients)))
                for gradients in (first_gradients, (0.1, 0.1, 0.1), (0.1, 0.1, 0.1))
            ],
        )
        return np.array([path[-1][name]["kernel"].item() for name in params])

    np.testing.assert_allclose(last(300.0, 400.0, 900.0), last(0.6, 0.8, 0.0), rtol=1e-4)


def test_a_factor_for_a_part_that_is_not_there():
    changed = settings()
    changed.learning_rate_scale.wrods = 0.1
    with pytest.raises(InputError, match="names wrods; the parameters have the parts words"):
        loop.make_optimizer(changed, 5).init({"words": {"embedding": jnp.ones((2, 2))}})


def test_augmentation_and_dropout_act_only_with_a_key():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            scale = self.param("scale", nn.initializers.ones, ())
            return nn.Dropout(0.5, deterministic=not train)(scale * x), {}

    def augment(key, batch):
        return batch | {"x": batch["x"] + jax.random.uniform(key)}

    x = np.ones((2, 24), np.float32)
    batch, params = {"x": x, "labels": x}, {"scale": 3.0}
    augmented = loop.make_apply(Model(), ("x",), augment)
    np.testing.assert_array_equal(augmented(params, batch, None), 3 * x)

    one, two = (np.asarray(augmented(params, batch, jax.random.key(n))) for n in (1, 2))
    np.testing.assert_array_equal(one, augmented(params, batch, jax.random.key(1)))
    assert len(np.unique(one)) == len(np.unique(two)) == 2  # 0, and the value twice as large
    assert one.max() != two.max() and one.max() > 6

    plain = np.asarray(loop.make_apply(Model(), ("x",))(params, batch, jax.random.key(1)))
    assert np.unique(plain).tolist() == [0, 6]


def test_every_step_has_random_numbers_of_its_own_and_the_same_ones_again():
    def noise(params, batch, key):
        return params["scale"] * jax.random.normal(key, batch["labels"].shape)

    optimizer = optax.set_to_zero()
    step = loop.make_train_step(noise, optimizer)
    batch = {"labels": np.zeros((2, 24), np.float32), "mask": np.ones(2, np.float32)}

    def loss_at(number):
        params = {"scale": jnp.ones(())}
        state = loop.TrainState(jnp.array(number), params, optimizer.init(params))
        state, loss = step(state, batch, np.uint32(7), np.ones(24))
        assert int(state.step) == number + 1
        return float(loss)

    assert len({loss_at(number) for number in range(5)}) == 5
    assert loss_at(3) == loss_at(3)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(24, name="genres")(x), {}


def augment(key, batch):
    return batch | {"x": batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)}


apply = loop.make_apply(Linear(), ("x",), augment)
VALIDATION = np.arange(40, 70)
PARAMS = {
    "genres": {
        "kernel": 0.1 * np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32),
        "bias": np.zeros(24, np.float32),
    }
}
WEIGHTS = np.ones(24, np.float32)


def problem():
    """Features of 70 movies that are a rotation of their genres, with some noise."""
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(70, 24)) < 0.3).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(24, 24)))
    x = labels @ rotation + 0.1 * rng.normal(size=(70, 24))
    return pipeline.ArrayExamples({"x": x.astype(np.float32)}), labels


def batches(epochs, kind=pipeline.Batches):
    examples, labels = problem()
    return kind(examples, labels, np.arange(40), 8, shuffle_seed=0, epochs=epochs)


def validate(params):
    examples, labels = problem()
    whole = pipeline.Batches(examples, labels, VALIDATION, 8)
    scores = inference.probabilities(apply, params, whole)
    return results.headline(labels[VALIDATION], scores[VALIDATION])


def fit(workdir, name="fusion", epochs=3, batches=batches, validate=validate, **changes):
    run = loop.Run(name, workdir, seed=7)
    return loop.fit(run, apply, PARAMS, batches(epochs), validate, settings(**changes), WEIGHTS)


def latest(workdir, name="fusion"):
    return checkpoints.restore(workdir / "checkpoints" / name / "latest")


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def losses(workdir):
    return {e["step"]: e["loss"] for e in report.read_metrics(workdir) if "loss" in e}


def test_validation_that_cannot_tell_stops_with_a_reason(tmp_path):
    def undefined(params):
        return {"auc_macro": float("nan"), "auc_micro": 0.5}

    with pytest.raises(InputError, match="fusion: the macro AUC on the validation part is undef"):
        fit(tmp_path, validate=undefined)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A working directory with a training of three epochs, and what `fit` returned."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, fit(workdir)


def test_training_learns(tmp_path):
    before = validate(PARAMS)["auc_macro"]
    trained = fit(tmp_path, epochs=10, learning_rate=0.1, checkpoint_every=100)
    assert before < 0.65
    assert validate(trained)["auc_macro"] > 0.9


def test_the_parameters_given_stay_as_they_were(undisturbed):
    _, trained = undisturbed
    assert np.abs(trained["genres"]["kernel"] - PARAMS["genres"]["kernel"]).max() > 1e-3
    assert (PARAMS["genres"]["bias"] == 0).all()


def test_metrics_have_a_line_for_each_report_and_each_validation(undisturbed):
    workdir, _ = undisturbed
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {"fusion"}
    # Every third step, every second one (a checkpoint) and every fifth (the end of an epoch).
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 3, 4, 5, 6, 8, 9, 10, 12, 14, 15]
    assert all(line["loss"] > 0 and line["movies_per_second"] > 0 for line in training)
    assert all(0 <= line["waiting_for_input"] < 1 for line in training)
    assert [line["step"] for line in lines if "seconds_to_first_step" in line] == [2]
    assert 0 < training[0]["seconds_to_first_step"] < 60
    validation = [line for line in lines if "validation" in line]
    assert [(line["step"], line["epoch"]) for line in validation] == [(5, 1), (10, 2), (15, 3)]
    assert all(line["validation"].keys() == {"auc_macro", "auc_micro"} for line in validation)
    assert len(lines) == len(training) + len(validation)


class Stop(Exception):
    """The power goes out."""


def stop_in_the_midst_of_an_epoch(monkeypatch):
    class Interrupted(pipeline.Batches):
        def __getitem__(self, step):
            if step == 7:
                raise Stop
            return super().__getitem__(step)

    return {"batches": lambda epochs: batches(epochs, Interrupted)}


def stop_in_validation(monkeypatch):
    epochs = iter(range(1, 10))

    def interrupted(params):
        if next(epochs) == 2:
            raise Stop
        return validate(params)

    return {"validate": interrupted}


def stop_between_two_checkpoints(monkeypatch):
    save = checkpoints.save

    def interrupted(directory, step, tree, notes, **options):
        if directory.name == "latest" and step == 2 * STEPS_PER_EPOCH:
            raise Stop
        save(directory, step, tree, notes, **options)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    return {}


@pytest.mark.parametrize(
    "stop", [stop_in_the_midst_of_an_epoch, stop_in_validation, stop_between_two_checkpoints]
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, undisturbed, monkeypatch, stop):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        fit(tmp_path, **stop(patch))
    stopped_at = int(latest(tmp_path)[0]["step"])
    assert 0 < stopped_at < 2 * STEPS_PER_EPOCH

    trained = fit(tmp_path)
    workdir, expected = undisturbed
    assert_same(trained, expected)
    assert_same(latest(tmp_path)[0], latest(workdir)[0])  # the optimizer's state as well
    assert latest(tmp_path)[1] == latest(workdir)[1]
    assert losses(tmp_path) == losses(workdir)


def test_a_run_goes_on_from_its_checkpoint_and_not_from_the_start(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        fit(tmp_path, **stop_in_the_midst_of_an_epoch(patch))

    class FromStep6(pipeline.Batches):
        def __getitem__(self, step):
            assert step >= 6
            return super().__getitem__(step)

    fit(tmp_path, batches=lambda epochs: batches(epochs, FromStep6))
    assert int(latest(tmp_path)[0]["step"]) == 15


def test_asked_to_stop_it_finishes_its_step_and_saves_it(tmp_path, undisturbed, monkeypatch):
    append = loop.append_metrics

    def ask_at_step_7(workdir, fields):
        append(workdir, fields)
        if fields["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    seldom = {"checkpoint_every": 100, "log_every": 1}
    with monkeypatch.context() as patch, preemption.listening():
        patch.setattr(loop, "append_metrics", ask_at_step_7)
        with pytest.raises(preemption.Interrupted):
            fit(tmp_path, **seldom)
    assert int(latest(tmp_path)[0]["step"]) == 8

    workdir, expected = undisturbed
    assert_same(fit(tmp_path, **seldom), expected)
    assert_same(latest(tmp_path)[0], latest(workdir)[0])
    assert latest(tmp_path)[1] == latest(workdir)[1]


@pytest.mark.parametrize("epoch", [2, 3])
def test_asked_to_stop_in_validation_it_validates_when_it_goes_on(tmp_path, undisturbed, epoch):
    epochs = iter(range(1, 10))

    def ask(params):
        if next(epochs) == epoch:
            os.kill(os.getpid(), signal.SIGINT)
        return validate(params)

    with preemption.listening(), pytest.raises(preemption.Interrupted):
        fit(tmp_path, validate=ask)
    assert int(latest(tmp_path)[0]["step"]) == epoch * STEPS_PER_EPOCH

    workdir, expected = undisturbed
    assert_same(fit(tmp_path), expected)
    assert_same(latest(tmp_path)[0], latest(workdir)[0])
    validated = [line for line in report.read_metrics(tmp_path) if "validation" in line]
    assert [line["epoch"] for line in validated] == [1, 2, 3]
    assert_same(fit(tmp_path), expected)  # it has finished


def nothing_more(*args):
    raise AssertionError("a finished run does nothing more")


class NoBatch(pipeline.Batches):
    __getitem__ = nothing_more


def test_a_finished_run_returns_at_once(undisturbed):
    workdir, expected = undisturbed
    before = (workdir / "metrics.jsonl").read_text()
    again = fit(workdir, batches=lambda epochs: batches(epochs, NoBatch), validate=nothing_more)
    assert_same(again, expected)
    assert (workdir / "metrics.jsonl").read_text() == before
    assert_same(loop.restore_best(loop.Run("fusion", workdir, seed=7)), expected)


def test_training_stops_when_validation_stalls_and_returns_the_best(tmp_path):
    scores = iter([0.5, 0.7, 0.6, 0.69, 0.99])
    seen = []

    def scripted(params):
        seen.append(jax.device_get(params))
        return {"auc_macro": next(scores)}

    best = fit(tmp_path, epochs=5, validate=scripted, patience=2)
    assert len(seen) == 4
    assert_same(best, seen[1])
    state, progress = latest(tmp_path)
    assert int(state["step"]) == 4 * STEPS_PER_EPOCH
    assert progress == {"best_auc": 0.7, "best_epoch": 2, "done": True}

    again = fit(
        tmp_path,
        epochs=5,
        batches=lambda epochs: batches(epochs, NoBatch),
        validate=nothing_more,
        patience=2,
    )
    assert_same(again, seen[1])


def test_patience_is_counted_across_an_interruption(tmp_path):
    scores = [0.7, 0.6, 0.65, 0.99]

    def scripted(first_epoch, stop_at=None):
        epochs = iter(range(first_epoch, 10))

        def validate(params):
            if (epoch := next(epochs)) == stop_at:
                raise Stop
            return {"auc_macro": scores[epoch - 1]}

        return validate

    with pytest.raises(Stop):
        fit(tmp_path, epochs=4, validate=scripted(1, stop_at=3), patience=2)
    fit(tmp_path, epochs=4, validate=scripted(3), patience=2)
    assert int(latest(tmp_path)[0]["step"]) == 3 * STEPS_PER_EPOCH


def spoiled_from(first_step):
    """Batches whose features are not a number from a step (counted from 1) on."""

    class Spoiled(pipeline.Batches):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return batch | {"x": batch["x"] * np.nan} if step + 1 >= first_step else batch

    return lambda epochs: batches(epochs, Spoiled)


def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_nothing(tmp_path, undisturbed):
    movies = batches(3)[6]["indices"]
    with pytest.raises(InputError, match=r"^plot/fold_1: the loss at step 7 is nan") as caught:
        fit(tmp_path, "plot/fold_1", batches=spoiled_from(7))
    assert f"(movies {', '.join(map(str, movies))})" in str(caught.value)
    state, _ = latest(tmp_path, "plot/fold_1")
    assert int(state["step"]) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert max(losses(tmp_path)) == 6

    # With good batches it goes on from there.
    assert_same(fit(tmp_path, "plot/fold_1"), undisturbed[1])


def test_a_gradient_that_is_not_finite_is_found_at_its_step(tmp_path):
    """And not at the next one, whose loss is not finite either."""

    class Spoiled(pipeline.Batches):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            return batch | {"spoiled": np.full(len(batch["mask"]), step + 1 == 7)}

    def spoil(params, batch, key):
        """0 * infinity is the square root's gradient."""
        zero = jnp.where(batch["spoiled"].any(), 0 * params["genres"]["bias"].sum(), 1.0)
        return apply(params, batch, key) + jnp.sqrt(zero) - jax.lax.stop_gradient(jnp.sqrt(zero))

    run = loop.Run("fusion", tmp_path, seed=7, movie="number {}".format)
    movies = ", ".join(f"number {index}" for index in batches(3)[6]["indices"])
    message = rf"the gradient at step 7 is not finite, .* \(movies {movies}\)"
    with pytest.raises(InputError, match=message):
        loop.fit(run, spoil, PARAMS, batches(3, Spoiled), validate, settings(), WEIGHTS)
    assert int(latest(tmp_path)[0]["step"]) == 6


def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
    def apply_with_gradient_nan(params, batch, key):
        """0 * infinity is the square root's gradient."""
        return apply(params, batch, key) + jnp.sqrt(jnp.sum(0 * params["genres"]["bias"]))

    run = loop.Run("fusion", tmp_path, seed=7)
    with pytest.raises(InputError, match="the parameters after step 1 are not all finite"):
        loop.fit(
            run, apply_with_gradient_nan, PARAMS, batches(3), validate,
            settings(checkpoint_every=1), WEIGHTS,
        )  # fmt: skip
    assert latest(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plot/fold_1", "plot.training"),
        ("poster/head", "poster.head_training"),
        ("poster_grey/fold_0", "poster.training"),
        ("poster_grey/fold_1/head", "poster.head_training"),
        ("plot_transformer/fold_0", "transformer.training"),
        ("fusion_gated/fold_0", "fusion"),
    ],
)
def test_the_advice_names_a_field_that_the_config_has(tmp_path, name, expected):
    with pytest.raises(InputError) as caught:
        fit(tmp_path, name, batches=spoiled_from(1), log_every=1)
    fields = re.findall(r"config\.(\w+(?:\.\w+)*)", str(caught.value))
    assert fields == [expected]
    for field in fields:
        value = default.get_config()
        for part in field.split("."):
            assert part in value, f"there is no config.{field}"
            value = value[part]


def test_no_parameters_where_nothing_was_trained(tmp_path):
    with pytest.raises(InputError, match="has plot finished"):
        loop.restore_best(loop.Run("plot", tmp_path, seed=0))
