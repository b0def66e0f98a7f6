"""The page on a finished run."""

import base64
import io
import json
import logging
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.evaluation import comparison, saved
from mmgc_jax.pages import galleries, report
from mmgc_jax.runtime.errors import InputError
from tests.pages import made_run
from tests.pages.test_pages import _Parser, explanation, text_of

MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run.write(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="module")
def page(run):
    return report.html(run, explained=0)


def results_of(run, split="test"):
    return json.loads((run / "results.json").read_text())[split]


def test_the_page_is_well_formed_and_needs_no_network(page):
    parsed = _Parser(page)
    addresses = [a for a in parsed.addresses if not a.startswith("#")]
    assert addresses and all(a.startswith("data:image/") for a in addresses)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page)
    assert "script" not in parsed.tags and "prefers-color-scheme: dark" in page
    anchors = {a[1:] for a in parsed.addresses if a.startswith("#")}
    assert anchors == {"models", "genres", "figures", "movies", "run"}
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_the_headline_says_what_was_trained_and_how_good_it_is(run, page):
    text, figures = text_of(page), results_of(run)
    auc = figures["fusion"]["auc_macro"]
    intervals = comparison.Intervals("test")
    [read] = comparison.read([run])
    low, high = intervals.figures(comparison.Group([read]), "fusion")["auc_macro"][1:]
    assert f"macro AUC of {auc:.3f} (95 % interval {low:.3f} to {high:.3f})" in text
    assert f"{100 * auc:.0f} times out of 100" in text
    assert "Data: 60 movies with 3 genres" in text
    assert "for training, 30 test movies for judging." in text
    both = {name: figures[f"{name}_both"]["auc_macro"] for name in ("plot", "poster")}
    gain = figures["fusion_both"]["auc_macro"] - max(both.values())
    difference = f"Before rounding, the difference is {gain:+.3f}".replace("-", "−")
    assert f"has {max(both.values()):.3f}. {difference}" in text
    assert "plot and poster" in text


def test_tables_have_a_row_for_each_model_and_each_genre(run, page):
    text, fusion = text_of(page), results_of(run)["fusion"]
    for title in ("Plot (LSTM)", "Poster (small VGG, colour)", "Fusion"):
        assert text.count(f" {title} ") >= 2  # all movies, and those with both
    for genre, figures in fusion["per_genre"].items():
        row = (
            f"{genre} {figures['positives']} {figures['auc']:.3f} "
            f"{figures['average_precision']:.3f} {figures['f1_tuned']:.3f} "
            f"{fusion['thresholds'][genre]:.3f}"
        )
        assert row in text


def test_galleries_show_the_surest_movies_with_poster_and_plot(run, page):
    predictions = saved.load(run / saved.FILE)
    model = list(predictions.models).index("fusion")
    rows = np.flatnonzero(predictions.split == "test")
    index = rows[predictions.labels[rows, 0]]
    best = index[predictions.probabilities[model, index, 0].argmax()]
    first = page.split("<summary>Genre 000</summary>")[1].split("<article>")[1]
    assert f"<strong>{100 * predictions.probabilities[model, best, 0]:.1f} %</strong>" in first
    number = predictions.ids[best][2:]
    assert f"Movie &lt;{number}&gt;" in first
    assert f"the plot of number {number} &amp; more ." in first
    assert "Genre 000" in first  # its labels
    images = re.findall(r'<img src="data:image/jpeg;base64,([\w+/=]+)" alt="Poster"', page)
    assert {Image.open(io.BytesIO(base64.b64decode(i))).size for i in images} == {(40, 80)}


def test_the_config_and_what_differs_stand_on_the_page(run, page):
    text = text_of(page)
    assert "folds 5 2" in text  # a field of all experiments, and one of a kind of encoder
    assert "plot.vectors.dim 300 8" in text or re.search(r"plot\.vectors\.dim \d+ 8", text)
    assert "&#34;folds&#34;: 2" in page and "plot.kind" not in text


def test_command_versions_and_times_come_from_the_log(tmp_path, run):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "run.log").write_text(
        "2026-11-29 10:00:00,100 Command: mmgc train --workdir=runs/x --config.folds=2\n"
        "2026-11-29 10:00:01,100 Versions: Python 3.12.1, jax 0.12.0; Linux, 1 x cpu\n"
        "2026-11-29 10:00:05,100 plot: starting.\n"
        "2026-11-29 10:01:05,100 poster: starting.\n"
        "2026-11-29 10:03:05,100 poster/fold_0: epoch 1 of 1\n"
    )
    text = text_of(report.html(copy, explained=0))
    assert "Command mmgc train --workdir=runs/x --config.folds=2 " in text
    assert "Versions Python 3.12.1, jax 0.12.0; Linux, 1 x cpu" in text
    assert "Training of Plot (LSTM) 1 min" in text and "Training of all 3 min" in text


