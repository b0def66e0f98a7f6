"""Tests of what encoders share: following sections, averages over folds, reading parameters."""

import json

import jax
import ml_collections
import numpy as np
import pytest
from scipy.special import expit

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import base, poster_vgg16
from mmgc_jax.encoders.frozen import Frozen
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints
from mmgc_jax.training.run import ApplyFn


@pytest.fixture
def config():
    """A config with two poster encoders; the section of the grey one follows the other."""
    config = ml_collections.ConfigDict()
    config.poster = poster_vgg16.default_settings()
    config.poster_grey = base.following(config.poster, grey=True)
    return config


def test_a_following_section_has_all_fields_with_the_changes(config):
    assert config.poster_grey.to_dict() == config.poster.to_dict() | {"grey": True}
    assert isinstance(config.poster_grey.training, ml_collections.ConfigDict)


def test_a_following_section_takes_later_values(config):
    """Also in nested sections."""
    config.poster.weights = "vgg16.npz"
    config.poster.model.dropout = 0.25
    config.poster.training.learning_rate_scale.vgg16 = 0.75
    assert config.poster_grey.weights == "vgg16.npz"
    assert config.poster_grey.model.dropout == 0.25
    assert config.poster_grey.training.learning_rate_scale.vgg16 == 0.75
    config.poster.grey = True
    config.poster.grey = False
    assert config.poster_grey.grey is True


def test_a_field_that_is_set_no_longer_follows(config):
    before = config.poster.to_dict()
    config.poster_grey.weights = "grey.npz"
    config.poster_grey.model.hidden = (7,)
    config.poster_grey.training.epochs = 9
    assert config.poster.to_dict() == before
    config.poster.weights = "vgg16.npz"
    config.poster.training.epochs = 5
    assert config.poster_grey.weights == "grey.npz"
    assert config.poster_grey.training.epochs == 9
    # Other fields still follow.
    config.poster.training.batch_size = 64
    assert config.poster_grey.training.batch_size == 64


def test_a_section_can_follow_a_following_section(config):
    config.third = base.following(config.poster_grey, finetune_from="head")
    config.poster.dtype = "bfloat16"
    assert config.third.dtype == "bfloat16" and config.third.grey is True
    config.poster_grey.crop = 0.5
    assert config.third.crop == 0.5 and config.poster.crop == 0.1


def test_following_sections_can_be_copied_and_written(config):
    config.poster.weights = "vgg16.npz"
    content = json.loads(config.to_json())
    assert content["poster_grey"]["weights"] == "vgg16.npz"
    assert content["poster_grey"]["training"] == content["poster"]["training"]

    copied = config.copy_and_resolve_references().unlock()
    copied.poster.weights = "other.npz"
    assert copied.poster_grey.weights == "vgg16.npz"


def test_a_change_of_an_unknown_field_is_an_error(config):
    """Otherwise a misspelt name would silently change nothing."""
    with pytest.raises(InputError, match=r"the section has no field gray; it has colour, crop"):
        base.following(config.poster, gray=True)


def test_training_settings_have_the_given_values():
    settings = base.training_settings(3, 16, 0.5, {"vgg16": 0.25})
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (3, 16, 0.5)
    assert settings.learning_rate_scale.to_dict() == {"vgg16": 0.25}
    assert base.training_settings(3, 16, 0.5).learning_rate_scale.to_dict() == {}


def test_inference_batches_fit_the_movies_and_the_devices(monkeypatch):
    sizes = {movies: base.batch_size(movies) for movies in (1, 2, 3, 16, 17, 32, 33, 1000)}
    assert sizes == {1: 1, 2: 2, 3: 4, 16: 16, 17: 32, 32: 32, 33: 32, 1000: 32}
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    assert [base.batch_size(movies) for movies in (1, 4, 30)] == [3, 6, 48]


