"""Predictions for movies, and how they are written: as text, CSV, Parquet or JSON."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from operator import length_hint
from typing import BinaryIO, NamedTuple

import numpy as np

from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders.base import KnownWords
from mmgc_jax.predictor import MOVIES_AT_ONCE, Predictor
from mmgc_jax.runtime.progress import progress_bar

_LEAST_SHOWN = 5
_BAR_WIDTH = 40
_REACHED, _MISSED = "▒", "|"  # marks of thresholds; command_line has an ASCII character for each


class Answer(NamedTuple):
    """The prediction for one movie.

    Attributes:
      movie: the movie.
      probabilities: <float32>[genres].
      predicted: whether each genre reaches its threshold, <bool>[genres].
      words: how many words of the plot are known; None without a plot, or without a vocabulary.
      notes: sentences on why the answer may be poor.
    """

    movie: Movie
    probabilities: np.ndarray
    predicted: np.ndarray
    words: KnownWords | None
    notes: list[str]


def predict(
    predictor: Predictor, movies: Iterable[Movie], model: str, show_progress: bool = False
) -> Iterator[Answer]:
    """Predicts movies one batch after the other, in their order."""
    total, movies = length_hint(movies) or None, iter(movies)
    with progress_bar(desc="predicting", unit="movie", total=total, shown=show_progress) as bar:
        while chunk := list(itertools.islice(movies, MOVIES_AT_ONCE)):
            probabilities = predictor(chunk, model)
            for movie, row in zip(chunk, probabilities):
                words, notes = predictor.words_and_notes(movie, model)
                yield Answer(movie, row, predictor.decide(row, model), words, notes)
            bar.update(len(chunk))


class Counted:
    """Iterates over answers, and counts them.

    Attributes:
      count: number of answers so far.
      noted: number of those with notes.
      first: the first one with notes, if any.
    """

    def __init__(self, answers: Iterable[Answer]):
        self._answers = answers
        self.count = self.noted = 0
        self.first: Answer | None = None

    def __iter__(self) -> Iterator[Answer]:
        for answer in self._answers:
            self.count += 1
            if answer.notes:
                self.noted += 1
                self.first = self.first or answer
            yield answer


def describe(
    answer: Answer, genres: Sequence[str], thresholds: np.ndarray, top: int | None = None
) -> str:
    """Describes the prediction for one movie to people.

    Args:
      answer: the prediction.
      genres: names of the genres.
      thresholds: of the genres, <float64>[genres].
      top: number of genres to show; None shows those that reach their threshold, and the five
        likeliest.

    Returns:
      Lines: the title if there is one, the genres from the likeliest on, a legend, notes.
    """
    order = sorted(range(len(genres)), key=lambda genre: -answer.probabilities[genre])
    shown = order[:top]
    if top is None:
        likeliest = order[:_LEAST_SHOWN]
        shown = [genre for genre in order if answer.predicted[genre] or genre in likeliest]
    width = max(len(genres[genre]) for genre in shown)
    lines = [answer.movie.title] if answer.movie.title else []
    for genre in shown:
        probability, predicted = float(answer.probabilities[genre]), answer.predicted[genre]
        bar = _bar(probability, float(thresholds[genre]), predicted)
        mark = "*" if predicted else " "
        lines.append(f"{mark} {genres[genre]:<{width}} {probability:>6.1%}  {bar}")
    if answer.predicted.any():
        legend = f"{_REACHED} marks a threshold that is reached, {_MISSED} one that is not."
        lines.append(f"Genres with * are predicted. {legend}")
    else:
        lines.append(f"No genre is predicted: none reaches its threshold, marked {_MISSED}.")
    if hidden := len(genres) - len(shown):
        lines.append(f"Genres not shown: {hidden}. --top={len(genres)} shows all.")
    return "\n".join([*lines, *(f"Note: {note}" for note in answer.notes)])


def _bar(probability: float, threshold: float, predicted: bool) -> str:
    """Draws a bar with a mark of the threshold: within the bar if the genre is predicted.

    The two cases have different marks. Otherwise a bar that ends with its mark would look like one
    that ends before it.
    """
    mark = min(int(threshold * _BAR_WIDTH), _BAR_WIDTH - 1)
    filled = round(probability * _BAR_WIDTH)
    filled = max(filled, mark + 1) if predicted else min(filled, mark)
    cells = list("█" * filled + " " * (_BAR_WIDTH - filled))
    cells[mark] = _REACHED if predicted else _MISSED
    return "".join(cells).rstrip()


def write_csv(
    stream: BinaryIO, answers: Iterable[Answer], genres: Sequence[str], decisions: bool = False
) -> None:
    """Writes a header and a row for each movie, as soon as it is predicted."""
    file = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_columns(genres, decisions))
        for answer in answers:
            row = [answer.movie.id, *(f"{value:.6f}" for value in answer.probabilities)]
            if decisions:
                row += answer.predicted.astype(int).tolist()
            writer.writerow(row)
            file.flush()
    finally:
        file.detach()  # otherwise the stream would be closed with it


def write_parquet(
    stream: BinaryIO, answers: Iterable[Answer], genres: Sequence[str], decisions: bool = False
) -> None:
    """Writes the columns of `write_csv`, when all movies are predicted."""
    import pyarrow
    import pyarrow.parquet

    answers, num_genres = list(answers), len(genres)
    probabilities = np.array([answer.probabilities for answer in answers], np.float32)
    predicted = np.array([answer.predicted for answer in answers], np.int8)
    columns = [
        pyarrow.array([answer.movie.id for answer in answers], pyarrow.string()),
        *map(pyarrow.array, probabilities.reshape(-1, num_genres).T.copy()),
        *map(pyarrow.array, predicted.reshape(-1, num_genres).T.copy() if decisions else ()),
    ]
    table = pyarrow.Table.from_arrays(columns, names=_columns(genres, decisions))
    pyarrow.parquet.write_table(table, stream)


def write_json(
    stream: BinaryIO, answers: Iterable[Answer], genres: Sequence[str], model: str
) -> None:
    """Writes an object for each movie, each on a line of its own, as soon as it is predicted."""
    for answer in answers:
        content = {
            "id": answer.movie.id,
            "title": answer.movie.title,
            "model": model,
            "probabilities": {
                genre: round(float(value), 6) for genre, value in zip(genres, answer.probabilities)
            },
            "predicted": [genre for genre, yes in zip(genres, answer.predicted) if yes],
            "plot_words": answer.words and answer.words._asdict(),
            "notes": answer.notes,
        }
        stream.write(json.dumps(content).encode() + b"\n")
        stream.flush()


def embed(
    predictor: Predictor, movies: Iterable[Movie], model: str
) -> tuple[list[str], np.ndarray]:
    """Returns the ids of movies and their vectors; see `Predictor.embed`."""
    total, movies = length_hint(movies) or None, iter(movies)
    ids, vectors = [], []
    with progress_bar(desc="embedding", unit="movie", total=total) as bar:
        while chunk := list(itertools.islice(movies, MOVIES_AT_ONCE)):
            ids += [movie.id for movie in chunk]
            vectors.append(predictor.embed(chunk, model))
            bar.update(len(chunk))
    return ids, np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)


def write_npy(stream: BinaryIO, vectors: np.ndarray) -> None:
    """Writes vectors <float32>[movies, features] as a file that `numpy.load` reads."""
    np.lib.format.write_array(stream, vectors, allow_pickle=False)


def write_vectors(stream: BinaryIO, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Writes a Parquet file with the columns `ID` and `embedding`, a list of numbers."""
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), max(1, vectors.shape[1]))
    columns = [pyarrow.array(ids, pyarrow.string()), rows]
    table = pyarrow.Table.from_arrays(columns, names=["ID", "embedding"])
    pyarrow.parquet.write_table(table, stream)


def _columns(genres: Sequence[str], decisions: bool) -> list[str]:
    prefixes = ("p", "d") if decisions else ("p",)
    return ["ID", *(f"{prefix}_{genre}" for prefix in prefixes for genre in genres)]
