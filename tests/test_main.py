"""The command lines: the list of commands, mmgc, and the training of experiments."""

import os
import pathlib
import subprocess
import sys

import pytest

import mmgc_jax
from mmgc_jax import __main__ as commands
from mmgc_jax.predictor import Predictor
from tests import tiny

SCRIPT = pathlib.Path(sys.executable).with_name("mmgc")
WAYS = {
    "module": [sys.executable, "-m", "mmgc_jax.main"],
    "package": [sys.executable, "-m", "mmgc_jax", "train"],
    "script": [str(SCRIPT), "train"],
}


def run(*command, cwd=tiny.ROOT):
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)


@pytest.fixture(
    params=["package", *(pytest.param(way, marks=pytest.mark.slow) for way in ("module", "script"))]
)
def train(request):
    """Runs `mmgc train`, started in each way."""
    if request.param == "script" and not SCRIPT.exists():
        pytest.skip("mmgc is not installed beside this Python")
    return lambda *arguments, **settings: run(*WAYS[request.param], *arguments, **settings)


def test_the_list_of_commands(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        commands.start(["mmgc", *arguments])
        lines = capsys.readouterr().out.splitlines()
        listed = [line for line in lines if line.startswith("  ")]
        assert [line.split()[0] for line in listed] == list(commands.DOORS)
        assert all(f"  mmgc {line.split()[0]} " in line for line in listed)  # an example
        assert max(map(len, lines)) <= 100
        for name, door in commands.DOORS.items():
            summary = commands._summary(door.module)
            assert len(summary) > 10 and f"  {name:<9}{summary} " in "\n".join(listed)


def test_the_list_is_shown_however_it_is_started():
    listed = run(sys.executable, "-m", "mmgc_jax")
    assert listed.returncode == 0 and listed.stderr == ""
    if SCRIPT.exists():
        assert run(SCRIPT).stdout == listed.stdout


def test_the_list_may_have_no_reader():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as closed:
        listed = subprocess.run(
            [sys.executable, "-m", "mmgc_jax"], cwd=tiny.ROOT, stdout=closed, stderr=subprocess.PIPE
        )
    assert listed.returncode == 141 and listed.stderr == b""


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("tran", "'tran' is not a command. Did you mean train?"),
        ("--workdir=x", "'--workdir=x' is not a command. Possible: train, predict, explain, "),
    ],
)
def test_a_misspelt_command(capsys, argument, answer):
    with pytest.raises(SystemExit) as stop:
        commands.start(["mmgc", argument])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {answer}") and err.count("\n") == 1


def test_help_lists_examples_flags_and_configs(train):
    helped = train("--help")
    assert helped.returncode == 0 and helped.stderr == ""
    assert "mmgc train --config=talk --workdir=runs/talk \\\n" in helped.stdout
    for text in ("--workdir=...", "(default: demo)", "--[no]help_config", "  talk_comparisons "):
        assert text in helped.stdout


@pytest.mark.parametrize(
    "config",
    [["--config=talk"], pytest.param(["--config", "configs/talk.py"], marks=pytest.mark.slow)],
)
def test_help_config_lists_the_fields_without_a_workdir(train, config):
    listed = train(*config, "--help_config", "--config.plot.model.hidden=99")
    assert listed.returncode == 0 and listed.stderr == ""
    assert "\n--config.plot.model.hidden=99  (int)\n" in listed.stdout
    assert listed.stdout.startswith("--config.seed=0  (int)\n      ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--config.fodls=3"], "--config.fodls=3: config has no field fodls. Did you mean config."),
        (["--config=tlak"], "--config=tlak: there is no such config. Did you mean --config=talk?"),
        (["--wrkdir=3"], "--wrkdir is no flag. Did you mean --workdir?"),
        (["--config.folds", "x", "--config", "talk"], "--config.folds=x: an integer is needed."),
        (["runs"], "'runs' is not a flag. Flags begin with --; see --help."),
    ],
)
def test_a_mistake_is_one_line_with_status_2(arguments, answer):
    ended = run(*WAYS["package"], "--workdir=/nowhere/run", *arguments)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: {answer}")
    assert len(ended.stderr.splitlines()) == 1


def test_a_workdir_is_needed(train):
    ended = train()
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "error: --workdir is missing. Give --workdir=PATH: folder for all files of the run;"
    )


def test_a_misspelt_workdir_is_named_as_such():
    ended = run(*WAYS["module"], "--workdri=runs/x", "--config.folds", "3")
    assert ended.returncode == 2
    assert ended.stderr == "error: --workdri is no flag. Did you mean --workdir?\n"


@pytest.mark.slow
def test_modules_of_the_current_folder_are_found(train, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from mmgc_jax.configs import demo\nimport helper\n"
        "def get_config():\n    return helper.changed(demo.get_config())\n"
    )
    (tmp_path / "helper.py").write_text("def changed(c):\n    c.folds = 7\n    return c\n")
    listed = train("--config=mine.py", "--help_config", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "--config.folds=7  (int)" in listed.stdout


def test_the_package_offers_the_predictor_and_nothing_that_it_lacks():
    assert mmgc_jax.Predictor is Predictor
    with pytest.raises(AttributeError, match="has no attribute 'Predicter'"):
        mmgc_jax.Predicter  # noqa: B018
