"""Predicting with what an experiment left behind."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from mmgc_jax import experiment
from mmgc_jax.data.movies import GENRES, Movie, read_csv
from mmgc_jax.predict import describe
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import loop
from mmgc_jax.training.run import TrainingRun
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor(finished):
    return Predictor.load(finished.workdir)


@pytest.fixture(scope="module")
def movies(finished):
    return list(read_csv(finished.data / "movies.csv", finished.data / "posters"))


@pytest.mark.parametrize("stage", ["plot", "poster", "poster_grey", "fusion"])
def test_gives_what_the_experiment_gave(finished, inputs, predictor, movies, stage):
    rows, expected = tiny.probabilities_in(finished.workdir, tiny.config_of(inputs), stage)
    seen = {"plot": ("plot",), "fusion": ("plot", "poster")}.get(stage, ("poster",))
    some = np.array([any(getattr(movies[row], part) for part in seen) for row in rows])
    rows, expected = rows[some], expected[some]
    assert len(rows) > 10
    np.testing.assert_allclose(predictor(movies, stage)[rows], expected, atol=1e-4)


def test_preprocessing_of_the_weights_stays_with_them_where_all_blocks_train(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("poster",)
    config.poster.finetune_from = "block1"
    experiment.run(config, tmp_path)
    with np.load(inputs[1]) as weights:
        trained = loop.restore_best(TrainingRun("poster/fold_1", tmp_path, seed=0))["vgg16"]
        for part, array in trained["preprocessing"].items():
            np.testing.assert_array_equal(array, weights[f"preprocessing/{part}"])
        kernel = trained["block1_conv1"]["kernel"]
        assert (kernel != weights["block1_conv1/kernel"]).any()

    movies = list(read_csv(inputs[0] / "movies.csv", inputs[0] / "posters"))
    rows, expected = tiny.probabilities_in(tmp_path, config, "poster")
    seen = np.array([movies[row].poster is not None for row in rows])
    predicted = Predictor.load(tmp_path)(movies, "poster")[rows]
    np.testing.assert_allclose(predicted[seen], expected[seen], atol=1e-4)


def test_decisions_are_those_of_the_genres_thresholds(finished, predictor, movies):
    probabilities = predictor(movies)
    of_fusion = json.loads((finished.workdir / "results.json").read_text())["validation"]["fusion"]
    thresholds = np.array([of_fusion["thresholds"][genre] for genre in GENRES])
    decided = predictor.decide(probabilities)
    np.testing.assert_array_equal(decided, probabilities >= thresholds)
    assert decided.any() and not decided.all()


def test_movie_without_anything_gets_the_frequencies(finished, predictor):
    frequencies = json.loads((finished.workdir / "genre_frequencies.json").read_text())
    expected = [frequencies[genre] for genre in GENRES]
    nothing = Movie(id="1", title="")
    for stage in ("plot", "poster", "fusion"):
        np.testing.assert_allclose(predictor([nothing], stage)[0], expected, rtol=1e-6)


def test_order_and_company_do_not_matter(predictor, movies):
    few = movies[:7]
    np.testing.assert_allclose(
        predictor(few)[::-1], np.concatenate([predictor([m]) for m in few[::-1]]), atol=1e-5
    )


def test_unreadable_poster_counts_as_missing(predictor, movies):
    movie = next(movie for movie in movies if movie.plot and movie.poster)
    broken = Movie(id="1", title="", plot=movie.plot, poster=b"not an image")
    without = Movie(id="1", title="", plot=movie.plot)
    np.testing.assert_array_equal(predictor([broken]), predictor([without]))


def test_no_movies_give_no_rows(predictor):
    assert predictor([]).shape == (0, len(GENRES))


def test_unknown_stage_is_refused(predictor, movies):
    with pytest.raises(InputError, match="this experiment has: plot, poster, poster_grey, fusion"):
        predictor(movies[:1], "sound")


def test_unfinished_experiment_is_refused(tmp_path):
    with pytest.raises(InputError, match="not the working directory"):
        Predictor.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has not finished"):
        Predictor.load(tmp_path)


def run_predict(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mmgc_jax.predict", *arguments], capture_output=True, text=True
    )


def test_table_has_a_row_for_each_movie_in_order(finished, tmp_path, movies):
    output = tmp_path / "probs.csv"
    run = run_predict(
        f"--workdir={finished.workdir}", f"--movies={finished.data / 'movies.csv'}",
        f"--posters={finished.data / 'posters'}", f"--output={output}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{len(movies)} rows written to {output}\n"
    with output.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["ID", *(f"p_{genre}" for genre in GENRES)]
    assert [row[0] for row in rows] == [movie.id for movie in movies]
    probabilities = np.array([row[1:] for row in rows], float)
    assert probabilities.shape == (len(movies), 24)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_one_movie_is_told_to_people(finished):
    run = run_predict(f"--workdir={finished.workdir}", "--plot=the heist in the city")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("%") == 8
    assert run.stdout.splitlines()[-1].startswith("* reaches the threshold")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --plot"),
        (("--plot=x", "--movies=y.csv"), "Give --plot"),
        (("--movies=y.csv",), "--output"),
        (("--movies=nowhere.csv", "--output=o.csv"), "nowhere.csv: no such file"),
        (("--poster=nowhere.jpg",), "--poster=nowhere.jpg cannot be read"),
    ],
)
def test_mistakes_end_without_traceback(finished, arguments, message):
    run = run_predict(f"--workdir={finished.workdir}", *arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_description_lists_the_likeliest_first():
    scores = np.linspace(0, 1, 24)
    lines = describe(scores, GENRES, scores > 0.9).splitlines()
    assert [line[2:].split()[0] for line in lines] == list(GENRES[::-1][:8])
    assert [line.startswith("*") for line in lines] == [True] * 3 + [False] * 5
