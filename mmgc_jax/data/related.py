"""Finds related movies: rows of a table that seem to be the same movie.

A related movie in the test part would make a model look better than it is.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from mmgc_jax.data.movies import Movie

# A poster of more movies than this is an image such as "no poster available".
_MOST_WITH_ONE_POSTER = 10


def keys(movie: Movie) -> list[int]:
    """Returns a hash of a movie's id, and of its title and year; related movies share one of them.

    A title counts without regard to case, accents and punctuation. Ids and titles that are empty
    have no hash. The hashes are <int64> numbers.
    """
    title = unicodedata.normalize("NFKD", movie.title.casefold())
    title = re.sub(r"[\W_]+", " ", "".join(c for c in title if not unicodedata.combining(c)))
    found = [f"id {movie.id}"] if movie.id else []
    if title.strip():
        found.append(f"title {title.strip()} {movie.year}")
    return [hash_of(text.encode()) for text in found]


def hash_of(content: bytes) -> int:
    """Hashes bytes to an <int64> number, which is not 0."""
    digest = hashlib.sha256(content).digest()
    return int.from_bytes(digest[:8], "little", signed=True) or 1


def group(keys_of_movies: Sequence[Sequence[int]], posters: np.ndarray) -> np.ndarray:
    """Groups movies: two of them are in one group if a chain of related movies connects them.

    Args:
      keys_of_movies: what `keys` returns for each movie.
      posters: a hash of each movie's poster, <int64>[movies], 0 for movies without one. A poster of
        more than ten movies does not relate them.

    Returns:
      The number of each movie's group, <int64>[movies], ascending from 0 by the groups' first
      movies.
    """
    from scipy import sparse  # predictions do not need it

    num_movies = len(posters)
    rows = np.repeat(np.arange(num_movies), [len(found) for found in keys_of_movies])
    values = np.array([key for found in keys_of_movies for key in found], np.int64)
    hashes, counts = np.unique(posters, return_counts=True)
    shared = np.flatnonzero(
        np.isin(posters, hashes[counts <= _MOST_WITH_ONE_POSTER]) & (posters != 0)
    )
    rows = np.concatenate([rows, shared])
    values = np.concatenate([values, posters[shared]])
    columns = np.unique(values, return_inverse=True)[1]
    num_keys = columns.max(initial=-1) + 1
    # A graph whose nodes are the movies and the keys.
    graph = sparse.coo_array(
        (np.ones(len(rows), bool), (rows, num_movies + columns)),
        shape=(num_movies + num_keys, num_movies + num_keys),
    )
    found = sparse.csgraph.connected_components(graph, directed=False)[1][:num_movies]
    _, first, groups = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups].astype(np.int64)
