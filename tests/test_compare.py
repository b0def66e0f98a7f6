"""Finished runs are compared on the command line."""

import json
import re
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from mmgc_jax import compare
from mmgc_jax.encoders import fusion, plot_lstm, poster_vgg16
from mmgc_jax.evaluation import bootstrap, comparison, saved
from mmgc_jax.runtime.errors import InputError
from tests.evaluation.test_comparison import predictions

NAMES = ("words", "cover", "fusion", "fusion_gated")


def write(workdir, seed, aucs, shift=None, hidden=None):
    """Writes the config and the figures of a finished experiment.

    Args:
      workdir: its working directory.
      seed: `config.seed`.
      aucs: of each of `NAMES`.
      shift: how good its saved predictions are; None: there are none.
      hidden: `config.words.model.hidden`.
    """
    config = ml_collections.ConfigDict(
        {
            "seed": seed,
            "data": {"directory": ""},
            "encoders": ("words", "cover"),
            "words": plot_lstm.default_settings(),
            "cover": poster_vgg16.default_settings(),
            "fusion": fusion.default_settings(),
        }
    )
    config.words.kind, config.cover.kind = "plot_lstm", "poster_vgg16"
    config.fusion.compare = ("gated",)
    if hidden:
        config.words.model.hidden = hidden
    row = {"movies": 50, "genres_counted": 23, "genres_steady": 17}
    row |= dict.fromkeys(("auc_steady", "auc_micro", "map", "f1_micro", "f1_macro"), 0.5)
    figures = {
        name + suffix: row | {"auc_macro": auc}
        for suffix in ("", "_both")
        for name, auc in zip(NAMES, aucs)
    }
    workdir.mkdir()
    (workdir / "config.json").write_text(config.to_json())
    content = {"cross_validation": figures, "validation": figures}
    (workdir / "results.json").write_text(json.dumps(content))
    if shift is not None:
        made = predictions(shift, saved.CROSS_VALIDATION)
        saved.save(workdir / saved.FILE, made._replace(models=made.models.astype("<U9")))
    return workdir


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds of one config, and a run of another config; named relative to the folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", 0, (0.80, 0.7, 0.90, 0.8), shift=1.0)
    write(tmp_path / "b", 1, (0.84, 0.7, 0.90, 0.8), shift=1.1)
    write(tmp_path / "c", 0, (0.90, 0.7, 0.95, 0.8), shift=2.5, hidden=7)
    return [tmp_path / name for name in "abc"]


PLOT = plot_lstm.title(plot_lstm.default_settings())
POSTER = poster_vgg16.title(poster_vgg16.default_settings())


def cells(line):
    """Splits a row of a table into its columns."""
    return re.split(r" {2,}", line.strip())


def test_the_table_of_two_seeds(runs):
    table, intervals = compare.compare(runs[:2], resamples=200).split("\n\n")
    lines = table.splitlines()
    for line, title in zip(lines[2:6], (PLOT, POSTER, "Fusion", "Fusion: gated")):
        assert line.startswith(f"  {title} ")
    assert lines[2].removeprefix(f"  {PLOT}").split()[:3] == ["50", "0.820", "0.028"]
    assert "mean over 2 seeds" in lines[-2]
    assert lines[-1].startswith(f"Fusion gains 0.080 macro AUC over the best single model, {PLOT}")
    lines = intervals.splitlines()
    assert cells(lines[0]) == ["95 % intervals", "AUC macro", "AUC steady", "mAP", "F1 macro"]
    assert lines[1] == "Fusion" and cells(lines[2])[0] == "a"
    assert lines[3] == "Fusion, with both" and lines[5].startswith("No interval: predictions.npz")


