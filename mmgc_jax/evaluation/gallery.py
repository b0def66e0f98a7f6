"""Movies of a report's galleries, kept in `gallery.jsonl`: surest and right, wrong, and missed.

`choose` depends on the predictions alone, so the movies that a run keeps at its end are those that
a report made later shows.
"""

import base64
import binascii
import json
import logging
from typing import NamedTuple

import numpy as np

from mmgc_jax.data.movies import Movie
from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation.saved import Saved
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.files import Path, write_text

logger = logging.getLogger(__name__)

FILE = "gallery.jsonl"
# Movies in each list of a genre, and in all lists together.
_MOST_OF_LIST, _MOST = 4, 900


class Gallery(NamedTuple):
    """Movies of one genre: rows of the predictions, <int64>[movies], the most telling first.

    Attributes:
      right: have the genre, with the highest probabilities.
      wrong: lack the genre, but it is predicted, with the highest probabilities; their labels may
        be wrong.
      missed: have the genre, but it is not predicted, with the lowest probabilities.
    """

    right: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray


def choose(saved: Saved, split: str) -> dict[str, Gallery]:
    """Chooses the movies of each genre, by the probabilities of fusion.

    Args:
      saved: predictions of an experiment.
      split: whose movies are shown, a value of `saved.split`.

    Returns:
      The galleries by genre, in alphabetical order; of very many, those of the most frequent.
    """
    model = list(saved.models).index("fusion")
    judged = np.flatnonzero((saved.split == split) & saved.present[model])
    labels, probabilities = saved.labels[judged], saved.probabilities[model, judged]
    predicted = probabilities >= saved.thresholds[model]
    frequent = np.argsort(-labels.sum(axis=0), kind="stable")[: _MOST // 3]
    most = min(_MOST_OF_LIST, max(1, _MOST // (3 * max(len(frequent), 1))))
    galleries = {}
    for genre in sorted(frequent):
        has, score = labels[:, genre], probabilities[:, genre]

        def first(wanted: np.ndarray, order: np.ndarray) -> np.ndarray:
            return judged[order[wanted[order]][:most]]

        ascending = np.argsort(score, kind="stable")
        galleries[str(saved.genres[genre])] = Gallery(
            right=first(has & predicted[:, genre], ascending[::-1]),
            wrong=first(~has & predicted[:, genre], ascending[::-1]),
            missed=first(has & ~predicted[:, genre], ascending),
        )
    return galleries


def save(workdir: Path, corpus: Corpus, saved: Saved, split: str) -> None:
    """Writes the chosen movies, a JSON object on each line; on process 0 only.

    Args:
      workdir: the working directory of the experiment.
      corpus: the movies that `saved` was made of.
      saved: the predictions, as `saved.of_experiment` returns them.
      split: as in `choose`.
    """
    if not parallel.is_first():
        return
    rows = np.concatenate(list(corpus.split.values()))  # as in `saved.of_experiment`
    galleries = choose(saved, split).values()
    chosen = sorted({int(row) for gallery in galleries for rows_ in gallery for row in rows_})
    lines = []
    for row in chosen:
        record = corpus.records[int(rows[row])]
        poster = record["poster"] if record["has_poster"] else None
        movie = {
            "row": row,
            "id": record["id"].decode(),
            "title": record["title"].decode(),
            "plot": record["plot"].decode(),
            "poster": None if poster is None else base64.b64encode(poster).decode(),
        }
        lines.append(json.dumps(movie, ensure_ascii=False) + "\n")
    write_text(workdir / FILE, "".join(lines))


def load(workdir: Path, saved: Saved) -> dict[int, Movie]:
    """Reads the movies that `save` wrote, by their rows of the predictions.

    Movies of other predictions are left out. If the file cannot be read, the log says so, and the
    result is empty.
    """
    file, movies = workdir / FILE, {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            row, poster = found["row"], found["poster"]
            if not 0 <= row < len(saved.ids) or saved.ids[row] != found["id"]:
                continue
            movies[row] = Movie(
                id=found["id"],
                title=found["title"],
                plot=found["plot"] or None,
                poster=base64.b64decode(poster) if poster else None,
            )
    except FileNotFoundError:
        logger.info("%s does not exist, so the report shows no plots and posters.", file)
        return {}
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
        logger.warning("%s cannot be read, so the report shows no plots: %s", file, error)
        return {}
    return movies
