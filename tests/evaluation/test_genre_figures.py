"""Figures of single genres, for one genre, for many, and for genres that never occur."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_score, recall_score

from mmgc_jax.data.movies import GENRES
from mmgc_jax.evaluation import figures
from mmgc_jax.evaluation.figures import style
from mmgc_jax.evaluation.results import Predictions, evaluate_predictions
from tests.evaluation.drawing import MANY, TITLES, legend, overlaps, texts


def names(count):
    return tuple(f"Genre {n:03}" for n in range(count))


def predictions(movies=200, genres=4, seed=0, rare=False):
    """Predictions of one model; if `rare`, the last genre has one movie and the first none."""
    rng = np.random.default_rng(seed)
    labels = rng.random((movies, genres)) < np.linspace(0.6, 0.2, genres)
    if rare:
        labels[:, 0] = False
        labels[:, -1] = np.arange(movies) == 3
    probabilities = np.clip(0.3 * labels + 0.7 * rng.random((movies, genres)), 0, 1)
    thresholds = rng.uniform(0.3, 0.7, (movies, genres))
    return Predictions(np.float32(labels), probabilities, probabilities, thresholds)


def figures_of(of_model, genres):
    """The figures that results.json has for a model."""
    return evaluate_predictions({"one": of_model}, genres)["one"]


def split_of(titles, genres, count, **arguments):
    split = {}
    for n, name in enumerate(titles):
        of_model = predictions(genres=count, seed=n, **arguments)
        split[name] = None
        split[f"{name}_both"] = figures_of(of_model, genres)
    return split


def row_labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_auc_per_genre_has_a_mark_for_each_model():
    genres = ("Drama", "War", "News")

    def of_model(offset):
        aucs = dict(zip(genres, (0.8 + offset, 0.6 + offset, float("nan"))))
        return {
            "movies": 19,
            "auc_macro": 0.7 + offset,
            "per_genre": {genre: {"auc": auc, "positives": 7} for genre, auc in aucs.items()},
        }

    split = {name: None for name in MANY}
    split |= {name + "_both": of_model(n / 1000) for n, name in enumerate(MANY)}
    figure = figures.draw_auc_per_genre(split, "test", MANY | {"other": "Other"})
    [axes] = figure.axes
    assert legend(figure) == [
        *(f"{title}: {0.7 + n / 1000:.3f}" for n, title in enumerate(MANY.values())),
        "chance: 0.500",
    ]
    assert axes.get_title().startswith("AUC of each genre, 19 test movies with both")
    assert axes.get_title().endswith("(left out: 1 genre without a positive or a negative)")
    assert row_labels(axes) == ["War (7)", "Drama (7)"]
    for n, marks in enumerate(axes.collections):
        x, y = np.transpose(marks.get_offsets())
        np.testing.assert_allclose(x, [0.6 + n / 1000, 0.8 + n / 1000])
        np.testing.assert_array_equal(np.round(y), [0, 1])
    looks = set()
    for marks in axes.collections:
        looks.add((tuple(marks.get_facecolor()[0]), marks.get_paths()[0].vertices.tobytes()))
    assert len(looks) == len(MANY)


@pytest.mark.parametrize("titles", [TITLES, MANY], ids=["three", "many"])
def test_no_marker_of_auc_per_genre_hides_another(titles):
    genres = names(5)
    one = figures_of(predictions(genres=5), genres)  # every model has the same AUC
    split = {name: None for name in titles} | {f"{name}_both": one for name in titles}
    figure = figures.draw_auc_per_genre(split, "test", titles)
    figure.draw_without_rendering()
    [axes] = figure.axes
    heights = []
    for marks in axes.collections:
        heights += axes.transData.transform(marks.get_offsets())[:, 1].tolist()
    diameter = np.sqrt(axes.collections[0].get_sizes()[0]) * figure.dpi / 72
    assert np.diff(np.sort(heights)).min() > 0.8 * diameter


def test_f1_per_genre_shows_both_thresholds():
    genres = names(4)
    results = figures_of(predictions(rare=True), genres)
    figure = figures.draw_f1_per_genre(results, "test")
    left, right = figure.axes
    order = sorted(genres[1:], key=lambda genre: results["per_genre"][genre]["f1_tuned"])
    assert row_labels(left) == [f"{g} ({results['per_genre'][g]['positives']})" for g in order]
    _, at_half, tuned = left.collections
    for marks, f1 in ((at_half, "f1"), (tuned, "f1_tuned")):
        expected = [results["per_genre"][genre][f1] for genre in order]
        np.testing.assert_allclose(marks.get_offsets()[:, 0], expected)
    [thresholds] = right.collections
    expected = [results["thresholds"][genre] for genre in order]
    np.testing.assert_allclose(thresholds.get_offsets()[:, 0], expected)
    assert legend(figure) == [
        f"threshold 0.5: {results['f1_macro']:.3f}",
        f"threshold tuned on training movies: {results['f1_macro_tuned']:.3f}",
    ]
    assert "200 test movies" in figure.get_suptitle()


def test_precision_recall_has_axes_for_each_genre():
    genres = names(4)
    of_models = {name: predictions(seed=n, rare=True) for n, name in enumerate(TITLES)}
    figure = figures.draw_precision_recall(of_models, genres, "test", TITLES)
    labels, probabilities, _, thresholds, _ = of_models["fusion"]
    assert len(figure.axes) == 3 and "left out: 1 genre " in figure.get_suptitle()
    for ax, g in zip(figure.axes, (1, 2, 3), strict=True):
        average = average_precision_score(labels[:, g], probabilities[:, g])
        assert ax.get_title() == f"{genres[g]}\n{labels[:, g].sum():.0f}; AP {average:.3f}"
        *curves, chance, mark = ax.lines
        assert len(curves) == 3
        recall, precision = curves[-1].get_data()
        np.testing.assert_allclose(-np.sum(np.diff(recall) * precision[:-1]), average)
        assert curves[-1].get_drawstyle() == "steps-post"
        np.testing.assert_allclose(chance.get_ydata(), labels[:, g].mean())
        predicted = probabilities[:, g] >= thresholds[:, g]
        expected = [recall_score(labels[:, g], predicted), precision_score(labels[:, g], predicted)]
        np.testing.assert_allclose(mark.get_xydata(), [expected])
    means = [figures_of(of_model, genres)["map"] for of_model in of_models.values()]
    assert legend(figure)[:3] == [f"{t}: {m:.3f}" for t, m in zip(TITLES.values(), means)]


def test_a_genre_that_is_never_predicted_has_no_mark():
    of_model = predictions()
    never = of_model._replace(thresholds=np.ones((200, 4)))
    figure = figures.draw_precision_recall({"fusion": never}, names(4), "test", TITLES)
    for ax in figure.axes:
        assert len(ax.lines) == 2  # the curve and chance


def test_cooccurrence_of_true_and_of_predicted_genres():
    labels = np.float32([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    probabilities = np.array([[0.9, 0.9, 0.4], [0.9, 0.5, 0.1], [0.9, 0.9, 0.1], [0.2, 0.1, 0.1]])
    of_model = Predictions(labels, probabilities, probabilities, np.tile([0.5, 0.6, 0.4], (4, 1)))
    figure = figures.draw_cooccurrence(of_model, ("Drama", "War", "News"), "test")
    left, right, _ = figure.axes
    nan = np.nan
    shown = [np.ma.filled(ax.images[0].get_array(), nan) for ax in (left, right)]
    np.testing.assert_allclose(shown[0], [[nan, 50, 0], [100, nan, 0], [nan, nan, nan]])
    np.testing.assert_allclose(shown[1], [[nan, 200 / 3, 100 / 3], [100, nan, 50], [100, 100, nan]])
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 100)
    assert row_labels(left) == ["Drama (4)", "War (2)", "News (0)"]
    assert row_labels(right) == ["(3)", "(2)", "(1)"]


def test_cooccurrence_needs_no_movie_with_two_genres():
    of_model = Predictions(*[np.eye(3, dtype=np.float32)] * 3, np.full((3, 3), 0.5))
    left, *_ = figures.draw_cooccurrence(of_model, names(3), "test").axes
    assert left.images[0].get_clim() == (0, 100)


@pytest.mark.parametrize("count", [1, 24, pytest.param(200, marks=pytest.mark.slow)])
def test_any_number_of_genres_is_readable(count):
    genres = GENRES if count == 24 else names(count)
    split = split_of(TITLES, genres, count)
    of_model = predictions(genres=count)
    drawn = {
        "auc": figures.draw_auc_per_genre(split, "test", TITLES),
        "f1": figures.draw_f1_per_genre(split["fusion_both"], "test"),
        "curves": figures.draw_precision_recall({"fusion": of_model}, genres, "test", TITLES),
        "cooccurrence": figures.draw_cooccurrence(of_model, genres, "test"),
    }
    for name, figure in drawn.items():
        width, height = figure.get_size_inches()
        assert width <= 13 and height <= 30, name  # inches
        assert not overlaps(figure), name
    if count == 200:
        for name, figure in drawn.items():
            shown = " ".join(text.get_text() for text in texts(figure))
            assert "most frequent of 200" in shown, name


@pytest.mark.parametrize("movies", [0, 1])
def test_figures_without_positives_and_negatives_say_so(movies):
    genres = names(3)
    of_model = Predictions(*[np.zeros((movies, 3))] * 3, np.full((movies, 3), 0.5))
    results = figures_of(of_model, genres)
    for figure in (
        figures.draw_auc_per_genre({"fusion": None, "fusion_both": results}, "test", TITLES),
        figures.draw_f1_per_genre(results, "test"),
        figures.draw_precision_recall({"fusion": of_model}, genres, "test", TITLES),
    ):
        assert style.UNDEFINED in [text.get_text() for text in texts(figure)]


@pytest.mark.parametrize(("movies", "genres"), [(5, 1), (0, 3)])
def test_cooccurrence_needs_two_genres_and_a_movie(movies, genres):
    of_model = Predictions(*[np.ones((movies, genres))] * 3, np.full((movies, genres), 0.5))
    figure = figures.draw_cooccurrence(of_model, names(genres), "test")
    assert "needed" in " ".join(text.get_text() for text in texts(figure))


def test_names_of_genres_are_no_formulas_and_long_ones_are_cut():
    genres = (r"$\frac{1}$ movies", "a genre whose name is longer than all the others")
    of_model = predictions(genres=2)
    split = split_of(TITLES, genres, 2)
    for figure in (
        figures.draw_auc_per_genre(split, "test", TITLES),
        figures.draw_f1_per_genre(split["fusion_both"], "test"),
        figures.draw_precision_recall({"fusion": of_model}, genres, "test", TITLES),
        figures.draw_cooccurrence(of_model, genres, "test"),
    ):
        shown = " ".join(text.get_text() for text in texts(figure))
        assert r"\$\frac" in shown and "longer than all" not in shown and "…" in shown
