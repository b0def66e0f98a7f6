"""Figures of an experiment, drawn by matplotlib.

Each `draw_...` function returns a figure and touches no file. `titles` gives the name that a figure
shows for each model, in order.
"""

import itertools
import json
import math
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.results import SHARES, is_fusion
from mmgc_jax.runtime.files import Path, write_atomically


def read_metrics(workdir: Path) -> list[dict]:
    """Reads metrics.jsonl; of lines for the same step, as after a restart, the last one.

    A line cut short by a kill is skipped: its step is run again.
    """
    latest = {}
    file = workdir / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        latest[entry["run"], entry["step"], "validation" in entry] = entry
    return list(latest.values())


def draw_learning_curves(entries: list[dict], titles: Mapping[str, str]) -> Figure:
    """Draws training loss and validation AUC by step: a column per model, a line per fold.

    Args:
      entries: of metrics.jsonl, as `read_metrics` returns them.
      titles: title of each model.
    """
    models = {name: [e for e in entries if _model(e) == name] for name in titles}
    models = {name: of_model for name, of_model in models.items() if of_model}
    columns = max(1, len(models))
    figure = Figure(figsize=(3.2 * columns, 5), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False, sharex="col")
    for (loss_ax, auc_ax), (name, of_model) in zip(axes.T, models.items()):
        peaks = []
        for run in sorted({entry["run"] for entry in of_model}):
            own = sorted((e for e in of_model if e["run"] == run), key=lambda e: e["step"])
            losses = [(e["step"], e["loss"]) for e in own if "loss" in e]
            aucs = [(e["step"], e["validation"]["auc_macro"]) for e in own if "validation" in e]
            loss_ax.plot(*zip(*losses), linewidth=0.8)
            if aucs:
                auc_ax.plot(*zip(*aucs), marker="o", markersize=2, linewidth=0.8)
                peaks.append(max(auc for _, auc in aucs))
        title = textwrap.fill(titles[name], 30)
        loss_ax.set_title(f"{title}\nbest {np.mean(peaks):.3f}" if peaks else title, fontsize=10)
        auc_ax.set_xlabel("step")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("validation AUC (macro)")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def _model(entry: dict) -> str | None:
    """The model that a line of metrics.jsonl belongs to: `plot` of the run `plot/fold_0`.

    None for a training that only prepares another, such as `poster/fold_0/head`.
    """
    name, *rest = entry["run"].split("/")
    return name if len(rest) == 1 else None


def draw_missing_modalities(missing: Mapping[str, dict], titles: Mapping[str, str]) -> Figure:
    """Draws macro AUC by the share of movies that lose a modality, a line for each model.

    The lines of encoders, which do not look at the lost modality, are dashed.

    Args:
      missing: as `results.evaluate_missing` returns it.
      titles: title of each model.
    """
    figure = Figure(figsize=(4.2 * len(missing), 3.6), layout="constrained")
    axes = figure.subplots(1, len(missing), squeeze=False, sharey=True)
    for ax, (modality, of_models) in zip(axes[0], missing.items()):
        for (name, values), marker in zip(of_models.items(), itertools.cycle("os^Dv<>pP*hX8")):
            line = "-" if is_fusion(name) else "--"
            ax.plot(np.multiply(SHARES, 100), values, line, marker=marker,
                    markersize=4, label=titles[name])  # fmt: skip
        ax.set_xlabel(f"{modality}s missing (%)")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    axes[0, 0].set_ylabel("AUC (macro), out of fold")
    return figure


