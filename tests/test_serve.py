"""The command line that serves a page."""

import importlib.util
import subprocess
import sys

import pytest

from mmgc_jax import serve
from tests import tiny


@pytest.fixture
def ask(capsys):
    """Runs the command line in this process; returns its status, and what it prints."""

    def run(*arguments):
        status = 0
        try:
            serve.start(["mmgc serve", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def test_help_is_answered_without_jax_and_gradio():
    code = (
        "import sys\nfrom mmgc_jax import serve\nserve.start(['serve', '--help'])\n"
        "print('jax' in sys.modules, 'gradio' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    assert "mmgc serve --workdir=runs/demo" in run.stdout
    assert "--host=...  (default: 127.0.0.1)" in run.stdout
    assert run.stdout.endswith("False False\n")


def test_without_gradio_the_extra_is_named(ask, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name)
    )
    status, out, err = ask(f"--workdir={tmp_path}")
    assert (status, out) == (2, "")
    assert err == "error: gradio is not installed. Run: pip install 'mmgc_jax[serve]'\n"


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_port_is_a_number(ask, tmp_path, port):
    status, out, err = ask(f"--workdir={tmp_path}", f"--port={port}")
    assert (status, out) == (2, "") and err.startswith(f"error: --port={port}: ")
