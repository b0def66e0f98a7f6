"""Figures of models: which movies they are computed on, averages, calibration."""

import types

import numpy as np
import pytest

from mmgc_jax.data.movies import GENRES
from mmgc_jax.evaluation import metrics, results
from mmgc_jax.evaluation.calibration import Calibration

COMEDY, DRAMA, NEWS = (GENRES.index(genre) for genre in ("Comedy", "Drama", "News"))


def test_absent_modalities_get_the_frequencies_of_the_genres():
    scores = np.full((3, 24), 0.9, np.float32)
    scores[1] = np.nan
    frequencies = np.linspace(0, 0.5, 24)
    filled = results.fill_absent(scores, np.array([True, False, True]), frequencies)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled[1], frequencies, rtol=1e-6)
    np.testing.assert_array_equal(filled[[0, 2]], scores[[0, 2]])


def corpus(labels, **split):
    """Movies with labels and a split; movies in no given part are training movies."""
    others = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(split.values())))
    return types.SimpleNamespace(labels=labels, genres=GENRES, split={"train": others} | split)


def identity(thresholds=0.5):
    """A calibration that changes nothing."""
    return Calibration(GENRES, np.ones(24), np.zeros(24), np.full(24, thresholds))


def calibrated(probabilities, of_models):
    """Calibrates all movies of each model in one way."""
    return {
        name: results.Calibrated(
            of_models[name](of_movies), np.tile(of_models[name].thresholds, (len(of_movies), 1))
        )
        for name, of_movies in probabilities.items()
    }


def test_models_are_evaluated_on_their_own_movies_and_on_those_with_both():
    # Movies 0 to 5 are the test part; 6 would spoil every figure.
    labels = np.zeros((8, 24), np.float32)
    labels[[0, 1, 6], DRAMA] = 1
    labels[[2], NEWS] = 1
    present = {
        "plot": np.array([1, 1, 1, 1, 1, 0, 1, 1], bool),
        "poster": np.array([1, 0, 1, 1, 0, 1, 1, 1], bool),
    }
    present["fusion"] = present["plot"] | present["poster"]
    scores = {name: np.full((8, 24), 0.1) for name in present}
    scores["plot"][:, DRAMA] = [0.9, 0.2, 0.3, 0.1, 0.1, np.nan, 0.0, 0.0]
    scores["poster"][:, DRAMA] = [0.4, np.nan, 0.1, 0.6, np.nan, 0.1, 0.0, 0.0]
    scores["fusion"][:, DRAMA] = [0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0]

    computed = results.evaluate_models(
        corpus(labels, validation=np.array([6]), test=np.arange(6)),
        np.array([-1] * 7 + [0]),
        scores,
        present,
        ("plot", "poster"),
        calibrated(scores, dict.fromkeys(present, identity())),
    )["test"]
    assert computed.keys() == {
        "plot", "poster", "fusion", "plot_both", "poster_both", "fusion_both",
    }  # fmt: skip

    def drama(name):
        return computed[name]["movies"], computed[name]["per_genre"]["Drama"]["auc"]

    assert drama("plot") == (5, pytest.approx(5 / 6))  # 0.2 below 0.3
    assert drama("poster") == (4, pytest.approx(2 / 3))  # 0.4 below 0.6
    assert drama("fusion") == (6, 1)
    # Movies 0, 2 and 3 have both; movie 0 alone is a drama.
    assert drama("plot_both") == (3, 1)
    assert drama("poster_both") == (3, pytest.approx(1 / 2))
    assert drama("fusion_both") == (3, 1)

    # News is ranked by ties alone: half. No other genre counts.
    assert computed["plot"]["genres_counted"] == 2
    assert computed["plot"]["auc_macro"] == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_cross_validation_compares_movies_of_the_same_fold():
    # Fold 0 ranks its dramas rightly and its news wrongly; fold 1 half its dramas, and has no news.
    labels, scores = np.zeros((9, 24), np.float32), np.full((9, 24), 0.1)
    labels[[0, 1, 4, 5, 8], DRAMA] = 1
    labels[2, NEWS] = 1
    scores[:, DRAMA] = [0.9, 0.8, 0.2, 0.3, 0.4, 0.6, 0.5, 0.5, 0.0]
    scores[:, NEWS] = [0.9, 0.8, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1]
    folds = np.array([0, 0, 0, 0, 1, 1, 1, 1, -1])
    computed = results.evaluate_models(
        corpus(labels, validation=np.array([8])),
        folds,
        {"plot": scores},
        {"plot": np.ones(9, bool)},
        ("plot",),
        calibrated({"plot": scores}, {"plot": identity()}),
    )
    assert list(computed) == ["cross_validation", "validation"]
    figures = computed["cross_validation"]["plot"]
    assert figures["movies"] == 8 and figures["genres_counted"] == 2
    # Of dramas, 4 of 4 pairs of fold 0 and 2 of 4 of fold 1; of news, none of 3 pairs.
    assert figures["per_genre"]["Drama"]["auc"] == pytest.approx(6 / 8)
    assert figures["per_genre"]["News"]["auc"] == 0
    assert figures["auc_macro"] == pytest.approx((6 / 8 + 0) / 2)
    assert figures["genres_steady"] == 0 and np.isnan(figures["auc_steady"])
    pairs = [
        metrics.roc_auc(labels[r].ravel(), scores[r].ravel()) for r in (folds == 0, folds == 1)
    ]
    weights = [3 * 93, 2 * 94]  # positives times negatives
    assert figures["auc_micro"] == pytest.approx(np.average(pairs, weights=weights))


