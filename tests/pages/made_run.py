"""Writes the working directory of a finished run with random predictions, without any training."""

import json
import pathlib

import numpy as np

from mmgc_jax import settings
from mmgc_jax.data import posters
from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.evaluation import calibration, gallery, report, results, saved
from mmgc_jax.runtime.files import write_text
from tests import tiny

FOLDS = 2


def write(
    workdir: pathlib.Path,
    genres: int = 3,
    movies: int = 90,
    encoders: tuple[str, ...] = ("plot", "poster"),
    test: bool = True,
    figures: bool = False,
    poster_size: tuple[int, int] = (64, 32),
) -> pathlib.Path:
    """Writes a run of `tiny`'s config; a third of the movies are the test split.

    Args:
      workdir: the folder.
      genres: number of genres.
      movies: number of movies.
      encoders: of the config; a movie has a plot, a poster or both if one of them looks at it.
      test: whether there is a test split.
      figures: whether to draw the figures, too.
      poster_size: height and width of the posters in pixels.
    """
    rng = np.random.default_rng(0)
    config = tiny.get_config()
    config.encoders = config.fusion.encoders = encoders
    config = settings.without_unused_encoders(config)
    names = [*encoders, fusion.FUSION]
    modalities = {name: registry.modality(config, name) for name in encoders}
    has = {
        modality: np.full(movies, modality in modalities.values())
        for modality in ("plot", "poster")
    }
    if all(of.all() for of in has.values()):
        has["poster"][::5] = False
    corpus = Corpus(
        ids=[f"tt{n}" for n in range(movies)],
        genres=tuple(f"Genre {n:03d}" for n in range(genres)),
        labels=(rng.uniform(size=(movies, genres)) < 0.3).astype(np.float32),
        has_plot=has["plot"],
        has_poster=has["poster"],
        split={"train": np.arange(movies // 3, movies), "test": np.arange(movies // 3)}
        if test
        else {"train": np.arange(movies)},
        groups=np.arange(movies),
        records=[_record(n, has["plot"][n], has["poster"][n], rng, poster_size)
                 for n in range(movies)],
    )  # fmt: skip
    folds = np.full(movies, -1)
    folds[corpus.split["train"]] = np.arange(len(corpus.split["train"])) % FOLDS
    noise = rng.uniform(size=(len(names), movies, genres))
    probabilities = {
        name: np.float32(0.3 * corpus.labels + 0.65 * of) for name, of in zip(names, noise)
    }
    present = {name: has[modalities[name]] for name in encoders}
    present[fusion.FUSION] = np.any(list(present.values()), axis=0)
    calibrations = results.calibrate(corpus, probabilities, present)
    calibrated = results.cross_calibrate(corpus, folds, probabilities, present, calibrations)
    judged = corpus, folds, probabilities, present, encoders, calibrated
    found = results.evaluate_models(*judged)
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", config.to_json(indent=2))
    shares = dict.fromkeys(corpus.genres, 0.3)
    write_text(workdir / "genre_frequencies.json", json.dumps(shares))
    calibration.save(workdir / "calibration.json", calibrations)
    predictions = saved.of_experiment(corpus, folds, present, encoders, calibrated, calibrations)
    saved.save(workdir / saved.FILE, predictions)
    gallery.save(workdir, corpus, predictions, saved.shown_split(corpus.split))
    if figures:
        report.write(workdir, found, {}, *judged, fusion.titles(config))
    else:
        write_text(workdir / "results.json", json.dumps(report._without_nan(found)))
    return workdir


def _record(number, has_plot, has_poster, rng, size) -> dict:
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return {
        "id": f"tt{number}".encode(),
        "title": f"Movie <{number}>".encode(),
        "plot": f"the plot of number {number} & more .".encode() if has_plot else b"",
        "poster": posters.encode_jpeg(pixels),
        "has_poster": bool(has_poster),
    }
