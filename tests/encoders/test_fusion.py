"""Tests of training a fusion, of its predictions, and of its config section."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from scipy.special import expit, logit

from mmgc_jax.data import synthetic
from mmgc_jax.data.movies import GENRES
from mmgc_jax.encoders import fusion
from mmgc_jax.models import FUSIONS
from mmgc_jax.training.run import Experiment
from tests import tiny


@pytest.fixture(scope="module")
def truth():
    """400 synthetic movies, and the predictions of encoders that know the true probabilities."""
    generated = list(synthetic.generate(seed=0, train=0, validation=0, test=400)["test"])
    probabilities = {
        modality: np.float32(
            [synthetic.true_probabilities(cues, {modality}) for _, cues in generated]
        )
        for modality in ("plot", "poster")
    }
    present = {
        modality: np.array([getattr(movie, modality) is not None for movie, _ in generated])
        for modality in probabilities
    }
    corpus = types.SimpleNamespace(
        genres=GENRES,
        labels=np.float32([[genre in movie.genres for genre in GENRES] for movie, _ in generated]),
        split={"train": np.arange(300), "validation": np.arange(300, 400)},
    )
    both = np.stack([synthetic.true_probabilities(cues) for _, cues in generated])
    return corpus, probabilities, present, both


def experiment(workdir, corpus, **settings):
    config = tiny.get_config()
    config.fusion.update(settings)
    config.fusion.training.epochs = config.fusion.vector_training.epochs = 1
    folds = np.where(np.arange(400) < 300, np.arange(400) % 2, -1)
    return Experiment(config, workdir, corpus, folds, workdir)


def test_untrained_late_fusion_is_a_product_of_experts(tmp_path, truth, monkeypatch):
    """Fusing true probabilities given each modality yields those given both, without training."""
    corpus, probabilities, present, both = truth
    prepared = experiment(tmp_path, corpus)
    prepared.config.fusion.training.learning_rate = 0.0
    prepared.config.fusion.training.epochs = 1
    # The encoders are calibrated already, but a calibration on 150 movies would change them.
    monkeypatch.setattr(fusion, "calibrated", lambda params, *_: params)
    fused = fusion.fit(prepared, "fusion", probabilities, present)

    where = present["plot"] & present["poster"]
    odds = (np.log(p[where] / (1 - p[where])) for p in (fused["probabilities"], both))
    # Frequencies among 300 movies differ from the true ones: a constant offset for each genre.
    difference = np.subtract(*odds)
    assert np.abs(difference).max() < 0.7
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0], difference.shape),
                               atol=0.02)  # fmt: skip

    # Without one modality, the result equals the encoder of the other.
    for lost, left in (("plot", "poster"), ("poster", "plot")):
        np.testing.assert_allclose(
            fused[f"without_{lost}"][where], probabilities[left][where], atol=2e-3
        )


@pytest.mark.slow
def test_late_fusion_is_initialised_with_calibrated_encoders(tmp_path, truth):
    """Encoders with scaled and shifted logits are calibrated before they are fused."""
    corpus, probabilities, present, _ = truth
    prepared = experiment(tmp_path, corpus)
    prepared.config.fusion.training.learning_rate = 0.0
    fused = fusion.fit(prepared, "fusion", probabilities, present)["probabilities"]
    wrong = {name: expit(logit(p) * 0.5 + 1) for name, p in probabilities.items()}
    (tmp_path / "again").mkdir()
    prepared = dataclasses.replace(prepared, workdir=tmp_path / "again")
    again = fusion.fit(prepared, "fusion", wrong, present)["probabilities"]
    # A small error remains, because of the penalty in calibration.
    off = np.abs(wrong["plot"] - probabilities["plot"]).mean()
    assert np.abs(again - fused).mean() < 0.1 * off


@pytest.mark.parametrize(
    "kind",
    ["late", *(pytest.param(kind, marks=pytest.mark.slow) for kind in FUSIONS if kind != "late")],
)
def test_inference_with_each_kind_equals_the_predictions_of_training(tmp_path, truth, kind):
    corpus, probabilities, present, _ = truth
    prepared = experiment(tmp_path, corpus, kind=kind)
    prepared.config.fusion.training.epochs = prepared.config.fusion.vector_training.epochs = 3
    arrays = fusion.fit(prepared, "fusion", probabilities, present)
    assert set(arrays) == {"probabilities", "without_plot", "without_poster"}
    stacked = np.stack(list(probabilities.values()), axis=1)
    available = np.stack(list(present.values()), axis=1)
    frequencies = prepared.frequencies
    known = np.where(available[..., None], stacked, frequencies)
    again = fusion.Fuser(prepared.config, tmp_path, 24)(known, available)
    new = np.flatnonzero(available.any(axis=1) & (prepared.folds < 0))
    np.testing.assert_allclose(again[new], arrays["probabilities"][new], atol=1e-5)


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_first_logits_are_near_the_log_odds_of_the_genres(tmp_path, truth, kind):
    corpus, *_ = truth
    prepared = experiment(tmp_path, corpus, kind=kind)
    apply, init = fusion.prepare(prepared, "fusion")
    params = init(jax.random.key(0))
    frequencies = np.broadcast_to(prepared.frequencies, (1, 2, 24))
    inputs = {"probabilities": frequencies, "present": np.zeros((1, 2), np.float32)}
    logits = apply(params, inputs, None)[0]
    assert (prepared.initial_bias < -1).all()
    np.testing.assert_allclose(logits, prepared.initial_bias, atol=0.5)


def test_names_titles_and_kinds_of_compared_fusions():
    config = tiny.get_config()
    config.fusion.compare = ("gated", "concat", "mlp", "joint")
    names = fusion.names(config)
    assert names == ["fusion", "fusion_gated", "fusion_concat", "fusion_mlp", "fusion_joint"]
    kinds = [fusion.kind_of(config, name) for name in names]
    assert kinds == ["late", "gated", "concat", "mlp", "joint"]
    assert fusion.titles(config) == {
        "plot": "Plot (LSTM)",
        "poster": "Poster (small VGG, colour)",
        "poster_grey": "Poster (small VGG, grey)",
        "fusion": "Fusion",
        "fusion_gated": "Fusion: gated",
        "fusion_concat": "Fusion: maxout",
        "fusion_mlp": "Fusion: plain network",
        "fusion_joint": "Fusion: joint training",
    }


def test_every_kind_has_a_title():
    config = tiny.get_config()
    config.fusion.compare = fusion.KINDS
    assert len(set(fusion.titles(config).values())) == 3 + 1 + len(fusion.KINDS)


@pytest.fixture
def three(tmp_path):
    """A config that fuses a plot encoder and two poster encoders."""
    config = tiny.get_config()
    config.fusion.encoders = ("plot", "poster", "poster_grey")
    return config


def test_removing_a_modality_affects_all_of_its_encoders(three):
    available = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1]], bool)
    left = fusion.one_missing(three, available)
    assert left.keys() == {"without_plot", "without_poster"}
    assert left["without_plot"].astype(int).tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 1]]
    assert left["without_poster"].astype(int).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_the_only_modality_is_not_removed(three):
    three.fusion.encoders = ("poster", "poster_grey")
    assert fusion.one_missing(three, np.ones((4, 2), bool)) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"encoders": ("plot", "postre")}, ["encoders is ('plot', 'postre'); ", "'poster' for"]),
        ({"encoders": ()}, ["encoders is (); name at least one of plot, poster, poster_grey"]),
        ({"kind": "gatde"}, ["kind is 'gatde'; possible: late, mlp, linear_sum,", "mean 'gated'?"]),
        (
            {"compare": ("gated", "gated")},
            ["compare is ('gated', 'gated'); possible: late, mlp, linear_sum"],
        ),
        ({"modality_dropout": 1.5}, ["modality_dropout is 1.5; a number of at most 1"]),
        ({"modality_dropout": -0.5}, ["modality_dropout is -0.5; a number of at least 0.0"]),
        ({"model.hidden": 0}, ["model.hidden is 0; a whole number of at least 1"]),
        ({"model.dropout": 1.0}, ["model.dropout is 1.0; a number of at least 0 and below 1"]),
        ({"joint_training.epochs": 0}, ["joint_training.epochs is 0; "]),
    ],
)
def test_mistakes_in_the_section(changes, expected):
    config = tiny.get_config()
    config.update_from_flattened_dict({f"fusion.{name}": value for name, value in changes.items()})
    found = fusion.problems(config)
    assert len(found) == bool(expected)
    for part in expected:
        assert part in found[0]
