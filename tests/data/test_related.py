"""Rows of the same movie are found."""

import numpy as np
import pytest

from mmgc_jax.data import related
from mmgc_jax.data.movies import Movie


def groups(*movies, posters=None):
    posters = np.zeros(len(movies), np.int64) if posters is None else np.array(posters, np.int64)
    return related.group([related.keys(movie) for movie in movies], posters).tolist()


@pytest.mark.parametrize(
    ("first", "second", "are_related"),
    [
        (Movie(id="7", title="A"), Movie(id="7", title="B"), True),
        (Movie(id="7", title="A"), Movie(id="8", title="B"), False),
        (Movie(title="Amélie!", year=2001), Movie(title="AMELIE", year=2001), True),
        (Movie(title="Se7en", year=1995), Movie(title=" se7en ", year=1995), True),
        (Movie(title="Solaris", year=1972), Movie(title="Solaris", year=2002), False),
        (Movie(title="Solaris"), Movie(title="Solaris"), True),
        (Movie(plot="the same"), Movie(plot="the same"), False),
        (Movie(title="?!"), Movie(title="..."), False),
        (Movie(id="Solaris"), Movie(title="Solaris"), False),
    ],
)
def test_ids_and_titles(first, second, are_related):
    assert groups(first, second) == ([0, 0] if are_related else [0, 1])


def test_related_movies_form_chains():
    chain = [Movie(id="1", title="x"), Movie(id="2"), Movie(id="3", title="X!"), Movie(id="3")]
    assert groups(*chain) == [0, 1, 0, 0]


def test_equal_posters():
    movies = [Movie()] * 4
    assert groups(*movies, posters=[5, 0, 5, 0]) == [0, 1, 0, 2]


def test_a_poster_of_many_movies_means_that_there_is_none():
    assert groups(*[Movie()] * 10, posters=[5] * 10) == [0] * 10
    assert groups(*[Movie()] * 11, posters=[5] * 11) == list(range(11))


def test_groups_are_numbered_by_their_first_movies():
    rng = np.random.default_rng(0)
    movies = [Movie(id=str(n)) for n in rng.integers(0, 40, 100)]
    found = np.array(groups(*movies))
    _, first = np.unique(found, return_index=True)
    assert np.all(np.diff(first) > 0)
    assert groups() == []
