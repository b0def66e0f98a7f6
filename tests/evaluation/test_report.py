"""The files and the printed tables that an experiment ends with."""

import json

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.data.movies import GENRES
from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation import figures, metrics, report, results
from tests.evaluation.drawing import legend, texts

# Encoders have any names.
TITLES = {"words": "Plot (LSTM)", "cover": "Poster (VGG16, colour)", "fusion": "Fusion"}


def small_corpus(both=True):
    """Fourteen movies: four for training, four for validation, six for test; News never occurs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (14, 24)).astype(np.float32)
    labels[:, GENRES.index("News")] = 0
    has_plot = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1], bool)
    corpus = Corpus(
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
        groups=np.arange(14),
        records=(),
    )
    present = {"words": corpus.has_plot, "cover": corpus.has_poster, "fusion": np.ones(14, bool)}
    return corpus, {name: rng.uniform(size=(14, 24)) for name in TITLES}, present


def write(workdir, both=True, best=None, missing=None, notes=(), without=(), modules=()):
    corpus, probabilities, present = small_corpus(both)
    for split in without:
        del corpus.split[split]
    folds = np.array([-1] * 10 + [0, 0, 1, 1])
    calibrations = results.calibrate(corpus, probabilities, present)
    calibrated = results.cross_calibrate(corpus, folds, probabilities, present, calibrations)
    judged = corpus, folds, probabilities, present, ("words", "cover"), calibrated
    return report.write(
        workdir,
        results.evaluate_models(*judged, best),
        missing or {},
        *judged,
        TITLES,
        notes,
        modules,
    )


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, by name."""
    saved = {}
    monkeypatch.setattr(
        figures, "save", lambda figure, file: saved.update({file.stem: figure}), raising=True
    )
    return saved


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


@pytest.mark.slow
def test_an_experiment_ends_with_files_and_tables(tmp_path, capsys):
    lines = [{"run": "words/fold_0", "step": 5 * n, "loss": 1 / n} for n in (1, 2)] + [
        {"run": "words/fold_1", "step": 5, "loss": 0.5},
        {"run": "cover/fold_0/head", "step": 5, "loss": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = {"words": small_corpus()[0].labels * 0.5 + 0.25}  # in perfect order
    curve = [0.9, 0.88, 0.86, 0.84, 0.82]
    missing = {"plot": {"fusion": curve}, "poster": {"fusion": curve}}
    notes = ["Word vectors cover 90%."]
    content = write(tmp_path, best=best, missing=missing, notes=notes, modules=["mine"])

    text = (tmp_path / "results.txt").read_text(encoding="utf-8")
    parts = text.split("\n\n")
    assert [part.split()[0] for part in parts] == [
        "test", "cross-validation", "validation", "test,", "test,", "plots", "Too", "Word",
    ]  # fmt: skip
    for part in parts[:3]:
        assert part.splitlines()[-1].startswith("Fusion ")
    screen = capsys.readouterr().out
    assert "Fusion " in screen and f"{tmp_path}/results.txt" in screen
    note = "Too few test movies for an interval of fusion's macro AUC: 6."
    assert parts[-2] == note and f"\n{note}\n\nAll tables:" in screen
    assert f"mmgc predict --workdir={tmp_path} --encoder_modules=mine --plot=" in screen
    assert len(screen.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 110
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        "auc_per_genre.png", "cooccurrence.png", "f1_per_genre.png", "learning_curves.png",
        "missing_modalities.png", "precision_recall.png", "reliability.png", "roc.png",
    }  # fmt: skip
    for file in (tmp_path / "figures").iterdir():
        with Image.open(file) as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors()) > 10  # not blank
    assert not list(tmp_path.rglob("new-*"))

    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=no_constant)
    assert list(written) == [
        "cross_validation", "validation", "test", "missing_modalities",
    ]  # fmt: skip
    assert written.keys() == content.keys() and written["missing_modalities"] == missing
    test = written["test"]
    assert list(test) == [
        "words", "cover", "fusion", "words_both", "cover_both", "fusion_both",
    ]  # fmt: skip
    assert test["words"]["movies"] == 5 and test["fusion"]["movies"] == 6
    assert test["words"]["per_genre"]["News"]["auc"] is None
    assert test["words"]["auc_macro"] == content["test"]["words"]["auc_macro"]
    assert test["words"]["best_reachable_auc_macro"] == 1
    assert "best_reachable_auc_macro" not in test["cover"]


