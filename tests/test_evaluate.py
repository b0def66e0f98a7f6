"""Probabilities find their movies; nobody is judged by a model that has seen the answer."""

import jax
import numpy as np
import pytest
from scipy.special import expit

from mmgc_jax import evaluate
from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import GENRES

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
    scores = evaluate.probabilities(apply, {"scale": np.float32(2)}, batches)
    assert scores.shape == (11, 24) and scores.dtype == np.float32
    np.testing.assert_allclose(scores[indices], expit(2 * logits[indices]), rtol=1e-5)
    others = np.setdiff1d(np.arange(11), indices)
    assert np.isnan(scores[others]).all()


def test_out_of_fold_probabilities_come_from_models_that_did_not_see_the_movie():
    folds = np.array([0, 2, -1, 1, 1, 0, 2, -1, 0])
    takes_part = folds >= 0
    asked = []

    def predict_fold(fold, train_on, predict):
        """A model that knows what it saw: for these movies it says 1, for others 0.1 * fold."""
        assert not set(train_on) & set(predict)
        assert set(train_on) | set(predict) == set(np.flatnonzero(takes_part))
        asked.append(fold)
        scores = np.full((len(folds), 24), 0.1 * fold, np.float32)
        scores[train_on] = 1
        return scores

    scores = evaluate.out_of_fold(folds, predict_fold, 24)
    assert asked == [0, 1, 2]
    np.testing.assert_allclose(scores[takes_part, 0], 0.1 * folds[takes_part], atol=1e-6)
    assert np.isnan(scores[~takes_part]).all()


def test_a_fold_without_movies_is_passed_over():
    def predict_fold(fold, train_on, predict):
        assert len(train_on) and len(predict)
        return np.full((4, 24), fold, np.float32)

    scores = evaluate.out_of_fold(np.array([0, 2, 0, 2]), predict_fold, 24)
    assert scores[:, 0].tolist() == [0, 2, 0, 2]


def test_absent_modalities_get_the_frequencies_of_the_genres():
    scores = np.full((3, 24), 0.9, np.float32)
    scores[1] = np.nan
    frequencies = np.linspace(0, 0.5, 24)
    filled = evaluate.fill_absent(scores, np.array([True, False, True]), frequencies)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled[1], frequencies, rtol=1e-6)
    np.testing.assert_array_equal(filled[[0, 2]], scores[[0, 2]])


def test_headline_has_the_two_figures_that_are_watched():
    labels = np.zeros((4, 24), np.float32)
    labels[:2, DRAMA] = labels[0, COMEDY] = 1
    scores = np.full((4, 24), 0.1)
    scores[:, DRAMA] = [0.9, 0.2, 0.3, 0.1]  # one of four pairs is the wrong way round
    scores[:, COMEDY] = [0.9, 0.2, 0.3, 0.1]  # none of three is
    figures = evaluate.headline(labels, scores)
    assert figures.keys() == {"auc_macro", "auc_micro"}
    assert figures["auc_macro"] == pytest.approx((3 / 4 + 1) / 2)
    # 3 positives (0.9, 0.9, 0.2), 93 negatives: 0.2, 0.3, 0.3 and 90 of 0.1. The two highest
    # positives win over all 93, the third over 90, loses to 2 and shares 1.
    assert figures["auc_micro"] == pytest.approx((93 + 93 + 90.5) / (3 * 93))


def test_stages_are_compared_on_what_they_see_and_on_what_all_see():
    # Movies 0 to 5 are the test part; 6 would spoil every figure.
    labels = np.zeros((7, 24), np.float32)
    labels[[0, 1, 6], DRAMA] = 1
    labels[[2], NEWS] = 1
    present = {
        "plot": np.array([1, 1, 1, 1, 1, 0, 1], bool),
        "poster": np.array([1, 0, 1, 1, 0, 1, 1], bool),
    }
    present["fusion"] = present["plot"] | present["poster"]
    scores = {stage: np.full((7, 24), 0.1) for stage in present}
    scores["plot"][:, DRAMA] = [0.9, 0.2, 0.3, 0.1, 0.1, np.nan, 0.0]
    scores["poster"][:, DRAMA] = [0.4, np.nan, 0.1, 0.6, np.nan, 0.1, 0.0]
    scores["fusion"][:, DRAMA] = [0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.0]

    results = evaluate.evaluate_stages(
        labels,
        scores,
        present,
        {"validation": np.array([6]), "test": np.arange(6)},
        ("plot", "poster"),
        GENRES,
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


def test_every_split_is_reported_on_its_own_movies():
    labels = np.zeros((4, 24), np.float32)
    labels[[0, 2], DRAMA] = 1
    scores = np.full((4, 24), 0.1)
    scores[:, DRAMA] = [0.9, 0.1, 0.1, 0.9]
    results = evaluate.evaluate_stages(
        labels,
        {"plot": scores},
        {"plot": np.ones(4, bool)},
        {"validation": np.array([0, 1]), "test": np.array([2, 3])},
        ("plot",),
        GENRES,
    )
    assert results["validation"]["plot"]["auc_macro"] == 1
    assert results["test"]["plot"]["auc_macro"] == 0


def test_thresholds_are_tuned_on_validation_and_used_on_what_is_left():
    # On validation a threshold of 0.3 finds both dramas; what News needs is not to be known there.
    labels, scores = np.zeros((8, 24), np.float32), np.full((8, 24), 0.1)
    labels[[0, 1, 4, 5], DRAMA] = 1
    labels[[6], NEWS] = 1
    scores[:, DRAMA] = [0.4, 0.3, 0.2, 0.1, 0.4, 0.2, 0.3, 0.1]
    present = {stage: np.ones(8, bool) for stage in ("plot", "poster")}
    present["poster"][[1, 5]] = False
    results = evaluate.evaluate_stages(
        labels,
        {"plot": scores, "poster": scores},
        present,
        {"validation": np.arange(4), "test": np.arange(4, 8)},
        ("plot", "poster"),
        GENRES,
    )
    thresholds = results["validation"]["plot"]["thresholds"]
    assert list(thresholds) == list(GENRES)
    assert (thresholds["Drama"], thresholds["News"]) == (0.3, 0.5)
    # The second drama is not seen by the poster's model: 0.4 is enough.
    assert results["validation"]["poster"]["thresholds"]["Drama"] == 0.4
    assert "f1_micro_tuned" not in results["validation"]["plot"]

    # At 0.3 one drama of two is found and one movie wrongly; News is missed.
    test = results["test"]["plot"]
    assert test["f1_micro"] == 0
    assert test["f1_micro_tuned"] == pytest.approx(2 / (2 + 1 + 2))
    assert test["f1_macro_tuned"] == pytest.approx((1 / 2 + 0) / 2)
    assert test["f1_weighted_tuned"] == pytest.approx(2 / 3 * 1 / 2)
    assert test["f1_samples_tuned"] == pytest.approx((1 + 0 + 0 + 0) / 4)
    # Movie 5 has no poster; at the plot's threshold, which is that of all validation movies.
    assert results["test"]["plot_both"]["f1_micro_tuned"] == pytest.approx(2 / (2 + 1 + 1))
    assert results["test"]["poster_both"]["f1_micro_tuned"] == pytest.approx(2 / (2 + 0 + 1))
