"""Figures: what is drawn, for any number of models."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.evaluation import figures, metrics
from mmgc_jax.evaluation.results import SHARES
from mmgc_jax.runtime.files import append_line

TITLES = {"plot": "Plot (LSTM)", "poster": "Poster (VGG16, colour)", "fusion": "Fusion"}
# More models than markers and colours.
MANY = {f"encoder{n}": f"Encoder {n}" for n in range(24)} | {"fusion": "Fusion"}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_of_a_repeated_step_the_last_line_counts_and_a_line_cut_short_does_not(tmp_path):
    lines = [
        {"run": "plot", "step": 10, "loss": 0.5},
        {"run": "plot", "step": 20, "loss": 0.4},
        {"run": "plot", "step": 20, "epoch": 1, "validation": {"auc_macro": 0.7}},
        {"run": "plot/fold_0", "step": 20, "loss": 9.0},
        {"run": "plot", "step": 20, "loss": 0.3},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"run": "plot", "step": 30, "lo')
    assert figures.read_metrics(tmp_path) == [lines[0], lines[4], lines[2], lines[3]]


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
        for fold in (0, 1)
        for step, loss in ((10, 0.3), (5, 0.6))
    ] + [
        {"run": "plot/fold_0", "step": 10, "epoch": 1, "validation": {"auc_macro": 0.7}},
        {"run": "plot/fold_1", "step": 10, "epoch": 1, "validation": {"auc_macro": 0.9}},
        {"run": "plot/fold_1", "step": 5, "epoch": 1, "validation": {"auc_macro": 0.6}},
        {"run": "poster/fold_0/head", "step": 5, "loss": 0.5},
    ]
    figure = figures.draw_learning_curves(entries, TITLES)
    losses, aucs = np.reshape(figure.axes, (2, 2))
    assert [ax.get_title() for ax in losses] == ["Plot (LSTM)\nbest 0.800", "Fusion"]
    for ax in losses:
        assert [line.get_xydata().tolist() for line in ax.lines] == [[[5, 0.6], [10, 0.3]]] * 2
    assert [line.get_xydata().tolist() for line in aucs[0].lines] == [
        [[10, 0.7]], [[5, 0.6], [10, 0.9]],
    ]  # fmt: skip
    assert not aucs[1].lines


def test_learning_curves_without_any_training():
    figure = figures.draw_learning_curves([], TITLES)
    assert len(figure.axes) == 2 and not any(ax.lines for ax in figure.axes)


def test_missing_modalities_have_a_line_for_each_model():
    missing = {
        "plot": {name: np.linspace(0.9, 0.8, 5) for name in MANY},
        "poster": {"fusion": np.linspace(0.9, 0.7, 5)},
    }
    left, right = figures.draw_missing_modalities(missing, MANY).axes
    assert legend(left) == list(MANY.values()) and legend(right) == ["Fusion"]
    assert left.get_xlabel() == "plots missing (%)" and right.get_xlabel() == "posters missing (%)"
    assert [line.get_linestyle() for line in left.lines] == ["--"] * 24 + ["-"]
    np.testing.assert_allclose(right.lines[0].get_xdata(), 100 * np.array(SHARES))
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.9, 0.85, 0.8, 0.75, 0.7])


def many_models():
    """The corpus, probabilities and presence of 25 models; the first movie has no poster."""
    rng = np.random.default_rng(0)
    corpus = types.SimpleNamespace(
        labels=rng.integers(0, 2, (30, 4)).astype(np.float32), split={"test": np.arange(20)}
    )
    probabilities = {name: rng.random((30, 4)) for name in MANY}
    present = dict.fromkeys(MANY, np.ones(30, bool)) | {"encoder3": np.arange(30) > 0}
    return corpus, probabilities, present


def test_roc_curves_are_those_of_the_movies_with_both():
    corpus, probabilities, present = many_models()
    [axes] = figures.draw_roc(corpus, probabilities, present, "test", MANY).axes
    rows = np.arange(1, 20)
    assert axes.get_title() == "ROC, all genres pooled, 19 test movies with both"
    expected = [
        f"{MANY[name]}: {metrics.roc_auc(corpus.labels[rows].ravel(), of[rows].ravel()):.3f}"
        for name, of in probabilities.items()
    ]
    assert legend(axes) == [*expected, "chance: 0.500"]
    for line, name in zip(axes.lines, MANY):
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert f"{MANY[name]}: {area:.3f}" == line.get_label()


def test_no_two_roc_curves_look_the_same():
    [axes] = figures.draw_roc(*many_models(), "test", MANY).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(MANY) + 1


def test_auc_per_genre_has_a_mark_for_each_model():
    genres = ("Drama", "War", "News")

    def of_model(offset):
        aucs = dict(zip(genres, (0.8 + offset, 0.6 + offset, float("nan"))))
        return {
            "movies": 19,
            "per_genre": {genre: {"auc": auc, "positives": 7} for genre, auc in aucs.items()},
        }

    split = {name: None for name in MANY}
    split |= {name + "_both": of_model(n / 1000) for n, name in enumerate(MANY)}
    [axes] = figures.draw_auc_per_genre(split, "test", MANY | {"other": "Other"}).axes
    assert legend(axes) == list(MANY.values())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["War (7)", "Drama (7)"]
    for n, marks in enumerate(axes.collections):
        expected = [[0.6 + n / 1000, 0], [0.8 + n / 1000, 1]]
        np.testing.assert_allclose(marks.get_offsets(), expected)
    looks = set()
    for marks in axes.collections:
        looks.add((tuple(marks.get_facecolor()[0]), marks.get_paths()[0].vertices.tobytes()))
    assert len(looks) == len(MANY)


def test_reliability_before_and_after_calibration(tmp_path):
    rng = np.random.default_rng(0)
    after = rng.random((3000, 4))
    labels = rng.random((3000, 4)) < after
    before = after**2
    figure = figures.draw_reliability(labels, before, after, "Plot, 3,000 test movies")
    upper, lower = figure.axes
    _, *lines = upper.lines
    assert upper.get_title() == "Plot, 3,000 test movies"
    for line, name, shown, probabilities in zip(
        lines, legend(upper)[1:], ("as trained", "calibrated"), (before, after)
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


@pytest.mark.parametrize("name", ["a.png", "new/folder/a.png"])
def test_a_figure_is_saved_as_png(tmp_path, name):
    figures.save(figures.draw_learning_curves([], TITLES), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == "PNG" and min(image.size) > 200
        assert len(image.convert("L").getcolors()) > 10  # not blank
