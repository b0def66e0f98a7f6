"""That the benchmarks run; what they measure is not tested."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import data
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
