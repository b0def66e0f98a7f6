"""Scores a finished experiment on a labelled table: predicts its movies, and computes figures."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmgc_jax.data import genre_names, posters, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.data.table import MovieTable
from mmgc_jax.encoders import registry
from mmgc_jax.evaluation.results import Predictions
from mmgc_jax.evaluation.saved import CROSS_VALIDATION, SCORED, Saved
from mmgc_jax.predictor import MOVIES_AT_ONCE, Predictor
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.progress import progress_bar


class Labels(NamedTuple):
    """The labels of a table, in the genres of an experiment.

    Attributes:
      rows: the rows that are scored, <int64>[movies].
      labels: <bool>[movies, genres].
      unlabelled: number of movies without a genre, which are left out.
      notes: sentences on genres that were left out.
    """

    rows: np.ndarray
    labels: np.ndarray
    unlabelled: int
    notes: Sequence[str]


def match_labels(
    found: MovieTable, genres: Sequence[str], renamed: Mapping[str, str], split: str | None = None
) -> Labels:
    """Matches a table's genres by name with those of an experiment.

    A name that is not equal to a genre of the experiment may differ from it in case.

    Args:
      found: the table.
      genres: those of the experiment.
      renamed: the experiment's name of genres that the table calls otherwise; empty for genres to
        leave out.
      split: score only rows of this split; None: all.

    Returns:
      The labels. Rows without a genre are left out; rows that have only genres that the experiment
      does not know are not: they are movies without any of its genres.

    Raises:
      InputError: if nothing can be scored.
    """
    place = dict(zip(genres, range(len(genres))))
    folded = {genre.casefold(): column for genre, column in reversed(place.items())}
    notes, rows, unknown = [], [], collections.Counter()
    if split is not None and split not in found.splits:
        raise InputError(
            f"--split={split}: the table has no such movies. "
            + (f"It has: {', '.join(sorted(set(found.splits)))}." if any(found.splits) else
               "It has no column that says to which split a movie belongs.")
        )  # fmt: skip
    labels = np.zeros((len(found.movies), len(genres)), bool)
    unlabelled = 0
    for row, movie in enumerate(found.movies):
        if split is not None and found.splits[row] != split:
            continue
        if not movie.genres:
            unlabelled += 1
            continue
        rows.append(row)
        for name in movie.genres:
            if not (name := renamed.get(name, name)):
                continue
            column = place.get(name, folded.get(name.casefold()))
            if column is None:
                unknown[name] += 1
            else:
                labels[row, column] = True
    if unknown:
        listed = [f"{name} ({count:,})" for name, count in unknown.most_common()]
        notes.append(
            f"Genres of the table that the experiment does not know, which are left out: "
            f"{genre_names.listed(listed)}."
        )
    labels = labels[rows]
    if not len(rows) or not labels.any():
        raise InputError(
            "No movie of the table has a genre of the experiment. "
            + (f"The table has: {genre_names.listed(list(unknown))}. " if unknown else "")
            + f"The experiment has: {genre_names.listed(list(genres))}. --genres renames those of "
            "the table."
        )
    for what, lacking in (
        ("without a movie in the table", ~labels.any(axis=0)),
        ("that all movies of the table have", labels.all(axis=0)),
    ):
        if lacking.any():
            listed = [genre for genre, lacks in zip(genres, lacking) if lacks]
            notes.append(
                f"Genres of the experiment {what}, which are left out of macro averages and mAP: "
                f"{genre_names.listed(listed)}."
            )
    return Labels(np.array(rows), labels, unlabelled, notes)


def parse_renamings(entries: Sequence[str], trained: Sequence[str]) -> dict[str, str]:
    """Parses `--genres`, and the renamings that an experiment was trained with.

    >>> parse_renamings(["Science Fiction=Sci-Fi"], ["Drama", "Sport="])
    {'Sport': '', 'Science Fiction': 'Sci-Fi'}

    Args:
      entries: renamings, such as `Science Fiction=Sci-Fi`.
      trained: `config.data.genres` of the experiment.

    Raises:
      InputError: if an entry is no renaming.
    """
    for entry in entries:
        if "=" not in entry:
            raise InputError(
                f"--genres={entry}: write TABLE'S NAME=EXPERIMENT'S NAME, or NAME= to leave it out."
            )
    return {**genre_names.parse(trained).renamed, **genre_names.parse(entries).renamed}


class Scored(NamedTuple):
    """Predictions of several models for the movies of a table.

    Attributes:
      saved: for `predictions.npz`.
      uncalibrated: <float32>[models, movies, genres].
    """

    saved: Saved
    uncalibrated: np.ndarray

    def predictions(self) -> dict[str, Predictions]:
        """Returns the predictions of each model, as `<model>` and `<model>_both`.

        The first are for the movies that have what the model reads, the others for those with
        both modalities.
        """
        saved = self.saved
        return {
            f"{name}{suffix}": Predictions(
                saved.labels[rows],
                saved.probabilities[index, rows],
                self.uncalibrated[index, rows],
                np.tile(saved.thresholds[index], (rows.sum(), 1)),
            )
            for suffix, where in (("", np.ones_like(saved.both)), ("_both", saved.both))
            for index, name in enumerate(saved.models.tolist())
            for rows in [where & saved.present[index]]
        }


def predict(
    predictor: Predictor, found: MovieTable, labels: Labels, models: Sequence[str]
) -> Scored:
    """Predicts the movies of a table with several models, batch by batch, with a progress bar.

    Args:
      predictor: the experiment.
      found: the table.
      labels: its labels.
      models: names of models.

    Raises:
      InputError: as `Predictor.__call__`.
    """
    shape = len(models), len(labels.rows), len(predictor.genres)
    calibrated, uncalibrated = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    present, both = np.zeros(shape[:2], bool), np.zeros(len(labels.rows), bool)
    config = predictor.config
    modalities = registry.fused_modalities(config)
    movies = found.with_posters(labels.rows)
    with progress_bar(desc="predicting", unit="movie", total=len(labels.rows)) as bar:
        for start in range(0, len(labels.rows), MOVIES_AT_ONCE):
            batch = list(itertools.islice(movies, MOVIES_AT_ONCE))
            rows = slice(start, start + len(batch))
            both[rows] = [all(_has(movie, modality) for modality in modalities) for movie in batch]
            for index, arrays in enumerate(predictor.predict_all(batch, models).values()):
                calibrated[index, rows], uncalibrated[index, rows], present[index, rows] = arrays
            bar.update(len(batch))
    saved = Saved(
        ids=np.array([found.movies[row].id for row in labels.rows], str),
        split=np.full(len(labels.rows), SCORED),
        folds=np.full(len(labels.rows), -1),
        genres=np.array(predictor.genres, str),
        labels=labels.labels,
        both=both,
        models=np.array(models, str),
        present=present,
        probabilities=np.where(present[:, :, None], calibrated, np.nan),
        thresholds=np.array([predictor.thresholds(model) for model in models]),
    )
    return Scored(saved, uncalibrated)


def _has(movie: Movie, modality: str) -> bool:
    """Returns whether a movie has a plot with words, or a poster that can be decoded."""
    if modality == "plot":
        return text.has_words(movie.plot)
    if movie.poster is None:
        return False
    try:
        posters.decode(movie.poster, 32, 32)
    except posters.PosterError:
        return False
    return True


def seen_in_training(scored: Saved, trained: Saved) -> int:
    """Counts the scored movies that have the id and the genres of a training movie."""
    known = dict(zip(trained.ids.tolist(), range(len(trained.ids))))
    for row in np.flatnonzero(trained.split != CROSS_VALIDATION):
        known.pop(trained.ids[row], None)
    return sum(
        row is not None and np.array_equal(labels, trained.labels[row])
        for row, labels in zip(map(known.get, scored.ids.tolist()), scored.labels)
    )
