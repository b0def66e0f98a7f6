"""Checks movies that a caller gives, and reads their posters."""

import dataclasses
import math
import os
from collections.abc import Iterable

from PIL import Image

from mmgc_jax.data import posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.runtime.errors import InputError


def read(movies: Iterable[Movie]) -> list[Movie]:
    """Checks the types of movies, and reads the posters that are not bytes yet."""
    return [
        dataclasses.replace(movie, poster=_poster_bytes(movie.poster, f"movies[{number}].poster"))
        for number, movie in enumerate(listed(movies))
    ]


def listed(movies: Iterable[Movie]) -> list[Movie]:
    """Makes a list of movies; raises a TypeError that names what has another type."""
    if isinstance(movies, Movie | str | bytes) or not isinstance(movies, Iterable):
        wanted = "[movie]" if isinstance(movies, Movie) else "[Movie(plot='...')]"
        raise TypeError(
            f"movies is {_type_name(movies)}; a list or another iterable of movies is needed, such "
            f"as {wanted}."
        )
    movies = list(movies)
    for number, movie in enumerate(movies):
        check(movie, f"movies[{number}]")
    return movies


def check(movie: Movie, name: str) -> None:
    """Raises a TypeError that begins with a name if a movie, or a field of it, has another type."""
    if not isinstance(movie, Movie):
        raise TypeError(
            f"{name} is {_type_name(movie)}; a Movie is needed, such as Movie(plot='...')."
        )
    for field, wanted in (("id", "a str"), ("title", "a str"), ("plot", "a str or None")):
        value = getattr(movie, field)
        if isinstance(value, str) or (value is None and field == "plot"):
            continue
        hint = ""
        if field == "plot" and isinstance(value, float) and math.isnan(value):
            hint = " (nan, as pandas has for missing values)"
        raise TypeError(f"{name}.{field} is {_type_name(value)}{hint}; {wanted} is needed.")
    if not isinstance(
        movie.poster, bytes | bytearray | memoryview | str | os.PathLike | Image.Image | None
    ):
        raise TypeError(
            f"{name}.poster is {_type_name(movie.poster)}; the bytes of an image file, its path, "
            "a PIL image or None is needed. Of an array: PIL.Image.fromarray(array)."
        )


def _type_name(value) -> str:
    return "None" if value is None else type(value).__name__


def _poster_bytes(poster, name: str) -> bytes | None:
    """Returns the bytes of an image file; `name` is for errors."""
    if poster is None or isinstance(poster, bytes):
        return poster
    if isinstance(poster, bytearray | memoryview):
        return bytes(poster)
    try:
        if isinstance(poster, Image.Image):
            return posters.encode_png(poster)
        return posters.read_image(poster)
    except (OSError, ValueError) as error:  # ValueError: a closed image, or a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        what = "the PIL image" if isinstance(poster, Image.Image) else os.fspath(poster)
        raise InputError(f"{name}: {what} cannot be read: {reason}.") from error
