"""Runs are grouped and averaged over their seeds, and compared pair by pair."""

import json

import numpy as np
import pytest

from mmgc_jax.evaluation import bootstrap, comparison, metrics, saved
from mmgc_jax.runtime.errors import InputError

GENRES = ["Drama", "War", "Comedy"]


def write(folder, seed, plot, fusion, directory="", inputs=None, **settings):
    """Writes the config and the figures of a finished experiment."""

    def figures(auc):
        row = {"movies": 50, "genres_counted": 23, "genres_steady": 17}
        row |= {"per_genre": {}, "thresholds": {}, "f1_macro_std": 0.5}  # not used
        names = ("auc_macro", "auc_steady", "auc_micro", "map", "f1_micro", "f1_macro")
        return row | dict.fromkeys(names, auc)

    models = {"plot": plot, "fusion": fusion, "plot_both": plot, "fusion_both": fusion + 0.01}
    folder.mkdir()
    of_split = {name: figures(auc) for name, auc in models.items()}
    content = {"cross_validation": of_split, "validation": of_split}
    (folder / "results.json").write_text(json.dumps(content))
    config = {"seed": seed, "data": {"directory": directory}, "plot": {"hidden": 32} | settings}
    (folder / "config.json").write_text(json.dumps(config))
    if inputs:
        (folder / "inputs.json").write_text(json.dumps(inputs))
    return folder


def groups_of(*folders):
    return comparison.group(comparison.read(folders))


def test_means_and_deviations_over_the_seeds(tmp_path):
    [group] = groups_of(
        write(tmp_path / "a", 0, 0.80, 0.90),
        write(tmp_path / "b", 1, 0.84, 0.90, directory="shards"),
        write(tmp_path / "c", 2, 0.88, 0.93),
    )
    averaged = comparison.average(group, "cross_validation")
    assert averaged["plot"]["auc_macro"] == pytest.approx(0.84)
    assert averaged["plot"]["auc_macro_std"] == pytest.approx(0.04)
    assert averaged["fusion_both"]["auc_macro"] == pytest.approx(0.92)
    assert averaged["fusion_both"]["auc_macro_std"] == pytest.approx(0.03 / 3**0.5)
    assert averaged["plot"]["map_std"] == pytest.approx(0.04)
    assert averaged["plot"]["f1_macro_std"] == pytest.approx(0.04)
    counts = {name: averaged["plot"][name] for name in ("genres_counted", "genres_steady")}
    assert counts == {"genres_counted": 23, "genres_steady": 17}
    assert "per_genre" not in averaged["plot"] and "genres_steady_std" not in averaged["plot"]


def test_of_one_run_there_is_no_deviation_over_seeds(tmp_path):
    one, other = groups_of(
        write(tmp_path / "a", 0, 0.8, 0.9), write(tmp_path / "b", 0, 0.7, 0.9, hidden=64)
    )
    averaged = comparison.average(other, "cross_validation")
    assert averaged["plot"]["auc_macro"] == 0.7
    assert not any(name.endswith("_std") for name in averaged["plot"])
    fields = comparison.fields_that_differ(one.runs[0], other.runs[0])
    assert fields == {"plot.hidden": (32, 64)}


def test_models_and_figures_that_one_run_lacks_are_left_out(tmp_path):
    folders = [write(tmp_path / "a", 0, 0.80, 0.90), write(tmp_path / "b", 1, 0.84, 0.90)]
    content = json.loads((folders[1] / "results.json").read_text())
    del content["cross_validation"]["plot_both"], content["cross_validation"]["plot"]["map"]
    content["cross_validation"]["plot"]["f1_macro"] = None
    (folders[1] / "results.json").write_text(json.dumps(content))
    [group] = groups_of(*folders)
    averaged = comparison.average(group, "cross_validation")
    assert averaged.keys() == {"plot", "fusion", "fusion_both"}
    assert "map" not in averaged["plot"] and "map" in averaged["fusion"]
    assert np.isnan(averaged["plot"]["f1_macro"])


def test_runs_of_other_movies_or_configs_are_other_groups(tmp_path):
    groups = groups_of(
        write(tmp_path / "a", 0, 0.8, 0.9, inputs={"movies": "talk-1"}),
        write(tmp_path / "b", 0, 0.8, 0.9, inputs={"movies": "talk-1"}, hidden=64),
        write(tmp_path / "c", 0, 0.8, 0.9, inputs={"movies": "talk-2"}),
        write(tmp_path / "d", 1, 0.8, 0.9, inputs={"movies": "talk-1"}),
    )
    names = [[run.folder.name for run in group.runs] for group in groups]
    assert names == [["a", "d"], ["b"], ["c"]]
    a, _, c = (group.runs[0] for group in groups)
    assert comparison.fields_that_differ(a, c) == {"inputs.movies": ("talk-1", "talk-2")}


