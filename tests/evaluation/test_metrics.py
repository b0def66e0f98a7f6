import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from mmgc_jax.evaluation import metrics

# A false 0.4 ranks above a true 0.35: one of four pairs is wrong. The example, and its figures, of
# scikit-learn's pages on roc_auc_score and average_precision_score.
LABELS, SCORES = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])


def test_textbook_example():
    assert metrics.roc_auc(LABELS, SCORES) == 0.75
    assert metrics.average_precision(LABELS, SCORES) == pytest.approx(0.8333, abs=1e-4)


def test_ties_count_half():
    # Pairs: (0.9 > 0.5), (0.9 > 0.5), then twice a tie: (1 + 1 + 1/2 + 1/2) / 4.
    assert metrics.roc_auc([True, True, False, False], [0.9, 0.5, 0.5, 0.5]) == 0.75
    assert metrics.roc_auc([True, False], [0.3, 0.3]) == 0.5


def test_auc_depends_on_ranks_only():
    labels = np.random.default_rng(1).random(50) < 0.3
    scores = np.random.default_rng(2).normal(size=50)
    auc = metrics.roc_auc(labels, scores)
    assert metrics.roc_auc(labels, np.exp(scores)) == pytest.approx(auc)
    assert metrics.roc_auc(labels, -scores) == pytest.approx(1 - auc)
    assert metrics.roc_auc(~labels, scores) == pytest.approx(1 - auc)


def test_undefined_without_both_classes():
    assert np.isnan(metrics.roc_auc([True, True], [0.1, 0.2]))
    assert np.isnan(metrics.roc_auc([False, False], [0.1, 0.2]))
    assert np.isnan(metrics.average_precision([False, False], [0.1, 0.2]))
    assert metrics.average_precision([True, True], [0.1, 0.2]) == 1


def test_a_split_worked_out_by_hand():
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    probabilities = np.array([[0.9, 0.6], [0.5, 0.1], [0.4, 0.7], [0.2, 0.3]])
    figures = metrics.evaluate(labels, probabilities, ("A", "B"))
    # A: 0.9 beats 0.5 and 0.2, 0.4 beats 0.2 only. B: 0.7 beats 0.6 and 0.1, 0.3 beats 0.1 only.
    assert figures["per_genre"]["A"]["auc"] == 3 / 4
    assert figures["per_genre"]["B"]["auc"] == 3 / 4
    # All eight at once: 0.9, 0.7, 0.4 and 0.3 beat 4, 4, 2 and 2 of the four negatives.
    assert figures["auc_micro"] == 12 / 16
    assert figures["auc_macro"] == metrics.auc_macro(labels, probabilities) == 3 / 4
    # At 0.5 (itself included) both have one true positive, one false one, and one false negative.
    assert figures["per_genre"]["A"]["f1"] == figures["per_genre"]["B"]["f1"] == 2 / 4
    assert figures["f1_macro"] == figures["f1_micro"] == figures["f1_weighted"] == 2 / 4
    # The second movie has no genre, and one is predicted; the last one's is missed.
    assert figures["f1_samples"] == pytest.approx((2 / 3 + 0 + 2 / 3 + 0) / 4)
    assert (figures["movies"], figures["genres_counted"]) == (4, 2)


@pytest.fixture(params=["distinct", "tied"])
def random_split(request):
    """60 movies, 8 genres; `None` has no positive, `All` no negative, `One` a single positive."""
    rng = np.random.default_rng(7)
    labels = rng.random((60, 8)) < np.linspace(0.05, 0.6, 8)
    labels[:, 5], labels[:, 6] = False, True
    labels[:, 7] = np.arange(60) == 9
    probabilities = np.clip(rng.normal(0.3 + 0.3 * labels, 0.25), 0, 1)
    if request.param == "tied":
        probabilities = probabilities.round(1)
    genres = ("a", "b", "c", "d", "e", "None", "All", "One")
    return labels, probabilities, genres


