"""Tests of the command line that scores a labelled table."""

import csv
import gzip
import json
import shutil

import numpy as np
import pytest

from mmgc_jax import compare, score
from mmgc_jax.data import builder, pipeline, table
from mmgc_jax.evaluation import bootstrap, saved, score_tables
from tests import tiny


def labelled_table(finished):
    """The table that an experiment was trained on."""
    settings = table.TableSettings(posters=str(finished.data / "posters"))
    return table.read(finished.data / "movies.csv", settings, labelled=True)


@pytest.fixture
def ask(capsys):
    """Runs the command line in this process; returns its status, and what it prints."""

    def run(*arguments):
        status = 0
        try:
            score.start(["mmgc score", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def validation(finished, tmp_path_factory):
    """A table of the validation movies, with genres in another form and a genre more."""
    config = tiny.config_of((finished.data, finished.weights))
    corpus = pipeline.load_corpus(
        builder.build(config.data, finished.workdir / "data"), config.data
    )
    wanted = {corpus.ids[row] for row in corpus.split["validation"]}
    file = tmp_path_factory.mktemp("tables") / "held out.csv"
    movies = [movie for movie in labelled_table(finished).movies if movie.id in wanted]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "overview", "genre"])
        for number, movie in enumerate(movies):
            genres = ["Science Fiction" if g == "Sci-Fi" else g.upper() for g in movie.genres]
            genres += ["Telenovela"] if number < 3 else []
            writer.writerow([movie.id, movie.plot or "", "|".join(genres)])
    return file


@pytest.mark.slow
def test_the_figures_of_the_validation_movies_are_those_of_the_training(
    ask, finished, validation, tmp_path
):
    output = tmp_path / "scores"
    status, out, err = ask(
        f"--workdir={finished.workdir}", f"--movies={validation}", "--resamples=200",
        f"--posters={finished.data / 'posters'}", f"--output={output}",
        "--genres=Science Fiction=Sci-Fi",
    )  # fmt: skip
    assert status == 0, err
    results = json.loads((output / "results.json").read_text())
    trained = json.loads((finished.workdir / "results.json").read_text())["validation"]
    assert list(results["scored"]) == list(trained)
    for model, figures in trained.items():
        scored = results["scored"][model]
        for name, value in figures.items():
            if name not in ("per_genre", "thresholds"):
                assert scored[name] == pytest.approx(value, abs=1e-4), (model, name)
    fusion = results["scored"]["fusion"]
    low, high = fusion["auc_macro_interval"]
    assert low < fusion["auc_macro"] < high
    assert results["intervals"] == {"level": 0.95, "resamples": 200, "seed": 0}
    assert results["notes"][0].endswith("which are left out: Telenovela (3).")

    text = (output / "results.txt").read_text()
    screen = out.split("\n\nAll tables:")[0]
    assert text.startswith(screen + "\n\n")
    shown = fusion["movies"] >= bootstrap.LEAST_MOVIES
    assert (f"{low:.3f}-{high:.3f}" in screen) == shown
    assert "Telenovela (3)" in screen and f"{output / 'results.txt'}" in out
    assert max(map(len, text.splitlines())) <= 120
    assert {file.name for file in output.iterdir()} == {
        "config.json", "figures", "inputs.json", "predictions.npz", "results.json", "results.txt",
    }  # fmt: skip
    assert {file.stem for file in (output / "figures").iterdir()} == {
        "auc_per_genre", "cooccurrence", "f1_per_genre", "precision_recall", "reliability", "roc",
    }  # fmt: skip

    kept = saved.load(output / saved.FILE)
    assert set(kept.split) == {"scored"} and kept.models.tolist()[-1] == "fusion"
    of_run = saved.load(finished.workdir / saved.FILE)
    rows = {movie: row for row, movie in enumerate(of_run.ids.tolist())}
    same = [rows[movie] for movie in kept.ids.tolist()]
    np.testing.assert_array_equal(kept.labels, of_run.labels[same])
    np.testing.assert_allclose(kept.probabilities, of_run.probabilities[:, same], atol=1e-4)


