"""Reads movies in the format of the talk's data: a folder with `movies.csv` and `posters/`."""

import pathlib
from collections.abc import Iterator

from mmgc_jax.data import table
from mmgc_jax.data.movies import GENRES, Movie
from mmgc_jax.runtime.errors import InputError


def read(path: str) -> Iterator[Movie]:
    """Reads labelled movies from a folder with `movies.csv` and `posters/<index>.jpg`.

    The table is read as any other one, see `mmgc_jax.data.table`, but its genres must be those of
    the talk.

    Args:
      path: path of the folder.

    Returns:
      An iterator over the movies in the order of `movies.csv`.

    Raises:
      InputError: at once, if the folder, `movies.csv` or `posters/` does not exist, the table has
        malformed rows, or a movie has no genre or an unknown one.
    """
    folder = pathlib.Path(path)
    if not path or not folder.is_dir():
        raise InputError(
            f"config.data.path is {path!r}: no such folder. It must have movies.csv and posters/."
        )
    posters = folder / "posters"
    if not posters.is_dir():
        raise InputError(f"{folder} has no folder posters/ (it may be empty, but must exist).")
    file = folder / "movies.csv"
    found = table.read(file, table.TableSettings(posters=str(posters)), labelled=True)
    used = {genre for movie in found.movies for genre in movie.genres}
    own_genres = f"--config.data.source=table --config.data.path={file} reads tables of any genres."
    if unknown := sorted(used - set(GENRES)):
        raise InputError(
            f"{file} has genres that the talk does not have: {', '.join(unknown[:10])}. It has: "
            f"{', '.join(GENRES)}. {own_genres}"
        )
    if without := [movie.id for movie in found.movies if not movie.genres]:
        raise InputError(
            f"{file} has {len(without)} movies without a genre; the first has the index "
            f"{without[0]}. {own_genres}"
        )
    return found.with_posters()