def test_averages_over_genres_equal_scikit_learn(random_split):
    labels, probabilities, genres = random_split
    figures = metrics.evaluate(labels, probabilities, genres)
    counted = [0, 1, 2, 3, 4, 7]
    assert figures["genres_counted"] == len(counted)
    y, p = labels[:, counted], probabilities[:, counted]

    auc = sklearn.metrics.roc_auc_score(y, p, average="macro")
    assert figures["auc_macro"] == pytest.approx(auc)
    for average in ("macro", "weighted"):
        f1 = sklearn.metrics.f1_score(y, p >= 0.5, average=average, zero_division=0)
        assert figures[f"f1_{average}"] == pytest.approx(f1)
    precision = sklearn.metrics.average_precision_score(y, p, average="macro")
    assert figures["map"] == pytest.approx(precision)

    steady = [g for g in range(8) if 10 <= labels[:, g].sum() <= 50]
    assert figures["genres_steady"] == len(steady) < len(counted)
    y, p = labels[:, steady], probabilities[:, steady]
    auc = sklearn.metrics.roc_auc_score(y, p, average="macro")
    assert figures["auc_steady"] == pytest.approx(auc)


def test_steady_genres_have_10_positives_and_10_negatives():
    labels = np.arange(25)[:, None] < [9, 10, 15, 16]
    assert metrics.is_steady(labels).tolist() == [False, True, True, False]
    scores = np.random.default_rng(0).random((25, 4))
    figures = metrics.evaluate(labels, scores, "ABCD")
    assert (figures["genres_counted"], figures["genres_steady"]) == (4, 2)
    aucs = [metrics.roc_auc(labels[:, g], scores[:, g]) for g in range(4)]
    assert figures["auc_steady"] == pytest.approx((aucs[1] + aucs[2]) / 2)
    few = metrics.evaluate(labels[:12], scores[:12], "ABCD")
    assert few["genres_steady"] == 0 and np.isnan(few["auc_steady"])


def test_figures_over_all_columns_equal_scikit_learn(random_split):
    y, p, genres = random_split
    figures = metrics.evaluate(y, p, genres)
    auc = sklearn.metrics.roc_auc_score(y.ravel(), p.ravel())
    assert figures["auc_micro"] == pytest.approx(auc)
    for average in ("micro", "samples"):
        f1 = sklearn.metrics.f1_score(y, p >= 0.5, average=average, zero_division=0)
        assert figures[f"f1_{average}"] == pytest.approx(f1)


