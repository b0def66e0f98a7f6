"""Probabilities find their movies, and stages their figures."""

import types

import jax
import numpy as np
import pytest
from scipy.special import expit

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import GENRES
from mmgc_jax.evaluation import metrics, results
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.training import inference

COMEDY, DRAMA, NEWS = (GENRES.index(genre) for genre in ("Comedy", "Drama", "News"))


def apply(params, batch, key):
    """A model whose logits are the batch's `logits`, times a parameter."""
    assert key is None  # nothing is random
    return params["scale"] * batch["logits"]


class LongestFirst(pipeline.ArrayExamples):
    """Examples with lengths, which make `Batches` put movies of similar length together."""

    lengths = np.arange(11)[::-1]


@pytest.mark.parametrize("examples", [pipeline.ArrayExamples, LongestFirst])
@pytest.mark.parametrize("shuffle_seed", [None, 5])
def test_probabilities_come_back_in_the_order_of_the_corpus(examples, shuffle_seed):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(11, 24)).astype(np.float32)
    # Seven movies in batches of four: the last one is padded.
    indices = np.array([9, 2, 4, 0, 7, 10, 3])
    batches = pipeline.Batches(
        examples({"logits": logits}),
        np.zeros((11, 24), np.float32),
        indices,
        4 * jax.device_count(),
        shuffle_seed=shuffle_seed,
    )
    scores = inference.probabilities(apply, {"scale": np.float32(2)}, batches)
    assert scores.shape == (11, 24) and scores.dtype == np.float32
    np.testing.assert_allclose(scores[indices], expit(2 * logits[indices]), rtol=1e-5)
    others = np.setdiff1d(np.arange(11), indices)
    assert np.isnan(scores[others]).all()


def test_absent_modalities_get_the_frequencies_of_the_genres():
    scores = np.full((3, 24), 0.9, np.float32)
    scores[1] = np.nan
    frequencies = np.linspace(0, 0.5, 24)
    filled = results.fill_absent(scores, np.array([True, False, True]), frequencies)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled[1], frequencies, rtol=1e-6)
    np.testing.assert_array_equal(filled[[0, 2]], scores[[0, 2]])


def test_headline_has_the_two_figures_that_are_watched():
    labels = np.zeros((4, 24), np.float32)
    labels[:2, DRAMA] = labels[0, COMEDY] = 1
    scores = np.full((4, 24), 0.1)
    scores[:, DRAMA] = [0.9, 0.2, 0.3, 0.1]  # one of four pairs is the wrong way round
    scores[:, COMEDY] = [0.9, 0.2, 0.3, 0.1]  # none of three is
    figures = results.headline(labels, scores)
    assert figures.keys() == {"auc_macro", "auc_micro"}
    assert figures["auc_macro"] == pytest.approx((3 / 4 + 1) / 2)
    # 3 positives (0.9, 0.9, 0.2), 93 negatives: 0.2, 0.3, 0.3 and 90 of 0.1. The two highest
    # positives win over all 93, the third over 90, loses to 2 and shares 1.
    assert figures["auc_micro"] == pytest.approx((93 + 93 + 90.5) / (3 * 93))


def corpus(labels, **split):
    """Movies of which only labels and parts matter; those of no part train."""
    others = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(split.values())))
    return types.SimpleNamespace(labels=labels, genres=GENRES, split={"train": others} | split)


def as_they_are(thresholds=0.5):
    """A calibration that changes nothing."""
    return Calibration(GENRES, np.ones(24), np.zeros(24), np.full(24, thresholds))


