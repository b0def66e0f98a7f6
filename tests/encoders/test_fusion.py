"""Fusion on what encoders say of movies that they did not see."""

import dataclasses
import types

import numpy as np
import pytest
from scipy.special import expit, logit

from mmgc_jax.data import synthetic
from mmgc_jax.data.movies import GENRES, to_labels
from mmgc_jax.encoders import fusion
from mmgc_jax.models import FUSIONS
from mmgc_jax.training.cross_fit import Experiment
from tests import tiny


@pytest.fixture(scope="module")
def truth():
    """400 made-up movies, and encoders that give their true probabilities."""
    generated = list(synthetic.generate(seed=0, train=0, validation=0, test=400)["test"])
    probabilities = {
        stage: np.float32([synthetic.true_probabilities(cues, {stage}) for _, cues in generated])
        for stage in ("plot", "poster")
    }
    present = {
        stage: np.array([getattr(movie, stage) is not None for movie, _ in generated])
        for stage in probabilities
    }
    corpus = types.SimpleNamespace(
        genres=GENRES,
        labels=np.stack([to_labels(movie.genres) for movie, _ in generated]),
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


def test_late_fusion_begins_as_the_product_of_its_experts(tmp_path, truth, monkeypatch):
    """Encoders that give the true probabilities fuse, untrained, to the true ones of both."""
    corpus, probabilities, present, both = truth
    prepared = experiment(tmp_path, corpus)
    prepared.config.fusion.training.learning_rate = 0.0
    # They need none, and 150 movies do not find that out.
    monkeypatch.setattr(fusion, "calibrated", lambda params, *_: params)
    fused = fusion.fit(prepared, "fusion", probabilities, present)

    where = present["plot"] & present["poster"]
    odds = (np.log(p[where] / (1 - p[where])) for p in (fused["probabilities"], both))
    # The frequencies of 300 movies are not the prevalence: the odds' factors differ by genre.
    difference = np.subtract(*odds)
    assert np.abs(difference).max() < 0.7
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0], difference.shape),
                               atol=0.02)  # fmt: skip

    # Without one modality it says what the other does.
    for lost, left in (("plot", "poster"), ("poster", "plot")):
        np.testing.assert_allclose(
            fused[f"without_{lost}"][where], probabilities[left][where], atol=2e-3
        )


def test_late_fusion_begins_with_calibrated_encoders(tmp_path, truth):
    """Encoders whose odds are wrong by a factor and a power are put right first."""
    corpus, probabilities, present, _ = truth
    prepared = experiment(tmp_path, corpus)
    prepared.config.fusion.training.learning_rate = 0.0
    fused = fusion.fit(prepared, "fusion", probabilities, present)["probabilities"]
    wrong = {stage: expit(logit(p) * 0.5 + 1) for stage, p in probabilities.items()}
    (tmp_path / "again").mkdir()
    prepared = dataclasses.replace(prepared, workdir=tmp_path / "again")
    again = fusion.fit(prepared, "fusion", wrong, present)["probabilities"]
    # The weak penalty keeps a little of what was wrong.
    off = np.abs(wrong["plot"] - probabilities["plot"]).mean()
    assert np.abs(again - fused).mean() < 0.1 * off


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_kind_learns_and_predicts_new_movies_alike(tmp_path, truth, kind):
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


def test_fusions_to_compare_are_stages_of_their_own():
    config = tiny.get_config()
    config.fusion.compare = ("gated", "concat")
    assert fusion.stages(config) == ["fusion", "fusion_gated", "fusion_concat"]
