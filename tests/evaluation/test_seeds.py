"""Experiments that differ in their seed become means and deviations."""

import json

import pytest

from mmgc_jax.evaluation import seeds
from mmgc_jax.runtime.errors import InputError


def write(workdir, seed, plot, fusion, **config):
    """A finished experiment, as far as its figures go."""

    def figures(auc):
        row = {"movies": 50, "genres_counted": 23, "genres_counted_most": 24}
        for name in ("auc_macro", "auc_micro", "map", "f1_micro", "f1_macro"):
            row |= {name: auc, f"{name}_std": 0.5}  # over the folds, which is not asked for here
        return row

    stages = {"plot": plot, "fusion": fusion, "plot_both": plot, "fusion_both": fusion + 0.01}
    workdir.mkdir()
    content = {"cross_validation": {stage: figures(auc) for stage, auc in stages.items()}}
    (workdir / "results.json").write_text(json.dumps(content))
    config = {"seed": seed, "plot": {"hidden": 32} | config}
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def test_means_and_deviations_over_the_experiments(tmp_path, capsys):
    workdirs = [
        write(tmp_path / "a", 0, 0.80, 0.90),
        write(tmp_path / "b", 1, 0.84, 0.90),
        write(tmp_path / "c", 2, 0.88, 0.93),
    ]
    averaged = seeds.average(workdirs)
    assert averaged["plot"]["auc_macro"] == pytest.approx(0.84)
    assert averaged["plot"]["auc_macro_std"] == pytest.approx(0.04)
    assert averaged["fusion_both"]["auc_macro"] == pytest.approx(0.92)
    assert averaged["fusion_both"]["auc_macro_std"] == pytest.approx(0.03 / 3**0.5)

    seeds.main(["seeds", *map(str, workdirs)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[2:5] == ["50", "0.840", "0.040"]
    assert "mean over 3 seeds" in lines[-2]
    assert lines[-1].startswith("Fusion gains 0.080")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 0}, "same seed"),
        ({"seed": 1, "hidden": 64}, r"differs from \S*a in plot.hidden, not"),
    ],
)
def test_others_are_not_averaged(tmp_path, second, message):
    workdirs = [
        write(tmp_path / "a", 0, 0.8, 0.9),
        write(tmp_path / "b", plot=0.8, fusion=0.9, **second),
    ]
    with pytest.raises(InputError, match=message):
        seeds.average(workdirs)


def test_what_has_not_finished_is_refused(tmp_path, capsys):
    workdir = write(tmp_path / "a", 0, 0.8, 0.9)
    with pytest.raises(SystemExit):
        seeds.main(["seeds", str(workdir)])
    assert "at least two" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="b is not the working directory of a finished"):
        seeds.average([workdir, tmp_path / "b"])