def test_a_section_that_one_run_lacks_is_one_field(tmp_path):
    folders = [write(tmp_path / "a", 0, 0.8, 0.9), write(tmp_path / "b", 0, 0.8, 0.9)]
    config = json.loads((folders[1] / "config.json").read_text())
    config["words"] = config.pop("plot") | {"kind": "plot_lstm", "model": {"hidden": 8}}
    (folders[1] / "config.json").write_text(json.dumps(config))
    one, other = comparison.read(folders)
    fields = comparison.fields_that_differ(one, other)
    assert fields == {"plot": ("a section", None), "words": (None, "a section")}


def test_the_same_seed_twice_is_refused(tmp_path):
    folders = [write(tmp_path / "a", 0, 0.8, 0.9), write(tmp_path / "b", 0, 0.8, 0.9)]
    with pytest.raises(InputError, match=r"a and \S*b have the same config and the same seed"):
        groups_of(*folders)


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_an_unfinished_or_damaged_run_is_refused(tmp_path, name):
    folders = [write(tmp_path / "a", 0, 0.8, 0.9), write(tmp_path / "b", 1, 0.8, 0.9)]
    (folders[1] / name).write_text("{")
    with pytest.raises(InputError, match=rf"b/{name} is not JSON"):
        comparison.read(folders)
    (folders[1] / name).write_text("[]")
    with pytest.raises(InputError, match=rf"b/{name} is not that of an experiment"):
        comparison.read(folders)
    (folders[1] / name).unlink()
    with pytest.raises(InputError, match="b must be the working directory of a finished"):
        comparison.read(folders)


def test_figures_of_earlier_versions_are_refused(tmp_path):
    folder = write(tmp_path / "a", 0, 0.8, 0.9)
    content = json.loads((folder / "results.json").read_text())
    del content["validation"]["fusion"]["auc_steady"]
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a/results\.json was written by an earlier version"):
        comparison.read([folder])


def test_one_run_is_read_and_none_is_refused(tmp_path):
    [run] = comparison.read([write(tmp_path / "a", 0, 0.8, 0.9)])
    assert run.folder == tmp_path / "a"
    with pytest.raises(InputError, match="Give the working directory of an experiment"):
        comparison.read([])


def test_the_split_is_one_that_all_runs_have(tmp_path):
    folders = [write(tmp_path / "a", 0, 0.8, 0.9), write(tmp_path / "b", 1, 0.8, 0.9)]
    runs = comparison.read(folders)
    assert comparison.common_split(runs) == "cross_validation"
    assert comparison.common_split(runs, "validation") == "validation"
    with pytest.raises(InputError, match="a has no figures of test; it has: cross_validation, v"):
        comparison.common_split(runs, "test")
    scored = runs[0]._replace(results={"scored": {}})
    with pytest.raises(InputError, match=r"no split in common: \S*a has scored; \S*b has cross_"):
        comparison.common_split([scored, runs[1]])


def predictions(shift, split="validation", seed=0, order=None):
    """Predictions for 80 movies; a model is better with a larger shift."""
    rng = np.random.default_rng(0)
    labels = rng.uniform(size=(80, 3)) < 0.4
    scores = rng.normal(labels * shift) + np.random.default_rng(seed).normal(0, 0.01, (80, 3))
    made = saved.Saved(
        ids=np.array([f"movie {i}" for i in range(80)]),
        split=np.array([split] * 79 + ["test"]),
        folds=np.arange(80) % 2 if split == saved.CROSS_VALIDATION else np.full(80, -1),
        genres=np.array(GENRES),
        labels=labels,
        both=np.arange(80) % 4 > 0,
        models=np.array(["plot", "fusion"]),
        present=np.array([np.arange(80) % 8 > 0, np.ones(80, bool)]),
        probabilities=np.float32(1 / (1 + np.exp(-np.stack([scores / 2 - 1, scores])))),
        thresholds=np.full((2, 3), 0.4),
    )
    if order is None:
        return made
    of_movies = {
        name: getattr(made, name)[order] for name in ("ids", "split", "folds", "labels", "both")
    }
    return made._replace(
        **of_movies,
        present=made.present[:, order],
        probabilities=made.probabilities[:, order],
    )


