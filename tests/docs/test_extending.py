"""The encoder of docs/extending.md goes through train and predict, as the page says."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from tests.docs import pages

PAGE = pages.ROOT / "docs" / "extending.md"
# The page trains on the demo's movies; a test takes fewer, and less time.
FASTER = (
    "--config.data.synthetic.train=200",
    "--config.data.synthetic.validation=60",
    "--config.data.synthetic.test=60",
    "--config.plot.training.epochs=1",
    "--config.plot.vectors.epochs=2",
    "--config.poster.training.epochs=1",
)


def run(command: pages.Command, folder: pathlib.Path) -> subprocess.CompletedProcess:
    program = ["-m", "mmgc_jax"] if command.words[0] == "mmgc" else []
    faster = FASTER if "train" in command.words else ()
    return subprocess.run(
        [sys.executable, *program, *command.words[1:], *faster],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_encoder_of_the_page_is_trained_and_predicts(tmp_path):
    for block in pages.blocks(PAGE):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    commands = [
        command
        for command in dict.fromkeys(pages.commands(PAGE))
        if any("my_config" in word or "my_encoder" in word for word in command.words)
    ]
    assert {command.words[1] for command in commands} == {"train", "predict"}
    for command in commands:
        finished = run(command, tmp_path)
        assert finished.returncode == 0, (command.words, finished.stderr)
        if "train" in command.words:
            assert "--encoder_modules=my_encoder" in finished.stdout.splitlines()[-2]
    for workdir in sorted((tmp_path / "runs").iterdir()):
        results = json.loads((workdir / "results.json").read_text())
        assert 0 < results["test"]["hashed"]["auc_macro"] < 1


def test_the_changes_that_the_page_shows_fit_the_files():
    for block in pages.blocks(PAGE):
        source = ""
        for line in block.text.splitlines() if block.language == "diff" else ():
            if line.startswith("+++ "):
                source = (pages.ROOT / line[4:]).read_text(encoding="utf-8")
            elif line.startswith("@@ "):
                assert re.search(re.escape(line[3:].removesuffix("(...)")), source), line
            elif line.strip() != "..." and not line.startswith(("+", "---")):
                assert f"\n{line[1:]}\n" in source, line
