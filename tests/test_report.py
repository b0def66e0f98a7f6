"""The command line that writes the report anew."""

import subprocess
import sys

import pytest

from mmgc_jax import report
from tests import tiny
from tests.pages import made_run


@pytest.fixture
def ask(capsys):
    """Runs the command line in this process; returns its status, and what it prints."""

    def run(*arguments):
        status = 0
        capsys.readouterr()  # what came before
        try:
            report.start(["mmgc report", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def test_help_is_answered_without_jax():
    code = (
        "import sys\nfrom mmgc_jax import report\nreport.start(['report', '--help'])\n"
        "print('jax' in sys.modules, 'jinja2' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    assert "mmgc report --workdir=runs/demo" in run.stdout and "--explained=" in run.stdout
    assert run.stdout.endswith("False False\n")


def test_the_report_is_written_and_named(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_run.write(tmp_path / "run", movies=12)
    assert ask("--workdir=run", "--explained=0") == (0, "Report:      run/report.html\n", "")
    assert (tmp_path / "run" / "report.html").read_text().endswith("</html>")


def test_mistakes_end_in_one_line(ask, tmp_path):
    status, out, err = ask(f"--workdir={tmp_path / 'nowhere'}")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: ") and "there is no such folder" in err
    status, out, err = ask(f"--workdir={tmp_path}", "--explained=-1")
    assert (status, out) == (2, "") and err.startswith("error: --explained=-1: ")