def run_with(folder, made, seed=0, **settings):
    """Writes a run, with the figures of its predictions."""
    write(folder, seed, 0.5, 0.5, **settings)
    content = {}
    for split in sorted(set(made.split.tolist()) - {"test"}):
        content[split] = {}
        for index, name in enumerate(made.models.tolist()):
            for suffix, where in (("", np.ones(80, bool)), ("_both", made.both)):
                rows = (made.split == split) & made.present[index] & where
                folds = made.folds[rows] if split == saved.CROSS_VALIDATION else None
                figures = metrics.evaluate(
                    made.labels[rows], made.probabilities[index, rows], GENRES, folds=folds
                )
                content[split][name + suffix] = figures
    (folder / "results.json").write_text(json.dumps(content))
    saved.save(folder / saved.FILE, made)
    return folder


def test_differences_are_paired_by_ids(tmp_path):
    order = np.random.default_rng(1).permutation(80)
    a, b = groups_of(
        run_with(tmp_path / "a", predictions(1.0)),
        run_with(tmp_path / "b", predictions(2.0, order=order), hidden=64),
    )
    intervals = comparison.Intervals("validation", 400)
    found = intervals.differences(b, a, "plot")
    one, other = (predictions(shift) for shift in (1.0, 2.0))
    rows = np.flatnonzero((one.split == "validation") & one.present[0])
    rows = rows[np.argsort(one.ids[rows])]
    aucs = [metrics.auc_macro(p.labels[rows], p.probabilities[0, rows]) for p in (one, other)]
    assert found["auc_macro"].value == pytest.approx(aucs[1] - aucs[0])
    values = bootstrap.figures_of_resamples(
        [bootstrap.Resampled(p.labels[rows], p.probabilities[0, rows]) for p in (one, other)], 400
    )
    expected = bootstrap.interval(values[1]["auc_macro"] - values[0]["auc_macro"])
    assert found["auc_macro"][1:] == pytest.approx(expected)
    assert found["auc_macro"].low > 0

    both = intervals.differences(b, a, "plot_both")
    assert both["map"].value != found["map"].value
    back = intervals.differences(a, b, "plot")
    assert back["auc_macro"].value == pytest.approx(-found["auc_macro"].value)
    assert back["auc_macro"].low == pytest.approx(-found["auc_macro"].high)


def test_seeds_of_a_group_are_averaged_before_they_are_paired(tmp_path):
    a, b = groups_of(
        run_with(tmp_path / "a", predictions(1.0), seed=0),
        run_with(tmp_path / "b", predictions(1.6, seed=1), seed=1),
        run_with(tmp_path / "c", predictions(1.3), hidden=64),
    )
    assert len(a.runs) == 2
    found = comparison.Intervals("validation", 400).differences(a, b, "fusion")
    means = [comparison.average(group, "validation")["fusion"]["map"] for group in (a, b)]
    assert found["map"].value == pytest.approx(means[0] - means[1])
    assert found["map"].low < found["map"].value < found["map"].high


def test_cross_validation_is_judged_within_folds(tmp_path):
    a, b = groups_of(
        run_with(tmp_path / "a", predictions(1.0, saved.CROSS_VALIDATION)),
        run_with(tmp_path / "b", predictions(2.0, saved.CROSS_VALIDATION), hidden=64),
    )
    intervals = comparison.Intervals(saved.CROSS_VALIDATION)
    sample = intervals._sample(a.runs[0], "fusion")
    found = sample.resampled(np.ones((79, 1), np.int32))["auc_macro"][0]
    made = predictions(1.0)
    judged = made.labels[:79], made.probabilities[1, :79]
    within = metrics.auc_macro(*judged, np.arange(79) % 2)
    assert found == pytest.approx(within) != pytest.approx(metrics.auc_macro(*judged))
    assert intervals.differences(b, a, "fusion")["auc_macro"].low > 0


@pytest.mark.parametrize("split", ["validation", saved.CROSS_VALIDATION])
def test_figures_have_intervals_by_bootstrap_over_their_movies(tmp_path, split):
    made = predictions(1.0, split)
    [group] = groups_of(run_with(tmp_path / "a", made))
    found = comparison.Intervals(split, 400, seed=3).figures(group, "plot_both")
    assert tuple(found) == comparison.FIGURES == ("auc_macro", "auc_steady", "map", "f1_macro")
    rows = np.flatnonzero((made.split == split) & made.present[0] & made.both)
    rows = rows[np.argsort(made.ids[rows])]
    folds = made.folds[rows] if split == saved.CROSS_VALIDATION else None
    judged = made.labels[rows], made.probabilities[0, rows]
    [values] = bootstrap.figures_of_resamples(
        [bootstrap.Resampled(*judged, folds=folds)], 400, seed=3
    )
    figures = metrics.evaluate(*judged, GENRES, folds=folds)
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(figures[name])
        assert estimate[1:] == pytest.approx(bootstrap.interval(values[name]))
        assert estimate.low < estimate.value < estimate.high


