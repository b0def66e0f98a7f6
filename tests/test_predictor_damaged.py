"""Tests of prediction with a working directory whose files are damaged or were changed."""

import json
import shutil

import jax
import numpy as np
import pytest

from mmgc_jax.data import posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import plot_lstm
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints

pytestmark = pytest.mark.slow

MOVIES = [Movie(id="1", title="", plot="the heist in the city")]


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of a finished working directory, to be damaged."""
    shutil.copytree(
        finished.workdir,
        tmp_path / "run",
        ignore=lambda _, names: [name for name in names if name in ("data", "figures")],
    )
    return tmp_path / "run"


def refusal(workdir, stage="fusion"):
    with pytest.raises(InputError) as caught:
        Predictor.load(workdir)(MOVIES, stage)
    assert str(workdir) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["config.json", "genre_frequencies.json", "calibration.json", "encoders/plot/vocabulary.json"],
)
def test_files_with_other_content_are_input_errors(workdir, name):
    for content in ("", "{", "[" * 100_000, "[1, NaN]", '{"encoders": 3}', "\xff"):
        (workdir / name).write_bytes(content.encode("latin-1"))
        refusal(workdir)


def test_invalid_frequencies_are_input_errors(workdir):
    file = workdir / "genre_frequencies.json"
    frequencies = json.loads(file.read_text())
    for share in (None, "0.5", True, -0.1, 1.5, float("nan"), float("inf"), 10**400):
        file.write_text(json.dumps(frequencies | {"War": share}))
        assert "genre_frequencies.json" in refusal(workdir)


def test_different_genres_in_two_files_are_an_input_error(workdir):
    file = workdir / "genre_frequencies.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"Telenovela": 0.1}))
    assert "other genres" in refusal(workdir)


def test_the_vocabulary_of_another_experiment_is_an_input_error(workdir):
    file = workdir / "encoders" / "plot" / "vocabulary.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:-3]))
    assert "they are of different experiments" in refusal(workdir, "plot")


def test_missing_fields_and_wrong_types_in_the_config_are_input_errors(workdir):
    file = workdir / "config.json"
    config = json.loads(file.read_text())
    for field in ("plot", "encoders", "fusion", "data"):
        file.write_text(json.dumps({name: config[name] for name in config if name != field}))
        assert field in refusal(workdir)
    for changed in ({"kind": "plot_lstn"}, {"max_length": None}, {"model": 3}, {"vectors": {}}):
        file.write_text(json.dumps(config | {"plot": config["plot"] | changed}))
        assert next(iter(changed)) in refusal(workdir)


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError])
def test_a_bug_in_the_code_is_not_reported_as_damage(workdir, monkeypatch, error):
    def fail(*_):
        raise error("a library has changed")

    monkeypatch.setattr(plot_lstm, "load", fail)
    with pytest.raises(error, match="a library has changed"):
        Predictor.load(workdir)(MOVIES)


@pytest.mark.parametrize(("stage", "value"), [("plot", np.nan), ("fusion", np.inf)])
def test_non_finite_parameters_are_an_input_error(workdir, stage, value):
    trained = next((workdir / "checkpoints" / stage / "fold_0").rglob("trained"))
    params = checkpoints.restore(trained)
    leaves, structure = jax.tree.flatten(params)
    leaves[0] = np.full_like(leaves[0], value)
    shutil.rmtree(trained)
    checkpoints.save(trained, 0, structure.unflatten(leaves))
    assert "not all finite" in refusal(workdir, stage)


def test_plots_with_control_characters_are_cleaned(finished):
    predictor = Predictor.load(finished.workdir)
    odd = Movie(id="1", title="", plot="the\x00heist\x1bin \udcff the city")
    plain = Movie(id="1", title="", plot="the heist in ? the city")
    np.testing.assert_array_equal(predictor([odd]), predictor([plain]))


def test_a_movie_with_an_unreadable_poster_is_predicted_without_it(finished):
    predictor = Predictor.load(finished.workdir)
    for poster in (b"", b"GIF89a" + b"\xff" * 40, bytes(posters.MAX_BYTES + 1)):
        bad = Movie(id="1", title="", plot=MOVIES[0].plot, poster=poster)
        np.testing.assert_array_equal(predictor([bad]), predictor(MOVIES))
