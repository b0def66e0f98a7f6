"""Experiments that differ only in their seed are averaged; others are refused."""

import json

import pytest

from mmgc_jax.evaluation import seeds
from mmgc_jax.runtime.errors import InputError


def write(workdir, seed, plot, fusion, directory="", **settings):
    """Writes the config and the cross-validation of a finished experiment."""

    def figures(auc):
        row = {"movies": 50, "genres_counted": 23, "genres_counted_most": 24}
        for name in ("auc_macro", "auc_micro", "map", "f1_micro", "f1_macro"):
            row |= {name: auc, f"{name}_std": 0.5}  # over the folds, which is not used here
        return row

    models = {"plot": plot, "fusion": fusion, "plot_both": plot, "fusion_both": fusion + 0.01}
    workdir.mkdir()
    content = {"cross_validation": {name: figures(auc) for name, auc in models.items()}}
    (workdir / "results.json").write_text(json.dumps(content))
    config = {"seed": seed, "data": {"directory": directory}, "plot": {"hidden": 32} | settings}
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def test_means_and_deviations_over_the_experiments(tmp_path):
    workdirs = [
        write(tmp_path / "a", 0, 0.80, 0.90),
        write(tmp_path / "b", 1, 0.84, 0.90, directory="shards"),
        write(tmp_path / "c", 2, 0.88, 0.93),
    ]
    averaged = seeds.average(workdirs)
    assert averaged["plot"]["auc_macro"] == pytest.approx(0.84)
    assert averaged["plot"]["auc_macro_std"] == pytest.approx(0.04)
    assert averaged["fusion_both"]["auc_macro"] == pytest.approx(0.92)
    assert averaged["fusion_both"]["auc_macro_std"] == pytest.approx(0.03 / 3**0.5)
    assert averaged["plot"]["genres_counted_most"] == 24


def test_models_and_figures_that_one_experiment_lacks_are_left_out(tmp_path):
    workdirs = [write(tmp_path / "a", 0, 0.80, 0.90), write(tmp_path / "b", 1, 0.84, 0.90)]
    content = json.loads((workdirs[1] / "results.json").read_text())
    del content["cross_validation"]["plot_both"]
    del content["cross_validation"]["plot"]["map"], content["cross_validation"]["plot"]["map_std"]
    (workdirs[1] / "results.json").write_text(json.dumps(content))
    averaged = seeds.average(workdirs)
    assert averaged.keys() == {"plot", "fusion", "fusion_both"}
    assert "map" not in averaged["plot"] and "map" in averaged["fusion"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 0}, "same seed"),
        ({"seed": 1, "hidden": 64}, r"differs from \S*a in plot.hidden, not"),
    ],
)
def test_other_differences_are_refused(tmp_path, second, message):
    workdirs = [
        write(tmp_path / "a", 0, 0.8, 0.9),
        write(tmp_path / "b", plot=0.8, fusion=0.9, **second),
    ]
    with pytest.raises(InputError, match=message):
        seeds.average(workdirs)


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_an_unfinished_or_damaged_experiment_is_refused(tmp_path, name):
    workdirs = [write(tmp_path / "a", 0, 0.8, 0.9), write(tmp_path / "b", 1, 0.8, 0.9)]
    (workdirs[1] / name).write_text("{")
    with pytest.raises(InputError, match=rf"b/{name} is not JSON"):
        seeds.average(workdirs)
    (workdirs[1] / name).unlink()
    with pytest.raises(InputError, match="b must be the working directory of a finished"):
        seeds.average(workdirs)


def test_one_experiment_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least two"):
        seeds.average([write(tmp_path / "a", 0, 0.8, 0.9)])
