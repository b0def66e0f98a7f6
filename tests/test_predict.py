"""Tests of the command line that predicts."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from mmgc_jax import predict
from mmgc_jax.data import talk
from mmgc_jax.data.movies import GENRES, Movie
from mmgc_jax.predictor import Predictor
from tests import tiny

PLOT = "--plot=the heist in the city"


@pytest.fixture
def ask(capsysbinary):
    """Runs the command line in this process; returns its status, and what it prints."""

    def run(*arguments):
        status = 0
        try:
            predict.start(["mmgc predict", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --plot, --plot_file or --poster for one movie, or --movies for a table."),
        (("--title=x",), "Give --plot, --plot_file or --poster"),
        (("--plot=x", "--movies=y.csv"), "--plot is for one movie and --movies for a table"),
        (("--plot=", "--movies=y.csv"), "--plot is for one movie and --movies for a table"),
        (("--title=x", "--movies=y.csv", "--output=-"), "--title is for one movie and --movies"),
        (("--plot=x", "--plot_file=y"), "--plot and --plot_file are both given"),
        (("--posters=x",), "--posters needs --movies"),
        (("--movies=y.csv",), "A table needs --output=FILE, or --output=-"),
        (("--movies=y.csv", "--output=-", "--format=text"), "--format=text is for one movie"),
        (("--movies=y.csv", "--output=-", "--top=3"), "--top is for --format=text; csv has"),
        (("--plot=x", "--format=csv", "--output=x.json"), "contradict each other"),
        (("--plot=x", "--format=json", "--top=3"), "--top is for --format=text; json has"),
        (("--plot=x", "--output=x.jsonl", "--top=3"), "--top is for --format=text; json has"),
        (("--plot=x", "--decisions"), "--decisions is for csv and parquet; text always"),
        (("--plot=x", "--top=0"), "--top=0"),
        (("--plot=x", "--embeddings=x.csv"), "--embeddings=x.csv: .npy or .parquet is needed."),
        (("--plot=x", "--format=jsn"), "--format=jsn: possible: text, json, csv, parquet."),
        (("--plot_file=nowhere.txt",), "--plot_file=nowhere.txt cannot be read: No such file"),
    ],
)
def test_flags_that_contradict_one_another_end_in_one_line(ask, tmp_path, arguments, message):
    status, out, err = ask(f"--workdir={tmp_path}", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe", "UTF-8"), (b"x" * 1_000_001, "1,000,000 characters")]
)
def test_a_file_that_is_no_plot(ask, tmp_path, content, message):
    (tmp_path / "plot.txt").write_bytes(content)
    status, _, err = ask(f"--workdir={tmp_path}", f"--plot_file={tmp_path / 'plot.txt'}")
    assert status == 2 and message in err and err.count("\n") == 1


def test_help_and_wrong_flags_are_answered_without_jax():
    code = (
        "import sys\nfrom mmgc_jax import predict\n"
        "predict.start(['predict', '--help'])\n"
        "try:\n    predict.start(['predict', '--workdir=x', '--plots=y'])\n"
        "except SystemExit as end:\n    print('status', end.code, 'jax' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    assert "mmgc predict --workdir=runs/demo --plot=" in run.stdout and "--top" in run.stdout
    assert run.stdout.endswith("status 2 False\n")
    assert "Did you mean --plot" in run.stderr


HEAVY = (
    "gensim", "grain", "iterstrat", "matplotlib", "pandas", "pyarrow", "scipy.optimize",
    "scipy.stats", "sklearn", "tensorflow", "tensorflow_datasets",
)  # fmt: skip


@pytest.mark.slow
def test_what_a_prediction_does_not_need_is_not_imported(finished):
    code = (
        "import sys\nfrom mmgc_jax import predict\n"
        f"predict.start(['predict', '--workdir={finished.workdir}', {PLOT!r}])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tiny.ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
    assert run.stderr == ""


@pytest.mark.slow
class TestOneMovie:
    def test_text(self, ask, finished):
        status, out, err = ask(f"--workdir={finished.workdir}", PLOT, "--title=Heat")
        lines = out.splitlines()
        assert (status, err, lines[0]) == (0, "", "Heat")
        shown = [line for line in lines if "%" in line]
        assert len(shown) >= 5 and all(("▒" if line[0] == "*" else "|") in line for line in shown)
        assert len(shown) == 5 or sum(line.startswith("*") for line in shown) >= len(shown) - 5
        assert any("is predicted" in line or "are predicted" in line for line in lines)

    def test_a_terminal_without_utf_8(self, finished):
        run = subprocess.run(
            [sys.executable, "-m", "mmgc_jax.predict", f"--workdir={finished.workdir}", PLOT,
             "--title=Amélie"],
            cwd=tiny.ROOT, capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        out = run.stdout.decode("ascii")
        assert out.startswith("Amelie\n") and "#" in out

    def test_the_plot_comes_from_a_flag_a_file_or_standard_input(
        self, ask, finished, tmp_path, monkeypatch
    ):
        plot = "the heist é in the city\n"
        (tmp_path / "plot.txt").write_text(plot, encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plot.encode())))
        ways = (f"--plot={plot}", f"--plot_file={tmp_path / 'plot.txt'}", "--plot=-")
        outs = [ask(f"--workdir={finished.workdir}", way, "--format=json") for way in ways]
        assert outs[0][0] == 0 and outs[0] == outs[1] == outs[2]

    def test_json_equals_what_the_predictor_gives(self, ask, finished):
        poster = finished.data / "posters" / "100.jpg"
        status, out, _ = ask(
            f"--workdir={finished.workdir}", PLOT, f"--poster={poster}", "--title=é",
            "--format=json", "--stage=poster",
        )  # fmt: skip
        assert status == 0 and out.count("\n") == 1
        content, predictor = json.loads(out), Predictor.load(finished.workdir)
        movies = [Movie(plot=PLOT.removeprefix("--plot="), poster=poster)]
        probabilities = predictor(movies, "poster")
        (decided,) = predictor.decide(probabilities, "poster")
        np.testing.assert_allclose(
            list(content["probabilities"].values()), probabilities[0], atol=1e-6
        )
        assert content["predicted"] == [g for g, yes in zip(GENRES, decided) if yes]
        assert (content["title"], content["model"]) == ("é", "poster")

    def test_few_known_words_are_noted(self, ask, finished):
        unknown = "--plot=" + " ".join(f"zz{letter}" for letter in "abcdefghijklmnopq") + " heist"
        out = ask(f"--workdir={finished.workdir}", unknown)[1]
        content = json.loads(ask(f"--workdir={finished.workdir}", unknown, "--format=json")[1])
        words = content["plot_words"]
        assert (words["known"], words["total"]) == (1, 18) and words["vocabulary"] > 100
        note = f"1 of 18 words known; trained on {words['vocabulary']} words."
        assert content["notes"] == [note] and f"Note: {note}" in out
        known = json.loads(ask(f"--workdir={finished.workdir}", PLOT, "--format=json")[1])
        assert known["notes"] == [] and known["plot_words"]["known"] > 2

    @pytest.mark.parametrize("plot", ["--plot=", "--plot= ... !"])
    def test_a_plot_without_words_is_noted(self, ask, finished, plot):
        assert "Note: The plot has no words." in ask(f"--workdir={finished.workdir}", plot)[1]

    def test_a_missing_modality_is_noted(self, ask, finished):
        out = ask(f"--workdir={finished.workdir}", PLOT, "--stage=poster")[1]
        assert "Note: Without a poster, the model poster answers with the frequency" in out

    @pytest.mark.parametrize("suffix", ["txt", "json", "jsonl", "csv", "parquet"])
    def test_the_suffix_decides_the_format(self, ask, finished, tmp_path, suffix):
        output = tmp_path / f"answer.{suffix}"
        status, out, err = ask(f"--workdir={finished.workdir}", PLOT, f"--output={output}")
        assert (status, out, err) == (0, "", "")
        begins = {
            "txt": b" *", "json": b"{", "jsonl": b"{", "csv": b"ID,p_Action,", "parquet": b"PAR1"
        }[suffix]  # fmt: skip
        content = output.read_bytes()
        assert content[:1] in (b" ", b"*") if suffix == "txt" else content.startswith(begins)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("--poster=nowhere.jpg",),
                "--poster=nowhere.jpg cannot be read: No such file or directory.\n",
            ),
            ((f"--poster={__file__}",), "test_predict.py cannot be read: "),
            (("--plot=x", "--stage=fussion"), "Did you mean fusion?"),
            (("--plot=x", "--output=/proc/nowhere"), "--output=/proc/nowhere cannot be written"),
        ],
    )
    def test_mistakes_end_in_one_line(self, ask, finished, arguments, message):
        status, out, err = ask(f"--workdir={finished.workdir}", *arguments)
        assert (status, out) == (2, "")
        assert message in err and err.count("\n") == 1


@pytest.fixture(scope="module")
def table(finished):
    return [f"--movies={finished.data / 'movies.csv'}", f"--posters={finished.data / 'posters'}"]


@pytest.fixture(scope="module")
def movies(finished):
    return list(talk.read(str(finished.data)))


@pytest.mark.slow
class TestTable:
    def test_a_row_for_each_movie_in_order(self, ask, finished, tmp_path, table, movies):
        output = tmp_path / "probs.csv"
        status, out, err = ask(f"--workdir={finished.workdir}", *table, f"--output={output}")
        assert (status, out) == (0, f"{len(movies)} rows written to {output}\n"), err
        found = sum(movie.poster is not None for movie in movies)
        assert f"posters found for {found} of {len(movies)} movies" in err
        with output.open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["ID", *(f"p_{genre}" for genre in GENRES)]
        assert [row[0] for row in rows] == [movie.id for movie in movies]
        probabilities = np.array([row[1:] for row in rows], float)
        np.testing.assert_allclose(
            probabilities, Predictor.load(finished.workdir)(movies), atol=1e-5
        )

    def test_decisions(self, ask, finished, table, movies):
        status, out, err = ask(
            f"--workdir={finished.workdir}", *table, "--output=-", "--decisions", "--stage=plot"
        )
        assert status == 0, err
        header, *rows = csv.reader(io.StringIO(out))
        assert header[25:] == [f"d_{genre}" for genre in GENRES]
        predictor = Predictor.load(finished.workdir)
        decided = predictor.decide(predictor(movies, "plot"), "plot")
        np.testing.assert_array_equal(np.array(rows)[:, 25:].astype(int), decided)
        # Only what was asked for is on standard output.
        assert f"{len(movies)} rows written to standard output" in err

    def test_json_lines_and_a_summary_of_notes(self, ask, finished, tmp_path):
        table = tmp_path / "movies.csv"
        table.write_text(
            "index,year,title,plot\n7,,T,the heist in the city\n8,,é,qq ww ee\n9,,,\n",
            encoding="utf-8",
        )
        status, out, err = ask(
            f"--workdir={finished.workdir}", f"--movies={table}", "--output=-", "--format=json"
        )
        assert status == 0, err
        found = [json.loads(line) for line in out.splitlines()]
        assert [(movie["id"], movie["title"]) for movie in found] == [
            ("7", "T"), ("8", "é"), ("9", "")
        ]  # fmt: skip
        assert [len(movie["notes"]) for movie in found] == [0, 1, 1]
        assert found[2]["plot_words"] is None
        assert "warning: 2 of 3 predictions may be poor; `notes` of --format=json says why." in err
        assert "The first of them is for the movie with ID 8: None of the 3 words is known" in err

    def test_a_wrong_folder_of_posters_is_reported(self, ask, finished, tmp_path, table, movies):
        (tmp_path / "posters").mkdir()
        (tmp_path / "posters" / "tt100.png").touch()
        status, _, err = ask(
            f"--workdir={finished.workdir}", table[0], f"--posters={tmp_path / 'posters'}",
            f"--output={tmp_path / 'probs.csv'}",
        )  # fmt: skip
        assert status == 0
        assert f"warning: posters found for 0 of {len(movies)} movies. Looked for 100.jpg" in err
        assert f"{tmp_path}/posters holds 1 .png files" in err

    def test_the_input_table_is_not_overwritten(self, ask, finished, tmp_path):
        table = tmp_path / "movies.csv"
        table.write_text("index,year,title,plot\n7,1999,T,p\n")
        (tmp_path / "link.csv").symlink_to("movies.csv")
        for output in (table, tmp_path / "link.csv"):
            status, _, err = ask(
                f"--workdir={finished.workdir}", f"--movies={table}", f"--output={output}"
            )
            assert status == 2 and "is the table of --movies itself" in err
        assert table.read_text().startswith("index")

    def test_a_table_that_is_not_there(self, ask, finished):
        status, _, err = ask(
            f"--workdir={finished.workdir}", "--movies=nowhere.csv", "--output=o.csv"
        )
        assert status == 2 and "nowhere.csv: no such file" in err


def run_predict(finished, *arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "mmgc_jax.predict", f"--workdir={finished.workdir}", *arguments],
        cwd=tiny.ROOT,
        stderr=subprocess.PIPE,
        **settings,
    )


@pytest.mark.slow
class TestWhatIsNotARegularFile:
    def test_standard_output_by_another_name(self, finished, tmp_path):
        """Standard output is a pipe, then a regular file."""
        # A link, so that a mistake in the code cannot replace the device.
        link = tmp_path / "stdout.csv"
        link.symlink_to("/dev/stdout")
        piped = run_predict(finished, PLOT, f"--output={link}", stdout=subprocess.PIPE)
        assert piped.stdout.startswith(b"ID,p_Action,") and link.is_symlink(), piped.stderr
        with (tmp_path / "out").open("wb") as out:
            out.write(b"before\n")
            out.flush()
            run = run_predict(finished, PLOT, f"--output={link}", stdout=out)
            out.write(b"after\n")
        assert run.returncode == 0 and link.is_symlink(), run.stderr
        content = (tmp_path / "out").read_bytes()
        assert content == b"before\n" + piped.stdout + b"after\n"

    def test_a_fifo(self, ask, finished, tmp_path, table, movies):
        fifo = tmp_path / "probs.csv"
        os.mkfifo(fifo)
        read = []
        reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
        reader.start()
        status, out, err = ask(f"--workdir={finished.workdir}", *table, f"--output={fifo}")
        reader.join(timeout=60)
        assert status == 0 and out == f"{len(movies)} rows written to {fifo}\n", err
        assert read[0].count(b"\n") == len(movies) + 1
        assert stat.S_ISFIFO(fifo.stat().st_mode)

    def test_a_device(self, ask, finished, tmp_path):
        link = tmp_path / "null.csv"
        link.symlink_to("/dev/null")
        assert ask(f"--workdir={finished.workdir}", PLOT, f"--output={link}") == (0, "", "")
        assert link.is_symlink()
        link.unlink()
        link.symlink_to("/dev/full")
        status, _, err = ask(f"--workdir={finished.workdir}", PLOT, f"--output={link}")
        assert status == 2 and "cannot be written: No space left on device.\n" in err

    def test_a_reader_that_ends_early(self, finished, table):
        run = subprocess.run(
            ["bash", "-c", 'set -o pipefail; "$@" | head -1', "bash", sys.executable, "-m",
             "mmgc_jax.predict", f"--workdir={finished.workdir}", *table, "--output=-"],
            cwd=tiny.ROOT, capture_output=True,
        )  # fmt: skip
        assert run.stdout.startswith(b"ID,") and run.stdout.count(b"\n") == 1
        assert b"Traceback" not in run.stderr and b"Broken pipe" not in run.stderr


@pytest.mark.slow
def test_embeddings_of_a_table(ask, finished, tmp_path):
    import pyarrow.parquet

    table = tmp_path / "movies.csv"
    table.write_text("id,plot\na,a heist\nb,\nc,a ghost and a kiss\n")
    arguments = (f"--workdir={finished.workdir}", f"--movies={table}", "--stage=plot")
    status, out, err = ask(*arguments, f"--embeddings={tmp_path / 'v.npy'}")
    assert status == 0, err
    vectors = np.load(tmp_path / "v.npy")
    assert out.startswith(f"3 vectors of {vectors.shape[1]} features written to ")
    movies = [Movie(plot="a heist"), Movie(), Movie(plot="a ghost and a kiss")]
    expected = Predictor.load(finished.workdir).embed(movies, "plot")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    # Together with predictions.
    both = (f"--embeddings={tmp_path / 'v.parquet'}", f"--output={tmp_path / 'p.csv'}")
    assert ask(*arguments, *both)[0] == 0
    rows = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
    assert rows["ID"] == ["a", "b", "c"]
    np.testing.assert_allclose(rows["embedding"], expected, atol=1e-5)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 4
    status, _, err = ask(*arguments, f"--embeddings={table.with_suffix('.npy')}", "--output=-")
    assert status == 0 and "3 vectors" in err
