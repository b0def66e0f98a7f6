"""Tests of cross-fitting: each movie is predicted by models that were not trained on it."""

import types

import jax
import numpy as np
import pytest

from mmgc_jax.data import pipeline
from mmgc_jax.training import loop
from mmgc_jax.training.cross_fit import Phase, Recipe, cross_fit, in_phases
from mmgc_jax.training.run import ApplyFn, Experiment, names_of_models
from tests import tiny

#                 0  1   2  3  4  5  6   7  8
FOLDS = np.array([0, 2, -1, 1, 1, 0, 2, -1, 0])
PRESENT = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0], bool)


def experiment(tmp_path, labels=None):
    config = tiny.get_config()
    config.folds = 3
    corpus = types.SimpleNamespace(
        labels=np.zeros((9, 24), np.float32) if labels is None else labels,
        split={"train": np.flatnonzero(FOLDS >= 0), "validation": np.array([2, 7])},
    )
    return Experiment(config, tmp_path, corpus, FOLDS, tmp_path)


def test_a_movie_is_predicted_by_the_models_that_did_not_see_it(tmp_path):
    calls = []

    @ApplyFn
    def apply(params, batch, key):
        """Predicts 0.99 for training movies, and the fold's own probability for all others."""
        seen = (batch["movie"][:, None] == params["seen"]).any(axis=1)
        probabilities = jax.numpy.where(seen, 0.99, params["probability"])
        return jax.scipy.special.logit(probabilities)[:, None] * np.ones(24)

    def fit_fold(fit, name, indices):
        calls.append((name, set(indices.tolist())))
        fold = int(name[-1])
        seen = np.full(9, -1)
        seen[: len(indices)] = indices
        return {"seen": seen, "probability": np.float32(0.1 * (fold + 1))}

    examples = pipeline.ArrayExamples({"movie": np.arange(9)})
    shifted = pipeline.ArrayExamples({"movie": np.arange(9) + 100})
    recipe = Recipe(examples, apply, fit_fold, 2 * jax.device_count())
    variants = {"other": shifted}
    arrays = cross_fit(experiment(tmp_path), "plot", "plot", PRESENT, recipe, variants)
    assert calls == [
        ("plot/fold_0", {1, 3, 4, 6}), ("plot/fold_1", {0, 1, 5, 6}), ("plot/fold_2", {0, 3, 4, 5}),
    ]  # fmt: skip
    found = arrays["probabilities"]
    assert found.shape == (9, 24) and found.dtype == np.float32
    # Movie 2 is not a training movie, so all three models predict it. Movies 7 and 8 lack a plot.
    expected = [0.1, 0.3, 0.2, 0.2, 0.2, 0.1, 0.3, 0, 0]
    np.testing.assert_allclose(found[:, 5], expected, atol=1e-6)
    # The same models predict the other examples.
    np.testing.assert_allclose(arrays["other"], found, atol=1e-6)


def test_several_models_of_a_fold_are_averaged(tmp_path):
    prepared = experiment(tmp_path)
    prepared.config.plot.models_per_fold = 2
    probability = {}

    @ApplyFn
    def apply(params, batch, key):
        return jax.scipy.special.logit(params["p"]) + jax.numpy.zeros((len(batch["movie"]), 24))

    def fit_fold(fit, name, indices):
        probability[name] = np.float32(0.1 * (len(probability) + 1))
        return {"p": probability[name]}

    examples = pipeline.ArrayExamples({"movie": np.arange(9)})
    recipe = Recipe(examples, apply, fit_fold, 2 * jax.device_count())
    found = cross_fit(prepared, "plot", "plot", PRESENT | True, recipe)["probabilities"]
    assert list(probability)[:3] == ["plot/fold_0", "plot/fold_0_model_1", "plot/fold_1"]
    # 0.1 and 0.2 for fold 0, 0.3 and 0.4 for fold 1, 0.5 and 0.6 for fold 2.
    np.testing.assert_allclose(found[[0, 3, 1], 0], [0.15, 0.35, 0.55], rtol=1e-5)
    np.testing.assert_allclose(found[2], 0.35, rtol=1e-5)


def test_fit_trains_on_the_given_movies(tmp_path):
    """The model has one bias for each genre, so its predictions show which folds it has seen."""
    labels = np.zeros((9, 24), np.float32)
    labels[FOLDS == 0, 3] = 1  # only the models of folds 1 and 2 see this genre
    labels[2, 5] = 1
    prepared = experiment(tmp_path, labels)
    settings = prepared.config.plot.training
    settings.epochs = 1
    settings.learning_rate = 0.3
    settings.batch_size = jax.device_count()
    examples = pipeline.ArrayExamples({"movie": np.arange(9, dtype=np.float32)})

    @ApplyFn
    def apply(params, batch, key):
        return params["genres"]["bias"] + 0 * batch["movie"][:, None]

    def fit_fold(fit, name, indices):
        return fit(name, indices, examples, apply, init)

    def init(key):
        return {"genres": {"bias": np.zeros(24, np.float32)}}

    recipe = Recipe(examples, apply, fit_fold, 4 * jax.device_count())
    found = cross_fit(prepared, "plot", "plot", PRESENT | True, recipe)["probabilities"][:, 3]
    assert found[FOLDS == 0].max() < min(found[FOLDS == 1].min(), found[FOLDS == 2].min())
    assert found[FOLDS == 0].max() < found[2] < found[FOLDS > 0].max()
    for [name] in names_of_models(prepared.config, "plot"):
        assert (tmp_path / "checkpoints" / name / "trained").is_dir()