def test_one_run_has_a_table_and_intervals(runs):
    """The intervals are those of `bootstrap`, of all models, on all movies and those with both."""
    table, intervals = compare.compare(runs[:1], resamples=200, seed=3).split("\n\n")
    assert table.startswith("cross-validation ")
    assert "+-" not in table and "seeds" not in table
    assert cells(table.splitlines()[2]) == [PLOT, "50", "0.800", *["0.500"] * 4]
    made = predictions(1.0, saved.CROSS_VALIDATION)
    lines = iter(intervals.splitlines()[1:])
    for title, is_chosen in (("Fusion", made.ids != ""), ("Fusion, with both", made.both)):
        assert next(lines) == title
        rows = np.flatnonzero((made.split == saved.CROSS_VALIDATION) & is_chosen)
        rows = rows[np.argsort(made.ids[rows])]
        judged = bootstrap.Resampled(
            made.labels[rows], made.probabilities[1, rows], folds=made.folds[rows]
        )
        [values] = bootstrap.figures_of_resamples([judged], 200, seed=3)
        expected = (bootstrap.interval(values[name]) for name in comparison.FIGURES)
        assert cells(next(lines)) == ["a", *(f"{low:.3f} to {high:.3f}" for low, high in expected)]
    # The predictions lack the other models.
    assert "".join(lines).startswith("No interval: predictions.npz of a lacks words.")
    assert max(map(len, f"{table}\n{intervals}".splitlines())) <= 100


def test_chosen_models_of_one_run_have_a_row_each(runs):
    text = compare.compare(runs[:1], stages=["fusion"], both=True, resamples=200)
    table, intervals = text.split("\n\n")
    assert table.splitlines()[1] == "Fusion" and "On the movies with both plot and" in table
    assert cells(table.splitlines()[2])[:3] == ["a", "1", "50"]
    [_, title, row] = intervals.splitlines()
    assert title == "Fusion" and cells(row)[0] == "a" and row.count(" to ") == 4
    (runs[0] / saved.FILE).unlink()
    _, reason = compare.compare(runs[:1], stages=["fusion"]).split("\n\n")
    assert reason.startswith("No interval: a has no predictions.npz")


def test_runs_stand_side_by_side(runs):
    text = compare.compare(runs, resamples=200)
    table, intervals, differences, fields = text.split("\n\n")
    lines = table.splitlines()
    assert lines[0].split() == [
        "cross-validation", "seeds", "movies", "AUC", "macro", "+-", "AUC", "steady", "mAP", "F1",
        "micro", "F1", "macro",
    ]  # fmt: skip
    assert lines[1:4:2] == [PLOT, "  c" + " " * 30 + "1      50     0.900" + lines[3][52:]]
    assert lines[2].split()[:5] == ["a", "2", "50", "0.820", "0.028"]
    assert lines[3].split() == ["c", "1", "50", "0.900", "0.500", "0.500", "0.500", "0.500"]
    assert [line for line in lines[1:] if not line.startswith("  ")][:4] == [
        PLOT, POSTER, "Fusion", "Fusion: gated",
    ]  # fmt: skip
    assert "On the movies that have what the model reads." in table
    assert "a is the mean of a, b, which differ in their seed alone" in table

    title, *rows = intervals.splitlines()[1:]
    assert title == "Fusion" and [cells(row)[0] for row in rows[:2]] == ["a", "c"]
    assert rows[2] == "No interval: predictions.npz of a lacks words."

    lines = differences.splitlines()
    assert lines[0] == "Differences to a, with their 95 % intervals"
    assert lines[2] == PLOT and lines[3].startswith("  c" + " " * 25)
    # The predictions have no model `words`, so its difference has no interval.
    assert lines[3].split()[1] == "+0.080" and "[" not in lines[3]
    fusion = lines[lines.index("Fusion") + 1]
    assert fusion.split()[1].startswith("+0.050*[+0.")
    assert fusion.count("]") == len(cells(lines[1])) >= 3
    assert "No interval: predictions.npz of c lacks words." in differences
    assert "*: the interval does not contain 0." in differences
    assert fields == "c differs from a in words.model.hidden: 7 instead of 128."
    assert max(map(len, text.splitlines())) <= 100


