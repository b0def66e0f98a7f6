"""Figures of whole models and of training, and what all figures share."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.evaluation import figures, metrics
from mmgc_jax.evaluation.figures import style
from mmgc_jax.evaluation.results import SHARES, Predictions
from mmgc_jax.runtime.files import append_line
from tests.evaluation.drawing import MANY, TITLES, legend, overlaps, texts


def predictions(movies=40, genres=4, seed=0):
    """Predictions of one model that is right more often than not."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random((movies, genres))
    labels = rng.random((movies, genres)) < probabilities
    thresholds = np.full((movies, genres), 0.4)
    return Predictions(np.float32(labels), probabilities, probabilities**2, thresholds)


def test_of_a_repeated_step_the_last_line_counts_and_a_line_cut_short_does_not(tmp_path):
    lines = [
        {"run": "plot", "step": 10, "loss": 0.5},
        {"run": "plot", "step": 20, "loss": 0.4},
        {"run": "plot/fold_0", "step": 20, "loss": 9.0},
        {"run": "plot", "step": 20, "loss": 0.3},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"run": "plot", "step": 30, "lo')
    assert figures.read_metrics(tmp_path) == [lines[0], lines[3], lines[2]]


def test_the_first_line_after_a_line_cut_short_is_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"run": "plot", "step": 30, "lo')
    lines = [{"run": "plot", "step": step, "loss": 0.2} for step in (30, 40)]
    for line in lines:
        append_line(tmp_path / "metrics.jsonl", json.dumps(line))
    assert figures.read_metrics(tmp_path) == lines


def test_no_metrics_are_no_lines(tmp_path):
    assert figures.read_metrics(tmp_path) == []


def test_learning_curves_have_a_column_per_model_and_a_line_per_fold():
    optimizer = {"grad_norm": 3.0, "learning_rate": 0.1}
    entries = [
        {"run": f"{name}/fold_{fold}", "step": step, "loss": loss} | optimizer
        for name in ("fusion", "plot")
        for fold in (1, 0)
        for step, loss in ((10, 0.3), (5, 0.6))
    ] + [{"run": "poster/fold_0/head", "step": 5, "loss": 0.5}]
    figure = figures.draw_learning_curves(entries, TITLES)
    losses = figure.axes
    assert [ax.get_title() for ax in losses] == ["Plot (LSTM)", "Fusion"]
    for ax in losses:
        assert [line.get_xydata().tolist() for line in ax.lines] == [[[5, 0.6], [10, 0.3]]] * 2
    assert legend(figure) == ["fold 0", "fold 1"]
    folds = {line.get_color() for line in losses[0].lines}
    assert len(folds) == 2
    assert [line.get_color() for line in losses[1].lines] == [
        line.get_color() for line in losses[0].lines
    ]


def test_learning_curves_of_undefined_values():
    entries = [{"run": "plot/fold_0", "step": n, "loss": math.nan} for n in (1, 2)]
    [ax] = figures.draw_learning_curves(entries, TITLES).axes
    assert ax.get_ylim() == (0, 1)


@pytest.mark.slow
def test_learning_curves_of_many_models_and_folds():
    entries = [
        {"run": f"{name}/fold_{fold}", "step": step, "loss": 0.5}
        for name in MANY
        for fold in range(12)
        for step in (1, 2)
    ]
    figure = figures.draw_learning_curves(entries, MANY)
    assert not overlaps(figure)
    assert figure.get_size_inches()[0] < 10  # inches, the width of a page
    found = [ax.get_title() for ax in figure.axes if ax.get_title() in MANY.values()]
    assert found == list(MANY.values())
    assert legend(figure)[:12] == [f"fold {fold}" for fold in range(12)]
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12


def test_learning_curves_without_any_training():
    figure = figures.draw_learning_curves([], TITLES)
    assert any("no steps" in text.get_text() for text in texts(figure))


def test_missing_modalities_have_a_line_for_each_model():
    missing = {
        "plot": {name: np.linspace(0.9, 0.8, 5) for name in MANY},
        "poster": {"fusion": np.linspace(0.9, 0.7, 5)},
    }
    figure = figures.draw_missing_modalities(missing, MANY, 1234)
    left, right = figure.axes
    assert not overlaps(figure)
    assert legend(figure) == list(MANY.values())
    assert "1,234 training movies" in figure.get_suptitle()
    assert left.get_xlabel() == "movies that lose their plot (%)"
    assert right.get_xlabel() == "movies that lose their poster (%)"
    assert [line.get_linestyle() for line in left.lines] == ["--"] * 24 + ["-"] * 2
    assert len({(line.get_color(), line.get_marker()) for line in left.lines}) == len(MANY)
    np.testing.assert_allclose(right.lines[0].get_xdata(), 100 * np.array(SHARES))
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.9, 0.85, 0.8, 0.75, 0.7])


def test_noise_does_not_fill_the_axes_of_missing_modalities():
    missing = {"poster": {"fusion": [0.9002, 0.9001, 0.9, 0.9, 0.9]}}
    [ax] = figures.draw_missing_modalities(missing, TITLES, 10).axes
    assert np.ptp(ax.get_ylim()) > 0.099


def many_predictions():
    return {name: predictions(seed=n) for n, name in enumerate(MANY)}