@pytest.mark.slow
def test_training_movies_are_noticed_and_scores_compared(ask, finished, tmp_path):
    arguments = (
        f"--workdir={finished.workdir}", f"--movies={finished.data / 'movies.csv'}",
        "--stage=plot", "--resamples=100",
    )  # fmt: skip
    status, out, err = ask(*arguments, f"--output={tmp_path / 'a'}")
    assert status == 0, err
    assert "62 of the 90 movies have the id and the genres of a movie that the" in out
    assert "warning: 62 of the 90 movies" in err
    content = json.loads((tmp_path / "a" / "results.json").read_text())
    assert list(content["scored"]) == ["plot", "plot_both"]
    low, high = content["scored"]["plot"]["auc_macro_interval"]
    assert f"{low:.3f}-{high:.3f}" in out
    # Without posters no movie has both.
    assert content["scored"]["plot_both"]["auc_macro_interval"] == [None, None]
    assert [file.stem for file in (tmp_path / "a" / "figures").iterdir()] == ["roc"]

    posters = f"--posters={finished.data / 'posters'}"
    assert ask(*arguments, posters, f"--output={tmp_path / 'b'}")[0] == 0
    config = json.loads((tmp_path / "b" / "config.json").read_text()) | {"folds": 3}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    text = compare.compare([tmp_path / "a", tmp_path / "b"], resamples=100)
    assert text.startswith("scored ") and "+0.000 [+0.000 +0.000]" in text

    rows = (finished.data / "movies.csv").read_text().splitlines()
    nameless = tmp_path / "nameless.csv"  # the first column has the ids
    nameless.write_text("\n".join(row.partition(",")[2] for row in rows))
    status, out, err = ask(
        f"--workdir={finished.workdir}", f"--movies={nameless}", "--stage=plot",
        "--resamples=100", f"--output={tmp_path / 'c'}",
    )  # fmt: skip
    assert status == 0, err
    assert "The table has no ids, so it is not known which movies the experiment was" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--stage=plots"],
            "--stage=plots: this experiment has: plot, poster, poster_grey, fusion",
        ),
        (["--output={workdir}"], "is the working directory of an experiment"),
        (["--genres=Drama"], "--genres=Drama: write"),
        (["--split=test"], "--split=test: the table has no such movies"),
        (["--columns=genre=x"], "--columns=genre=x: write ROLE=NAME"),
        (["--posters=nowhere"], "nowhere: no such folder of posters"),
        (["--output={file}"], "cannot be written to"),
        (["--columns=plot=empty"], "No movie of the table has the modality of Plot (LSTM) or "),
        (["--columns=plot=empty", "--stage=plot"], "No movie of the table has the modality of"),
    ],
)
def test_mistakes_end_in_one_line(ask, finished, tmp_path, arguments, message):
    table = tmp_path / "movies.csv"
    table.write_text("id,plot,genres,empty\n1,a dragon,Drama,\n2,a spy,Comedy,\n")
    places = {"workdir": finished.workdir, "file": table}
    arguments = [argument.format(**places) for argument in arguments]
    status, out, err = ask(f"--workdir={finished.workdir}", f"--movies={table}", *arguments)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last


@pytest.mark.slow
def test_without_an_output_the_folder_is_in_the_working_directory(ask, finished, tmp_path):
    file = tmp_path / "my movies.csv.gz"
    file.write_bytes(gzip.compress(b"id,plot,genres\n1,a dragon,Drama\n2,a spy,Comedy\n"))
    workdir = tmp_path / "run"  # other tests share the finished run
    shutil.copytree(finished.workdir, workdir)
    status, _, err = ask(f"--workdir={workdir}", f"--movies={file}", "--resamples=100")
    assert status == 0, err
    assert (workdir / "scores" / "my_movies" / "results.json").is_file()