def test_each_genre_equals_scikit_learn(random_split):
    labels, probabilities, genres = random_split
    per_genre = metrics.evaluate(labels, probabilities, genres)["per_genre"]
    assert tuple(per_genre) == genres
    for g in (0, 1, 2, 3, 4, 7):
        y, p, figures = labels[:, g], probabilities[:, g], per_genre[genres[g]]
        assert figures["positives"] == y.sum()
        assert figures["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, p))
        precision = sklearn.metrics.average_precision_score(y, p)
        assert figures["average_precision"] == pytest.approx(precision)
        f1 = sklearn.metrics.f1_score(y, p >= 0.5, zero_division=0)
        assert figures["f1"] == pytest.approx(f1)
    assert np.isnan(per_genre["None"]["auc"])
    assert np.isnan(per_genre["None"]["average_precision"])
    assert np.isnan(per_genre["All"]["auc"])


def test_genres_without_both_classes_do_not_move_averages(random_split):
    labels, probabilities, genres = random_split
    moved = probabilities.copy()
    moved[:, 5:7] = 1 - moved[:, 5:7]
    before = metrics.evaluate(labels, probabilities, genres)
    after = metrics.evaluate(labels, moved, genres)
    for name in ("auc_macro", "map", "f1_macro", "f1_weighted"):
        assert before[name] == after[name]
    assert metrics.auc_macro(labels, moved) == before["auc_macro"]
    assert before["auc_micro"] != after["auc_micro"]


def test_nothing_to_average_is_nan():
    figures = metrics.evaluate(np.ones((3, 1)), np.full((3, 1), 0.2), ("All",))
    assert figures["genres_counted"] == 0
    for name in ("auc_macro", "auc_micro", "map", "f1_macro", "f1_weighted"):
        assert np.isnan(figures[name]), name
    assert np.isnan(metrics.auc_macro(np.ones((3, 1)), np.full((3, 1), 0.2)))
    figures = metrics.evaluate(np.zeros((0, 2)), np.zeros((0, 2)), ("A", "B"))
    assert figures["movies"] == 0
    for name in ("auc_macro", "auc_micro", "map", "f1_micro", "f1_macro", "f1_samples"):
        assert np.isnan(figures[name]), name
    assert figures["per_genre"]["A"]["f1"] == 0


def test_a_single_genre_has_the_f1_of_its_positives():
    """Not the mean over positives and negatives, which scikit-learn takes for one column."""
    labels, probabilities = np.array([[1], [0], [1], [0]]), np.array([[0.9], [0.8], [0.1], [0.2]])
    figures = metrics.evaluate(labels, probabilities, ("A",))
    for name in ("f1_micro", "f1_macro", "f1_weighted"):
        assert figures[name] == 1 / 2
    assert figures["f1_samples"] == 1 / 4
    assert figures["per_genre"]["A"]["f1"] == 1 / 2


class TestWithinFolds:
    def test_by_hand(self):
        # Fold 0: 0.9 beats 0.1, one of one. Fold 1, whose model gives lower scores: 0.4 beats 0.2
        # and ties with 0.4, 0.3 beats 0.2 alone: 2.5 of 4. Fold 2 has no negative.
        labels = np.array([1, 0, 1, 1, 0, 0, 1])
        scores = np.array([0.9, 0.1, 0.4, 0.3, 0.2, 0.4, 0.0])
        folds = np.array([0, 0, 1, 1, 1, 1, 2])
        assert metrics.roc_auc(labels, scores, folds) == 3.5 / 5
        order = np.random.default_rng(0).permutation(7)
        assert metrics.roc_auc(labels[order], scores[order], folds[order]) == 3.5 / 5

    def test_equals_a_loop_over_pairs(self, random_split):
        labels, scores, _ = random_split
        folds = np.random.default_rng(3).integers(0, 4, len(labels))
        for of_genre, column in zip(labels.T[:5], scores.T):
            ordered = pairs = 0
            for i in np.flatnonzero(of_genre):
                for j in np.flatnonzero(~of_genre & (folds == folds[i])):
                    ordered += (column[i] > column[j]) + (column[i] == column[j]) / 2
                    pairs += 1
            assert metrics.roc_auc(of_genre, column, folds) == pytest.approx(ordered / pairs)

    def test_offsets_of_folds_change_nothing(self, random_split):
        labels, scores, _ = random_split
        folds = np.arange(len(labels)) % 3
        shifted = scores + folds[:, None]
        auc = metrics.auc_macro(labels, scores, folds)
        assert metrics.auc_macro(labels, shifted, folds) == pytest.approx(auc)
        assert metrics.auc_macro(labels, shifted) < auc - 0.1

    def test_of_one_fold_it_is_the_usual_one(self, random_split):
        labels, scores, genres = random_split
        found = metrics.evaluate(labels, scores, genres, folds=np.full(len(labels), 7))
        np.testing.assert_equal(found, metrics.evaluate(labels, scores, genres))

    def test_without_a_fold_that_has_both_it_is_undefined(self):
        labels, folds = np.array([[1, 1], [1, 0], [0, 1], [0, 0]]), np.array([0, 0, 1, 1])
        scores = np.array([[0.9, 0.8], [0.8, 0.1], [0.2, 0.9], [0.1, 0.2]])
        assert np.isnan(metrics.roc_auc(labels[:, 0], scores[:, 0], folds))
        assert np.isnan(metrics.roc_auc([], [], np.array([], int)))
        figures = metrics.evaluate(labels, scores, "AB", folds=folds)
        assert np.isnan(figures["per_genre"]["A"]["auc"]) and figures["genres_counted"] == 2
        assert figures["auc_macro"] == metrics.auc_macro(labels, scores, folds) == 1
        assert figures["map"] == 1

    def test_of_all_figures_only_auc_changes(self, random_split):
        labels, scores, genres = random_split
        folds = np.arange(len(labels)) % 3
        whole = metrics.evaluate(labels, scores, genres)
        figures = metrics.evaluate(labels, scores, genres, folds=folds)
        changed = {name for name in whole if str(whole[name]) != str(figures[name])}
        assert changed == {"auc_macro", "auc_steady", "auc_micro", "per_genre"}
        pooled = metrics.roc_auc(labels.ravel(), scores.ravel(), np.repeat(folds, 8))
        assert figures["auc_micro"] == pooled
        for g, name in enumerate(genres):
            auc = metrics.roc_auc(labels[:, g], scores[:, g], folds)
            expected = whole["per_genre"][name] | {"auc": auc}
            np.testing.assert_equal(figures["per_genre"][name], expected)


# As a plain numpy implementation computed them, before scikit-learn's replaced it.
GOLDEN = {
    "distinct": {
        "averages": {
            "movies": 60,
            "genres_counted": 6,
            "auc_macro": 0.8614496548760505,
            "auc_micro": 0.8294344815340909,
            "map": 0.5764370746348457,
            "f1_micro": 0.621301775147929,
            "f1_macro": 0.4502221401001889,
            "f1_weighted": 0.5526629639291045,
            "f1_samples": 0.6064153439153439,
        },
        "average_precision": [
            0.8962585034013607,
            0.3388888888888889,
            0.7660758519497096,
            0.6097339722243366,
            0.680998564678112,
            float("nan"),
            1.0,
            0.16666666666666666,
        ],
        "f1": [
            0.4666666666666667,
            0.36363636363636365,
            0.5833333333333334,
            0.5365853658536586,
            0.64,
            0.0,
            0.9285714285714286,
            0.1111111111111111,
        ],
    },
    "tied": {
        "averages": {
            "movies": 60,
            "genres_counted": 6,
            "auc_macro": 0.8533245618474125,
            "auc_micro": 0.8295343572443182,
            "map": 0.5200009943785163,
            "f1_micro": 0.5967741935483871,
            "f1_macro": 0.43245116081859475,
            "f1_weighted": 0.5378314937796659,
            "f1_samples": 0.5906878306878306,
        },
        "average_precision": [
            0.8054945054945054,
            0.31842157842157837,
            0.6884562713974477,
            0.5636605642261702,
            0.6439730467313961,
            float("nan"),
            1.0,
            0.1,
        ],
        "f1": [
            0.4117647058823529,
            0.37037037037037035,
            0.5714285714285714,
            0.5652173913043478,
            0.5925925925925926,
            0.0,
            0.9565217391304348,
            0.08333333333333333,
        ],
    },
}


def test_golden_figures(random_split, request):
    labels, probabilities, genres = random_split
    golden = GOLDEN[request.node.callspec.params["random_split"]]
    figures = metrics.evaluate(labels, probabilities, genres, threshold=0.4)
    per_genre = figures.pop("per_genre")
    del figures["auc_steady"], figures["genres_steady"]  # see above
    assert figures == pytest.approx(golden["averages"], abs=1e-12)
    for name in ("average_precision", "f1"):
        values = [per_genre[genre][name] for genre in genres]
        assert values == pytest.approx(golden[name], abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_auc_of_scores_that_are_not_finite_is_refused(wrong):
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.auc_macro([[1], [0]], [[0.5], [wrong]])


def test_auc_of_disagreeing_shapes_is_refused():
    with pytest.raises(ValueError, match="do not fit together"):
        metrics.auc_macro(np.zeros((3, 2)), np.zeros((3, 1)))


def test_threshold():
    labels, probabilities = np.array([[1], [0]]), np.array([[0.4], [0.3]])
    assert metrics.evaluate(labels, probabilities, ("A",))["f1_micro"] == 0
    assert metrics.evaluate(labels, probabilities, ("A",), threshold=0.4)["f1_micro"] == 1


def test_a_threshold_for_each_genre():
    labels = np.array([[1, 1], [0, 0]])
    probabilities = np.array([[0.4, 0.9], [0.3, 0.8]])
    thresholds = np.array([0.4, 0.9])
    assert metrics.evaluate(labels, probabilities, "AB", thresholds)["f1_micro"] == 1
    assert metrics.evaluate(labels, probabilities, "AB", thresholds[::-1])["f1_micro"] < 1


def test_a_threshold_for_each_movie_and_genre():
    """As out-of-fold predictions have them, whose folds are calibrated apart."""
    labels = np.array([[1, 1], [0, 0], [1, 0]])
    probabilities = np.array([[0.4, 0.9], [0.3, 0.8], [0.2, 0.7]])
    thresholds = np.array([[0.4, 0.9], [0.4, 0.9], [0.2, 0.8]])
    figures = metrics.evaluate(labels, probabilities, "AB", thresholds)
    assert figures["f1_micro"] == figures["f1_macro"] == 1
    assert metrics.f1_per_genre(labels, probabilities, thresholds).tolist() == [1, 1]
    assert metrics.f1_per_genre(labels, probabilities, thresholds[::-1]).tolist() == [2 / 3, 1]


class TestTunedThresholds:
    def test_by_hand(self):
        labels = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]])
        scores = np.array([0.9, 0.6, 0.3, 0.1])
        thresholds = metrics.tune_thresholds(labels, np.column_stack([scores] * 4))
        # At 0.9, 0.6, 0.3 and 0.1 the first genre has F1 2/3, 1/2, 4/5 and 2/3; the second none;
        # the third 2/5, 2/3, 6/7 and 1; the last 0, 2/3, 1/2, 2/5.
        assert thresholds.tolist() == [0.3, 0.5, 0.1, 0.6]

    def test_of_equally_good_ones_the_highest(self):
        # At 0.8 one of one is right, one missed: 2/3; at 0.2 two of four: 2/3.
        labels, scores = np.array([1, 0, 0, 1]), np.array([0.8, 0.4, 0.3, 0.2])
        assert metrics.tune_thresholds(labels[:, None], scores[:, None]).tolist() == [0.8]

    def test_equal_scores_stand_or_fall_together(self):
        labels, scores = np.array([1, 0, 0, 0]), np.array([0.7, 0.7, 0.7, 0.1])
        assert metrics.tune_thresholds(labels[:, None], scores[:, None]).tolist() == [0.7]

    def test_no_threshold_is_better(self, random_split):
        labels, probabilities, _ = random_split
        tuned = metrics.tune_thresholds(labels, probabilities)
        for g, threshold in enumerate(tuned):
            y, p = labels[:, g], probabilities[:, g]

            def f1_at(t, y=y, p=p):
                return sklearn.metrics.f1_score(y, p >= t, zero_division=0)

            everywhere = [f1_at(t) for t in (*p, 0.0, 0.5, 1.1)]
            assert f1_at(threshold) == max(everywhere)
            if y.any():
                precision, recall, _ = sklearn.metrics.precision_recall_curve(y, p)
                curve = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
                assert f1_at(threshold) == pytest.approx(curve.max())
                assert threshold == max(t for t in p if f1_at(t) == max(everywhere))
            else:
                assert threshold == 0.5

    def test_float32_probabilities_meet_their_own_threshold(self):
        labels = np.array([[1], [0]])
        probabilities = np.array([[0.1], [0.05]], np.float32)
        thresholds = metrics.tune_thresholds(labels, probabilities)
        assert metrics.f1_averages(labels, probabilities, thresholds)["f1_micro"] == 1