def test_the_step_of_all_folds_is_traced_once(tmp_path):
    prepared, traced = experiment(tmp_path), []
    training = prepared.config.plot.training
    training.epochs, training.batch_size = 2, 8 * jax.device_count()

    @ApplyFn
    def apply(params, batch, key):
        if key is not None:
            traced.append(key)
        return params["genres"]["bias"] + 0 * batch["movie"][:, None]

    examples = pipeline.ArrayExamples({"movie": np.arange(9, dtype=np.float32)})
    init = {"genres": {"bias": np.zeros(24, np.float32)}}
    recipe = in_phases([Phase(examples, apply, lambda key: init)], training.batch_size)
    cross_fit(prepared, "plot", "plot", PRESENT | True, recipe)
    assert len(traced) == 1


def test_each_model_begins_with_parameters_of_its_own(tmp_path, monkeypatch):
    """Otherwise the mean of several models would average less than it can."""
    prepared = experiment(tmp_path)
    prepared.config.plot.models_per_fold = 2
    begun = []

    def remember(run, apply, params, batches, settings):
        begun.append(float(params["kernel"]))
        return params

    monkeypatch.setattr(loop, "fit", remember)

    @ApplyFn
    def apply(params, batch, key):
        return np.zeros((len(batch["movie"]), 24), np.float32)

    examples = pipeline.ArrayExamples({"movie": np.arange(9)})
    phase = Phase(examples, apply, lambda key: {"kernel": jax.random.normal(key)})
    for name in ("plot", "plot", "poster"):
        cross_fit(prepared, name, name, PRESENT, in_phases([phase], jax.device_count()))
    plot, again, poster = begun[:6], begun[6:12], begun[12:]
    assert plot == again
    assert len({*plot, *poster}) == 9


def test_a_training_has_the_settings_of_its_field(tmp_path, monkeypatch):
    """Factors of the learning rate given by the encoder override those of the config."""
    prepared = experiment(tmp_path)
    section = prepared.config.poster_grey
    section.head_training.learning_rate_scale.words = 0.5
    section.head_training.learning_rate_scale.vgg16 = 0.5
    calls = []

    def remember(run, apply, params, batches, settings):
        calls.append((run, settings))
        return params

    monkeypatch.setattr(loop, "fit", remember)
    examples = pipeline.ArrayExamples({"movie": np.arange(9)})

    @ApplyFn
    def apply(params, batch, key):
        return np.zeros((len(batch["movie"]), 24), np.float32)

    def fit_fold(fit, name, indices):
        field, scales = "head_training", {"words": 0.0}
        return fit(f"{name}/head", indices, examples, apply, lambda key: {}, field, scales)

    recipe = Recipe(examples, apply, fit_fold, 2 * jax.device_count())
    cross_fit(prepared, "other", "poster_grey", PRESENT, recipe)
    assert [run.name for run, _ in calls] == [f"other/fold_{fold}/head" for fold in range(3)]
    for run, settings in calls:
        assert run.field == "poster_grey.head_training"
        assert run.seed == prepared.seed_of(run.name)
        assert settings.learning_rate_scale.to_dict() == {"words": 0.0, "vgg16": 0.5}
        assert settings.epochs == section.head_training.epochs
    assert section.head_training.learning_rate_scale.words == 0.5  # unchanged


def test_phases_pass_on_trained_parameters():
    """They replace initial parameters of the next phase; the last phase's model predicts."""
    calls = []

    def fit(name, indices, examples, apply, init, field, scales):
        params = init(f"key of {name}")
        calls.append((name, list(indices), examples, apply, params, field, dict(scales)))
        return {part: f"{value}, trained" for part, value in params.items()}

    phases = [
        Phase("features", "head", lambda key: {"head": key}, "head"),
        Phase(
            "posters", "all", lambda key: {"head": key, "vgg16": "ImageNet"}, scales={"vgg16": 0.2}
        ),
    ]
    recipe = in_phases(phases, 4)
    trained = recipe.fit_fold(fit, "poster/fold_0", [1, 2])
    first = (
        "poster/fold_0/head",
        [1, 2],
        "features",
        "head",
        {"head": "key of poster/fold_0/head"},
    )
    second = {"head": "key of poster/fold_0/head, trained", "vgg16": "ImageNet"}
    assert calls == [
        (*first, "head_training", {}),
        ("poster/fold_0", [1, 2], "posters", "all", second, "training", {"vgg16": 0.2}),
    ]
    head = "key of poster/fold_0/head, trained, trained"
    assert trained == {"head": head, "vgg16": "ImageNet, trained"}
    assert (recipe.examples, recipe.apply, recipe.batch_size) == ("posters", "all", 4)


def test_movies_without_the_modality_get_the_frequencies_of_the_genres(tmp_path):
    labels = np.zeros((9, 24), np.float32)
    labels[[0, 1], 7] = 1  # two of seven training movies
    prepared = experiment(tmp_path, labels)
    examples = pipeline.ArrayExamples({"movie": np.arange(9)})

    @ApplyFn
    def apply(params, batch, key):
        return jax.numpy.zeros((len(batch["movie"]), 24))

    recipe = Recipe(examples, apply, lambda fit, name, rows: {}, jax.device_count())
    found = cross_fit(prepared, "plot", "plot", PRESENT, recipe)["probabilities"][:, 7]
    assert found[PRESENT] == pytest.approx(0.5)
    assert found[~PRESENT] == pytest.approx(2 / 7)
