"""Tests the record of a movie, and what readers share."""

import doctest

import pytest

from mmgc_jax.data import movies
from mmgc_jax.runtime.errors import InputError


def test_genres_are_those_of_the_talk_in_alphabetical_order():
    assert len(movies.GENRES) == 24
    assert list(movies.GENRES) == sorted(movies.GENRES)


def test_a_movie_needs_only_a_plot():
    movie = movies.Movie(plot="a plot .")
    assert (movie.id, movie.title, movie.poster, movie.genres) == ("", "", None, None)
    assert doctest.testmod(movies, raise_on_error=True).attempted > 0


def test_only_the_first_of_many_problems_are_shown():
    with pytest.raises(InputError) as caught:
        movies.raise_if_any([f"line {n}: wrong" for n in range(25)], "a.csv", "bad rows of 30")
    message = str(caught.value)
    assert "a.csv has 25 bad rows of 30" in message and "and 15 more" in message
    assert message.count("wrong") == 10
    with pytest.raises(InputError, match=r"a\.csv has 1 bad row of 30"):
        movies.raise_if_any(["line 2: wrong"], "a.csv", "bad rows of 30")
    movies.raise_if_any([], "a.csv", "bad rows of 30")
