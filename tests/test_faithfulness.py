"""Explanations of made-up movies find what makes the genres, which is known."""

import dataclasses

import filelock
import jax
import numpy as np
import pytest

from benchmarks import faithfulness
from mmgc_jax import Predictor, experiment
from mmgc_jax.configs import demo
from mmgc_jax.data import posters, synthetic
from tests.conftest import shared_folder

SIZES = {"seed": 0, "train": 1600, "validation": 150, "test": 60}


@pytest.fixture(scope="module")
def workdir():
    """A run of the demo with fewer movies and epochs."""
    config = demo.get_config()
    config.encoders = config.fusion.encoders = ("plot", "poster")
    config.data.synthetic.update(SIZES)
    config.plot.training.epochs, config.plot.vectors.epochs = 5, 10
    config.poster.training.epochs, config.fusion.training.epochs = 8, 5
    folder = shared_folder() / "made_up"
    with filelock.FileLock(shared_folder() / "made_up.lock"):
        experiment.run(config, folder)  # which does nothing if it has finished
    return folder


@pytest.fixture(scope="module")
def pairs():
    return list(synthetic.generate(**SIZES)["test"])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "least"), [("plot", 0.9), ("poster", 0.8)])
def test_the_cause_is_found(workdir, pairs, model, least):
    """The word among the first three; the figure in the brightest fifth of the map."""
    found = faithfulness.truth(Predictor.load(workdir), pairs, model, 60)
    assert found["explanations"] >= 60
    assert found["found"] >= least * found["explanations"], found


@pytest.mark.slow
def test_random_weights_destroy_the_map(workdir, pairs):
    """The sanity check of arXiv 1810.03292: a map that survives shows the poster, not the model."""
    predictor = Predictor.load(workdir)
    trained = predictor._encoder("poster")
    rng = np.random.default_rng(0)

    def shuffled(values):
        return rng.permutation(np.ravel(values)).reshape(np.shape(values))

    random = dataclasses.replace(
        trained, params=[jax.tree.map(shuffled, params) for params in trained.params]
    )
    movies = [movie for movie, _ in pairs if movie.poster][:20]
    maps = {name: _maps(encoder, movies) for name, encoder in (("a", trained), ("b", random))}
    again = _maps(dataclasses.replace(trained, params=trained.params[:1]), movies)
    assert _correlation(maps["a"], maps["b"]) < 0.3 < 0.5 < _correlation(maps["a"], again)


@pytest.mark.slow
def test_deletion_and_insertion_differ_from_a_random_order(workdir, pairs):
    movies = [movie for movie, _ in pairs]
    for model in ("plot", "poster"):
        areas = faithfulness.measure(Predictor.load(workdir), movies, model, 12, 0)["areas"]
        assert areas["deletion_explained"] < areas["deletion_random"] - 0.05
        assert areas["insertion_explained"] > areas["insertion_random"] + 0.05


def _maps(encoder, movies) -> np.ndarray:
    """Returns the maps of all genres, averaged over the folds, <float32>[movies, 24, positions]."""
    examples, present = encoder.model_inputs(movies)
    assert present.all()
    batch = examples(np.arange(len(movies)))
    genres = np.arange(24, dtype=np.int32)
    folds = [encoder.heat_maps(params, batch, genres, None) for params in encoder.params]
    return np.maximum(np.mean(folds, axis=0), 0).reshape(len(movies), 24, -1)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the mean rank correlation of maps."""
    ranks = [maps.argsort(axis=-1).argsort(axis=-1) - (maps.shape[-1] - 1) / 2
             for maps in (one, other)]  # fmt: skip
    lengths = np.prod([np.linalg.norm(r, axis=-1) for r in ranks], axis=0)
    return float(((ranks[0] * ranks[1]).sum(axis=-1) / lengths).mean())


def test_masks_remove_the_highest_scores_first():
    scores = np.array([0.1, 0.9, 0.5, -1.0, 0.0])
    deleted, inserted = (faithfulness.masks(scores, insertion) for insertion in (False, True))
    assert deleted[0].all() and not deleted[-1].any()
    np.testing.assert_array_equal(deleted[2], [True, False, True, True, True])
    np.testing.assert_array_equal(deleted[4], [True, False, False, True, True])
    np.testing.assert_array_equal(np.array(inserted), ~np.array(deleted))


def test_regions_of_a_poster_become_its_mean_colour():
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:32] = 200
    kept = np.ones((8, 4), bool)
    kept[0, 1] = kept[7, 3] = False
    (movie,) = faithfulness.parts_of_poster(pixels, (8, 4), [kept.ravel()])
    changed = posters.decode(movie.poster, 64, 32) != pixels
    expected = np.zeros((64, 32, 1), bool)
    expected[:8, 8:16] = expected[56:, 24:] = True
    np.testing.assert_array_equal(changed, np.broadcast_to(expected, changed.shape))