def test_the_figures_show_the_numbers_of_results_json(tmp_path, drawn):
    curve = [0.9, 0.88, 0.86, 0.84, 0.82]
    content = write(tmp_path, missing={"poster": {"fusion": curve}})["test"]
    both = {title: content[f"{name}_both"] for name, title in TITLES.items()}
    fusion, fusion_both = content["fusion"], content["fusion_both"]

    def expected(metric):
        return [f"{title}: {of_model[metric]:.3f}" for title, of_model in both.items()]

    [roc] = drawn["roc"].axes
    assert legend(roc) == [*expected("auc_micro"), "chance: 0.500"]
    for line, of_model in zip(roc.lines, both.values()):
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert area == pytest.approx(of_model["auc_micro"])
    # Calibration changes the order of pooled genres: uncalibrated curves would differ.
    corpus, probabilities, _ = small_corpus()
    rows = corpus.split["test"][corpus.has_plot[corpus.split["test"]]]
    labels, raw = (of[rows].ravel() for of in (corpus.labels, probabilities["fusion"]))
    assert metrics.roc_auc(labels, raw) != pytest.approx(fusion_both["auc_micro"], abs=0.01)

    assert legend(drawn["auc_per_genre"]) == [*expected("auc_macro"), "chance: 0.500"]
    assert legend(drawn["precision_recall"])[:3] == expected("map")
    for ax in (ax for ax in drawn["precision_recall"].axes if ax.axison):
        genre, figures_of_genre = ax.get_title().split("\n")
        of_genre = fusion_both["per_genre"][genre]
        assert (
            figures_of_genre == f"{of_genre['positives']}; AP {of_genre['average_precision']:.3f}"
        )
    assert legend(drawn["f1_per_genre"]) == [
        f"threshold 0.5: {fusion['f1_macro']:.3f}",
        f"threshold tuned on training movies: {fusion['f1_macro_tuned']:.3f}",
    ]
    assert legend(drawn["reliability"].axes[0]) == [
        "perfect: 0.000",
        f"as trained: {fusion['ece_uncalibrated']:.3f}",
        f"calibrated: {fusion['ece']:.3f}",
    ]
    np.testing.assert_array_equal(drawn["missing_modalities"].axes[0].lines[0].get_ydata(), curve)
    for name, figures_of_model in (
        ("roc", fusion_both), ("auc_per_genre", fusion_both), ("precision_recall", fusion_both),
        ("f1_per_genre", fusion), ("cooccurrence", fusion), ("reliability", fusion),
    ):  # fmt: skip
        shown = " ".join(text.get_text() for text in texts(drawn[name]))
        assert f"{figures_of_model['movies']} test movies" in shown, name


def test_without_a_test_split_figures_show_the_validation_split(tmp_path, drawn):
    write(tmp_path, without=["test"])
    for name in ("roc", "auc_per_genre", "precision_recall", "f1_per_genre", "cooccurrence"):
        shown = " ".join(text.get_text() for text in texts(drawn[name]))
        assert "4 validation movies" in shown, name


def test_without_any_split_figures_show_cross_validation(tmp_path, drawn, capsys):
    content = write(tmp_path, without=["test", "validation"])
    assert list(content) == ["cross_validation"]
    fusion = content["cross_validation"]["fusion"]
    for name in (
        "roc", "auc_per_genre", "precision_recall", "f1_per_genre", "cooccurrence", "reliability",
    ):  # fmt: skip
        shown = " ".join(text.get_text() for text in texts(drawn[name]))
        assert "4 cross-validated movies" in shown, name
    assert legend(drawn["f1_per_genre"])[0] == f"threshold 0.5: {fusion['f1_macro']:.3f}"
    tables = (tmp_path / "results.txt").read_text().split("\n\n")
    note = "Too few training movies for an interval of fusion's macro AUC: 4."
    assert [part.split()[0] for part in tables] == [
        "cross-validation", "cross-validation,", "cross-validation,", "Too",
    ]  # fmt: skip
    screen = capsys.readouterr().out
    assert screen.startswith("cross-validation ") and f"\n{note}\n" in screen


@pytest.mark.slow
def test_an_experiment_without_any_movie_with_both_ends_too(tmp_path, capsys):
    write(tmp_path, both=False)
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=no_constant)
    assert "missing_modalities" not in written
    assert written["test"]["fusion_both"]["movies"] == 0
    assert written["test"]["fusion_both"]["auc_macro"] is None
    assert written["test"]["fusion_both"]["f1_micro"] is None
    assert not (tmp_path / "figures" / "missing_modalities.png").exists()
    out = capsys.readouterr().out
    assert "No movie has both, so what fusion gains is not known.\n" in out