def test_stages_are_compared_on_what_they_see_and_on_what_all_see():
    # Movies 0 to 5 are the test part; 6 would spoil every figure.
    labels = np.zeros((8, 24), np.float32)
    labels[[0, 1, 6], DRAMA] = 1
    labels[[2], NEWS] = 1
    present = {
        "plot": np.array([1, 1, 1, 1, 1, 0, 1, 1], bool),
        "poster": np.array([1, 0, 1, 1, 0, 1, 1, 1], bool),
    }
    present["fusion"] = present["plot"] | present["poster"]
    scores = {stage: np.full((8, 24), 0.1) for stage in present}
    scores["plot"][:, DRAMA] = [0.9, 0.2, 0.3, 0.1, 0.1, np.nan, 0.0, 0.0]
    scores["poster"][:, DRAMA] = [0.4, np.nan, 0.1, 0.6, np.nan, 0.1, 0.0, 0.0]
    scores["fusion"][:, DRAMA] = [0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0]

    results = results.evaluate_stages(
        corpus(labels, validation=np.array([6]), test=np.arange(6)),
        np.array([-1] * 7 + [0]),
        scores,
        present,
        ("plot", "poster"),
        dict.fromkeys(present, as_they_are()),
    )["test"]
    assert results.keys() == {
        "plot", "poster", "fusion", "plot_both", "poster_both", "fusion_both",
    }  # fmt: skip

    def drama(stage):
        return results[stage]["movies"], results[stage]["per_genre"]["Drama"]["auc"]

    assert drama("plot") == (5, pytest.approx(5 / 6))  # 0.2 below 0.3
    assert drama("poster") == (4, pytest.approx(2 / 3))  # 0.4 below 0.6
    assert drama("fusion") == (6, 1)
    # Movies 0, 2 and 3 have both; movie 0 alone is a drama.
    assert drama("plot_both") == (3, 1)
    assert drama("poster_both") == (3, pytest.approx(1 / 2))
    assert drama("fusion_both") == (3, 1)

    # News is ranked by ties alone: half. No other genre counts.
    assert results["plot"]["genres_counted"] == 2
    assert results["plot"]["auc_macro"] == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_cross_validation_is_the_mean_over_the_folds():
    # Fold 0 ranks its dramas rightly and its news wrongly; fold 1 half its dramas, and has no news.
    labels, scores = np.zeros((9, 24), np.float32), np.full((9, 24), 0.1)
    labels[[0, 1, 4, 5, 8], DRAMA] = 1
    labels[2, NEWS] = 1
    scores[:, DRAMA] = [0.9, 0.8, 0.2, 0.3, 0.4, 0.6, 0.5, 0.5, 0.0]
    scores[:, NEWS] = [0.9, 0.8, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1]
    results = results.evaluate_stages(
        corpus(labels, validation=np.array([8])),
        np.array([0, 0, 0, 0, 1, 1, 1, 1, -1]),
        {"plot": scores},
        {"plot": np.ones(9, bool)},
        ("plot",),
        {"plot": as_they_are()},
    )
    assert list(results) == ["cross_validation", "validation"]
    figures = results["cross_validation"]["plot"]
    assert figures["movies"] == 8
    assert (figures["genres_counted"], figures["genres_counted_most"]) == (1, 2)
    aucs = [(1 + 0) / 2, 1 / 2]
    assert figures["auc_macro"] == pytest.approx(np.mean(aucs))
    assert figures["auc_macro_std"] == pytest.approx(np.std(aucs, ddof=1))
    micro = [
        metrics.roc_auc(labels[r].ravel(), scores[r].ravel()) for r in np.split(np.arange(8), 2)
    ]
    assert figures["auc_micro"] == pytest.approx(np.mean(micro))
    assert figures["auc_micro_std"] == pytest.approx(abs(micro[0] - micro[1]) / np.sqrt(2))


def test_figures_are_those_of_calibrated_probabilities():
    labels, scores = np.zeros((5, 24), np.float32), np.full((5, 24), 0.1)
    labels[[0, 1], DRAMA] = 1
    scores[:, DRAMA] = [0.4, 0.3, 0.2, 0.1, 0.1]
    # Every odds is tripled: 0.4 becomes 2/3, 0.3 becomes 9/16, 0.2 becomes 3/7, 0.1 becomes 1/4.
    tripled = Calibration(GENRES, np.ones(24), np.full(24, np.log(3)), np.full(24, 0.6))
    results = results.evaluate_stages(
        corpus(labels, validation=np.arange(4)),
        np.array([-1, -1, -1, -1, 0]),
        {"plot": scores},
        {"plot": np.ones(5, bool)},
        ("plot",),
        {"plot": tripled},
    )["validation"]["plot"]
    assert results["auc_macro"] == 1
    assert results["per_genre"]["Drama"]["f1"] == 1  # 0.5 divides them now
    assert results["f1_micro"] == 1
    assert results["f1_micro_tuned"] == pytest.approx(2 / 3)  # 0.6 finds one drama of two
    assert results["thresholds"] == dict.fromkeys(GENRES, 0.6)
    before, after = (metrics.expected_calibration_error(labels[:4], p[:4])
                     for p in (scores, tripled(scores)))  # fmt: skip
    assert results["ece_uncalibrated"] == pytest.approx(before)
    assert results["ece"] == pytest.approx(after) != before


def test_the_more_movies_lose_a_modality_the_more_is_said_without_it():
    rng = np.random.default_rng(0)
    labels = np.repeat([[1.0], [0.0]], 200, axis=0)
    whole, without = labels * 0.5 + 0.25, rng.uniform(size=labels.shape)
    folds = np.arange(400) % 2
    # Folds are judged one by one: that one's scores are all higher says nothing.
    whole, without = (scores + folds[:, None] for scores in (whole, without))
    figures = results.missing_modalities(labels, folds, whole, without, seed=3)
    assert figures[0] == 1
    alone = [metrics.roc_auc(labels[folds == f, 0], without[folds == f, 0]) for f in (0, 1)]
    assert figures[-1] == pytest.approx(np.mean(alone))
    assert np.all(np.diff(figures) < 0)
    assert figures == results.missing_modalities(labels, folds, whole, without, seed=3)
    assert figures != results.missing_modalities(labels, folds, whole, without, seed=4)
