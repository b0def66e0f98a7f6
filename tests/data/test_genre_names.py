"""Genres of a table: renamed, chosen, counted."""

import doctest

import pytest

from mmgc_jax.data import genre_names
from mmgc_jax.runtime.errors import InputError


def choose(of_movies, *entries, min_positives=2, counted=None):
    counted = [True] * len(of_movies) if counted is None else counted
    return genre_names.choose(
        of_movies, counted, genre_names.parse(entries), min_positives, "movies.csv"
    )


MOVIES = [("War", "Drama"), ("Drama",), ("War", "Science Fiction"), ("Science Fiction", "News")]


def test_examples():
    assert doctest.testmod(genre_names, raise_on_error=True).attempted > 0


def test_rare_genres_are_left_out_and_listed():
    genres, of_movies, notes = choose(MOVIES)
    assert genres == ["Drama", "Science Fiction", "War"], "in alphabetical order"
    assert of_movies == [*MOVIES[:3], ("Science Fiction",)]
    assert notes == [
        "3 genres: Drama, Science Fiction, War.",
        "1 genre left out, because fewer than 2 movies have it: News (1).",
    ]


def test_movies_of_the_test_part_do_not_count():
    assert choose(MOVIES, counted=[True, True, False, True], min_positives=2)[0] == ["Drama"]


def test_renamings_merge_genres():
    genres, of_movies, notes = choose(MOVIES, "Science Fiction=Sci-Fi", "News=Drama", "War=")
    assert genres == ["Drama", "Sci-Fi"]
    assert of_movies == [("Drama",), ("Drama",), ("Sci-Fi",), ("Sci-Fi", "Drama")]
    assert "3 genres renamed or left out by config.data.genres." in notes


def test_named_genres_are_used_even_if_they_are_rare():
    genres, of_movies, notes = choose(MOVIES, "News", "Science Fiction=Sci-Fi", min_positives=9)
    assert genres == ["News", "Sci-Fi"]
    assert of_movies == [(), (), ("Sci-Fi",), ("Sci-Fi", "News")]
    assert notes[-1] == "2 genres left out, which config.data.genres does not name: Drama, War."


def test_one_genre_and_hundreds():
    assert choose([("A",), ("A", "B")], min_positives=2)[0] == ["A"]
    many = [tuple(f"genre {n:03}" for n in range(400))] * 3
    genres, of_movies, notes = choose(many)
    assert len(genres) == 400 and of_movies == many
    assert notes[0].endswith("genre 019 and 380 more.")


@pytest.mark.parametrize("entries", [["Dramma"], ["Dramma=Serious"]])
def test_a_genre_that_no_movie_has(entries):
    with pytest.raises(InputError, match=r"'Dramma', which no movie .* Did you mean 'Drama'\?"):
        choose(MOVIES, *entries)


def test_no_genre_is_left():
    with pytest.raises(InputError, match=r"min_positives=3 .* The most frequent: War \(2\)"):
        choose(MOVIES, min_positives=3)
    with pytest.raises(InputError, match="No movie has a genre"):
        choose([(), ()])
