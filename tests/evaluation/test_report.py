"""What an experiment ends with: numbers a machine can read, a table and figures."""

import json

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import GENRES
from mmgc_jax.evaluation import metrics, report, results
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.training import loop

STAGES = ("plot", "poster", "fusion")


def figures(auc, movies=100):
    per_genre = {
        genre: {"positives": 3, "auc": auc, "average_precision": 0.5, "f1": 0.5} for genre in GENRES
    }
    names = ("auc_micro", "map", "f1_micro", "f1_macro")
    return dict.fromkeys(names, 0.5) | {
        "movies": movies, "genres_counted": 23, "auc_macro": auc, "per_genre": per_genre,
    }  # fmt: skip


def results(plot, poster, fusion):
    """One split; on the movies with both modalities the figures are these."""
    return {
        "plot": figures(0.95), "poster": figures(0.95), "fusion": figures(0.5, 120),
        "plot_both": figures(plot, 80), "poster_both": figures(poster, 80),
        "fusion_both": figures(fusion, 80),
    }  # fmt: skip


def test_the_last_line_says_what_fusion_gains_where_all_models_compete():
    assert report.table("test", results(0.88, 0.75, 0.91)).splitlines()[-1] == (
        "Fusion gains 0.030 macro AUC over the best single model, Plot (LSTM), on the 80 movies "
        "with both."
    )
    assert report.table("test", results(0.7, 0.8, 0.78)).splitlines()[-1] == (
        "Fusion loses 0.020 macro AUC against the best single model, Poster (VGG16, colour), on "
        "the 80 movies with both."
    )


def test_the_table_has_a_row_for_each_model_twice():
    lines = report.table("test", results(0.88, 0.75, 0.91)).splitlines()
    rows = [line.split()[-6:-4] for line in lines if line.startswith("  ")]
    assert rows == [["100", "0.950"], ["100", "0.950"], ["120", "0.500"],
                    ["80", "0.880"], ["80", "0.750"], ["80", "0.910"]]  # fmt: skip
    assert len({len(line) for line in lines if line.startswith(("test", "  "))}) == 1  # aligned


def test_cross_validation_has_a_column_of_deviations():
    of_folds = {
        stage: row | {"auc_macro_std": 0.0123, "genres_counted_most": 24}
        for stage, row in results(0.88, 0.75, 0.91).items()
    }
    lines = report.table("cross_validation", of_folds).splitlines()
    assert lines[0].split()[:5] == ["cross-validation", "movies", "AUC", "macro", "+-"]
    assert lines[2].split()[2:5] == ["100", "0.950", "0.012"]
    assert len({len(line) for line in lines if line.startswith(("cross", "  "))}) == 1  # aligned
    assert "23 to 24; with both, 23 to 24." in "\n".join(lines)


def test_a_table_compares_f1_at_two_thresholds():
    averages = ("micro", "macro", "weighted", "samples")
    split = {
        stage + suffix: {
            f"f1_{average}{which}": number + (0.05 if which else 0) + (0.5 if suffix else 0)
            for which in ("", "_tuned")
            for number, average in zip((0.1, 0.2, 0.3, 0.4), averages)
        }
        for stage in STAGES
        for suffix in ("", "_both")
    }
    lines = report.f1_table("test", split).splitlines()
    assert " ".join(lines[0].split()) == "test, F1 at 0.5 at the threshold of each genre"
    assert lines[1].split() == [*averages, *averages]
    rows = [line.split()[-8:] for line in lines[2:] if line.startswith("  ")]
    first = ["0.100", "0.200", "0.300", "0.400", "0.150", "0.250", "0.350", "0.450"]
    assert rows[:3] == [first] * 3
    assert rows[3:] == [[f"{float(cell) + 0.5:.3f}" for cell in first]] * 3
    assert {len(line) for line in lines if line.startswith(("test", "  "))} == {100}


def test_a_table_says_what_calibration_gained():
    split = {"plot": {"ece_uncalibrated": 0.0321, "ece": 0.0123}}
    lines = report.calibration_table("test", split).splitlines()
    assert lines[0].split()[-2:] == ["before", "after"]
    assert lines[1].split()[-2:] == ["0.032", "0.012"]
    assert len(lines[0]) == len(lines[1])


def test_a_table_says_what_a_missing_modality_costs():
    missing = {"poster": {"fusion": [0.91, 0.9, 0.89, 0.885, 0.88]}}
    lines = report.missing_table(missing).splitlines()
    assert lines[0].split() == ["posters", "missing,", "AUC", "macro",
                                "0%", "25%", "50%", "75%", "100%"]  # fmt: skip
    assert lines[1].split() == ["Fusion", "0.910", "0.900", "0.890", "0.885", "0.880"]


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
    assert report.read_metrics(tmp_path) == [lines[0], lines[4], lines[2], lines[3]]


def test_the_first_line_after_a_line_cut_short_is_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"run": "plot", "step": 30, "lo')
    lines = [{"run": "plot", "step": step, "loss": 0.2} for step in (30, 40)]
    for line in lines:
        loop.append_metrics(tmp_path, line)
    assert report.read_metrics(tmp_path) == lines


def test_no_metrics_are_no_lines(tmp_path):
    assert report.read_metrics(tmp_path) == []


