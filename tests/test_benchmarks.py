"""Tests that small versions of the benchmarks run; does not test the measured speeds."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import io
import json
import pathlib
import time
import types

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as comparison
from benchmarks import answers, data, devices, growth, ours, own_table, pairs, word_vectors, work
from mmgc_jax import Movie, Predictor
from mmgc_jax.data import mmimdb, posters
from mmgc_jax.models import VGG16
from mmgc_jax.ops import kernels

BENCHMARKS = pathlib.Path(work.__file__).parent


@pytest.mark.slow
def test_data(tmp_path):
    results = data.run(tmp_path, movies=120, workers=2)
    assert json.loads((tmp_path / "data.json").read_text()) == results
    assert {step: figures["movies"] for step, figures in results["steps"].items()} == {
        "archive": 120, "build": 120, "load": 120, "epoch": 71,
    }  # fmt: skip
    for figures in results["steps"].values():
        assert figures["seconds"] > 0 and 50 < figures["peak_mb"] < 2000
    lines = data.table(results).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1 and len(lines) == 6

    # The archive matches the docstring, and its order differs from that of the split.
    catalogue = mmimdb.read(tmp_path / "mmimdb.tar.gz")
    assert not catalogue.left_out
    assert {split: len(movies) for split, movies in catalogue.movies.items()} == {
        "train": 71, "validation": 12, "test": 37,
    }  # fmt: skip
    numbered = list(catalogue.with_posters("train"))
    assert [number for number, _ in numbered] != sorted(number for number, _ in numbered)
    sizes = [len(movie.poster) for _, movie in numbered]
    assert 35_000 < np.mean(sizes) < 45_000
    assert Image.open(io.BytesIO(numbered[0][1].poster)).size == (300, 450)


def sleep(seconds):
    """A workload for `pairs` that takes a given time for two items."""
    return lambda: time.sleep(seconds), 2


@pytest.mark.slow
def test_pairs_are_timed_in_turn():
    def sleeping(seconds):
        return "tests.test_benchmarks:sleep", {"seconds": seconds}

    figures = pairs.measure(sleeping(0.05), {"slow": sleeping(0.2)}, 3)
    slow = figures["peers"]["slow"]
    assert 20 < figures["ours"] <= 40 and 5 < slow["rate"] <= 10
    assert 1 < slow["least"] <= slow["ratio"] <= slow["most"]


def test_rates_are_compared_pair_by_pair():
    figures = pairs.compare({"ours": [10, 20, 30], "slow": [5, 5, 10], "fast": [20, 20, 20]})
    assert figures["ours"] == 20
    assert figures["peers"]["slow"] == {"rate": 5, "ratio": 3, "least": 2, "most": 4}
    assert figures["peers"]["fast"]["ratio"] == 1


def test_a_table_is_predicted_in_turn(tmp_path, monkeypatch):
    (tmp_path / "posters").mkdir()
    lines = [f"{number},A movie,a plot" for number in range(9)]
    (tmp_path / "movies.csv").write_text("\n".join(["index,title,plot", *lines]) + "\n")
    commands = []

    def seconds(*command):
        commands.append(command)
        is_ours = command[0] == "mmgc_jax.predict"
        file = command[2].removeprefix("--movies=") if is_ours else f"{command[1]}/movies.csv"
        assert len(pathlib.Path(file).read_text().splitlines()) == 1 + 4
        return 2.0 if is_ours else 8.0

    monkeypatch.setattr(comparison, "_seconds", seconds)
    figures = comparison.predicting(str(tmp_path), 4, "vgg16.npz", "runs/talk", 3)
    assert [command[0].split(".")[1] for command in commands] == [
        "predict", "torch_predict", "torch_predict",
    ] * 3  # fmt: skip
    assert "--workdir=runs/talk" in commands[0]
    assert [command[-1] for command in commands[1:3]] == ["float32", "bfloat16"]
    assert figures["ours"] == 2 and figures["unit"] == "movies/s"
    assert {peer["ratio"] for peer in figures["peers"].values()} == {4}
    assert {peer["target"] for peer in figures["peers"].values()} == {None}


def test_a_workload_that_fails_is_named():
    with pytest.raises(RuntimeError, match="test_benchmarks:missing"):
        pairs.Worker("tests.test_benchmarks:missing")


@pytest.mark.slow
def test_the_workloads_of_all_rows_run(monkeypatch):
    monkeypatch.setattr(work, "HEIGHT", 32)
    monkeypatch.setattr(work, "WIDTH", 32)
    monkeypatch.setattr(work, "VIT_SIDE", 32)
    monkeypatch.setattr(work, "PLOT_BATCHES", 2)
    for row in comparison.rows(on_gpu=False):
        name, settings = row.ours
        run, count = getattr(ours, name.split(":")[1])(**settings)
        run()
        assert count > 0
        assert row.targets.keys() == row.peers.keys()


@pytest.mark.parametrize(
    ("function", "settings", "model"),
    [
        ("vgg16_features", {"dtype": "float32"}, "VGG16"),
        ("vit_features", {"dtype": "float32"}, "ViT"),
        ("finetune", {"first_block": 5, "batch_size": 1, "dtype": "float32"}, "PosterVGG16"),
        ("plot_lstm", {"lengths": "equal", "pad_to_multiple_of": 8}, "PlotLSTM"),
    ],
)
def test_models_get_the_kernels_of_experiments(function, settings, model, monkeypatch):
    chosen = kernels.kernels_for("gpu", 1, ())
    chosen = dataclasses.replace(chosen, inference_bfloat16="winograd")
    expected = chosen.for_inference() if function == "vgg16_features" else chosen

    class Made(Exception):
        pass

    def make(*_, **arguments):
        assert arguments["kernels"] == expected
        raise Made

    monkeypatch.setattr(kernels, "auto", lambda: chosen)
    monkeypatch.setattr(ours, model, make)
    with pytest.raises(Made):
        getattr(ours, function)(**settings)


def functions_of(file: pathlib.Path) -> dict[str, set[str]]:
    """Returns {function or class in a file: names of its arguments}, without importing the file."""
    return {
        node.name: {argument.arg for argument in node.args.args}
        if isinstance(node, ast.FunctionDef)
        else set()
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def test_the_workloads_of_peers_exist():
    # The files are parsed, because PyTorch need not be installed.
    for row in [*comparison.rows(on_gpu=False), *comparison.rows(on_gpu=True)]:
        for name, settings in (row.ours, *row.peers.values()):
            module, function = name.split(":")
            functions = functions_of(pathlib.Path(importlib.util.find_spec(module).origin))
            assert settings.keys() <= functions[function], name
            ours_has = inspect.signature(getattr(ours, function)).parameters
            assert functions[function] == set(ours_has), name


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("torch_*.py")), ids=lambda file: file.name)
def test_files_of_pytorch_use_names_that_exist(file):
    compile(file.read_text(), file, "exec")
    shared = {"work": set(vars(work))} | {
        name: functions_of(BENCHMARKS / f"{name}.py") for name in ("torch_peer", "torch_talk")
    }
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in shared
    ]
    assert used
    for module, name in used:
        assert name in shared[module], f"{file.name}: {module}.{name}"


def test_both_sides_have_the_same_network():
    network = VGG16()
    assert (work.CHANNELS[1:], work.DEPTHS) == (network.widths, network.depths)


def test_plots_are_padded_no_more_than_they_need():
    for tokens, lengths in work.plots("real", pad_to_multiple_of=64):
        assert tokens.shape[1] % 64 == 0 and 0 <= tokens.shape[1] - lengths.max() < 64
        np.testing.assert_array_equal((tokens > 0).sum(axis=1), lengths)


def test_the_table_of_a_comparison():
    peer = {"rate": 10.0, "ratio": 1.25, "least": 1.2, "most": 1.31, "target": 1.2}
    rows = {"VGG16 features": {"unit": "posters/s", "ours": 12.5, "peers": {"PyTorch": peer}}}
    results = {"machine": "a CPU", "date": "2026-01-01", "versions": {"jax": "0"}, "pairs": 5}
    results |= {"gpu": None, "rows": rows}
    lines = comparison.table(results).splitlines()
    assert lines[2].split() == ["VGG16", "features", "12.5", "PyTorch", "10.0", "1.25", "1.20",
                                "1.31", "1.2"]  # fmt: skip
    assert len(lines[1]) == len(lines[2])
    assert lines[-1].startswith("No GPU found")


def test_rows_and_utilization_on_a_gpu():
    names = {row.name: row for row in comparison.rows(on_gpu=True)}
    assert names["Fine-tuning everything, bfloat16"].ours[1]["batch_size"] == 128
    assert set(names["LSTM, length 200, float32"].targets.values()) == {1.0}

    # 15.3 billion multiply-adds at 224 x 224 (arXiv 1512.03385, section 3.3).
    assert pytest.approx(2 * 15.3e9 * 256 * 160 / 224**2, rel=0.01) == work.FLOP_PER_POSTER
    rows = {"Fine-tuning everything, bfloat16": {"ours": 5000.0}}
    results = {"gpu": "NVIDIA H100 80GB HBM3", "rows": rows}
    assert comparison.model_flops_utilization(results) == pytest.approx(0.38, abs=0.005)
    assert comparison.model_flops_utilization(results | {"gpu": "a new one"}) is None
    assert comparison.model_flops_utilization(results | {"gpu": None}) is None


def test_a_fitted_line():
    movies = np.array([1, 2, 4, 8])
    line = growth.Line.fit(movies, 3 + 2.0 * movies)
    assert (line.intercept, line.slope) == (pytest.approx(3), pytest.approx(2))
    assert line.max_relative_error == pytest.approx(0, abs=1e-9)
    assert growth.Line.fit(movies, movies**2).max_relative_error > 0.2


def test_the_experiments_of_growth():
    config = growth.demo_config(200, folds=5)
    assert config.folds == 5
    assert sum(config.data.synthetic[split] for split in ("train", "validation", "test")) == 200
    for name in ("plot", "poster", "poster_grey", "fusion"):
        assert config[name].training.epochs == 2
    assert growth.plots_config(pathlib.Path("movies.csv")).encoders == ("plot",)


def test_growth_is_printed_and_drawn(tmp_path):
    points = [{"size": n, "seconds": 2.0 * n, "peak_mb": 500 + n} for n in (10, 20, 40, 8000)]
    line = {"intercept": 0.0, "slope": 2.0, "max_relative_error": 0.04}
    lines = {"seconds": line, "peak_mb": line | {"intercept": 500.0, "slope": 1.0}}
    series = {"title": "genres, 2,000 plots", "points": points, "lines": lines}
    both = {"genres": series, "folds": series | {"title": "folds"}}
    results = {"machine": "a CPU", "date": "2026-01-01", "series": both}
    rows = [line.split() for line in growth.table(results).splitlines()]
    assert rows[2] == ["genres,", "2,000", "plots", "seconds", "peak", "MB"]
    assert rows[6] == ["8,000", "16000.0", "8,500"]
    assert rows[7:10] == [
        ["at", "size", "0", "0.0", "500"],
        ["for", "each", "1,000", "2000.0", "1,000"],
        ["farthest", "from", "the", "line,", "%", "4.0", "4"],
    ]
    growth.draw(results, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").size == (720, 660)


@pytest.mark.slow
def test_growth_of_genres():
    genres = growth.Series("genres", (4, 30), functools.partial(growth.run_plots, 400))
    results = growth.run({"genres": genres})["series"]["genres"]
    assert [point["size"] for point in results["points"]] == [4, 30]
    assert all(point["seconds"] > 1 and point["peak_mb"] > 100 for point in results["points"])
    assert results["lines"].keys() == {"seconds", "peak_mb"}


@pytest.mark.slow
def test_memory_of_devices(monkeypatch):
    # Kernels for eight CPU devices compile faster than those for one.
    monkeypatch.setattr(kernels, "auto", lambda: kernels.kernels_for("cpu", 8, ()))
    needed = devices.measure((32, 32), None, split=False, posters=1)
    # VGG16's convolutions (arXiv 1409.1556), and mean and standard deviation of the pixels.
    assert needed["parameters"] == 14_714_688 + 6
    # Parameters and two moments in float32, and a few counters.
    assert 0 <= needed["state"] - 12 * needed["parameters"] < 1000
    # At least the gradients.
    assert needed["step"] > 4 * needed["parameters"]


def test_word_vectors_are_written_and_read(tmp_path):
    file = tmp_path / "vectors.bin"
    word_vectors.write_file(file, words=1000, dim=5)
    seconds, before, after = word_vectors.measure(file, words=1000, wanted=30)
    assert seconds > 0 and 50 < before <= after


@pytest.mark.slow
def test_own_table():
    results = own_table.run(sizes=(200,))
    (point,) = results["points"]
    assert point["first"]["movies"] == point["again"]["movies"] == 200
    assert own_table.table(results).splitlines()[-1].split()[0] == "200"


def test_the_answers_of_the_page_are_timed(monkeypatch):
    """On a clock that only explaining moves: 2 s for the bars, 5 s for the rest."""
    now = [0.0]

    def explain(predictor, movie, quick):
        now[0] += 2 if quick else 5

    monkeypatch.setattr(answers.explanations, "explain", explain)
    monkeypatch.setattr(answers, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    seconds = answers.measure(None, [Movie(plot="a ghost rides"), Movie(plot="a horse")])
    assert {step: list(values) for step, values in seconds.items()} == {
        "bars": [2, 2], "rest": [5, 5],
    }  # fmt: skip
    assert [line.split() for line in answers.describe(seconds).splitlines()[2:]] == [
        ["bars", "2.00", "2.00", "2.00"], ["rest", "5.00", "5.00", "5.00"],
    ]  # fmt: skip


@pytest.mark.slow
def test_the_answers_of_a_finished_experiment_are_timed(finished, noise):
    poster = posters.encode_png(Image.fromarray(noise))
    movie = Movie(plot="a ghost rides a horse through the city", poster=poster)
    seconds = answers.measure(Predictor.load(finished.workdir), [movie, movie])
    assert {step: values.shape for step, values in seconds.items()} == {"bars": (2,), "rest": (2,)}
    assert all((values > 0).all() for values in seconds.values())