def draw_roc(
    corpus: Corpus,
    probabilities: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    split: str,
    titles: Mapping[str, str],
) -> Figure:
    """Draws ROC curves over all genres at once (micro), on the movies with both modalities.

    Args:
      corpus: the movies.
      probabilities: for each model, <float32>[movies of the corpus, genres].
      present: for each model, the movies that have its modality, <bool>[movies of the corpus].
      split: which movies.
      titles: title of each model.
    """
    rows = corpus.split[split]
    rows = rows[np.all([present[name] for name in probabilities], axis=0)[rows]]
    figure = Figure(figsize=(5, 5))
    ax = figure.subplots()
    # Colours repeat after ten curves; their line style then differs.
    styles = itertools.cycle(["-"] * 10 + ["--"] * 10 + [":"] * 10)
    for (name, of_movies), style in zip(probabilities.items(), styles):
        labels, pooled = corpus.labels[rows].ravel(), of_movies[rows].ravel()
        auc = metrics.roc_auc(labels, pooled)
        if math.isfinite(auc):
            false_positives, true_positives, _ = roc_curve(labels, pooled)
            label = f"{titles[name]}: {auc:.3f}"
            ax.plot(false_positives, true_positives, style, label=label)
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="chance: 0.500")
    ax.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    ax.set_title(f"ROC, all genres pooled, {len(rows)} {split} movies with both", fontsize=10)
    # Within the axes a legend of many curves, or of long titles, would cover them.
    roomy = len(probabilities) <= 8 and max(len(titles[name]) for name in probabilities) <= 28
    place = {"loc": "lower right"} if roomy else {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(title="AUC (micro)", fontsize=8, **place)
    ax.grid(alpha=0.3)
    return figure


def draw_auc_per_genre(
    results: Mapping[str, dict], split: str, titles: Mapping[str, str]
) -> Figure:
    """Draws AUC on the movies with both modalities: a row for each genre, a mark for each model.

    Args:
      results: figures of the split, one of those that `results.evaluate_models` returns.
      split: its name.
      titles: title of each model.
    """
    fused = results["fusion_both"]["per_genre"]
    genres = sorted(
        (genre for genre in fused if math.isfinite(fused[genre]["auc"])),
        key=lambda genre: fused[genre]["auc"],
    )
    figure = Figure(figsize=(6.5, 7))
    ax = figure.subplots()
    names = [name for name in titles if name in results]
    for name, marker in zip(names, itertools.cycle("os^DvP<>phX8")):
        values = [results[name + "_both"]["per_genre"][genre]["auc"] for genre in genres]
        size = 60 if name == "fusion" else 28
        ax.scatter(values, range(len(genres)), marker=marker, s=size, label=titles[name],
                   alpha=0.8)  # fmt: skip
    ax.set_yticks(range(len(genres)), [f"{g} ({fused[g]['positives']})" for g in genres])
    ax.set_xlabel(f"AUC, {results['fusion_both']['movies']} {split} movies with both "
                  "(positives in brackets)")  # fmt: skip
    ax.axvline(0.5, color="grey", linewidth=0.8, linestyle="--")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def draw_reliability(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray, title: str
) -> Figure:
    """Draws a reliability diagram before and after calibration, with the counts of its bins below.

    All genres are pooled, in bins of equal width.

    Args:
      labels: <float32>[movies, genres], 0 or 1.
      before: probabilities of a model, <float32>[movies, genres].
      after: the same, calibrated.
      title: names the model and the movies.
    """
    bins = 15
    edges = np.linspace(0, 1, bins + 1)
    figure = Figure(figsize=(5, 6.5), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="perfect: 0.000")
    for name, probabilities, marker in (("as trained", before, "o"), ("calibrated", after, "s")):
        diagram = metrics.reliability(labels, probabilities, bins)
        error = metrics.expected_calibration_error(labels, probabilities, bins)
        filled = diagram["count"] > 0
        [line] = ax.plot(diagram["predicted"][filled], diagram["true"][filled], marker=marker,
                         markersize=4, linewidth=1.2, clip_on=False,
                         label=f"{name}: {error:.3f}")  # fmt: skip
        below.stairs(diagram["count"], edges, color=line.get_color(), linewidth=1.5, baseline=None)
    ax.set(ylabel="share of positives", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    ax.set_title(title, fontsize=10)
    ax.legend(title="ECE, mean over genres", fontsize=8, title_fontsize=8,
              loc="upper left")  # fmt: skip
    below.set(xlabel="predicted probability, all genres pooled", ylabel="count", yscale="log")
    for axes in (ax, below):
        axes.grid(alpha=0.3)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG, at 150 dots per inch."""
    write_atomically(
        file, lambda stream: figure.savefig(stream, format="png", dpi=150, bbox_inches="tight")
    )