def small_corpus(both=True):
    """Fourteen movies, four each to train and to validate, six to test on; News never occurs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (14, 24)).astype(np.float32)
    labels[:, GENRES.index("News")] = 0
    has_plot = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1], bool)
    corpus = pipeline.Corpus(
        ids=[str(n) for n in range(14)],
        genres=GENRES,
        labels=labels,
        has_plot=has_plot,
        has_poster=np.ones(14, bool) if both else ~has_plot,
        split={
            "train": np.arange(10, 14),
            "validation": np.arange(4),
            "test": np.arange(4, 10),
        },
        records=(),
    )
    present = {"plot": corpus.has_plot, "poster": corpus.has_poster, "fusion": np.ones(14, bool)}
    return corpus, {stage: rng.uniform(size=(14, 24)) for stage in STAGES}, present


def write(workdir, both=True, best=None, missing=None):
    corpus, scores, present = small_corpus(both)
    folds = np.array([-1] * 10 + [0, 0, 1, 1])
    calibrations = {
        stage: Calibration.fit(corpus.labels[:4], scores[stage][:4], GENRES) for stage in STAGES
    }
    computed = results.evaluate_stages(
        corpus, folds, scores, present, ("plot", "poster"), calibrations
    )
    return report.write(
        workdir, computed, missing or {}, corpus, scores, present, calibrations, best or {}
    )


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


@pytest.mark.slow
def test_an_experiment_ends_with_files_and_a_table(tmp_path, capsys):
    lines = [{"run": "plot/fold_0", "step": 5 * n, "loss": 1 / n} for n in (1, 2)] + [
        {"run": "plot/fold_0", "step": 10, "epoch": 1, "validation": {"auc_macro": 0.7}},
        {"run": "plot/fold_1", "step": 5, "loss": 0.5},
        {"run": "poster/fold_0/head", "step": 5, "loss": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = {"plot": small_corpus()[0].labels * 0.5 + 0.25}  # in perfect order
    curve = [0.9, 0.88, 0.86, 0.84, 0.82]
    write(tmp_path, best=best, missing={"plot": {"fusion": curve}, "poster": {"fusion": curve}})

    text = (tmp_path / "results.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    tables = text.split("\n\n")
    assert [table.split()[0] for table in tables] == [
        "plots", "test,", "test,", "cross-validation", "validation", "test",
    ]  # fmt: skip
    for table in tables[3:]:
        assert table.splitlines()[-1].startswith("Fusion ")
    assert max(map(len, text.splitlines())) <= 110
    for name in (
        "auc_per_genre", "roc", "learning_curves", "missing_modalities", "reliability",
    ):  # fmt: skip
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors()) > 10  # not blank
    assert not list(tmp_path.rglob("new-*"))

    content = (tmp_path / "results.json").read_text(encoding="utf-8")
    test = json.loads(content, parse_constant=no_constant)["test"]
    assert test["plot"]["movies"] == 5 and test["fusion"]["movies"] == 6
    assert test["plot"]["per_genre"]["News"]["auc"] is None
    assert 0 <= test["plot"]["auc_macro"] <= 1
    assert test["plot"]["best_reachable_auc_macro"] == 1
    assert "best_reachable_auc_macro" not in test["poster"]


def test_reliability_before_and_after_calibration(tmp_path):
    rng = np.random.default_rng(0)
    after = rng.random((3000, 4))
    labels = rng.random((3000, 4)) < after
    before = after**2
    figure = report.draw_reliability(labels, before, after, "Plot, 3,000 test movies")
    upper, lower = figure.axes
    _, *lines = upper.lines
    assert upper.get_title() == "Plot, 3,000 test movies"
    names = [text.get_text() for text in upper.get_legend().get_texts()]
    for line, name, shown, probabilities in zip(
        lines, names[1:], ("as trained", "calibrated"), (before, after)
    ):
        error = metrics.expected_calibration_error(labels, probabilities)
        assert name == f"{shown}: {error:.3f}"
        predicted, true = line.get_data()
        assert len(predicted) == 15
        # 12,000 probabilities: of sqrt(p) are as many true.
        expected = np.sqrt(predicted) if shown == "as trained" else predicted
        np.testing.assert_allclose(true, expected, atol=0.08)
    counts = [patch.get_data().values for patch in lower.patches]
    assert [count.sum() for count in counts] == [12_000, 12_000]
    assert counts[0][0] > 2 * counts[1][0] and lower.get_yscale() == "log"

    report._save(figure, tmp_path / "reliability.png")
    with Image.open(tmp_path / "reliability.png") as image:
        assert len(image.convert("L").getcolors()) > 10  # not blank


@pytest.mark.slow
def test_an_experiment_without_any_movie_with_both_ends_too(tmp_path, capsys):
    write(tmp_path, both=False)
    test = json.loads((tmp_path / "results.json").read_text(), parse_constant=no_constant)["test"]
    assert test["fusion_both"]["movies"] == 0
    assert test["fusion_both"]["auc_macro"] is None
    assert test["fusion_both"]["f1_micro"] is None
    out = capsys.readouterr().out
    assert out.endswith("No movie has both, so what fusion gains is not known.\n")