def test_roc_curves_are_those_of_calibrated_probabilities():
    of_models = {
        "plot": Predictions(
            labels=np.array([[1, 0], [0, 1]], np.float32),
            probabilities=np.array([[0.9, 0.2], [0.1, 0.6]]),
            uncalibrated=np.array([[0.2, 0.9], [0.1, 0.8]]),
            thresholds=np.array([0.5, 0.5]),
        )
    }
    [axes] = figures.draw_roc(of_models, "test", TITLES).axes
    assert legend(axes) == ["Plot (LSTM): 1.000", "chance: 0.500"]
    assert np.trapezoid(axes.lines[0].get_ydata(), axes.lines[0].get_xdata()) == 1


@pytest.mark.parametrize("prefix", ["", "A rather long title of an encoder, "])
def test_roc_curves_of_many_models(prefix):
    titles = {name: prefix + title for name, title in MANY.items()}
    figure = figures.draw_roc(many_predictions(), "test", titles)
    [axes] = figure.axes
    assert axes.get_title().endswith("40 test movies with both plot and poster")
    assert not overlaps(figure)
    assert legend(figure)[-1] == "chance: 0.500"
    for line, name, label in zip(axes.lines, titles, legend(figure)):
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert label == f"{titles[name]}: {area:.3f}" == line.get_label()
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(MANY) + 1


def test_roc_curves_of_models_with_different_movies():
    of_models = {"plot": predictions(40), "poster": predictions(38), "fusion": predictions(40)}
    [axes] = figures.draw_roc(of_models, "test", TITLES).axes
    assert axes.get_title().endswith("38 to 40 test movies with both plot and poster")


@pytest.mark.parametrize("movies", [0, 1])
def test_without_positives_and_negatives_there_is_no_roc_curve(movies):
    empty = Predictions(*[np.zeros((movies, 4))] * 3, np.full(4, 0.5))
    figure = figures.draw_roc({"fusion": empty}, "test", TITLES)
    assert style.UNDEFINED in [text.get_text() for text in texts(figure)]


def test_reliability_before_and_after_calibration():
    rng = np.random.default_rng(0)
    after = rng.random((3000, 4))
    labels = rng.random((3000, 4)) < after
    before = after**2
    of_model = Predictions(labels, after, before, np.full(4, 0.5))
    upper, lower = figures.draw_reliability(of_model, "Plot, 3,000 test movies").axes
    _, *lines = upper.lines
    assert upper.get_title() == "Plot, 3,000 test movies"
    for line, name, shown, probabilities in zip(
        lines, legend(upper)[1:], ("as trained", "calibrated"), (before, after), strict=True
    ):
        error = metrics.expected_calibration_error(labels, probabilities)
        assert name == f"{shown}: {error:.3f}"
        predicted, true = line.get_data()
        assert len(predicted) == 15
        # Of probabilities p**2, the share p is true.
        expected = np.sqrt(predicted) if shown == "as trained" else predicted
        np.testing.assert_allclose(true, expected, atol=0.08)
    counts = [patch.get_data().values for patch in lower.patches]
    assert [count.sum() for count in counts] == [12_000, 12_000]
    assert counts[0][0] > 2 * counts[1][0] and lower.get_yscale() == "log"


def test_both_axes_of_a_reliability_diagram_are_of_one_width():
    figure = figures.draw_reliability(predictions(), "Fusion")
    figure.draw_without_rendering()
    upper, lower = (ax.get_window_extent() for ax in figure.axes)
    assert upper.x0 == pytest.approx(lower.x0) and upper.x1 == pytest.approx(lower.x1)


def test_reliability_without_movies():
    figure = figures.draw_reliability(Predictions(*[np.zeros((0, 4))] * 3, np.ones(4)), "Fusion")
    assert "No movie" in " ".join(text.get_text() for text in texts(figure))


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("Drama", 0, "Drama"),
        ("$5 or $7", 0, r"\$5 or \$7"),
        ("Documentary", 11, "Documentary"),
        ("Documentary", 10, "Documenta…"),
    ],
)
def test_text_is_shown_as_it_is_or_cut(text, width, expected):
    assert style.plain(text, width) == expected


@pytest.mark.parametrize("title", ["Costs $5 or $7", r"$\frac{1}$", "under_score^2", "100 % & {x}"])
def test_titles_are_no_formulas(title):
    figure = figures.draw_roc({"fusion": predictions()}, "test", {"fusion": title})
    figure.draw_without_rendering()  # where matplotlib reads formulas
    assert legend(figure.axes[0])[0].replace("\\$", "$").startswith(title)


@pytest.mark.parametrize(
    ("counts", "both", "expected"),
    [
        ([815], True, "815 test movies with both plot and poster"),
        ([1200, 1000, 1200], False, "1,000 to 1,200 test movies"),
        ([1], False, "1 test movie"),
    ],
)
def test_movies_are_named_by_their_number(counts, both, expected):
    assert style.movies_text(counts, "test", both) == expected


def test_movies_of_cross_validation_are_named_in_plain_words():
    assert style.movies_text([40], "cross_validation") == "40 cross-validated movies"


def test_equal_colours_mean_one_model_in_every_figure():
    looks = style.looks(MANY)
    assert len({(look.colour, look.line) for look in looks.values()}) == len(MANY)
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(MANY)
    [roc] = figures.draw_roc(many_predictions(), "test", MANY).axes
    assert [line.get_color() for line in roc.lines[:-1]] == [looks[name].colour for name in MANY]


@pytest.mark.parametrize("name", ["a.png", "new/folder/a.png"])
def test_a_figure_is_saved_as_png(tmp_path, name):
    figures.save(figures.draw_roc({"plot": predictions()}, "test", TITLES), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == "PNG" and min(image.size) > 200
        assert len(image.convert("L").getcolors()) > 10  # not blank


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        figures.save(figures.draw_roc({"plot": predictions()}, "test", TITLES), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
