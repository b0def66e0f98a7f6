"""The galleries of a report: movies of each genre with posters, plots and explanations."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmgc_jax import explanations, pages
from mmgc_jax.data import posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.evaluation import gallery
from mmgc_jax.evaluation.saved import Saved
from mmgc_jax.explanations import Explanation
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

_TITLES = {
    "right": "Surest and right",
    "wrong": "Surest and wrong: is the label missing?",
    "missed": "Missed",
}
# Pixels of a thumbnail, and of those of more movies than this.
_HEIGHT, _SMALL_HEIGHT, _MANY = 80, 48, 400
_MOST_PLOT = 220  # characters
_MOST_WORDS = 4
# Bytes of all thumbnails; later movies are shown without.
_MOST_PICTURE_BYTES = 1_300_000


class Galleries:
    """The movies of a report's galleries, and explanations of some of them."""

    def __init__(self, predictions: Saved, split: str, movies: Mapping[int, Movie]):
        """Chooses the movies.

        Args:
          predictions: of the run.
          split: whose movies are shown.
          movies: the movies by their rows of the predictions, as `gallery.load` returns them.
        """
        self._predictions = predictions
        self._movies = movies
        self._model = list(predictions.models).index("fusion")
        self._chosen = gallery.choose(predictions, split)
        self._explained: dict[int, Explanation] = {}
        self._bytes_left = _MOST_PICTURE_BYTES
        cards = sum(len(rows) for of_genre in self._chosen.values() for rows in of_genre)
        self._height = _HEIGHT if cards <= _MANY else _SMALL_HEIGHT

    def explain(self, predictor: Predictor, most: int, until: float) -> None:
        """Explains the first movies of all lists, those of wrong answers first.

        If the parameters cannot be read, the log says so, and no movie is explained.

        Args:
          predictor: the models of the run.
          most: number of movies, at most.
          until: no movie is begun after this time of `time.monotonic`.
        """
        for row, genres in self._queue(most).items():
            if time.monotonic() > until:
                logger.info(
                    "Explained %d movies of the galleries; mmgc report explains more.",
                    len(self._explained),
                )
                return
            preemption.raise_if_requested_locally()
            try:
                self._explained[row] = explanations.explain(
                    predictor, self._movies[row], genres=genres
                )
            except InputError as error:
                logger.warning("The report has no explanations: %s", error)
                return

    def _queue(self, most: int) -> dict[int, list[str]]:
        """Returns the movies to explain, and for each the genres whose galleries show it."""
        queue: dict[int, list[str]] = {}
        for place in range(max(len(rows) for of in self._chosen.values() for rows in of)):
            for kind in ("wrong", "right", "missed"):
                for genre, of_genre in self._chosen.items():
                    rows = getattr(of_genre, kind)[place : place + 1].tolist()
                    for row in rows:
                        if row in self._movies and (row in queue or len(queue) < most):
                            queue.setdefault(row, []).append(genre)
        return queue

    def to_template(self) -> list[dict[str, Any]]:
        """Returns the values of the template: an entry for each genre."""
        found = []
        for genre, of_genre in self._chosen.items():
            lists = [
                {"title": title, "movies": [self._card(row, genre) for row in getattr(of_genre, k)]}
                for k, title in _TITLES.items()
            ]
            if any(of_list["movies"] for of_list in lists):
                found.append({"genre": genre, "lists": lists})
        return found

    def _card(self, row: int, genre: str) -> dict[str, Any]:
        """Makes the values of one movie in the gallery of a genre."""
        predictions, movie = self._predictions, self._movies.get(row)
        index = list(predictions.genres).index(genre)
        labels = [str(g) for g in predictions.genres[predictions.labels[row]]]
        name = str(predictions.ids[row])
        card = {
            "name": name if movie is None or not movie.title else movie.title,
            "id": name,
            "percent": pages.percent(predictions.probabilities[self._model, row, index]),
            "labels": ", ".join(labels) or "none",
            "plot": "" if movie is None else _shortened(movie.plot or ""),
            "poster": None,
            "maps": [],
            "words": [],
        }
        pixels = None if movie is None else _thumbnail(movie, self._height)
        if pixels is not None:
            card["poster"] = self._picture(posters.encode_jpeg(pixels, quality=80))
        if row in self._explained and genre in self._explained[row].chosen:
            self._add_explanation(card, self._explained[row], genre, pixels)
        return card

    def _add_explanation(
        self, card: dict[str, Any], e: Explanation, genre: str, pixels: np.ndarray | None
    ) -> None:
        column = e.chosen.index(genre)
        card["words"] = _strongest(e, column)
        for name, maps in e.heat_maps.items():
            if pixels is not None and maps[column].any():
                image = self._picture(pages.heat_picture(pixels, maps[column]))
                if image:
                    card["maps"].append({"title": e.titles[name], "image": image})

    def _picture(self, jpeg: bytes) -> str | None:
        """Returns the address of an image; None after the images have taken their share."""
        if self._bytes_left < len(jpeg):
            return None
        self._bytes_left -= len(jpeg)
        return pages.data_url(jpeg)


def _thumbnail(movie: Movie, height: int) -> np.ndarray | None:
    """Decodes a poster, RGB <uint8>[height, width, 3]; None if there is none to decode."""
    if movie.poster is None:
        return None
    try:
        rows, columns = posters.decode(movie.poster).shape[:2]
        return posters.decode(movie.poster, height, max(1, round(height * columns / rows)))
    except posters.PosterError:
        return None


def _strongest(e: Explanation, column: int) -> list[dict[str, str]]:
    """Returns the words with the strongest scores, each once."""
    order = np.argsort(-np.abs(e.word_scores[:, column]), kind="stable")
    words: dict[str, float] = {}
    for number in order:
        score = float(e.word_scores[number, column])
        if len(words) == _MOST_WORDS or abs(score) < 0.05:
            break
        words.setdefault(e.words[number].text.lower(), score)
    return [
        {"text": text, "score": pages.signed(score), "kind": "for" if score > 0 else "against"}
        for text, score in words.items()
    ]


def _shortened(plot: str) -> str:
    """Cuts a plot at the end of a word."""
    plot = " ".join(plot.split())
    if len(plot) <= _MOST_PLOT:
        return plot
    return plot[:_MOST_PLOT].rsplit(" ", 1)[0].rstrip(" ,.;:") + " …"
