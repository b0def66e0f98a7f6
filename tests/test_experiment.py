"""Tests of whole experiments on synthetic movies: all steps, interruptions, mistakes of users."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import types

import jax
import numpy as np
import optax
import pytest

from mmgc_jax import Movie, experiment, explanations, settings
from mmgc_jax.answers import predict, write_csv
from mmgc_jax.configs import demo
from mmgc_jax.data import mmimdb, talk
from mmgc_jax.data.mmimdb import GENRES as MMIMDB_GENRES
from mmgc_jax.data.movies import GENRES
from mmgc_jax.encoders import plot_bag_of_words
from mmgc_jax.evaluation import bootstrap, metrics, saved
from mmgc_jax.evaluation.tables import interval_note
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import files, workdir
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import loop
from mmgc_jax.training.run import TrainingRun
from tests import tiny, tiny_bert


def start(inputs, workdir, *further):
    return subprocess.run(
        tiny.command(workdir, *inputs, *further), cwd=tiny.ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_an_experiment_writes_the_documented_files(finished):
    workdir, run = finished.workdir, finished.run
    results = json.loads((workdir / "results.json").read_text())
    assert list(results) == ["cross_validation", "validation", "missing_modalities"]
    stages = {"plot", "poster", "poster_grey", "fusion"}
    for split in ("cross_validation", "validation"):
        assert set(results[split]) == stages | {f"{stage}_both" for stage in stages}
        for figures in results[split].values():
            assert figures["movies"] > 0
            assert 0 <= figures["auc_macro"] <= 1
            assert set(figures["per_genre"]) == set(GENRES)
    for modality, spared in (("plot", "poster"), ("poster", "plot")):
        curves = results["missing_modalities"][modality]
        assert list(curves) == [spared, "fusion"]
        assert len(curves["fusion"]) == 5
        assert len(set(curves[spared])) == 1
    for name in (
        "auc_per_genre", "cooccurrence", "f1_per_genre", "learning_curves", "missing_modalities",
        "precision_recall", "reliability", "roc",
    ):  # fmt: skip
        assert (workdir / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    screen = run.stdout.splitlines()
    assert len(screen) <= 40 and screen[0].startswith("validation ")
    assert any(re.match(r"Fusion (gains|loses) \d\.\d{3} macro AUC", line) for line in screen)
    tables = (workdir / "results.txt").read_text().splitlines()
    assert tables[:10] == screen[:10]  # below the rows, long lines are wrapped on the screen
    assert tables[-1].startswith("Word vectors (trained) cover 100.0% of the words in the training")
    assert "Traceback" not in run.stderr
    log = (workdir / "run.log").read_text()
    assert "plot: starting" in log
    assert re.search(r" Command: mmgc train .*--workdir=\S+finished .*--config\.data\.path=", log)
    assert re.search(r" Versions: Python 3\..*, jax \d.*; \w+, \d x \w+", log)
    assert screen[-1] == f"Report:      {files.relative_to_here(workdir / 'report.html')}"
    assert (workdir / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_results_on_movies_with_both_modalities_have_the_same_movies(finished):
    figures = json.loads((finished.workdir / "results.json").read_text())["validation"]
    counts = {figures[f"{stage}_both"]["movies"] for stage in ("plot", "poster", "fusion")}
    assert len(counts) == 1
    assert figures["fusion"]["movies"] > figures["fusion_both"]["movies"]


@pytest.mark.slow
def test_finished_steps_are_skipped(finished, inputs):
    workdir, first = finished.workdir, finished.run
    checkpoint = max(path.stat().st_mtime for path in workdir.glob("checkpoints/**/*"))
    run = start(inputs, workdir)
    assert run.stdout == first.stdout
    assert run.stderr.count("already finished") == 4
    assert max(path.stat().st_mtime for path in workdir.glob("checkpoints/**/*")) == checkpoint


@pytest.mark.slow
def test_fusions_can_be_added_to_a_finished_experiment(finished, inputs, tmp_path):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    run = start(inputs, workdir, "--config.fusion.compare=('gated',)")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("already finished") == 4
    before, after = (
        json.loads((place / "results.json").read_text())["cross_validation"]
        for place in (finished.workdir, workdir)
    )
    assert after.keys() - before.keys() == {"fusion_gated", "fusion_gated_both"}
    assert {stage: after[stage] for stage in before} == before


@pytest.mark.slow
def test_mmimdb_from_its_archive_to_a_table_of_predictions(inputs, tmp_path):
    archive = tiny.write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", tiny.mmimdb_files())
    workdir = tmp_path / "run"
    run = start(
        (archive, inputs[1]),
        workdir,
        "--config.data.source=mmimdb",
        "--config.plot.tokens=mmimdb",
        "--config.encoders=('plot', 'poster')",
        "--config.poster.finetune_from=head",
        "--config.fusion.training.epochs=3",
    )
    assert run.returncode == 0, run.stderr
    listed = json.loads(tiny.mmimdb_files()["split.json"])["test"]
    with_poster = [i for i in listed if f"dataset/{i}.jpeg" in tiny.mmimdb_files()]
    results = json.loads((workdir / "results.json").read_text())
    assert list(results) == ["cross_validation", "validation", "test", "missing_modalities"]
    for stage in ("plot", "poster", "fusion", "fusion_both"):
        figures = results["test"][stage]
        assert tuple(figures["per_genre"]) == MMIMDB_GENRES
        assert figures["movies"] == len(with_poster) < len(listed)
        for average in ("micro", "macro", "weighted", "samples"):
            assert 0 <= figures[f"f1_{average}_tuned"] <= 1
    thresholds = results["validation"]["fusion"]["thresholds"]
    assert tuple(thresholds) == MMIMDB_GENRES
    assert len(set(thresholds.values())) > 2
    tables = (workdir / "results.txt").read_text().split("\n\n")
    assert [table.split("\n")[0].split()[:2] for table in tables] == [
        ["test", "movies"], ["cross-validation", "movies"], ["validation", "movies"],
        ["test,", "F1"], ["test,", "calibration"], ["plots", "missing,"], ["95", "%"],
        ["Word", "vectors"],
    ]  # fmt: skip
    # The screen breaks long lines.
    assert " ".join(run.stdout.split()).startswith(" ".join(tables[0].split()))
    assert ": no poster." in (workdir / "run.log").read_text()

    # The predictor has the same genres, and predictions for the test movies have the same figures.
    predictor = Predictor.load(workdir)
    assert predictor.genres == MMIMDB_GENRES
    read = mmimdb.read(archive)
    movies = [movie for _, movie in sorted(read.with_posters("test"))]
    assert [movie.id for movie in movies] == with_poster
    output = tmp_path / "probs.csv"
    with output.open("wb") as stream:
        write_csv(stream, predict(predictor, movies, "fusion"), predictor.genres)
    header, *rows = csv.reader(output.open())
    assert header == ["ID", *(f"p_{genre}" for genre in MMIMDB_GENRES)]
    probabilities = np.array(rows)[:, 1:].astype(float)
    labels = np.array([[genre in movie.genres for genre in MMIMDB_GENRES] for movie in movies])
    again = metrics.evaluate(labels, probabilities, MMIMDB_GENRES)
    assert again["auc_macro"] == pytest.approx(results["test"]["fusion"]["auc_macro"], abs=2e-3)


@pytest.mark.slow
def test_another_config_is_refused_and_nothing_is_changed(finished, inputs):
    workdir = finished.workdir
    before = (workdir / "results.json").read_bytes()
    run = start(inputs, workdir, "--config.plot.model.hidden=9")
    assert run.returncode == 2
    assert "config.plot.model.hidden: 8 in the folder, 9 now" in run.stderr
    assert "Traceback" not in run.stderr
    assert (workdir / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.source", "talks", "Did you mean 'talk'?"),
        ("data.path", "/nowhere", "no such folder"),
        ("data.path", "", "for source=talk it must be a folder with movies.csv and posters/"),
        ("data.poster_height", 100, "multiple of 32"),
        ("poster.weights", "/nowhere.npz", "no such file"),
        ("poster.weights", "", "config.poster.weights is empty, and finetune_from is 'block5'"),
        ("poster.finetune_from", "block6", "possible: block1"),
        ("poster.dtype", "float8", "possible: float32"),
        ("plot.vectorisation", "magic", "possible: word2vec"),
        ("plot.vectors.file", "/nowhere.bin", "no such file"),
        ("plot.vectors.file", "../nowhere.bin", "../nowhere.bin: no such file."),
        ("plot.pad_to_multiple_of", 0, "at least 1"),
        ("plot.vectors.negative", 0, "at least 1"),
        ("plot.vectors.dim", 0, "at least 1"),
        ("plot.max_vocabulary", 2, "at least 3"),
        ("plot.model.pooling", "median", "possible: last"),
        ("plot.dtype", "float16", "possible: float32, bfloat16"),
        ("folds", 1, "at least 2"),
        ("encoders", ("plot", "postr"), "Did you mean 'poster' for 'postr'?"),
        ("encoders", (), "name at least one of plot, poster, poster_grey"),
        ("encoders", ("plot", 3), "config.encoders is ('plot', 3)"),
        ("seed", -1, "at least 0"),
        ("data.split_seed", 2**32, "at most 4294967295"),
        ("data.max_bad_fraction", 1.5, "below 1"),
        ("poster.crop", float("nan"), "below 1"),
        ("poster_grey.model.hidden", (0,), "whole numbers of at least 1"),
        ("fusion.kind", "magic", "possible: late"),
        ("fusion.compare", ("late", "magic"), "possible: late"),
        ("poster.model.head_blocks", (3, 5), "blocks from 4 to 5 are possible"),
        ("fusion.encoders", ("plot", "sound"), "config.fusion.encoders"),
        ("fusion.encoders", (), "name at least one of plot, poster"),
        ("data.validation_fraction", 1.5, "below 1"),
        ("data.validation_fraction", -0.1, "at least 0"),
        ("plot.model.dropout", 1.0, "below 1"),
        ("plot.training.warmup", -0.1, "at least 0"),
        ("poster.head_training.batch_size", 0, "at least 1"),
        ("poster.model.widths", (4, 4), "a list of 5 whole numbers"),
    ],
)
def test_mistakes_in_a_config_are_found_before_training(inputs, tmp_path, field, value, message):
    config = tiny.config_of(inputs)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=re.escape(message)):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("vectorisation", ["unique_map", "one_hot"])
def test_plots_in_the_other_vectorisations_of_the_talk(inputs, tmp_path, vectorisation):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("plot",)
    config.plot.vectorisation = vectorisation
    results = experiment.run(config, tmp_path)["validation"]
    assert 0 <= results["plot"]["auc_macro"] <= 1
    movies = list(talk.read(str(inputs[0])))
    check_predictions(tmp_path, config, "plot", movies)


@pytest.mark.slow
def test_several_models_for_each_fold(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("plot", "poster")
    config.poster.finetune_from = "head"
    config.plot.models_per_fold = 2
    config.plot.training.learning_rate = 0.05
    experiment.run(config, tmp_path)
    folders = sorted(path.name for path in (tmp_path / "checkpoints" / "plot").iterdir())
    assert folders == ["fold_0", "fold_0_model_1", "fold_1", "fold_1_model_1"]
    kernels = [
        loop.restore_trained(TrainingRun(f"plot/{name}", tmp_path, seed=0))["genres"]["kernel"]
        for name in folders
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2  # other random seeds
    movies = list(talk.read(str(inputs[0])))
    for stage in ("plot", "fusion"):
        check_predictions(tmp_path, config, stage, movies)
    predictor = Predictor.load(tmp_path)
    movie = next(movie for movie in movies if movie.plot and movie.poster)
    explained = explanations.explain(predictor, movie).probabilities
    np.testing.assert_allclose(explained, predictor([movie])[0], atol=1e-6)
    # Without its second models the predictor gives other probabilities.
    rows, expected = tiny.probabilities_in(tmp_path, config, "plot")
    written = json.loads((tmp_path / "config.json").read_text())
    written["plot"]["models_per_fold"] = 1
    (tmp_path / "config.json").write_text(json.dumps(written))
    alone = Predictor.load(tmp_path)([movies[row] for row in rows], "plot")
    assert np.abs(alone - expected).max() > 1e-3


@pytest.mark.slow
def test_an_experiment_without_validation_and_test_split_is_judged_by_cross_validation(
    inputs, tmp_path, capsys
):
    config = tiny.config_of(inputs)
    config.data.validation_fraction = 0.0
    config.encoders = config.fusion.encoders = ("plot", "poster")
    config.poster.finetune_from = "head"
    config.fusion.compare = ("mlp",)
    results = experiment.run(config, tmp_path)
    assert list(results) == ["cross_validation", "missing_modalities"]
    assert json.loads((tmp_path / "results.json").read_text()).keys() == results.keys()
    movies = list(talk.read(str(inputs[0])))
    figures = results["cross_validation"]
    assert figures["fusion"]["movies"] == sum(bool(m.plot or m.poster) for m in movies)

    # All figures are those of the saved predictions, which are calibrated out-of-fold.
    judged = saved.load(tmp_path / saved.FILE)
    assert judged.models.tolist() == ["plot", "poster", "fusion", "fusion_mlp"]
    assert set(judged.split) == {"cross_validation"} and set(judged.folds) == {0, 1}
    for index, name in enumerate(judged.models):
        rows = judged.present[index]
        again = metrics.evaluate(
            judged.labels[rows], judged.probabilities[index, rows], GENRES, folds=judged.folds[rows]
        )
        for figure, value in again.items():
            if figure != "per_genre":
                assert figures[name][figure] == pytest.approx(value, nan_ok=True), (name, figure)

    screen = capsys.readouterr().out.splitlines()
    assert len(screen) <= 40 and screen[0].startswith("cross-validation ")
    tables = (tmp_path / "results.txt").read_text().split("\n\n")
    assert [table.split("\n")[0].split()[:2] for table in tables] == [
        ["cross-validation", "movies"], ["cross-validation,", "F1"],
        ["cross-validation,", "calibration"], ["plots", "missing,"], ["95", "%"],
        ["Word", "vectors"],
    ]  # fmt: skip
    rows = judged.present[2]
    limits = bootstrap.auc_macro_interval(
        judged.labels[rows], judged.probabilities[2, rows], judged.folds[rows]
    )
    note = interval_note("cross_validation", rows.sum(), *limits)
    assert tables[4] == note and note in " ".join(screen)
    assert tables[0].splitlines()[:8] == screen[:8]
    assert len(list((tmp_path / "figures").iterdir())) == 8
    # New movies are decided by thresholds that were tuned on all training movies.
    np.testing.assert_array_equal(Predictor.load(tmp_path).thresholds(), judged.thresholds[2])


def check_predictions(workdir, config, stage, movies):
    """Checks that the predictor gives validation movies the same probabilities as training did."""
    rows, expected = tiny.probabilities_in(workdir, config, stage)
    predicted = Predictor.load(workdir)([movies[row] for row in rows], stage)
    present = np.array([movies[row].plot is not None for row in rows])
    np.testing.assert_allclose(predicted[present], expected[present], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("finetune_from", "family", "pooling"),
    [("layer1", "roberta", "max"), ("layer2", "mpnet", "cls"), ("head", "bert", None)],
)
def test_plots_through_a_transformer(inputs, tmp_path, finetune_from, family, pooling):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("plot_transformer",)
    folder = tiny_bert.write(tmp_path / "bert", 64, family, pooling)
    settings = config.plot_transformer = tiny.transformer_settings(folder)
    settings.max_length, settings.pad_to_multiple_of = 64, 32
    settings.finetune_from, settings.dtype = finetune_from, "float32"
    experiment.run(config, tmp_path / "run")
    movies = list(talk.read(str(inputs[0])))
    shutil.rmtree(tmp_path / "bert")  # prediction needs only the working directory
    check_predictions(tmp_path / "run", config, "plot_transformer", movies)
    predictor = Predictor.load(tmp_path / "run")
    movie = Movie(plot="a heist of two brothers")
    assert explanations.explain(predictor, movie).word_scores.any()
    assert np.linalg.norm(predictor.embed([movie], "plot_transformer")) == pytest.approx(1)


@pytest.mark.slow
def test_encoders_and_fusion_as_one_network(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("plot", "plot_bag_of_words", "poster")
    config.plot_bag_of_words = plot_bag_of_words.default_settings()
    config.plot.models_per_fold = 2
    config.fusion.kind = "joint"
    config.fusion.compare = ("late", "gated")
    results = experiment.run(config, tmp_path)
    for fused in ("fusion", "fusion_late", "fusion_gated"):
        assert 0 <= results["cross_validation"][fused]["auc_macro"] <= 1
        assert len(results["missing_modalities"]["poster"][fused]) == 5
    movies = list(talk.read(str(inputs[0])))
    for stage in ("fusion", "plot_bag_of_words"):
        check_predictions(tmp_path, config, stage, movies)
    # Movies without a poster get the same probabilities with and without other movies.
    predictor = Predictor.load(tmp_path)
    without = [dataclasses.replace(movie, poster=None) for movie in movies if movie.plot][:3]
    # Of two encoders that count words, the one that knows more counts.
    found = {model: predictor.known_words(without[0], model) for model in predictor.models}
    both = (found["plot"], found["plot_bag_of_words"])
    assert found["fusion"] == max(both, key=lambda words: words.known / words.total)
    np.testing.assert_allclose(
        predictor(without), predictor([*without, *movies])[:3], rtol=1e-3, atol=1e-5
    )
    movie = next(movie for movie in movies if movie.plot and movie.poster)
    explanation = explanations.explain(predictor, movie)
    np.testing.assert_allclose(
        explanation.probabilities, predictor([movie])[0], rtol=1e-3, atol=1e-5
    )
    assert set(explanation.evidence) > set(config.encoders) and set(explanation.without)
    assert set(explanation.encoder_words) == {"plot_bag_of_words"}
    before, after = (
        loop.restore_trained(TrainingRun(f"{stage}/fold_0", tmp_path, seed=0))
        for stage in ("poster", "fusion")
    )
    kernel = after["poster"]["vgg16"]["block5_conv1"]["kernel"]
    assert (kernel != before["vgg16"]["block5_conv1"]["kernel"]).any()
    # The network of a fold starts from the first model of the fold, and stays near it.
    plots = {
        name: loop.restore_trained(TrainingRun(f"plot/{name}", tmp_path, seed=0))
        for name in ("fold_0", "fold_0_model_1", "fold_1", "fold_1_model_1")
    }
    for fold in ("fold_0", "fold_1"):
        joint = loop.restore_trained(TrainingRun(f"fusion/{fold}", tmp_path, seed=0))["plot"]
        distances = {
            name: optax.global_norm(jax.tree.map(np.subtract, joint, of_model))
            for name, of_model in plots.items()
        }
        assert min(distances, key=distances.get) == fold


def test_a_missing_transformer_is_an_error(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("plot_transformer",)
    config.plot_transformer = tiny.transformer_settings("/nowhere")
    with pytest.raises(InputError, match=r"config\.plot_transformer\.folder: .*nowhere"):
        experiment.run(config, tmp_path / "run")


def test_weights_of_another_shape_are_refused_before_anything_is_computed(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.poster.weights = str(tiny.write_weights(tmp_path / "w.npz", (4, 4, 8, 8, 9)))
    with pytest.raises(InputError, match=r"block5_conv1/\w+ has the shape"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_after_a_failed_start_another_config_can_be_used(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.data.path = "/nowhere"
    with pytest.raises(InputError, match="no such folder"):
        experiment.run(config, tmp_path / "run")
    workdir.check_unchanged(tmp_path / "run", settings.as_json(tiny.config_of(inputs)))


@pytest.mark.slow
def test_inputs_with_other_content_are_refused(finished, inputs, tmp_path):
    folder = shutil.copytree(finished.workdir, tmp_path / "run")
    weights = tmp_path / "weights.npz"
    written = json.loads((folder / "inputs.json").read_text())
    assert set(written) == {"movies", "poster.weights", "poster_grey.weights"}
    config = json.loads((folder / "config.json").read_text())
    for name in ("poster", "poster_grey"):
        config[name]["weights"] = str(weights)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(inputs[1], weights)
    assert start((inputs[0], weights), folder).returncode == 0  # the same content in another place
    with np.load(inputs[1]) as arrays:
        changed = dict(arrays)
    changed["block1_conv1/bias"] = changed["block1_conv1/bias"] + 1
    np.savez(weights, **changed)
    run = start((inputs[0], weights), folder)
    assert run.returncode == 2
    assert f"inputs.poster.weights: '{written['poster.weights']}' in the folder" in run.stderr


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (1, r"poster: [01] of the train(ing)? movies have a poster"),
        (
            0,
            r"No training movie has a poster, which poster, poster_grey need. Leave it out: "
            r"""--config.encoders="\('plot',\)" --config.fusion.encoders="\('plot',\)"$""",
        ),
    ],
)
def test_too_few_movies_with_a_poster(inputs, tmp_path, kept, message):
    data = tiny.write_talk_folder(tmp_path / "talk", movies=40)
    for poster in sorted((data / "posters").iterdir())[kept:]:
        poster.unlink()
    config = tiny.config_of(inputs)
    config.data.path = str(data)
    with pytest.raises(InputError, match=message):
        experiment.run(config, tmp_path / "run")


def test_missing_column_ends_the_command_without_traceback(tmp_path, inputs):
    data = tiny.write_talk_folder(tmp_path / "talk", movies=3)
    table = (data / "movies.csv").read_text()
    (data / "movies.csv").write_text(table.replace(",genres,", ",kinds,", 1))
    run = start((data, inputs[1]), tmp_path / "run")
    assert run.returncode == 2
    assert "has no column that looks like genres; it has: " in run.stderr
    assert "Traceback" not in run.stderr


def test_best_reachable_auc_ranks_the_modalities():
    config = demo.get_config()
    config.encoders = ("plot", "poster")
    config.data.synthetic = {"seed": 0, "train": 0, "validation": 0, "test": 300}

    corpus = types.SimpleNamespace(ids=[f"test-{number}" for number in range(300)])
    best = experiment._best_reachable(config, corpus)
    assert set(best) == {"plot", "poster", "fusion"}
    assert all(scores.shape == (300, 24) for scores in best.values())
    assert np.all((best["fusion"] > 0) & (best["fusion"] < 1))


@pytest.mark.parametrize("name", ["Film [2024]", "a\\b", "what?", "*"])
def test_folder_names_that_break_checkpoints_are_refused(inputs, tmp_path, name):
    with pytest.raises(InputError, match=r"--workdir: .* in its path"):
        experiment.run(tiny.config_of(inputs), tmp_path / name)
    config = tiny.config_of(inputs)
    config.data.directory = str(tmp_path / name)
    with pytest.raises(InputError, match=r"config\.data\.directory: .* in its path"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / name).exists()


def test_tensorboard_without_its_package(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    config = tiny.config_of(inputs)
    config.tensorboard = True
    with pytest.raises(InputError, match=r"config\.tensorboard is True; .*pip install"):
        experiment.run(config, tmp_path / "run")