@pytest.mark.parametrize(
    ("encoders", "absent"), [(("plot",), "Poster"), (("poster",), "the plot of number")]
)
def test_a_run_on_one_modality(tmp_path, encoders, absent):
    content = report.html(made_run.write(tmp_path / "run", encoders=encoders), explained=0)
    _Parser(content)
    assert absent not in text_of(content) and "single model" not in text_of(content)
    assert ('alt="Poster"' in content) == (encoders == ("poster",))


def test_without_a_test_split_the_page_is_about_cross_validation(tmp_path):
    text = text_of(report.html(made_run.write(tmp_path / "run", test=False), explained=0))
    assert "each movie is predicted by models that were not trained on it." in text
    assert "explanations are of all models" in text


def test_with_few_movies_there_is_no_interval(tmp_path):
    text = text_of(report.html(made_run.write(tmp_path / "run", movies=60), explained=0))
    assert "(95 % interval" not in text and " – " in text


@pytest.mark.slow
def test_300_genres_with_large_posters_stay_below_5_megabytes(tmp_path):
    run = made_run.write(
        tmp_path / "run", genres=300, movies=600, figures=True, poster_size=(256, 160)
    )
    file = report.write(run, explained=0)
    content = file.read_text()
    assert file.stat().st_size < MOST_BYTES
    assert content.count("<summary>Genre ") == 300
    text = text_of(content)
    for title in ("ROC curves", "Precision and recall of each genre", "Calibration"):
        assert title in text
    assert content.count("data:image/png;base64,") >= 4


def test_what_is_missing_is_left_out(tmp_path, run, caplog):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "gallery.jsonl").write_text("no JSON\n")
    (copy / "figures").mkdir()
    (copy / "figures" / "roc.png").write_bytes(b"no PNG")
    with caplog.at_level(logging.WARNING, "mmgc_jax"):
        content = report.html(copy, explained=5)
    assert "gallery.jsonl cannot be read" in caplog.text and "roc.png cannot be read" in caplog.text
    assert "<summary>Genre 000</summary>" in content and 'alt="Poster"' not in content
    (copy / "predictions.npz").unlink()
    without = report.html(copy, explained=5)
    assert "<summary>Genre 000</summary>" not in without and "Genre 000" in without


def test_a_run_without_parameters_has_no_explanations(tmp_path, run, caplog):
    copy = shutil.copytree(run, tmp_path / "copy")
    with caplog.at_level(logging.WARNING, "mmgc_jax"):
        content = report.html(copy, explained=5)
    assert "The report has no explanations" in caplog.text
    assert 'alt="Poster"' in content and "Heat map of" not in content


def test_mistakes(tmp_path, run):
    with pytest.raises(InputError, match="there is no such folder"):
        report.html(tmp_path / "nowhere")


def test_a_run_ends_with_the_place_of_its_report(tmp_path, run, capsys, monkeypatch, caplog):
    copy = shutil.copytree(run, tmp_path / "copy")
    monkeypatch.setattr(report, "EXPLAINED", 0)
    report.after_training(copy)
    assert capsys.readouterr().out == f"Report:      {copy / 'report.html'}\n"
    file = copy / "report.html"
    assert file.read_text().startswith("<!doctype html>")
    file.write_text(file.read_text() + "<!-- kept -->")
    report.after_training(copy)  # the run had finished before
    assert "<!-- kept -->" in file.read_text()
    (copy / "results.json").write_text((copy / "results.json").read_text() + " ")
    report.after_training(copy)
    assert "<!-- kept -->" not in file.read_text()
    assert capsys.readouterr().out.count("Report: ") == 2
    file.unlink()
    (copy / "config.json").unlink()
    with caplog.at_level(logging.WARNING, "mmgc_jax"):
        report.after_training(copy)
    assert "report.html is not written: " in caplog.text and capsys.readouterr().out == ""


def test_the_strongest_words_stand_with_their_sign():
    words = galleries._strongest(explanation(), 0)
    assert words[0] == {"text": "<b>ghost</b>", "score": "+2.5", "kind": "for"}
    assert {"text": "kiss", "score": "−1.5", "kind": "against"} in words
    assert len({word["text"] for word in words}) == len(words) <= 4


@pytest.mark.slow
def test_movies_are_explained(tmp_path, finished):
    workdir = tmp_path / "finished"
    shutil.copytree(finished.workdir, workdir, ignore=shutil.ignore_patterns("data"))
    content = report.html(workdir, explained=2)
    assert "Heat map of Poster (small VGG, colour)" in content
    cards = re.findall(r"<article>.*?</article>", content, re.S)
    assert 0 < sum("Heat map of" in card for card in cards) < len(cards)
    # The command line of the fixture.
    assert "mmgc train --workdir=" in content and "config=tests/tiny.py" in content
