"""The movies of a report's galleries."""

import json
import logging

import numpy as np
import pytest

from mmgc_jax.evaluation import gallery, saved
from mmgc_jax.evaluation.saved import Saved
from tests.pages import made_run


def predictions(probabilities, labels, threshold=0.5, split=None):
    """Makes the predictions of fusion for one genre."""
    probabilities = np.array(probabilities, np.float32)[None, :, None]
    movies = probabilities.shape[1]
    return Saved(
        ids=np.array([f"m{n}" for n in range(movies)]),
        split=np.array(split or ["test"] * movies),
        folds=np.full(movies, -1),
        genres=np.array(["Drama"]),
        labels=np.array(labels, bool)[:, None],
        both=np.ones(movies, bool),
        models=np.array(["fusion"]),
        present=np.isfinite(probabilities[:, :, 0]),
        probabilities=probabilities,
        thresholds=np.full((1, 1), threshold),
    )


def test_the_surest_come_first_and_each_movie_is_where_it_belongs():
    made = predictions([0.9, 0.8, 0.1, 0.4, 0.95, 0.55, 0.2], [1, 0, 1, 1, 1, 0, 0])
    [(genre, found)] = gallery.choose(made, "test").items()
    assert genre == "Drama"
    assert found.right.tolist() == [4, 0]
    assert found.wrong.tolist() == [1, 5]  # 6 is not predicted
    assert found.missed.tolist() == [2, 3]
    [(_, found)] = gallery.choose(made._replace(thresholds=np.full((1, 1), 0.3)), "test").items()
    assert found.missed.tolist() == [2] and found.right.tolist() == [4, 0, 3]


def test_only_judged_movies_of_the_split_are_chosen():
    split = ["test", "test", "validation", "test"]
    made = predictions([0.9, np.nan, 0.99, 0.7], [1, 1, 1, 1], split=split)
    assert gallery.choose(made, "test")["Drama"].right.tolist() == [0, 3]
    empty = gallery.choose(made, "cross_validation")["Drama"]
    assert [rows.tolist() for rows in empty] == [[], [], []]


def test_lists_are_short_and_of_many_genres_they_are_shorter():
    rng = np.random.default_rng(0)
    few = predictions(rng.uniform(size=200), rng.uniform(size=200) < 0.5)
    assert {len(rows) for rows in gallery.choose(few, "test")["Drama"]} == {4}
    many = few._replace(
        genres=np.array([f"Genre {n}" for n in range(500)]),
        labels=np.arange(200)[:, None] >= np.arange(500) / 3,
        probabilities=rng.uniform(size=(1, 200, 500)).astype(np.float32),
        thresholds=np.full((1, 500), 0.5),
    )
    chosen = gallery.choose(many, "test")
    assert len(chosen) == 300 and "Genre 0" in chosen and "Genre 499" not in chosen
    assert all(len(rows) <= 1 for of_genre in chosen.values() for rows in of_genre)


def test_movies_are_read_as_they_were_written(tmp_path):
    run = made_run.write(tmp_path / "run")
    made = saved.load(run / saved.FILE)
    movies = gallery.load(run, made)
    chosen = {int(n) for of in gallery.choose(made, "test").values() for rows in of for n in rows}
    assert movies.keys() == chosen
    for row, movie in movies.items():
        number = int(made.ids[row][2:])
        assert movie.id == f"tt{number}" and movie.title == f"Movie <{number}>"
        assert movie.plot == f"the plot of number {number} & more ."
        assert (movie.poster is None) == (number % 5 == 0)
        assert movie.poster is None or movie.poster.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "content", ["no JSON", "[]", '{"row": 1}', '{"row": "1", "id": 3, "poster": null}']
)
def test_a_damaged_file_is_left_out_and_named(tmp_path, caplog, content):
    made = predictions([0.9, 0.8], [1, 1])
    (tmp_path / gallery.FILE).write_text(content + "\n")
    with caplog.at_level(logging.WARNING, "mmgc_jax"):
        assert gallery.load(tmp_path, made) == {}
    assert "gallery.jsonl cannot be read" in caplog.text


def test_movies_of_other_predictions_are_left_out(tmp_path):
    made = predictions([0.9, 0.8], [1, 1])
    movie = {"id": "m1", "title": "", "plot": "x", "poster": None}
    lines = [json.dumps({"row": row} | movie) for row in (0, 1, 7)]
    (tmp_path / gallery.FILE).write_text("\n".join(lines))
    assert list(gallery.load(tmp_path, made)) == [1]
    assert gallery.load(tmp_path / "nowhere", made) == {}
