"""That the benchmarks run; what they measure is not tested."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as comparison
from benchmarks import data, growth, ours, pairs, work
from mmgc_jax.data import mmimdb


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

    # The archive is what the README says of it, and in another order than its split.
    found = mmimdb.read(tmp_path / "mmimdb.tar.gz")
    assert not found.left_out
    assert {split: len(movies) for split, movies in found.movies.items()} == {
        "train": 71, "validation": 12, "test": 37,
    }  # fmt: skip
    numbered = list(found.with_posters("train"))
    assert [number for number, _ in numbered] != sorted(number for number, _ in numbered)
    sizes = [len(movie.poster) for _, movie in numbered]
    assert 35_000 < np.mean(sizes) < 45_000
    assert Image.open(io.BytesIO(numbered[0][1].poster)).size == (300, 450)


def nap(seconds):
    """Work for `pairs`: two items in a given time."""
    return lambda: time.sleep(seconds), 2


@pytest.mark.slow
def test_pairs_are_timed_in_turn():
    def napping(seconds):
        return "tests.test_benchmarks:nap", {"seconds": seconds}

    found = pairs.measure(napping(0.05), {"slow": napping(0.2)}, 3)
    assert 20 < found["ours"] <= 40 and 5 < found["peers"]["slow"]["rate"] <= 10
    slow = found["peers"]["slow"]
    assert 1 < slow["least"] <= slow["ratio"] <= slow["most"]


def test_work_that_fails_says_so():
    with pytest.raises(RuntimeError, match="test_benchmarks:missing"):
        pairs.Worker("tests.test_benchmarks:missing")


@pytest.mark.slow
def test_the_work_of_the_rows_runs(monkeypatch):
    monkeypatch.setattr(work, "HEIGHT", 32)
    monkeypatch.setattr(work, "WIDTH", 32)
    monkeypatch.setattr(work, "PLOT_BATCHES", 2)
    for row in comparison.rows(on_gpu=False):
        name, settings = row.ours
        run, count = getattr(ours, name.split(":")[1])(**settings)
        run()
        assert count > 0
        assert row.asked.keys() == row.peers.keys()


def test_plots_are_padded_no_more_than_they_need():
    for tokens, lengths in work.plots("real", bucket=64):
        assert tokens.shape[1] % 64 == 0 and 0 <= tokens.shape[1] - lengths.max() < 64
        np.testing.assert_array_equal((tokens > 0).sum(axis=1), lengths)


def test_the_table_of_a_comparison():
    peer = {"rate": 10.0, "ratio": 1.25, "least": 1.2, "most": 1.31, "asked": 1.2}
    rows = {"VGG16 features": {"unit": "posters/s", "ours": 12.5, "peers": {"PyTorch": peer}}}
    results = {"machine": "a CPU", "date": "2026-01-01", "versions": {"jax": "0"}, "pairs": 5}
    results |= {"gpu": None, "rows": rows}
    lines = comparison.table(results).splitlines()
    assert lines[2].split() == ["VGG16", "features", "12.5", "PyTorch", "10.0", "1.25", "1.20",
                                "1.31", "1.2"]  # fmt: skip
    assert len(lines[1]) == len(lines[2])
    assert lines[-1].startswith("No GPU is at hand")


def test_a_gpu_has_rows_of_its_own_and_its_share_of_the_peak():
    names = {row.name: row for row in comparison.rows(on_gpu=True)}
    assert names["Fine-tuning everything, bfloat16"].ours[1]["batch_size"] == 128
    assert "LSTM by cuDNN, length 200" in names
    assert set(names["LSTM, length 200, float32"].asked.values()) == {1.0}

    # 15.3 billion products at 224 x 224 (arXiv 1512.03385, section 3.3).
    assert pytest.approx(2 * 15.3e9 * 256 * 160 / 224**2, rel=0.01) == work.FLOP_OF_A_POSTER
    rows = {"Fine-tuning everything, bfloat16": {"ours": 5000.0}}
    results = {"gpu": "NVIDIA H100 80GB HBM3", "rows": rows}
    assert comparison.share_of_peak(results) == pytest.approx(0.38, abs=0.005)
    assert comparison.share_of_peak(results | {"gpu": "a new one"}) is None
    assert comparison.share_of_peak(results | {"gpu": None}) is None


def test_a_straight_line():
    movies = np.array([1, 2, 4, 8])
    line = growth.Line.through(movies, 3 + 2.0 * movies)
    assert (line.start, line.slope) == (pytest.approx(3), pytest.approx(2))
    assert line.farthest == pytest.approx(0, abs=1e-9)
    assert growth.Line.through(movies, movies**2).farthest > 0.2


def test_growth_is_told_and_drawn(tmp_path):
    points = [{"movies": n, "seconds": 2.0 * n, "peak_mb": 500 + n} for n in (10, 20, 40, 80)]
    line = {"start": 0.0, "slope": 2.0, "farthest": 0.04}
    lines = {"seconds": line, "peak_mb": line | {"start": 500.0, "slope": 1.0}}
    results = {"machine": "a CPU", "date": "2026-01-01", "points": points, "lines": lines}
    assert "2000.0 s for each 1,000 movies; no point" in growth.table(results)
    growth.draw(results, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").size == (1080, 420)
