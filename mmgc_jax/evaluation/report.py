"""Writes the report of a finished experiment: results.json, results.txt and figures/."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation import figures, tables
from mmgc_jax.evaluation.calibration import Calibration
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.files import Path, write_text


def write(
    workdir: Path,
    results: dict,
    missing: dict,
    corpus: Corpus,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    calibrations: Mapping[str, Calibration],
    titles: Mapping[str, str],
    notes: Sequence[str] = (),
) -> dict:
    """Writes results.json, results.txt and the figures, and prints the tables.

    Args:
      workdir: of the experiment.
      results: as `results.evaluate_models` returns them.
      missing: as `results.evaluate_missing` returns them; may be empty.
      corpus: the movies.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, the movies that have its modality, <bool>[movies of the corpus].
      calibrations: for each model.
      titles: title of each model, in the order of the tables: encoders, `fusion`, and the fusions
        that it is compared with.
      notes: lines that stand above the tables.

    Returns:
      The content of results.json.
    """
    content = results | ({"missing_modalities": missing} if missing else {})
    write_text(workdir / "results.json", json.dumps(_without_nan(content), indent=2))

    split = "test" if "test" in results else "validation"
    text = tables.all_tables(results, missing, titles, split, notes)
    write_text(workdir / "results.txt", text + "\n")

    for name, figure in {
        "auc_per_genre": figures.draw_auc_per_genre(results[split], split, titles),
        "roc": figures.draw_roc(corpus, probabilities, present, split, titles),
        "reliability": _fusion_reliability(corpus, probabilities, present, calibrations, split),
        "learning_curves": figures.draw_learning_curves(figures.read_metrics(workdir), titles),
    }.items():
        figures.save(figure, workdir / "figures" / f"{name}.png")
    if missing:
        figure = figures.draw_missing_modalities(missing, titles)
        figures.save(figure, workdir / "figures" / "missing_modalities.png")

    if parallel.is_first():
        print(text, flush=True)
    return content


def _fusion_reliability(corpus, probabilities, present, calibrations, split):
    rows = corpus.split[split][present["fusion"][corpus.split[split]]]
    fused = probabilities["fusion"][rows]
    title = f"Fusion, {len(rows)} {split} movies, all genres"
    return figures.draw_reliability(
        corpus.labels[rows], fused, calibrations["fusion"](fused), title
    )


def _without_nan(tree):
    """Replaces an undefined figure by None, since JSON has no NaN."""
    if isinstance(tree, dict):
        return {name: _without_nan(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
