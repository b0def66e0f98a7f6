"""Calibration: fit, order, thresholds, and the file."""

import json

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from mmgc_jax.evaluation import calibration, metrics
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.runtime.errors import InputError

GENRES = ("Drama", "Film-Noir", "News")


def miscalibrated(movies=4000, seed=0):
    """Labels, and probabilities of an overconfident model that predicts too many positives.

    The true log-odds are 0.5 * logit - 1 for the first genre, 0.5 * logit for the second; the third
    has three positives, at the highest probabilities.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (movies, 3))
    labels = rng.random((movies, 3)) < expit(0.5 * logits - [1, 0, 0])
    labels[:, 2] = False
    labels[np.argsort(logits[:, 2])[-3:], 2] = True
    return labels, expit(logits).astype(np.float32)


def test_a_known_distortion_is_undone():
    labels, probabilities = miscalibrated(movies=40_000)
    found = Calibration.fit(labels, probabilities, GENRES)
    np.testing.assert_allclose(found.scale[:2], 0.5, atol=0.02)
    np.testing.assert_allclose(found.shift[:2], [-1, 0], atol=0.05)


def test_equals_logistic_regression_where_there_are_many_movies():
    labels, probabilities = miscalibrated(movies=40_000)
    found = Calibration.fit(labels, probabilities, GENRES)
    for genre in (0, 1):
        logits = logit(np.float64(probabilities[:, genre]))[:, None]
        unpenalised = LogisticRegression(C=np.inf, tol=1e-8).fit(logits, labels[:, genre])
        assert found.scale[genre] == pytest.approx(unpenalised.coef_.item(), abs=2e-3)
        assert found.shift[genre] == pytest.approx(unpenalised.intercept_.item(), abs=2e-3)


def test_no_other_pair_is_better():
    labels, probabilities = miscalibrated(movies=300)
    found = Calibration.fit(labels, probabilities, GENRES)

    def loss(genre, scale, shift):
        """Cross-entropy, and the negative logarithms of gamma(5, rate 4) and of normal(0, 1)."""
        p = expit(scale * logit(np.float64(probabilities[:, genre])) + shift)
        likelihood = np.where(labels[:, genre], p, 1 - p)
        return -np.log(likelihood).sum() - 4 * np.log(scale) + 4 * scale + shift**2 / 2

    for genre in range(3):
        scale, shift = found.scale[genre], found.shift[genre]
        best = loss(genre, scale, shift)
        for factor, step in ((1.01, 0), (0.99, 0), (1, 0.01), (1, -0.01), (1.01, 0.01)):
            assert loss(genre, scale * factor, shift + step) > best


def test_calibration_error_falls_on_other_movies():
    found = Calibration.fit(*miscalibrated(), GENRES)
    labels, probabilities = miscalibrated(seed=1)
    before = metrics.expected_calibration_error(labels, probabilities)
    after = metrics.expected_calibration_error(labels, found(probabilities))
    assert before > 0.05
    assert after < before / 3


def test_order_and_auc_stay():
    labels, probabilities = miscalibrated()
    calibrated = Calibration.fit(labels, probabilities, GENRES)(probabilities)
    assert calibrated.dtype == np.float32 and calibrated.shape == probabilities.shape
    for genre in range(3):
        order = np.argsort(probabilities[:, genre])
        assert (np.diff(calibrated[order, genre]) >= 0).all()
        assert metrics.roc_auc(labels[:, genre], calibrated[:, genre]) == pytest.approx(
            metrics.roc_auc(labels[:, genre], probabilities[:, genre]), abs=1e-6
        )


@pytest.mark.parametrize("worst_first", [False, True])
def test_the_penalty_bounds_the_fit_of_three_positives_among_thousands(worst_first):
    """Without the penalty, the scale would be infinite or negative here."""
    probabilities = expit(np.linspace(-10, -4, 4500, dtype=np.float32))[:, None]
    labels = np.zeros((4500, 1), bool)
    labels[:3] = True
    if not worst_first:
        labels = labels[::-1]
    found = Calibration.fit(labels, probabilities, ("News",))
    assert 0.2 < found.scale[0] < 2.5
    assert abs(found.shift[0]) < 4
    # Without a penalty, expected and actual positives would be equal.
    assert 1 < found(probabilities).sum() < 6


@pytest.mark.parametrize("value", [False, True])
def test_a_genre_with_one_class_moves_towards_it(value):
    probabilities = np.full((100, 1), 0.3, np.float32)
    found = Calibration.fit(np.full((100, 1), value), probabilities, ("News",))
    calibrated = found(probabilities)
    assert (calibrated > 0.9).all() if value else (calibrated < 0.1).all()
    assert found.scale[0] > 0 and np.isfinite(found.shift).all()


def test_calibrated_probabilities_stay():
    rng = np.random.default_rng(0)
    probabilities = rng.random((40_000, 3))
    found = Calibration.fit(rng.random((40_000, 3)) < probabilities, probabilities, GENRES)
    np.testing.assert_allclose(found(probabilities), probabilities, atol=0.015)


@pytest.mark.parametrize("movies", [1, 50, 5000, pytest.param(26_000, marks=pytest.mark.slow)])
def test_converges_for_extreme_logits(movies):
    rng = np.random.default_rng(movies)
    for spread in (0.01, 1, 3, 10):
        logits = rng.normal(rng.normal(-3, 3), spread, (movies, 5))
        labels = rng.random(logits.shape) < expit(rng.normal(0, 2, 5) * logits - 2)
        found = Calibration.fit(labels, expit(logits), "abcde")
        assert np.isfinite([found.scale, found.shift]).all() and (found.scale > 0).all()
        # At the minimum, expected and actual positives differ by the penalty alone.
        expected = expit(found.scale * logit(np.clip(expit(logits), 1e-38, 1 - 6e-8)) + found.shift)
        np.testing.assert_allclose(
            expected.sum(axis=0) - labels.sum(axis=0), -found.shift, atol=0.02
        )


def test_without_movies_nothing_changes():
    found = Calibration.fit(np.zeros((0, 3)), np.zeros((0, 3)), GENRES)
    assert (found.scale == 1).all() and (found.shift == 0).all()
    assert (found.thresholds == 0.5).all()


def test_certain_probabilities_stay_finite_and_in_order():
    probabilities = np.array([[0.0], [1e-30], [0.5], [1 - 6e-8], [1.0]], np.float32)
    found = Calibration.fit([[1], [0], [1], [1], [0]], probabilities, ("News",))
    assert np.isfinite([found.scale, found.shift]).all()
    assert (np.diff(found(probabilities)[:, 0]) >= 0).all()
    assert found(probabilities)[0] < found(probabilities)[2] < found(probabilities)[4]


def test_the_same_data_give_the_same_fit():
    first, second = (Calibration.fit(*miscalibrated(), GENRES) for _ in range(2))
    for name in ("scale", "shift", "thresholds"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_thresholds_have_the_best_f1_of_each_genre():
    labels, probabilities = miscalibrated()
    found = Calibration.fit(labels, probabilities, GENRES)
    calibrated = found(probabilities)
    decided = calibrated >= found.thresholds
    for genre in range(3):
        truth = labels[:, genre]
        f1 = sklearn.metrics.f1_score(truth, decided[:, genre])
        for threshold in np.quantile(calibrated[:, genre], np.linspace(0, 1, 50)):
            assert f1 >= sklearn.metrics.f1_score(truth, calibrated[:, genre] >= threshold)
    # The three positives are the three most probable.
    np.testing.assert_array_equal(decided[:, 2], labels[:, 2])


@pytest.mark.parametrize(
    ("labels", "probabilities", "reason"),
    [
        (np.zeros((4, 3)), np.zeros((3, 3)), "do not fit"),
        (np.zeros((4, 2)), np.zeros((4, 2)), "3 genres"),
        (np.zeros((1, 3)), np.array([[0.1, np.nan, 0.1]]), r"not in \[0, 1\]"),
        (np.zeros((1, 3)), np.array([[0.1, 1.1, 0.1]]), r"not in \[0, 1\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(labels, probabilities, reason):
    with pytest.raises(ValueError, match=reason):
        Calibration.fit(labels, probabilities, GENRES)


def test_save_and_load(tmp_path):
    file = tmp_path / "new" / "calibration.json"
    labels, probabilities = miscalibrated()
    saved = {
        "plot": Calibration.fit(labels, probabilities, GENRES),
        "fusion": Calibration.fit(labels[:200], probabilities[:200], GENRES),
    }
    calibration.save(file, saved)
    loaded = calibration.load(file)
    assert list(loaded) == ["plot", "fusion"]
    for name_of_model, found in loaded.items():
        assert found.genres == GENRES
        for name in ("scale", "shift", "thresholds"):
            assert getattr(found, name).dtype == np.float64
            expected = getattr(saved[name_of_model], name)
            np.testing.assert_array_equal(getattr(found, name), expected)
        np.testing.assert_array_equal(found(probabilities), saved[name_of_model](probabilities))
    assert [path.name for path in file.parent.iterdir()] == ["calibration.json"]


ROW = {"scale": 1.0, "shift": 0, "threshold": 0.5}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "no models"),
        ("{}", "no models"),
        ({"plot": {}}, "plot has no genres"),
        ({"plot": {"War": 3}}, "plot, War: 3 is not scale, shift and threshold"),
        ({"plot": {"War": {"scale": 1.0}}}, "is not scale, shift and threshold"),
        ({"plot": {"War": ROW | {"scale": 0}}}, "scale is 0, not above 0"),
        ({"plot": {"War": ROW | {"scale": -1.5}}}, "scale is -1.5, not above 0"),
        ({"plot": {"War": ROW | {"shift": float("nan")}}}, "shift is nan, not a finite number"),
        ({"plot": {"War": ROW | {"scale": float("inf")}}}, "scale is inf, not a finite number"),
        ({"plot": {"War": ROW | {"shift": "1"}}}, "shift is '1', not a finite number"),
        ({"plot": {"War": ROW | {"shift": True}}}, "shift is True, not a finite number"),
        ({"plot": {"War": ROW | {"threshold": 1.5}}}, r"threshold is 1.5, not in \[0, 1\]"),
        ({"plot": {"War": ROW}, "fusion": {"Drama": ROW}}, "plot and fusion have different genres"),
    ],
)
def test_a_file_that_is_not_a_calibration_is_refused(tmp_path, content, reason):
    file = tmp_path / "calibration.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=reason) as error:
        calibration.load(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"calibration\.json cannot be read: No such file"):
        calibration.load(tmp_path / "calibration.json")