@pytest.mark.slow
def test_what_is_left_out_and_replaced_is_told(ask, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.workdir, tmp_path / "run")
    rows = "1,a dragon,Drama\n2,a spy,Comedy\n3,a ghost,\n"
    (tmp_path / "new.csv").write_text(f"id,plot,genres\n{rows}")
    for told in (False, True):
        status, out, err = ask("--workdir=run", "--movies=new.csv", "--resamples=100")
        assert status == 0, err
        assert "All tables:  run/scores/new/results.txt\n" in out
        assert ("They replace the earlier scores" in out) == told
        assert (out + err).count("without a genre") == 1
        assert "Poster (VGG16, colour)  " not in out and "with both plot" not in out
        assert "Left out, since no movie has the modality: Poster" in out
        assert "The table has no ids" not in out  # they are 1, 2, 3
    text = (tmp_path / "run/scores/new/results.txt").read_text()
    assert "Movies without a genre, which are left out: 1." in text


def figures(value, movies=100):
    averages = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples")
    names = ("auc_macro", "auc_steady", "map", *averages, *(f"{name}_tuned" for name in averages))
    row = {"movies": movies, "genres_counted": 2, "genres_steady": 2}
    row |= {"per_genre": {"Drama": {}, "War": {}}, "ece": 0.1, "ece_uncalibrated": 0.2}
    for name in names:
        row |= {name: value, f"{name}_interval": [value - 0.01, value + 0.02]}
    return row


def test_tables_have_an_interval_for_each_figure():
    titles = {"plot": "Plot (LSTM)", "fusion": "Fusion"}
    results = {name: figures(value) for name, value in (("plot", 0.7), ("fusion", 0.8))}
    results |= {"plot_both": figures(0.6, movies=90), "fusion_both": figures(0.9, movies=90)}
    text = score_tables.all_tables(results, titles, ["A note."])
    comparison, intervals, notes, f1, tuned, calibration = text.split("\n\n")
    assert comparison.splitlines()[0].startswith("scored ")
    assert "movies with both plot and poster" in comparison
    lines = intervals.splitlines()
    assert lines[2].split() == ["Plot", "(LSTM)"] + 5 * ["0.690-0.720"]
    assert lines[6].split() == ["Fusion"] + 5 * ["0.890-0.920"]
    assert len({len(line) for line in (lines[0], lines[2], lines[6])}) == 1
    assert notes == "A note." and f1.startswith("scored, F1")
    assert tuned.splitlines()[2].split()[2:] == 4 * ["0.690-0.720"]
    assert calibration.startswith("scored, calibration error")


def test_tables_without_fusion_compare_nothing():
    results = {"plot": figures(0.7), "plot_both": figures(float("nan"), movies=0)}
    text = score_tables.all_tables(results, {"plot": "Plot (LSTM)"})
    assert "Fusion" not in text and "nan" not in text and "with both" not in text


def test_models_without_movies_have_no_rows():
    titles = {"plot": "Plot (LSTM)", "poster": "Poster (VGG16)"}
    results = {"plot": figures(0.7), "poster": figures(float("nan"), movies=0)}
    results |= {f"{name}_both": figures(float("nan"), movies=0) for name in titles}
    text = score_tables.all_tables(results, titles)
    assert "Plot (LSTM)" in text and "Poster" not in text and "with both" not in text


def test_intervals_that_say_nothing_are_not_shown():
    results = {"plot": figures(0.7), "plot_both": figures(0.7)}
    assert "yphen" not in score_tables.screen(results, {"plot": "Plot (LSTM)"})
    results["plot"]["map_interval"] = [1.0, 1.0]
    screen = score_tables.screen(results, {"plot": "Plot (LSTM)"})
    assert screen.count("0.690-0.720") == 4 and "Hyphens: fewer than 30 movies, or" in screen
    results = {"plot": figures(0.7, movies=29), "plot_both": figures(0.7, movies=29)}
    text = score_tables.all_tables(results, {"plot": "Plot (LSTM)"})
    assert "0.690-0.720" not in text and "No intervals: fewer than 30 movies, or" in text


def test_help_names_all_flags(ask):
    status, out, _ = ask("--help")
    assert status == 0
    for flag in ("workdir", "movies", "posters", "output", "stage", "genres", "split", "resamples"):
        assert f"--{flag}" in out
