"""Tests of explanations of a finished experiment."""

import json

import numpy as np
import pytest
from scipy.special import logit

from mmgc_jax import Movie, Predictor, explanations
from mmgc_jax.data import talk
from mmgc_jax.runtime.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor(finished):
    return Predictor.load(finished.workdir)


@pytest.fixture(scope="module")
def movie(finished):
    return next(movie for movie in talk.read(str(finished.data)) if movie.plot and movie.poster)


@pytest.fixture(scope="module")
def explanation(predictor, movie):
    return explanations.explain(predictor, movie, genres=["War", "Drama", "Crime"])


def test_the_answer_is_that_of_the_predictor(predictor, movie, explanation):
    np.testing.assert_allclose(explanation.probabilities, predictor([movie])[0], atol=1e-6)
    np.testing.assert_array_equal(explanation.thresholds, predictor.thresholds())
    assert explanation.chosen == ("War", "Drama", "Crime")
    default = explanations.explain(predictor, movie)
    names = [g for g, yes in zip(predictor.genres, default.predicted) if yes]
    assert set(default.chosen) == set(names) or len(default.chosen) == 1
    chosen = [default.probabilities[predictor.genres.index(genre)] for genre in default.chosen]
    assert chosen == sorted(chosen, reverse=True)


def test_the_terms_add_up_to_the_answer(explanation):
    assert list(explanation.evidence) == ["prior", "plot", "poster", "correction", "calibration"]
    total = sum(explanation.evidence.values())
    np.testing.assert_allclose(total, logit(explanation.probabilities), atol=1e-4)
    # The rest, which makes the sum exact, is small beside the terms of the encoders.
    terms = [np.abs(explanation.evidence[name]).mean() for name in ("calibration", "prior")]
    assert terms[0] < terms[1]


def test_without_a_modality_the_answer_is_that_for_a_movie_that_lacks_it(
    predictor, movie, explanation
):
    for modality, kept in (("plot", {"poster": movie.poster}), ("poster", {"plot": movie.plot})):
        expected = predictor([Movie(**kept)])[0]
        np.testing.assert_allclose(explanation.without[modality], expected, atol=1e-6)
    alone = explanations.explain(predictor, Movie(plot=movie.plot))
    assert alone.without == {} and alone.heat_maps == {} and alone.words


def test_scores_are_the_falls_of_the_logit(predictor, movie, explanation):
    texts = [word.text for word in explanation.words]
    assert [movie.plot[w.start : w.end] for w in explanation.words] == texts
    index = [predictor.genres.index(genre) for genre in explanation.chosen]
    before = logit(explanation.probabilities[index])
    for number in (0, len(texts) // 2):
        rest = " ".join(texts[:number] + texts[number + 1 :])
        after = logit(predictor([Movie(plot=rest, poster=movie.poster)])[0][index])
        np.testing.assert_allclose(explanation.word_scores[number], before - after, atol=1e-3)
    last = explanation.sentences[-1]
    after = logit(predictor([Movie(plot=movie.plot[: last.start], poster=movie.poster)])[0][index])
    np.testing.assert_allclose(explanation.sentence_scores[-1], before - after, atol=1e-3)


def test_heat_maps_have_the_size_of_the_posters(explanation):
    (maps,) = explanation.heat_maps.values()
    assert maps.shape == (3, 64, 32) and maps.min() >= 0 and maps.max() <= 1


def test_integrated_gradients_are_computed_on_demand(predictor, movie, explanation):
    assert explanation.encoder_words == {}
    found = explanations.explain(predictor, movie, "plot", ["War"], gradients=True)
    scores, gap = found.encoder_words["plot"]
    assert scores.shape == (len(found.words), 1) and gap.shape == (1,)
    assert abs(gap[0]) < 0.2 * np.abs(scores).sum()


def test_a_movie_without_anything_is_explained_by_nothing(predictor):
    found = explanations.explain(predictor, Movie(), genres=["War"])
    assert found.words == () and found.word_scores.shape == (0, 1) and found.heat_maps == {}
    assert found.notes and not np.abs(found.evidence["plot"]).any()
    one = explanations.explain(predictor, Movie(plot="heist", poster=b"broken"), genres=["War"])
    assert one.word_scores.shape == (1, 1) and one.heat_maps == {}


def test_explanations_become_json(explanation):
    content = json.loads(json.dumps(explanation.to_json()))
    assert content["explained"] == ["War", "Drama", "Crime"]
    assert content["words"][0]["text"] == explanation.words[0].text
    assert set(content["words"][0]["scores"]) == {"War", "Drama", "Crime"}
    assert len(content["heat_maps"]["poster"]["War"]) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genres": ["war"]}, "no genre 'war'. Did you mean War"),
        ({"genres": []}, "genres is empty"),
        ({"model": "plots"}, "this experiment has"),
        ({"block": 1}, "block is 1; poster has heat maps of: 4, 5"),
    ],
)
def test_mistakes(predictor, movie, change, message):
    with pytest.raises(InputError, match=message):
        explanations.explain(predictor, movie, **change)


def test_types_are_checked(predictor, movie):
    with pytest.raises(TypeError, match="a list is needed"):
        explanations.explain(predictor, movie, genres="War")
    with pytest.raises(TypeError, match="movie is str"):
        explanations.explain(predictor, "a plot")


def test_embeddings_have_length_1_and_the_same_company_does_not_matter(predictor, movie):
    movies = [movie, Movie(plot=movie.plot), Movie(), Movie(poster=movie.poster)]
    for model, lengths in (
        ("plot", [1, 1, 0, 0]),
        ("poster", [1, 0, 0, 1]),
        ("fusion", [1, 1, 0, 1]),
    ):
        vectors = predictor.embed(movies, model)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), lengths, atol=1e-5)
        np.testing.assert_allclose(predictor.embed(movies[:1], model)[0], vectors[0], atol=1e-5)
    # Plot and poster count alike: either alone has half of the squared length.
    assert vectors[0] @ vectors[1] == pytest.approx(np.sqrt(0.5), abs=1e-4)
    assert predictor.embed([], "plot").shape[0] == 0
