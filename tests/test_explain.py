"""Tests of the command line that explains."""

import json
import subprocess
import sys

import pytest

from mmgc_jax import explain
from tests import tiny

PLOT = "--plot=the heist in the city . a ghost and a scream ."


@pytest.fixture
def ask(capsysbinary):
    """Runs the command line in this process; returns its status, and what it prints."""

    def run(*arguments):
        status = 0
        try:
            explain.start(["mmgc explain", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --plot, --plot_file or --poster for one movie, or --movies for a table."),
        (("--plot=x", "--movies=y.csv"), "--plot is for one movie and --movies for a table"),
        (("--movies=y.csv",), "A table needs --output=FILE.html or --output=FILE.json."),
        (("--movies=y.csv", "--output=x.png"), "A picture is of one movie"),
        (("--plot=x", "--output=x.pdf"), "--output=x.pdf: .html, .png, .json, .jsonl are possible"),
        (("--plot=x", "--integrated_gradients"), "--integrated_gradients is for --output"),
        (("--plot=x", "--block=0"), "--block=0"),
    ],
)
def test_flags_that_contradict_one_another_end_in_one_line(ask, tmp_path, arguments, message):
    status, out, err = ask(f"--workdir={tmp_path}", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_help_is_answered_without_jax():
    code = (
        "import sys\nfrom mmgc_jax import explain\nexplain.start(['explain', '--help'])\n"
        "print('jax' in sys.modules, 'jinja2' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    assert "mmgc explain --workdir=runs/demo --plot=" in run.stdout and "--block" in run.stdout
    assert run.stdout.endswith("False False\n")


@pytest.mark.slow
def test_one_movie_in_the_terminal(ask, finished):
    poster = next((finished.data / "posters").glob("*.jpg"))
    status, out, err = ask(
        f"--workdir={finished.workdir}", PLOT, f"--poster={poster}", "--genres=Crime,War"
    )
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("Crime: ") and "(threshold " in lines[0]
    assert lines[1].startswith("  words:     ") and "heist" in out
    assert "  sum:       prior -" in lines[2] and "calibration" in lines[2]
    assert "without the plot" in lines[3] and "without the poster" in lines[3]
    assert "-0.0" not in out and "shows the heat maps" in lines[-1]


@pytest.mark.slow
def test_pages_pictures_and_json(ask, finished, tmp_path):
    workdir = f"--workdir={finished.workdir}"
    poster = next((finished.data / "posters").glob("*.jpg"))
    for name, begin in (("a.html", b"<!doctype html>"), ("a.png", b"\x89PNG"), ("a.json", b"{")):
        file = tmp_path / name
        status, out, err = ask(workdir, PLOT, f"--poster={poster}", f"--output={file}")
        assert status == 0, err
        assert file.read_bytes().startswith(begin) and out == f"1 movie explained in {file}\n"
    gradients = tmp_path / "g.json"
    ask(workdir, PLOT, "--stage=plot", "--integrated_gradients", f"--output={gradients}")
    assert "gap" in json.loads(gradients.read_text())["encoder_words"]["plot"]
    status, _, err = ask(workdir, PLOT, "--genres=Crim")
    assert status == 2 and "no genre 'Crim'. Did you mean Crime?" in err


@pytest.mark.slow
def test_a_table(ask, finished, tmp_path, monkeypatch):
    table = tmp_path / "movies.csv"
    table.write_text("id,plot\n1,a heist\n2,\n3,a ghost & a kiss\n")
    arguments = (f"--workdir={finished.workdir}", f"--movies={table}", "--genres=War")
    assert ask(*arguments, f"--output={tmp_path / 'x.jsonl'}")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"] and rows[1]["words"] == []
    monkeypatch.setattr(explain, "_MOST_ON_A_PAGE", 2)
    status, out, err = ask(*arguments, f"--output={tmp_path / 'x.html'}")
    assert status == 0 and out.startswith("2 movies") and "at most 2 movies" in err
    page = (tmp_path / "x.html").read_text()
    assert page.count("<section") == 2 and 'name="movie1"' in page