def test_a_baseline_models_and_movies_are_chosen(runs):
    text = compare.compare(
        runs, baseline=runs[1], split="cross_validation", stages=["fusion"], both=True,
        resamples=100,
    )  # fmt: skip
    table, intervals, differences, _ = text.split("\n\n")
    assert PLOT not in text and intervals.count(" to ") == 2 * 4
    assert PLOT not in text and "On the movies with both plot and poster." in table
    # The baseline is the group of run b, named by its first run.
    assert differences.startswith("Differences to a, ") and "  c " in differences

    text = compare.compare(runs, baseline=runs[2], stages=["fusion"], resamples=100)
    *_, differences, fields = text.split("\n\n")
    assert differences.startswith("Differences to c, ")
    assert differences.splitlines()[3].split()[:2][1].startswith("-0.050*[-0.")
    assert fields == "a differs from c in words.model.hidden: 128 instead of 7."


def test_one_group_on_another_split_has_deviations_too(runs):
    table, reason = compare.compare(runs[:2], split="validation").split("\n\n")
    assert table.splitlines()[0].startswith("validation ")
    assert cells(table.splitlines()[2])[1:4] == ["50", "0.820", "0.028"]
    assert reason.startswith("No interval: ")  # there are no predictions of this split


def test_without_predictions_differences_have_no_intervals(runs):
    (runs[0] / saved.FILE).unlink()
    _, intervals, differences, _ = compare.compare(runs).split("\n\n")
    assert [cells(line)[0] for line in intervals.splitlines()[2:3]] == ["c"]
    assert "[" not in differences and "+0.050" in differences
    assert "No interval: a has no predictions.npz" in differences
    (runs[0] / saved.FILE).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a/predictions.npz is damaged"):
        compare.compare(runs)


def test_runs_of_other_movies_have_no_differences(runs):
    made = saved.load(runs[2] / saved.FILE)
    saved.save(runs[2] / saved.FILE, made._replace(ids=np.char.add(made.ids, "x")))
    text = compare.compare(runs, stages=["fusion"], resamples=100)
    table, intervals, differences, fields = text.split("\n\n")
    assert [cells(line)[0] for line in intervals.splitlines()[2:]] == ["a", "c"]
    assert table.splitlines()[3].split()[0] == "c"
    assert differences == (
        "Not compared: c has judged other movies than b: 79 and 79, and 0 are in both."
    )
    assert fields.startswith("c differs from a in words.model.hidden")


def test_many_differing_fields_are_cut(runs):
    config = json.loads((runs[2] / "config.json").read_text())
    config["fusion"]["training"] = dict.fromkeys(config["fusion"]["training"], 0.123)
    config["cover"]["training"]["note"] = "long" * 20
    (runs[2] / "config.json").write_text(json.dumps(config))
    fields = " ".join(compare.compare(runs, resamples=100).split("\n\n")[-1].split())
    assert fields.count(": ") == 8 and fields.endswith("more fields.")
    assert "cover.training.note: only in c" in fields


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "d"}, "--baseline=d is none of the runs: a, b, c."),
        ({"stages": ["fuson"]}, "--stage=fuson: none of the runs has it. Did you mean fusion"),
        ({"split": "test"}, "a has no figures of test"),
    ],
)
def test_a_wrong_choice_is_refused(runs, arguments, message):
    with pytest.raises(InputError, match=message):
        compare.compare(runs, **arguments)


def test_a_config_of_another_version_is_refused(runs):
    for workdir in runs[:2]:
        config = json.loads((workdir / "config.json").read_text())
        del config["words"]["kind"]
        (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"a/config.json is not a config of this version.*kind"):
        compare.compare(runs[:2])


@pytest.mark.slow
def test_the_command_line(runs, tmp_path):
    command = [sys.executable, "-m", "mmgc_jax.compare"]
    flags = ["--resamples=150", "--baseline=c", "--seed=3"]
    done = subprocess.run(
        [*command, *"abc", *flags], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == compare.compare(runs, baseline=runs[2], resamples=150, seed=3) + "\n"
    one = [*command, "a", "--resamples=150"]
    done = subprocess.run(one, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == compare.compare(runs[:1], resamples=150) + "\n"
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: Give the working directory of an experiment")
