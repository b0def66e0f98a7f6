"""Tests of scoring: genres matched by name, and the predictions of all models."""

import numpy as np
import pytest

from mmgc_jax import scoring
from mmgc_jax.data.movies import Movie
from mmgc_jax.data.table import MovieTable
from mmgc_jax.evaluation import saved
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError

GENRES = ("Comedy", "Drama", "Sci-Fi")


def table_of(*genres, splits=()):
    movies = [Movie(id=f"m{n}", plot="a plot", genres=names) for n, names in enumerate(genres)]
    return MovieTable(movies, [""] * len(movies), list(splits) or [""] * len(movies))


def test_genres_are_matched_by_name():
    found = scoring.match_labels(
        table_of(
            ("Drama", "Comedy"), (), ("comedy", "Kids"), ("Science Fiction",), ("Kids", "War"),
            ("Adult", "SCI-FI"),
        ),
        GENRES,
        {"Science Fiction": "Sci-Fi", "Adult": ""},
    )  # fmt: skip
    np.testing.assert_array_equal(found.rows, [0, 2, 3, 4, 5])
    np.testing.assert_array_equal(
        found.labels, [[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]]
    )
    assert found.unlabelled == 1
    assert found.notes == [
        "Genres of the table that the experiment does not know, which are left out: Kids (2), "
        "War (1).",
    ]


def test_genres_that_differ_in_case_only_stay_apart():
    found = scoring.match_labels(
        table_of(("drama",), ("Drama",), ("DRAMA",)), ("Drama", "drama"), {}
    )
    np.testing.assert_array_equal(found.labels, [[0, 1], [1, 0], [1, 0]])


def test_genres_that_cannot_be_judged_are_listed():
    notes = scoring.match_labels(table_of(("Drama",), ("Drama", "Comedy")), GENRES, {}).notes
    left_out = "which are left out of macro averages and mAP"
    assert notes == [
        f"Genres of the experiment without a movie in the table, {left_out}: Sci-Fi.",
        f"Genres of the experiment that all movies of the table have, {left_out}: Drama.",
    ]


def test_one_split_of_the_table_is_scored():
    table = table_of(("Drama",), ("Comedy",), ("Drama",), splits=("train", "test", "test"))
    found = scoring.match_labels(table, GENRES, {}, "test")
    np.testing.assert_array_equal(found.rows, [1, 2])
    with pytest.raises(InputError, match=r"--split=validation: .* It has: test, train"):
        scoring.match_labels(table, GENRES, {}, "validation")
    with pytest.raises(InputError, match="no column that says to which split"):
        scoring.match_labels(table_of(("Drama",)), GENRES, {}, "test")


@pytest.mark.parametrize(
    ("genres", "message"),
    [
        (
            [("Krimi",), ("Komödie",)],
            "The table has: Krimi, Komödie. The experiment has: Comedy, Dr",
        ),
        ([(), ()], "No movie of the table has a genre of the experiment. The experiment has"),
        ([], "No movie of the table has a genre of the experiment"),
    ],
)
def test_a_table_without_any_known_genre_is_refused(genres, message):
    with pytest.raises(InputError, match=message):
        scoring.match_labels(table_of(*genres), GENRES, {})


def test_renamings_must_have_a_sign():
    with pytest.raises(InputError, match="--genres=Drama: write"):
        scoring.parse_renamings(["Drama"], [])
    trained = ["Drama", "Science Fiction=Sci-Fi", "Adult="]
    assert scoring.parse_renamings(["Adult=Drama"], trained) == {
        "Science Fiction": "Sci-Fi", "Adult": "Drama",
    }  # fmt: skip


def of_movies(ids, labels, split):
    empty = np.zeros(0)
    return saved.Saved(
        np.array(ids), np.array(split), empty, empty, np.array(labels, bool), *[empty] * 5
    )


def test_training_movies_are_recognised_by_id_and_genres():
    trained = of_movies(
        ["1", "2", "3", "4"],
        [[1, 0], [0, 1], [1, 1], [1, 0]],
        ["cross_validation", "cross_validation", "cross_validation", "test"],
    )
    scored = of_movies(
        ["2", "1", "4", "3", "9"], [[0, 1], [0, 1], [1, 0], [1, 1], [1, 0]], ["scored"] * 5
    )
    assert scoring.seen_in_training(scored, trained) == 2  # 2 and 3


@pytest.mark.slow
class TestPredictions:
    @pytest.fixture(scope="class")
    def scored(self, finished):
        from tests.test_score import labelled_table

        found = labelled_table(finished)
        predictor = Predictor.load(finished.workdir)
        labels = scoring.match_labels(found, predictor.genres, {})
        return found, labels, scoring.predict(predictor, found, labels, predictor.models)

    def test_they_are_those_of_the_predictor(self, finished, scored):
        found, labels, predicted = scored
        predictor = Predictor.load(finished.workdir)
        movies = list(found.with_posters(labels.rows))
        for name, of_model, present in zip(
            predicted.saved.models, predicted.saved.probabilities, predicted.saved.present
        ):
            expected = predictor(movies, name)
            np.testing.assert_allclose(of_model[present], expected[present], atol=1e-5)
            assert np.isnan(of_model[~present]).all()
            has = [(bool(movie.plot), movie.poster is not None) for movie in movies]
            looks = {"plot": (0,), "fusion": (0, 1)}.get(name, (1,))
            assert present.tolist() == [any(pair[i] for i in looks) for pair in has]
        assert predicted.saved.both.tolist() == [all(pair) for pair in has]
        assert predicted.saved.ids.tolist() == [movie.id for movie in movies]

    def test_each_encoder_runs_once_for_a_batch(self, finished, scored, monkeypatch):
        found, labels, _ = scored
        predictor = Predictor.load(finished.workdir)
        encoded = []
        load = Predictor._encoder

        def counting(self, name):
            encoded.append(name)
            return load(self, name)

        monkeypatch.setattr(Predictor, "_encoder", counting)
        few = labels._replace(rows=labels.rows[:5], labels=labels.labels[:5])
        scoring.predict(predictor, found, few, predictor.models)
        assert sorted(encoded) == ["plot", "poster", "poster_grey"]

    def test_movies_with_both_are_a_part_of_their_own(self, scored):
        _, labels, predicted = scored
        parts = predicted.predictions()
        names = ["plot", "poster", "poster_grey", "fusion"]
        assert list(parts) == [*names, *(f"{name}_both" for name in names)]
        both = predicted.saved.both
        np.testing.assert_array_equal(parts["plot_both"].labels, labels.labels[both])
        np.testing.assert_array_equal(
            parts["fusion"].uncalibrated, predicted.uncalibrated[3, predicted.saved.present[3]]
        )
        assert 0 < both.sum() < len(parts["fusion"].labels)
