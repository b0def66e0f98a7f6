"""Nobody is judged by a model that has seen the answer."""

import types

import jax
import numpy as np
from scipy.special import expit

from mmgc_jax.data import pipeline
from mmgc_jax.training.cross_fit import Experiment, Fitted, Recipe, cross_fit, fold_names
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
    asked = []

    def apply(params, batch, key):
        """For a movie that it saw a model says 0.99, for another what is its own."""
        seen = (batch["movie"][:, None] == params["seen"]).any(axis=1)
        said = jax.numpy.where(seen, 0.99, params["said"])
        return jax.scipy.special.logit(said)[:, None] * np.ones(24)

    def fit_fold(fit, name, indices):
        asked.append((name, set(indices.tolist())))
        fold = int(name[-1])
        examples = pipeline.ArrayExamples({"movie": np.arange(9)})
        seen = np.full(9, -1)
        seen[: len(indices)] = indices
        return Fitted(examples, apply, {"seen": seen, "said": np.float32(0.1 * (fold + 1))})

    shifted = pipeline.ArrayExamples({"movie": np.arange(9) + 100})
    recipe = Recipe(None, apply, fit_fold, 2 * jax.device_count())
    arrays = cross_fit(experiment(tmp_path), "plot", PRESENT, recipe, {"other": shifted})
    assert asked == [
        ("plot/fold_0", {1, 3, 4, 6}), ("plot/fold_1", {0, 1, 5, 6}), ("plot/fold_2", {0, 3, 4, 5}),
    ]  # fmt: skip
    said = arrays["probabilities"]
    assert said.shape == (9, 24) and said.dtype == np.float32
    # Movie 2 does not train: all three models predict it. Movies 7 and 8 are not present.
    expected = [0.1, 0.3, 0.2, 0.2, 0.2, 0.1, 0.3, 0, 0]
    np.testing.assert_allclose(said[:, 5], expected, atol=1e-6)
    # The same models predict the other examples.
    np.testing.assert_allclose(arrays["other"], said, atol=1e-6)


def test_fit_trains_on_what_it_is_given(tmp_path):
    """A bias for each genre, trained on the others of its fold alone, tells the folds apart."""
    labels = np.zeros((9, 24), np.float32)
    labels[FOLDS == 0, 3] = 1  # only the models of folds 1 and 2 see this genre
    labels[2, 5] = 1
    prepared = experiment(tmp_path, labels)
    settings = prepared.config.plot.training
    settings.epochs = 1
    settings.learning_rate = 0.3
    settings.batch_size = jax.device_count()
    examples = pipeline.ArrayExamples({"movie": np.arange(9, dtype=np.float32)})
    validation = PRESENT | True

    def apply(params, batch, key):
        logits = params["genres"]["bias"] + 0 * batch["movie"][:, None]
        # So that validation can tell movies apart.
        return logits + 1e-5 * batch["movie"][:, None]

    def fit_fold(fit, name, indices):
        params = {"genres": {"bias": np.zeros(24, np.float32)}}
        return fit(name, indices, examples, apply, params, settings)

    recipe = Recipe(examples, apply, fit_fold, 4 * jax.device_count())
    said = cross_fit(prepared, "plot", validation, recipe)["probabilities"][:, 3]
    assert said[FOLDS == 0].max() < min(said[FOLDS == 1].min(), said[FOLDS == 2].min())
    assert said[FOLDS == 0].max() < said[2] < said[FOLDS > 0].max()
    for name in fold_names(prepared.config, "plot"):
        assert (tmp_path / "checkpoints" / name / "best").is_dir()


def test_initial_bias_by_hand(tmp_path):
    # Of the seven training movies one, two, all and none have the genres.
    labels = np.zeros((9, 24), np.float32)
    rows = np.flatnonzero(FOLDS >= 0)
    labels[rows[0], 0] = labels[rows[:2], 1] = labels[rows, 2] = labels[2] = 1
    prepared = experiment(tmp_path, labels)
    np.testing.assert_allclose(prepared.frequencies[:4], [1 / 7, 2 / 7, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(
        expit(prepared.initial_bias[:4]), [1 / 7, 2 / 7, 0.999, 0.001], rtol=1e-4
    )


def test_every_training_has_a_seed_of_its_own(tmp_path):
    prepared = experiment(tmp_path)
    names = ("plot", "plot/fold_0", "plot/fold_1", "poster", "poster/head", "poster_grey")
    seeds = {prepared.seed_of(name) for name in names}
    prepared.config.seed = 1
    seeds |= {prepared.seed_of(name) for name in names}
    assert len(seeds) == 2 * len(names)
    assert all(0 <= seed < 2**31 for seed in seeds)
