"""Bootstrap over movies: figures of resamples, intervals and their coverage."""

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mmgc_jax.evaluation import bootstrap, metrics


def judged(movies=60, genres=5, seed=0, ties=True):
    """Labels, probabilities and thresholds; the last genre occurs once."""
    rng = np.random.default_rng(seed)
    labels = rng.uniform(size=(movies, genres)) < np.linspace(0.5, 0.1, genres)
    labels[:, -1] = np.arange(movies) == 3
    probabilities = np.clip(rng.normal(0.35 + 0.2 * labels, 0.2), 0, 1)
    probabilities = np.round(probabilities, 1) if ties else probabilities
    return labels, np.float32(probabilities), rng.uniform(0.2, 0.6, genres)


def repeated(counts, *arrays):
    return [np.repeat(array, counts, axis=0) for array in arrays]


@pytest.mark.parametrize("with_folds", [False, True], ids=["one_model", "folds"])
@pytest.mark.parametrize("ties", [False, True])
def test_figures_of_a_resample_are_those_of_its_movies(ties, with_folds):
    labels, probabilities, thresholds = judged(ties=ties)
    movies = len(labels)
    folds = np.arange(movies) % 3 if with_folds else None
    resampled = bootstrap.Resampled(labels, probabilities, thresholds, folds)
    counts = np.random.default_rng(1).integers(0, 4, (movies, 20)).astype(np.int32)
    counts[:, 0] = 1  # each movie once
    counts[3, 1] = 0  # the last genre does not occur
    counts[:, 2] = np.arange(movies) % 3 == 1  # one fold alone
    found = resampled(counts)
    genres = [str(g) for g in range(labels.shape[1])]
    steady = [g for g in genres if 10 <= labels[:, int(g)].sum() <= movies - 10]
    assert 0 < len(steady) < len(genres)
    for i, drawn in enumerate(counts.T):
        labels_i, probabilities_i, folds_i = repeated(
            drawn, labels, probabilities, np.zeros(movies) if folds is None else folds
        )
        folds_i = folds_i if with_folds else None
        expected = metrics.evaluate(labels_i, probabilities_i, genres, folds=folds_i)
        tuned = metrics.f1_averages(labels_i, probabilities_i, thresholds)
        expected |= {f"{name}_tuned": value for name, value in tuned.items()}
        aucs = {genre: figures["auc"] for genre, figures in expected["per_genre"].items()}
        # The same genres are steady in all resamples.
        expected["auc_steady"] = np.nanmean([aucs[genre] for genre in steady] + [np.nan])
        for name, values in found.items():
            if name != "auc_per_genre":
                assert values[i] == pytest.approx(expected[name], nan_ok=True), (i, name)
        np.testing.assert_allclose(found["auc_per_genre"][:, i], list(aucs.values()))
    assert np.isnan(found["auc_per_genre"][-1, 1])


def test_a_genre_whose_positives_are_all_of_one_fold_lacks_auc_alone():
    """It has a positive and a negative, but no fold has both."""
    labels, probabilities, _ = judged()
    folds = np.arange(len(labels)) % 3
    counts = np.int32((folds == 0) == labels[:, 0])[:, None]
    found = bootstrap.Resampled(labels, probabilities, folds=folds)(counts)
    drawn = repeated(counts[:, 0], labels, probabilities)
    expected = metrics.evaluate(*drawn, list("abcde"), folds=np.repeat(folds, counts[:, 0]))
    assert np.isnan(found["auc_per_genre"][0]).all()
    for name in ("auc_macro", "auc_micro", "map", "f1_micro", "f1_macro", "f1_weighted"):
        assert found[name][0] == pytest.approx(expected[name]), name


def test_each_movie_can_have_thresholds_of_its_own():
    labels, probabilities, _ = judged()
    thresholds = np.random.default_rng(3).uniform(0.2, 0.6, labels.shape)
    counts = np.random.default_rng(1).integers(0, 4, (len(labels), 5)).astype(np.int32)
    found = bootstrap.Resampled(labels, probabilities, thresholds)(counts)
    for i, drawn in enumerate(counts.T):
        expected = metrics.f1_averages(*repeated(drawn, labels, probabilities, thresholds))
        for name, value in expected.items():
            assert found[f"{name}_tuned"][i] == pytest.approx(value), name


