"""Writes the report of a finished experiment: results.json, results.txt and figures/."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation import bootstrap, figures, score_tables, tables
from mmgc_jax.evaluation.results import Calibrated, Predictions, predictions_of_split
from mmgc_jax.evaluation.saved import CROSS_VALIDATION, SCORED, shown_split
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.files import Path, write_text


def write(
    workdir: Path,
    results: dict,
    missing: dict,
    corpus: Corpus,
    folds: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    fused: Sequence[str],
    calibrated: Mapping[str, Calibrated],
    titles: Mapping[str, str],
    notes: Sequence[str] = (),
    encoder_modules: Sequence[str] = (),
) -> dict:
    """Writes results.json, results.txt and the figures, and prints the final screen.

    Arguments that are not listed are those of `results.evaluate_models`.

    Args:
      workdir: the working directory of the experiment.
      results: as `results.evaluate_models` returns them.
      missing: as `results.evaluate_missing` returns them; may be empty.
      titles: title of each model, in the order of the tables: encoders, `fusion`, and the fusions
        that it is compared with.
      notes: lines to write below the tables.
      encoder_modules: modules of encoders that are not of this package.

    Returns:
      The content of results.json.
    """
    content = results | ({"missing_modalities": missing} if missing else {})
    write_text(workdir / "results.json", json.dumps(_without_nan(content), indent=2))

    split = shown_split(results)
    part = "train" if split == CROSS_VALIDATION else split
    predictions = predictions_of_split(
        corpus, part, folds, probabilities, present, fused, calibrated
    )
    fusion = predictions["fusion"]
    limits = bootstrap.auc_macro_interval(fusion.labels, fusion.probabilities, fusion.folds)
    interval = tables.interval_note(split, len(fusion.labels), *limits)
    text = tables.all_tables(results, missing, titles, split, [interval, *notes])
    write_text(workdir / "results.txt", text + "\n")

    drawn = _draw(results, missing, predictions, split, corpus.genres, fused, titles)
    drawn["learning_curves"] = figures.draw_learning_curves(figures.read_metrics(workdir), titles)
    for name, figure in drawn.items():
        figures.save(figure, workdir / "figures" / f"{name}.png")

    if parallel.is_first():
        screen = tables.final_screen(results, titles, split, workdir, encoder_modules, interval)
        print(screen, flush=True)
    return content


def write_scores(
    folder: Path,
    results: dict,
    predictions: Mapping[str, Predictions],
    genres: Sequence[str],
    fused: Sequence[str],
    titles: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """Writes results.json, results.txt and the figures of a table that was scored.

    All of it is computed before anything is written; results.json is written last.

    Args:
      folder: to write to.
      results: `{"scored": {model: figures with intervals}}`, and what else results.json has.
      predictions: of each model, as `<model>` and `<model>_both`.
      genres: the names of the columns.
      fused: names of the fused encoders.
      titles: title of each model, in the order of the tables.
      notes: lines to write below the tables.

    Returns:
      The content of results.txt.
    """
    text = score_tables.all_tables(results[SCORED], titles, notes)
    drawn = _draw(results, {}, predictions, SCORED, genres, fused, titles)
    for name, figure in drawn.items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    write_text(folder / "results.txt", text + "\n")
    write_text(folder / "results.json", json.dumps(_without_nan(results), indent=2))
    return text


def _draw(results, missing, predictions, split, genres, fused, titles) -> dict[str, Figure]:
    """Draws the figures of one split from the predictions that its tables are computed from."""
    of_split = results[split]
    with_both = {name: predictions[f"{name}_both"] for name in titles if name in predictions}
    roc = {"roc": figures.draw_roc(with_both, split, titles)}
    if "fusion" not in predictions:  # the others are of fusion, or sorted by its figures
        return roc
    fusion = predictions["fusion"]
    movies = figures.movies_text([len(fusion.labels)], split)
    title = f"Reliability of fusion, {movies}, all genres pooled"
    drawn = roc | {
        "auc_per_genre": figures.draw_auc_per_genre(of_split, split, titles),
        "f1_per_genre": figures.draw_f1_per_genre(of_split["fusion"], split),
        "precision_recall": figures.draw_precision_recall(
            {name: of for name, of in with_both.items() if name in (*fused, "fusion")},
            genres,
            split,
            titles,
        ),
        "cooccurrence": figures.draw_cooccurrence(fusion, genres, split),
        "reliability": figures.draw_reliability(fusion, title),
    }
    if missing:
        movies = results["cross_validation"]["fusion_both"]["movies"]
        drawn["missing_modalities"] = figures.draw_missing_modalities(missing, titles, movies)
    return drawn


def _without_nan(tree):
    """Replaces NaN by None, since JSON has no NaN."""
    if isinstance(tree, dict):
        return {name: _without_nan(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