def test_figures_of_several_seeds_are_averaged_in_each_resample(tmp_path):
    parts = [predictions(1.0), predictions(1.6, seed=1)]
    [group] = groups_of(
        *(run_with(tmp_path / str(n), made, seed=n) for n, made in enumerate(parts))
    )
    found = comparison.Intervals("validation", 400).figures(group, "fusion")["map"]
    rows = np.argsort(parts[0].ids[:79])
    judged = [bootstrap.Resampled(p.labels[rows], p.probabilities[1, rows]) for p in parts]
    values = [of["map"] for of in bootstrap.figures_of_resamples(judged, 400)]
    assert found[1:] == pytest.approx(bootstrap.interval(np.mean(values, axis=0)))
    means = [metrics.evaluate(p.labels[:79], p.probabilities[1, :79], GENRES) for p in parts]
    assert found.value == pytest.approx((means[0]["map"] + means[1]["map"]) / 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda p: p._replace(genres=np.array(["Drama", "War", "Crime"])),
            "b has other genres than",
        ),
        (
            lambda p: p._replace(ids=np.char.replace(p.ids, "movie 7", "film 7")),
            "b has judged other movies than .*a: 79 and 79, and 69 are in both",
        ),
        (
            lambda p: p._replace(labels=p.labels ^ (np.arange(80) == 5)[:, None]),
            "1 of the 79 movies have other genres in .*b than in .*a",
        ),
        (lambda p: p._replace(models=np.array(["plot", "other"])), "of .*b lacks fusion"),
        (lambda p: None, "b has no predictions.npz, as earlier versions did not write it; running"),
    ],
    ids=["genres", "ids", "labels", "models", "file"],
)
def test_other_movies_or_labels_have_no_interval(tmp_path, change, reason):
    made = predictions(1.0)
    a, b = groups_of(run_with(tmp_path / "a", made), run_with(tmp_path / "b", made, hidden=64))
    (tmp_path / "b" / saved.FILE).unlink()
    if (other := change(made)) is not None:
        saved.save(tmp_path / "b" / saved.FILE, other)
    with pytest.raises(comparison.NotPaired, match=reason) as caught:
        comparison.Intervals("validation", 100).differences(b, a, "fusion")
    comparable = "lacks fusion" in reason or "has no predictions" in reason
    assert isinstance(caught.value, comparison.OtherMovies) != comparable


@pytest.mark.parametrize("movies", [0, 29])
def test_with_few_movies_there_is_no_interval(tmp_path, movies):
    made = predictions(1.0)._replace(both=np.arange(80) < movies)
    a, b = groups_of(run_with(tmp_path / "a", made), run_with(tmp_path / "b", made, hidden=64))
    with pytest.raises(comparison.NotPaired, match=f"too few movies, {movies}$"):
        comparison.Intervals("validation", 100).differences(b, a, "fusion_both")
    with pytest.raises(comparison.NotPaired, match=f"too few movies, {movies}$"):
        comparison.Intervals("validation", 100).figures(a, "fusion_both")


def test_the_gain_of_a_model_has_a_paired_interval(tmp_path):
    folder = write(tmp_path / "a", 0, 0.8, 0.9)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 3)).astype(bool)
    noise = rng.normal(size=(2, 200, 3))
    plot = noise[0] + labels
    probabilities = np.float32(np.stack([plot, plot + 0.01 * noise[1] + 0.5 * labels]))
    saved.save(
        folder / saved.FILE,
        saved.Saved(
            ids=np.arange(200).astype(str),
            split=np.full(200, "validation"),
            folds=np.full(200, -1),
            genres=np.array(GENRES),
            labels=labels,
            both=np.ones(200, bool),
            models=np.array(["plot", "fusion"]),
            present=np.ones((2, 200), bool),
            probabilities=probabilities,
            thresholds=np.full((2, 3), 0.5),
        ),
    )
    [run] = comparison.read([folder])
    intervals = comparison.Intervals("validation")
    gain = intervals.gain(run, "fusion_both", "plot_both")["auc_macro"]
    assert gain.value == pytest.approx(0.11)
    alone = intervals.figures(comparison.Group([run]), "plot_both")["auc_macro"]
    # Both models have judged the same movies, so the gain varies less than a figure.
    assert 0 < gain.low < gain.high < 0.2
    assert gain.high - gain.low < alone.high - alone.low