def test_counts_are_sample_weights_of_scikit_learn():
    labels, probabilities, _ = judged(genres=1, movies=80)
    labels[:40, 0] = True
    counts = np.random.default_rng(2).integers(0, 5, (80, 1)).astype(np.int32)
    found = bootstrap.Resampled(labels, probabilities)(counts)
    weights = {"sample_weight": counts[:, 0]}
    scores = probabilities[:, 0]
    assert found["auc_macro"][0] == pytest.approx(roc_auc_score(labels, scores, **weights))
    assert found["map"][0] == pytest.approx(average_precision_score(labels, scores, **weights))
    f1 = f1_score(labels[:, 0], scores >= 0.5, **weights)
    assert found["f1_macro"][0] == pytest.approx(f1)


def test_auc_is_computed_within_folds():
    """All other figures are those of all movies together."""
    labels, probabilities, _ = judged()
    labels, folds = labels[:, :4], np.arange(len(labels)) % 3
    shifted = probabilities[:, :4] / (1 + folds[:, None])
    counts = np.ones((len(labels), 1), np.int32)
    found = bootstrap.Resampled(labels, shifted, folds=folds)(counts)
    expected = metrics.evaluate(labels, shifted, list("abcd"), folds=folds)
    assert expected["auc_macro"] != pytest.approx(metrics.auc_macro(labels, shifted))
    for figure in bootstrap.FIGURES:
        assert found[figure][0] == pytest.approx(expected[figure], nan_ok=True), figure


def test_resamples_do_not_depend_on_the_size_of_blocks():
    one = np.hstack(list(bootstrap.resamples(30, 50, 7, 50)))
    other = np.hstack(list(bootstrap.resamples(30, 50, 7, 8)))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (30, 50) and (one.sum(axis=0) == 30).all()
    assert not np.array_equal(one, next(bootstrap.resamples(30, 50, 8, 50)))


def test_intervals_are_those_of_scipy():
    labels, probabilities, _ = judged(movies=80, genres=3, seed=3)
    labels[:, -1] = labels[:, 0]
    [values] = bootstrap.figures_of_resamples([bootstrap.Resampled(labels, probabilities)], 4000)

    def statistic(rows):
        return metrics.auc_macro(labels[rows], probabilities[rows])

    theirs = stats.bootstrap(
        (np.arange(80),), statistic, n_resamples=2000, vectorized=False, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    low, high = bootstrap.interval(values["auc_macro"])
    width = high - low
    assert low == pytest.approx(theirs.low, abs=0.1 * width)
    assert high == pytest.approx(theirs.high, abs=0.1 * width)


@pytest.mark.slow
def test_intervals_of_95_percent_cover_the_truth_in_about_95_percent():
    truth = stats.norm.cdf(1 / np.sqrt(2))  # AUC of two normal distributions one deviation apart
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        labels = rng.uniform(size=(150, 3)) < 0.3
        scores = rng.normal(1.0 * labels)
        [values] = bootstrap.figures_of_resamples([bootstrap.Resampled(labels, scores)], 300)
        low, high = bootstrap.interval(values["auc_macro"])
        covered.append(low <= truth <= high)
    assert 0.91 <= np.mean(covered) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("genres", "low", "high"), [(4, 0.86, 0.96), (1, 0.75, 0.92)])
def test_intervals_of_the_least_movies_that_are_shown(genres, low, high):
    rng = np.random.default_rng(0)
    for apart in (1.0, 2.0):
        truth, covered = stats.norm.cdf(apart / np.sqrt(2)), []
        for seed in range(300):
            labels = rng.uniform(size=(bootstrap.LEAST_MOVIES, genres)) < 0.2
            scores = rng.normal(apart * labels)
            limits = bootstrap.auc_macro_interval(labels, scores, number=300, seed=seed)
            covered.append(limits[0] <= truth <= limits[1])
        assert low <= np.mean(covered) <= high