def test_a_training_movie_is_calibrated_without_its_own_fold():
    rng = np.random.default_rng(0)
    probabilities = np.float32(rng.random((60, 24)))
    labels = np.float32(rng.random((60, 24)) < probabilities**2)
    movies = corpus(labels, test=np.arange(50, 60))
    folds = np.concatenate([np.arange(50) % 2, np.full(10, -1)])
    present = np.arange(60) % 3 > 0
    given = ({"words": probabilities}, {"words": present})
    whole = results.calibrate(movies, *given)
    found = results.cross_calibrate(movies, folds, *given, whole)["words"]
    for fold in (0, 1):
        rows = np.flatnonzero(present & (folds == 1 - fold))
        expected = Calibration.fit(labels[rows], probabilities[rows], GENRES)
        members = folds == fold
        np.testing.assert_array_equal(
            found.probabilities[members], expected(probabilities[members])
        )
        np.testing.assert_array_equal(
            found.thresholds[members], np.tile(expected.thresholds, (25, 1))
        )
    np.testing.assert_array_equal(found.probabilities[50:], whole["words"](probabilities[50:]))
    np.testing.assert_array_equal(
        found.thresholds[50:], np.tile(whole["words"].thresholds, (10, 1))
    )


def test_figures_are_those_of_calibrated_probabilities():
    labels, scores = np.zeros((5, 24), np.float32), np.full((5, 24), 0.1)
    labels[[0, 1], DRAMA] = 1
    scores[:, DRAMA] = [0.4, 0.3, 0.2, 0.1, 0.1]
    # Every odds is tripled: 0.4 becomes 2/3, 0.3 becomes 9/16, 0.2 becomes 3/7, 0.1 becomes 1/4.
    tripled = Calibration(GENRES, np.ones(24), np.full(24, np.log(3)), np.full(24, 0.6))
    computed = results.evaluate_models(
        corpus(labels, validation=np.arange(4)),
        np.array([-1, -1, -1, -1, 0]),
        {"plot": scores},
        {"plot": np.ones(5, bool)},
        ("plot",),
        calibrated({"plot": scores}, {"plot": tripled}),
    )["validation"]["plot"]
    assert computed["auc_macro"] == 1
    assert computed["per_genre"]["Drama"]["f1"] == 1  # 0.5 divides them now
    assert computed["f1_micro"] == 1
    assert computed["f1_micro_tuned"] == pytest.approx(2 / 3)  # 0.6 finds one drama of two
    assert computed["per_genre"]["Drama"]["f1_tuned"] == pytest.approx(2 / 3)
    assert computed["thresholds"] == dict.fromkeys(GENRES, 0.6)
    before, after = (metrics.expected_calibration_error(labels[:4], p[:4])
                     for p in (scores, tripled(scores)))  # fmt: skip
    assert computed["ece_uncalibrated"] == pytest.approx(before)
    assert computed["ece"] == pytest.approx(after) != before


def test_predictions_are_calibrated_for_the_movies_of_each_model():
    labels = np.float32(np.arange(6 * 24).reshape(6, 24) % 5 == 0)
    scores = np.full((6, 24), 0.25)
    present = {"plot": np.array([1, 1, 0, 1, 1, 1], bool), "poster": np.arange(6) != 3}
    tripled = Calibration(GENRES, np.ones(24), np.full(24, np.log(3)), np.full(24, 0.6))
    of_models = dict.fromkeys(present, scores)
    found = results.predictions_of_split(
        corpus(labels, test=np.array([1, 2, 3])),
        "test",
        np.array([0, -1, -1, -1, 0, 1]),
        of_models,
        present,
        ("plot", "poster"),
        calibrated(of_models, dict.fromkeys(present, tripled)),
    )
    rows = {"plot": [1, 3], "poster": [1, 2], "plot_both": [1], "poster_both": [1]}
    assert found.keys() == rows.keys()
    for name, of_model in found.items():
        np.testing.assert_array_equal(of_model.labels, labels[rows[name]])
        np.testing.assert_array_equal(of_model.uncalibrated, scores[rows[name]])
        np.testing.assert_allclose(of_model.probabilities, 0.5)
        np.testing.assert_array_equal(of_model.thresholds, np.full((len(rows[name]), 24), 0.6))
        assert of_model.folds is None


