"""Tests that an encoder from outside the package works with all commands."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from mmgc_jax.deployment.model import Model
from tests import tiny


def run(door, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"mmgc_jax.{door}", *map(str, arguments)],
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_an_encoder_of_ones_own_in_training_prediction_and_tables(inputs, tmp_path):
    workdir, table = tmp_path / "run", inputs[0] / "movies.csv"
    trained = run("main", "--config=tests/toy_config.py", f"--workdir={workdir}",
                  f"--config.data.path={inputs[0]}")  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    for title in ("Plot (length up to 100)", "Plot (length up to 5)", "Fusion"):
        assert f"  {title}" in trained.stdout
    results = json.loads((workdir / "results.json").read_text())
    assert 0 < results["validation"]["short_length"]["auc_macro"] < 1

    module = "--encoder_modules=tests.toy_encoder"
    output = tmp_path / "probs.csv"
    predict = f"--workdir={workdir}", f"--movies={table}", f"--output={output}"
    predicted = run("predict", *predict, module, "--stage=length")
    assert predicted.returncode == 0, predicted.stderr
    assert len(list(csv.reader(output.open()))) == 91

    exported = run("export", f"--workdir={workdir}", f"--output={tmp_path / 'exported'}", module)
    assert exported.returncode == 0, exported.stderr
    plots = [row["plot"] for row in csv.DictReader(table.open())][:20]
    model = Model(tmp_path / "exported")
    found = model([{"plot": plot} for plot in plots], "length")
    rows = list(csv.reader(output.open()))[1:21]
    np.testing.assert_allclose(found, np.float64([row[1:] for row in rows]), atol=1e-5)

    # A working directory must not decide what code is run.
    refused = run("predict", *predict)
    assert refused.returncode == 2
    assert "'tests.toy_encoder' is not a kind of encoder" in refused.stderr
    assert "--encoder_modules=MODULE" in refused.stderr


def test_its_mistakes_are_reported_with_those_of_the_others(inputs, tmp_path):
    refused = run("main", "--config=tests/toy_config.py", f"--workdir={tmp_path / 'run'}",
                  f"--config.data.path={inputs[0]}", "--config.length.longest=0",
                  "--config.folds=1")  # fmt: skip
    assert refused.returncode == 2
    assert "config.length.longest is 0; a whole number of at least 1" in refused.stderr
    assert "config.folds is 1" in refused.stderr