def test_intervals_that_say_nothing_are_not_shown():
    assert bootstrap.is_shown(30, 0.5, 0.6) and not bootstrap.is_shown(29, 0.5, 0.6)
    assert not bootstrap.is_shown(1000, 1.0, 1.0)
    assert not bootstrap.is_shown(1000, float("nan"), float("nan"))


def test_pairs_are_drawn_together():
    labels, probabilities, _ = judged(movies=200, ties=False)
    nearly = probabilities + np.float32(np.random.default_rng(5).normal(0, 0.01, labels.shape))
    models = [bootstrap.Resampled(labels, p) for p in (probabilities, nearly, probabilities)]
    one, other, same = (values["auc_micro"] for values in bootstrap.figures_of_resamples(models))
    np.testing.assert_array_equal(one, same)
    low, high = bootstrap.interval(one - other)
    assert high - low < 0.2 * np.subtract(*bootstrap.interval(one)[::-1])
    with pytest.raises(ValueError, match=r"\[100, 200\] movies"):
        fewer = bootstrap.Resampled(labels[:100], nearly[:100])
        bootstrap.figures_of_resamples([models[0], fewer])


def test_an_interval_leaves_out_resamples_without_the_figure():
    values = np.array([0.5] * 60 + [np.nan] * 40)
    assert bootstrap.interval(values) == (0.5, 0.5)
    assert np.isnan(bootstrap.interval(np.array([0.5] * 40 + [np.nan] * 60))).all()


@pytest.mark.parametrize("folds", [None, np.arange(60) % 3], ids=["one_model", "folds"])
def test_the_interval_of_macro_auc_alone_is_the_same(folds):
    labels, probabilities, thresholds = judged()
    resampled = bootstrap.Resampled(labels, probabilities, thresholds, folds)
    [values] = bootstrap.figures_of_resamples([resampled], 150, 4)
    alone = bootstrap.auc_macro_interval(labels, probabilities, folds, 150, seed=4)
    assert alone == bootstrap.interval(values["auc_macro"])
    for movies in (0, 1):
        of_fold = None if folds is None else folds[:movies]
        few = labels[:movies], probabilities[:movies], of_fold
        assert np.isnan(bootstrap.auc_macro_interval(*few)).all()


def test_intervals_are_added_to_figures():
    labels, probabilities, thresholds = judged()
    genres = list("abcde")
    figures = metrics.evaluate(labels, probabilities, genres)
    found = bootstrap.with_intervals(figures, labels, probabilities, thresholds, number=200)
    assert found.items() >= {k: v for k, v in figures.items() if k != "per_genre"}.items()
    for name in bootstrap.FIGURES:
        low, high = found[f"{name}_interval"]
        assert low < figures[name] < high, name
    assert found["f1_macro_tuned_interval"] != found["f1_macro_interval"]
    low, high = found["per_genre"]["a"]["auc_interval"]
    assert low < figures["per_genre"]["a"]["auc"] < high
    assert "auc_interval" not in figures["per_genre"]["a"]

    nothing = metrics.evaluate(labels[:0], probabilities[:0], genres)
    empty = bootstrap.with_intervals(nothing, labels[:0], probabilities[:0], thresholds)
    assert empty.keys() == found.keys() and np.isnan(empty["auc_macro_interval"]).all()


@pytest.mark.slow
def test_a_thousand_resamples_take_seconds():
    rng = np.random.default_rng(0)
    labels = rng.uniform(size=(5289, 24)) < np.linspace(0.005, 0.25, 24)
    probabilities = np.float32(rng.uniform(size=labels.shape))
    before = time.process_time()
    model = bootstrap.Resampled(labels, probabilities, np.full(24, 0.3))
    bootstrap.figures_of_resamples([model], 1000)
    assert time.process_time() - before < 10  # 1 to 2 s on a 2-core AMD EPYC