def test_predictions_of_training_movies_have_folds():
    scores, folds = np.full((4, 24), 0.25), np.array([1, -1, 0, 1])
    found = results.predictions_of_split(
        corpus(np.zeros((4, 24), np.float32), test=np.array([1])),
        "train",
        folds,
        {"plot": scores},
        {"plot": np.array([True, True, True, False])},
        ("plot",),
        calibrated({"plot": scores}, {"plot": identity()}),
    )
    assert found["plot"].folds.tolist() == found["plot_both"].folds.tolist() == [1, 0]


def test_auc_falls_with_the_share_of_movies_that_lose_a_modality():
    rng = np.random.default_rng(0)
    labels = np.repeat([[1.0], [0.0]], 200, axis=0)
    whole, without = labels * 0.5 + 0.25, rng.uniform(size=labels.shape)
    folds = np.arange(400) % 2
    # Each fold has an AUC of its own, so an offset between the folds changes nothing.
    whole, without = (scores + folds[:, None] for scores in (whole, without))
    figures = results.missing_modalities(labels, folds, whole, without, seed=3)
    assert figures[0] == 1
    alone = [metrics.roc_auc(labels[folds == f, 0], without[folds == f, 0]) for f in (0, 1)]
    assert figures[-1] == pytest.approx(np.mean(alone))  # as many pairs in both folds
    assert np.all(np.diff(figures) < 0)
    assert figures == results.missing_modalities(labels, folds, whole, without, seed=3)
    assert figures != results.missing_modalities(labels, folds, whole, without, seed=4)


def test_missing_modalities_of_several_models_use_training_movies_with_both():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 24), np.float32)
    labels[:, DRAMA] = rng.integers(0, 2, 60)
    movies = corpus(labels, validation=np.arange(50, 60))
    folds = np.concatenate([np.arange(50) % 2, np.full(10, -1)])
    present = {"words": np.arange(60) % 5 > 0, "cover": np.arange(60) % 7 > 0}
    probabilities = {
        name: np.float32(rng.random((60, 24))) for name in ("words", "cover", "fusion")
    }
    without_posters = np.float32(rng.random((60, 24)))
    without = {"poster": {"words": probabilities["words"], "fusion": without_posters}}

    missing = results.evaluate_missing(
        movies, folds, probabilities, without, present, ("words", "cover"), seed=3
    )
    rows = np.flatnonzero(present["words"] & present["cover"] & (folds >= 0))
    assert list(missing) == ["poster"] and list(missing["poster"]) == ["words", "fusion"]
    assert len(set(missing["poster"]["words"])) == 1  # an encoder of plots loses nothing
    assert missing["poster"]["fusion"] == results.missing_modalities(
        labels[rows], folds[rows], probabilities["fusion"][rows], without_posters[rows], seed=3
    )


def test_best_reachable_auc_is_that_of_the_true_probabilities():
    labels = np.zeros((8, 24), np.float32)
    labels[[0, 1, 4, 6], DRAMA] = 1
    true = np.full((8, 24), 0.1)
    true[:4, DRAMA] = [0.9, 0.3, 0.4, 0.2]  # of two pairs one is the wrong way round
    true[3, DRAMA] = np.nan  # this movie has no plot
    present = {"words": np.arange(8) != 3, "cover": np.ones(8, bool)}
    computed = results.evaluate_models(
        corpus(labels, test=np.arange(4)),
        np.array([-1] * 4 + [0, 0, 1, 1]),
        dict.fromkeys(present, np.full((8, 24), 0.5)),
        present,
        ("words", "cover"),
        calibrated(
            dict.fromkeys(present, np.full((8, 24), 0.5)), dict.fromkeys(present, identity())
        ),
        {"words": true},
    )
    assert computed["test"]["words"]["best_reachable_auc_macro"] == 1 / 2
    for name in ("cover", "words_both"):
        assert "best_reachable_auc_macro" not in computed["test"][name]


def test_calibration_is_fitted_on_training_movies_that_are_present():
    rng = np.random.default_rng(0)
    probabilities = np.float32(rng.random((40, 24)))
    labels = np.float32(rng.random((40, 24)) < probabilities**2)
    movies = corpus(labels, validation=np.arange(30, 40))
    present = np.arange(40) % 3 > 0
    fitted = results.calibrate(movies, {"words": probabilities}, {"words": present})
    rows = np.flatnonzero(present[:30])
    expected = Calibration.fit(labels[rows], probabilities[rows], GENRES)
    assert list(fitted) == ["words"] and fitted["words"].genres == GENRES
    np.testing.assert_array_equal(fitted["words"].scale, expected.scale)
    np.testing.assert_array_equal(fitted["words"].thresholds, expected.thresholds)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fusion", True), ("fusion_gated", True), ("plot", False), ("fusionist", False)],
)
def test_fusions_are_known_by_their_names(name, expected):
    assert results.is_fusion(name) is expected