class TestCalibrationError:
    def test_by_hand(self):
        # Ten bins; A: the bin (0.6, 0.7] holds 0.65 and 0.69, one of them true.
        labels = np.array([[1, 1], [0, 1], [0, 0], [1, 0]])
        probabilities = np.array([[0.65, 0.9], [0.69, 0.8], [0.05, 0.0], [1.0, 0.4]])
        # A: |0.67 - 0.5| * 2/4 + 0.05 / 4 + 0 = 0.0975; B: (0.1 + 0.2 + 0 + 0.4) / 4 = 0.175.
        error = metrics.expected_calibration_error(labels, probabilities, bins=10)
        assert error == pytest.approx((0.0975 + 0.175) / 2)

    def test_a_bin_holds_its_upper_edge(self):
        found = metrics.reliability([0, 1, 1, 0], [0.0, 0.5, 0.75, 0.5], bins=2)
        assert found["count"].tolist() == [3, 1]
        np.testing.assert_allclose(found["predicted"], [1 / 3, 0.75])
        np.testing.assert_allclose(found["true"], [1 / 3, 1])

    def test_equals_scikit_learns_calibration_curve(self, random_split):
        labels, probabilities, _ = random_split
        # Its bins hold their lower edge.
        probabilities = np.clip(probabilities, 1e-3, 1) - 1e-6
        found = metrics.reliability(labels, probabilities, bins=15)
        true, predicted = sklearn.calibration.calibration_curve(
            labels.ravel(), probabilities.ravel(), n_bins=15
        )
        occupied = found["count"] > 0
        np.testing.assert_allclose(found["true"][occupied], true)
        np.testing.assert_allclose(found["predicted"][occupied], predicted)
        assert found["count"].sum() == labels.size
        assert np.isnan(found["true"][~occupied]).all()

    @pytest.mark.parametrize("bins", [1, 7, 15])
    def test_equals_a_loop_over_counted_genres(self, random_split, bins):
        labels, probabilities, _ = random_split
        errors = []
        for g in (0, 1, 2, 3, 4, 7):
            errors.append(0)
            for b in range(bins):
                inside = [
                    movie
                    for movie, p in enumerate(probabilities[:, g])
                    if b / bins < p <= (b + 1) / bins or (b == 0 and p == 0)
                ]
                if inside:
                    gap = np.mean(probabilities[inside, g]) - np.mean(labels[inside, g])
                    errors[-1] += len(inside) / len(labels) * abs(gap)
        error = metrics.expected_calibration_error(labels, probabilities, bins)
        assert error == pytest.approx(np.mean(errors))

    def test_genres_without_both_classes_do_not_count(self, random_split):
        labels, probabilities, _ = random_split
        moved = probabilities.copy()
        moved[:, 5:7] = 1 - moved[:, 5:7]
        error = metrics.expected_calibration_error(labels, probabilities)
        assert metrics.expected_calibration_error(labels, moved) == error
        assert np.isnan(metrics.expected_calibration_error(np.ones((3, 1)), np.ones((3, 1))))
        assert np.isnan(metrics.expected_calibration_error(np.ones((0, 1)), np.ones((0, 1))))

    @pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
    def test_values_outside_0_to_1_are_refused(self, wrong):
        with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
            metrics.expected_calibration_error([[1], [0]], [[0.5], [wrong]])

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="differ"):
            metrics.reliability([1, 0], [0.5])
        with pytest.raises(ValueError, match="differ"):
            metrics.expected_calibration_error([[1], [0]], [[0.5]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "reason"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), "do not fit"),
        (np.zeros((3, 4)), np.zeros((3, 4)), "2 genres"),
        (np.zeros(2), np.zeros(2), "do not fit"),
        (np.zeros((1, 2)), np.array([[0.5, np.nan]]), "NaN"),
        (np.zeros((1, 2)), np.array([[0.5, np.inf]]), "infinity"),
    ],
)
def test_arrays_that_cannot_be_evaluated_are_refused(labels, probabilities, reason):
    with pytest.raises(ValueError, match=reason):
        metrics.evaluate(labels, probabilities, ("A", "B"))


def test_f1_of_each_genre_equals_scikit_learn(random_split):
    labels, probabilities = random_split[:2]
    thresholds = np.linspace(0.2, 0.8, labels.shape[1])
    found = metrics.f1_per_genre(labels, probabilities, thresholds)
    expected = sklearn.metrics.f1_score(
        labels, probabilities >= thresholds, average=None, zero_division=0
    )
    np.testing.assert_allclose(found, expected)


def test_genres_of_no_movies_have_an_f1_of_0():
    none = np.zeros((0, 3))
    np.testing.assert_array_equal(metrics.f1_per_genre(none, none), np.zeros(3))


def test_cooccurrence_by_hand():
    flags = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
    nan = np.nan
    np.testing.assert_allclose(
        metrics.cooccurrence(flags), [[nan, 0.5, 0], [1, nan, 0], [nan, nan, nan]]
    )


def test_cooccurrence_of_no_movies():
    assert np.isnan(metrics.cooccurrence(np.zeros((0, 3)))).all()
