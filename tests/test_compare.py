"""Finished experiments are compared on the command line."""

import json
import subprocess
import sys

import ml_collections
import pytest

from mmgc_jax import compare
from mmgc_jax.encoders import fusion, plot_lstm, poster_vgg16
from mmgc_jax.runtime.errors import InputError

NAMES = ("words", "cover", "fusion", "fusion_gated")


def write(workdir, seed, aucs):
    """Writes the config and the cross-validation of a finished experiment."""
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
    row = {"movies": 50, "genres_counted": 23, "genres_counted_most": 24}
    for name in ("auc_macro", "auc_micro", "map", "f1_micro", "f1_macro"):
        row |= {name: 0.5, f"{name}_std": 0.5}
    figures = {
        name + suffix: row | {"auc_macro": auc}
        for suffix in ("", "_both")
        for name, auc in zip(NAMES, aucs)
    }
    workdir.mkdir()
    (workdir / "config.json").write_text(config.to_json())
    (workdir / "results.json").write_text(json.dumps({"cross_validation": figures}))
    return workdir


def test_the_table_of_two_seeds(tmp_path):
    one = write(tmp_path / "a", 0, (0.80, 0.7, 0.90, 0.8))
    other = write(tmp_path / "b", 1, (0.84, 0.7, 0.90, 0.8))
    lines = compare.compare([one, other]).splitlines()
    plot = plot_lstm.title(plot_lstm.default_settings())
    poster = poster_vgg16.title(poster_vgg16.default_settings())
    for line, title in zip(lines[2:6], (plot, poster, "Fusion", "Fusion: gated")):
        assert line.startswith(f"  {title} ")
    assert lines[2].removeprefix(f"  {plot}").split()[:3] == ["50", "0.820", "0.028"]
    assert "mean over 2 seeds" in lines[-2]
    assert lines[-1].startswith(f"Fusion gains 0.080 macro AUC over the best single model, {plot}")


def test_a_config_of_another_version_is_refused(tmp_path):
    workdirs = [write(tmp_path / name, seed, [0.5] * 4) for seed, name in enumerate("ab")]
    for workdir in workdirs:
        config = json.loads((workdir / "config.json").read_text())
        del config["words"]["kind"]
        (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"a/config.json is not a config of this version.*kind"):
        compare.compare(workdirs)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    workdirs = [write(tmp_path / name, seed, [0.5] * 4) for seed, name in enumerate("ab")]
    command = [sys.executable, "-m", "mmgc_jax.compare"]
    done = subprocess.run([*command, *workdirs], capture_output=True, text=True, check=True)
    assert done.stdout == compare.compare(workdirs) + "\n"
    failed = subprocess.run([*command, workdirs[0]], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: Give the working directories of at least two")
