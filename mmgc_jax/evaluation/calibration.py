"""Platt scaling and decision thresholds of each genre."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit, logit

from mmgc_jax.evaluation import metrics
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json, write_text

# Weights, in nats, of the penalties that draw the scale to 1 and the shift to 0. They act like
# priors with a standard deviation of 1/2 for the logarithm of the scale, and of 1 for the shift.
_SCALE_PENALTY, _SHIFT_PENALTY = 4.0, 1.0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Platt scaling (Platt 1999) and a decision threshold for each genre.

    A probability p becomes sigmoid(scale * logit(p) + shift). The scale is positive, so that the
    order of the movies and the AUC of a genre stay the same, except for ties that rounding to
    float32 causes.

    Attributes:
      genres: the names of the columns.
      scale: <float64>[genres], above 0.
      shift: <float64>[genres], in logits.
      thresholds: <float64>[genres]; a genre is predicted if its calibrated probability is at least
        this.
    """

    genres: tuple[str, ...]
    scale: np.ndarray
    shift: np.ndarray
    thresholds: np.ndarray

    @classmethod
    def fit(
        cls, labels: np.ndarray, probabilities: np.ndarray, genres: Sequence[str]
    ) -> "Calibration":
        """Fits scale and shift by cross-entropy, then thresholds by F1.

        Platt's smoothed targets are replaced by a weak penalty that draws the scale to 1 and the
        shift to 0. Without it, a genre with three positives could reverse the order of the movies
        or drive the scale to infinity. The penalty is the negative logarithm of a gamma density of
        the scale, with mode 1, and of a normal density of the shift. The penalised cross-entropy
        is strictly convex, so its minimum is unique.

        Args:
          labels: <bool>[movies, genres], or 0/1 numbers.
          probabilities: <float>[movies, genres], in [0, 1], of models that were not trained on
            these movies.
          genres: the names of the columns.

        Raises:
          ValueError: if shapes disagree or a probability is not in [0, 1].
        """
        labels = np.asarray(labels).astype(bool)
        probabilities = np.asarray(probabilities)
        if labels.shape != probabilities.shape or labels.shape[1:] != (len(genres),):
            raise ValueError(
                f"labels {labels.shape}, probabilities {probabilities.shape} and {len(genres)} "
                "genres do not fit together"
            )
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("a probability is not in [0, 1]")
        logits = _logits(probabilities)
        scale, shift = np.transpose(
            [_scale_and_shift(labels[:, g], logits[:, g]) for g in range(len(genres))]
        )
        fitted = cls(tuple(genres), scale, shift, thresholds=np.full(len(genres), 0.5))
        thresholds = metrics.tune_thresholds(labels, fitted(probabilities))
        return dataclasses.replace(fitted, thresholds=thresholds)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrates probabilities <float>[movies, genres]; returns <float32>[movies, genres]."""
        return expit(self.scale * _logits(probabilities) + self.shift).astype(np.float32)


def _logits(probabilities):
    """Returns log-odds, <float64>; moves 0 and 1 to their neighbours in float32, to stay finite."""
    lowest, highest = np.finfo(np.float32).tiny, 1 - np.finfo(np.float32).epsneg
    return logit(np.clip(np.asarray(probabilities, np.float64), lowest, highest))


def _scale_and_shift(labels, logits):
    """Fits scale and shift of one genre to labels <bool>[movies] and logits <float64>[movies]."""
    from scipy.optimize import minimize  # slow to import, and predictions do not need it

    def penalised_cross_entropy(parameters):
        log_scale, shift = parameters
        scale = np.exp(log_scale)
        calibrated = scale * logits + shift
        value = (
            np.sum(np.logaddexp(0, calibrated) - labels * calibrated)
            + _SCALE_PENALTY * (scale - 1 - log_scale)
            + _SHIFT_PENALTY * shift**2 / 2
        )
        error = expit(calibrated) - labels
        gradient = (
            scale * (error @ logits) + _SCALE_PENALTY * (scale - 1),
            np.sum(error) + _SHIFT_PENALTY * shift,
        )
        return value, np.array(gradient)

    # The logarithm keeps the scale positive.
    found = minimize(
        penalised_cross_entropy,
        np.zeros(2),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-4},
    )
    # Rounding may end the search before gtol is reached, so the gradient is checked, not `success`:
    # the penalty's curvature is 1 or more, so a gradient below 0.01 is within 0.01 of the minimum.
    if not np.abs(found.jac).max() < 0.01:
        raise RuntimeError(f"calibration of a genre did not converge: {found.message}")
    log_scale, shift = found.x
    return math.exp(log_scale), shift


def save(file: Path, calibrations: Mapping[str, Calibration]) -> None:
    """Writes the calibrations of all models to one JSON file.

    The content is `{model: {genre: {"scale": ..., "shift": ..., "threshold": ...}}}`.
    """
    content = {
        model: {
            genre: {"scale": float(scale), "shift": float(shift), "threshold": float(threshold)}
            for genre, scale, shift, threshold in zip(
                calibration.genres, calibration.scale, calibration.shift, calibration.thresholds
            )
        }
        for model, calibration in calibrations.items()
    }
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False))


def load(file: Path) -> dict[str, Calibration]:
    """Reads the calibrations that `save` wrote.

    Raises:
      InputError: if the file is missing or not JSON, if a number is missing or out of range, or if
        two models have different genres.
    """
    again = "Run the experiment again to write the file anew."
    content = read_json(file, again)
    try:
        return _from_json(content)
    except ValueError as error:
        raise InputError(f"{file} is not a calibration: {error}. {again}") from error


def _from_json(content) -> dict[str, Calibration]:
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no models")
    calibrations = {}
    for model, of_genres in content.items():
        if not isinstance(of_genres, dict) or not of_genres:
            raise ValueError(f"{model} has no genres")
        rows = [_numbers(f"{model}, {genre}", row) for genre, row in of_genres.items()]
        calibrations[model] = Calibration(tuple(of_genres), *np.transpose(rows))
    first, *others = calibrations
    for model in others:
        if calibrations[model].genres != calibrations[first].genres:
            raise ValueError(f"{first} and {model} have different genres")
    return calibrations


def _numbers(where, row) -> tuple[float, float, float]:
    """Returns scale, shift and threshold of one genre; raises `ValueError` if one is invalid."""
    names = ("scale", "shift", "threshold")
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"{where}: {row!r} is not scale, shift and threshold")
    for name in names:
        if type(row[name]) not in (int, float) or not math.isfinite(row[name]):
            raise ValueError(f"{where}: {name} is {row[name]!r}, not a finite number")
    if row["scale"] <= 0:
        raise ValueError(f"{where}: scale is {row['scale']}, not above 0")
    if not 0 <= row["threshold"] <= 1:
        raise ValueError(f"{where}: threshold is {row['threshold']}, not in [0, 1]")
    return row["scale"], row["shift"], row["threshold"]
