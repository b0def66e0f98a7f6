"""Tests of forward passes, and of the names, seeds and initial biases of training runs."""

import types

import flax.linen as nn
import jax
import numpy as np
import pytest
from scipy.special import expit

from mmgc_jax.training.run import Experiment, TrainingRun, make_apply, names_of_models
from tests import tiny


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
    augmented = make_apply(Model(), ("x",), augment)
    np.testing.assert_array_equal(augmented(params, batch, None), 3 * x)

    one, two = (np.asarray(augmented(params, batch, jax.random.key(n))) for n in (1, 2))
    np.testing.assert_array_equal(one, augmented(params, batch, jax.random.key(1)))
    assert len(np.unique(one)) == len(np.unique(two)) == 2  # 0, and the value twice as large
    assert one.max() != two.max() and one.max() > 6

    plain = np.asarray(make_apply(Model(), ("x",))(params, batch, jax.random.key(1)))
    assert np.unique(plain).tolist() == [0, 6]


def test_the_named_arrays_are_passed_in_order():
    class Difference(nn.Module):
        def __call__(self, x, y, *, train=False):
            return x - y, {}

    batch = {"y": np.float32([1]), "x": np.float32([5]), "labels": np.float32([9])}
    assert make_apply(Difference(), ("x", "y"))({}, batch, None).item() == 4
    assert make_apply(Difference(), ("y", "x"))({}, batch, jax.random.key(0)).item() == -4


@pytest.fixture
def experiment(tmp_path):
    """Nine movies, seven for training; of these 1, 2, 7 and 0 have the first four genres."""
    config = tiny.get_config()
    config.folds = 3
    folds = np.array([0, 2, -1, 1, 1, 0, 2, -1, 0])
    rows = np.flatnonzero(folds >= 0)
    labels = np.zeros((9, 24), np.float32)
    labels[rows[0], 0] = labels[rows[:2], 1] = labels[rows, 2] = labels[2] = 1
    corpus = types.SimpleNamespace(
        ids=[f"movie {n}" for n in range(9)], labels=labels, split={"train": rows}
    )
    return Experiment(config, tmp_path, corpus, folds, tmp_path)


def test_initial_bias_by_hand(experiment):
    np.testing.assert_allclose(experiment.frequencies[:4], [1 / 7, 2 / 7, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(
        expit(experiment.initial_bias[:4]), [1 / 7, 2 / 7, 0.999, 0.001], rtol=1e-4
    )


def test_every_training_run_has_its_own_seed(experiment):
    names = ("plot", "plot/fold_0", "plot/fold_1", "poster", "poster/head", "poster_grey")
    seeds = {experiment.seed_of(name) for name in names}
    experiment.config.seed = 1
    seeds |= {experiment.seed_of(name) for name in names}
    assert len(seeds) == 2 * len(names)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_do_not_change_between_versions(experiment):
    """A change of the hash function would change every result."""
    assert experiment.seed_of("plot/fold_0") == 314559476
    assert experiment.seed_of("fusion") == 540229945


def test_a_training_run_has_the_options_of_the_config(experiment, tmp_path):
    experiment.config.update(split_parameters=True, tensorboard=True)
    experiment.config.data.workers = 3
    run = experiment.training_run("plot/fold_1", "plot.training")
    assert run == TrainingRun(
        "plot/fold_1", tmp_path, experiment.seed_of("plot/fold_1"), "plot.training", 3, True,
        run.movie, True,
    )  # fmt: skip
    assert run.movie(4) == "movie 4"
    assert run.checkpoints == tmp_path / "checkpoints/plot/fold_1"


def test_one_name_for_each_model_of_each_fold(experiment):
    names = names_of_models(experiment.config, "plot")
    assert names == [["plot/fold_0"], ["plot/fold_1"], ["plot/fold_2"]]
    experiment.config.plot.models_per_fold = 2
    names = names_of_models(experiment.config, "plot")
    assert names[1] == ["plot/fold_1", "plot/fold_1_model_1"] and len(names) == 3
    # Kinds without the setting, and fusions that are compared, have one model for each fold.
    assert names_of_models(experiment.config, "poster")[2] == ["poster/fold_2"]
    assert names_of_models(experiment.config, "fusion_mlp")[0] == ["fusion_mlp/fold_0"]
