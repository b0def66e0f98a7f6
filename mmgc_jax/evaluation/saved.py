"""Predictions and true genres of every judged movie, kept in `predictions.npz`.

`mmgc compare` reads them, and so can a notebook: `numpy.load("runs/demo/predictions.npz")` has an
array for each attribute of `Saved`.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.evaluation.results import Calibrated, with_both
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, write_atomically

FILE = "predictions.npz"
# Names of the training movies, judged out-of-fold, and of those that `mmgc score` judges.
CROSS_VALIDATION, SCORED = "cross_validation", "scored"


def shown_split(splits: Container[str]) -> str:
    """Returns the split that tables and figures show first: test, or else the next best."""
    return next((name for name in ("test", "validation") if name in splits), CROSS_VALIDATION)


class Saved(NamedTuple):
    """Predictions of the models of an experiment.

    Attributes:
      ids: the movies' ids, <str>[movies].
      split: `cross_validation` for training movies, otherwise `validation`, `test` or `scored`,
        <str>[movies]. These are the names in `results.json`.
      folds: the fold of training movies, -1 of others, <int64>[movies].
      genres: names of the genres, <str>[genres].
      labels: whether a movie has a genre, <bool>[movies, genres].
      both: whether a movie has plot and poster, <bool>[movies].
      models: names of the models, <str>[models].
      present: whether a movie has the modality of a model, <bool>[models, movies].
      probabilities: calibrated, <float32>[models, movies, genres]; out-of-fold for training movies;
        NaN for movies without the modality of a model.
      thresholds: of new movies, tuned to calibrated probabilities, <float64>[models, genres].
    """

    ids: np.ndarray
    split: np.ndarray
    folds: np.ndarray
    genres: np.ndarray
    labels: np.ndarray
    both: np.ndarray
    models: np.ndarray
    present: np.ndarray
    probabilities: np.ndarray
    thresholds: np.ndarray


def of_experiment(
    corpus: Corpus,
    folds: np.ndarray,
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    calibrated: Mapping[str, Calibrated],
    calibrations: Mapping[str, Calibration],
) -> Saved:
    """Collects the predictions of an experiment.

    Arguments that are not listed are those of `results.evaluate_models`.

    Args:
      calibrations: as returned by `results.calibrate`.
    """
    rows = np.concatenate(list(corpus.split.values()))
    names = [CROSS_VALIDATION if name == "train" else name for name in corpus.split]
    split = np.repeat(names, [len(indices) for indices in corpus.split.values()])
    both = with_both(present, fused)[rows]
    present = np.array([present[name][rows] for name in calibrated], bool)
    judged = np.array([of_model.probabilities[rows] for of_model in calibrated.values()])
    return Saved(
        ids=np.array(corpus.ids, str)[rows],
        split=split,
        folds=folds[rows],
        genres=np.array(corpus.genres, str),
        labels=corpus.labels[rows] > 0,
        both=both,
        models=np.array(list(calibrated), str),
        present=present,
        probabilities=np.where(present[:, :, None], judged, np.nan),
        thresholds=np.array([calibrations[name].thresholds for name in calibrated]),
    )


def save(file: Path, saved: Saved) -> None:
    """Writes a compressed `.npz` file, atomically; on process 0 only."""
    write_atomically(file, lambda stream: np.savez_compressed(stream, **saved._asdict()))


def load(file: Path) -> Saved | None:
    """Reads the predictions that `save` wrote; None if there is no file.

    Raises:
      InputError: if the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            saved = Saved(**{name: arrays[name] for name in Saved._fields})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file} is damaged: {error}. Delete it; {how_to_write(file)}") from error
    models, movies, genres = len(saved.models), len(saved.ids), len(saved.genres)
    expected = {
        "split": (movies,), "folds": (movies,), "both": (movies,), "labels": (movies, genres),
        "present": (models, movies), "probabilities": (models, movies, genres),
        "thresholds": (models, genres),
    }  # fmt: skip
    for name, shape in expected.items():
        if getattr(saved, name).shape != shape:
            raise InputError(
                f"{file} is damaged: {name} has not the shape {shape}. Delete it; "
                f"{how_to_write(file)}"
            )
    return saved


def fingerprint(saved: Saved) -> str:
    """Returns a hash of the movies' ids and labels, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in (saved.ids, saved.genres, saved.labels):
        digest.update(json.dumps(array.tolist()).encode())
    return digest.hexdigest()


def how_to_write(file: Path) -> str:
    """Says how to write the file of a finished run again."""
    return (
        f"running {file.parent} again, with the same command, writes it: finished work is not "
        "repeated."
    )