def test_blank_plots_count_as_missing():
    movies = [
        Movie(str(n), title="T", plot=plot) for n, plot in enumerate(("A war .", None, "", " \t\n"))
    ]
    plots, present = base.plots_of(movies)
    assert plots[0] == "A war ." and not "".join(plots[1:]).strip()
    assert present.tolist() == [True, False, False, False]


LOGITS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


@ApplyFn
def apply(params, batch, key):
    assert key is None
    return params * batch["logits"]


def test_probabilities_are_averaged_over_models():
    present = np.arange(40) % 3 > 0
    examples = pipeline.ArrayExamples({"logits": LOGITS})
    params = [np.float32(1), np.float32(-2), np.float32(0.5)]
    found = base.mean_probabilities(apply, params, examples, present, 3)
    expected = np.mean([expit(scale * LOGITS) for scale in params], axis=0)
    np.testing.assert_allclose(found[present], expected[present], rtol=1e-5)
    assert found.shape == (40, 3) and (found[~present] == 0).all()
    # Without movies the model is not called.
    nothing = base.mean_probabilities(None, params, None, np.zeros(2, bool), 3)
    assert (nothing == np.zeros((2, 3))).all()


@pytest.mark.parametrize("present", [np.ones(40, bool), np.arange(40) == 7, np.zeros(40, bool)])
def test_an_encoder_applies_its_frozen_layers_before_its_model(present):
    def read(movies):
        return pipeline.ArrayExamples({"raw": LOGITS[: len(movies)]}), present

    frozen = Frozen.of(
        lambda scale, batch: {"logits": scale * batch["raw"]},
        np.float32(10),
        {"xla_cpu_enable_fast_math": False},  # the default; options must not hinder
    )
    encoder = base.Encoder(read, apply, [np.float32(1)], frozen)
    logits, _ = encoder.model_inputs([Movie(str(n), title="T") for n in range(40)])
    np.testing.assert_array_equal(
        logits(np.arange(40))["logits"], np.where(present[:, None], 10 * LOGITS, 0)
    )
    found, found_present = encoder([Movie(str(n), title="T") for n in range(40)], 3)
    np.testing.assert_allclose(found[present], expit(10 * LOGITS[present]), rtol=1e-5)
    assert (found[~present] == 0).all()
    np.testing.assert_array_equal(found_present, present)


@pytest.fixture
def folds(tmp_path):
    """A working directory with the parameters of two folds, each in two phases of training."""
    config = ml_collections.ConfigDict({"folds": 2})
    for fold in range(2):
        for phase, value in (("", 1.0), ("/head", 2.0)):
            directory = tmp_path / "checkpoints" / f"plot/fold_{fold}{phase}" / "trained"
            checkpoints.save(directory, 3, {"x": np.float32([fold + value])})
    return config, tmp_path


def test_parameters_of_each_fold_are_read(folds):
    values = [params["x"].item() for params in base.load_params(*folds, "plot")]
    assert values == [1, 2]
    values = [params["x"].item() for params in base.load_params(*folds, "plot", "head")]
    assert values == [2, 3]


def test_parameters_of_all_models_of_a_fold_are_read(folds):
    config, workdir = folds
    config.plot = {"models_per_fold": 2}
    for fold in range(2):
        directory = workdir / "checkpoints" / f"plot/fold_{fold}_model_1" / "trained"
        checkpoints.save(directory, 3, {"x": np.float32([fold + 5])})
    values = [params["x"].item() for params in base.load_params(config, workdir, "plot")]
    assert values == [1, 5, 2, 6]


def test_missing_or_non_finite_parameters_are_errors(folds):
    config, workdir = folds
    directory = workdir / "checkpoints/plot/fold_1/trained"
    checkpoints.save(directory, 4, {"x": np.float32([np.nan])})
    message = f"{workdir}: the parameters of plot/fold_1 are damaged: not all finite"
    with pytest.raises(InputError, match=message):
        base.load_params(config, workdir, "plot")
    config.folds = 3
    with pytest.raises(InputError, match=r"plot/fold_2 has no trained parameters"):
        base.load_params(config, workdir, "plot")
