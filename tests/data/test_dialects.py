"""The same movies in ten dialects of tables are read alike, and give the same results."""

import dataclasses
import random

import numpy as np
import pytest

from mmgc_jax import experiment
from mmgc_jax.configs import own
from mmgc_jax.data import builder, pipeline, posters, synthetic
from tests.data.dialects import DIALECTS


def movies_to_write(number):
    """Makes movies; their plots have commas, quotes, line ends, and letters beyond ASCII."""
    chance, found = random.Random(0), []
    corpus = synthetic.generate(seed=3, train=number)["train"]
    for index, (movie, _) in enumerate(corpus):
        plot = movie.plot and f'{movie.plot} “Čapek”, "it\'s";\r\n— {chance.random()}|'
        poster = None
        if movie.poster:
            # PNG files, since those of JPEG files are decoded at a smaller size.
            poster = posters.encode_png(
                posters.Image.fromarray(posters.decode(movie.poster, 64, 32))
            )
        found.append(
            dataclasses.replace(
                movie,
                id=f"tt{index:04}",
                title=f"Movie; no. {index}, 'a\" one",
                year=None if index % 7 == 0 else 1950 + index % 60,
                plot=plot,
                poster=poster,
                genres=movie.genres or ("Drama",),
            )
        )
    return found


def own_config(file, fields):
    config = own.get_config()
    with config.unlocked():
        config.data.update({"path": str(file), "poster_height": 64, "poster_width": 32} | fields)
    return config


@pytest.fixture(scope="module")
def movies():
    return movies_to_write(60)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_corpus(tmp_path, movies, dialect):
    file, fields = DIALECTS[dialect](movies, tmp_path)
    config = own_config(file, fields | {"min_positives": 1})
    corpus = pipeline.load_corpus(builder.build(config.data, tmp_path / "data"), config.data)
    assert corpus.ids == [movie.id for movie in movies]
    assert corpus.genres == tuple(sorted({genre for movie in movies for genre in movie.genres}))
    for index, movie in enumerate(movies):
        assert corpus.records[index]["title"].decode() == movie.title
        assert corpus.plot(index) == (movie.plot or "").strip()
        assert set(np.array(corpus.genres)[corpus.labels[index] == 1]) == set(movie.genres)
        assert corpus.has_poster[index] == (movie.poster is not None)
        if movie.poster:
            expected = posters.encode_jpeg(posters.decode(movie.poster, 64, 32))
            assert corpus.records[index]["poster"] == expected


@pytest.mark.slow
def test_the_same_results(tmp_path):
    movies, results = movies_to_write(150), {}
    for dialect in ("tmdb", "own_genres"):
        (tmp_path / dialect).mkdir()
        file, fields = DIALECTS[dialect](movies, tmp_path / dialect)
        config = own_config(file, fields)
        config.folds = 2
        config.encoders = ("plot_bag_of_words", "poster_small")
        config.poster_small.training.epochs = config.fusion.training.epochs = 1
        experiment.run(config, tmp_path / dialect / "run")
        results[dialect] = (tmp_path / dialect / "run" / "results.json").read_text()
    assert len(set(results.values())) == 1
