"""What an experiment ends with: results.json, the table, and figures."""

import json
import math
import pathlib

import matplotlib
import numpy as np
from sklearn.metrics import roc_curve

from mmgc_jax import embeddings, metrics
from mmgc_jax.files import write_beside, write_text

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# In the order of the tables.
_NAMES = {
    "plot": "Plot (LSTM)",
    "poster": "Poster (VGG16, colour)",
    "poster_grey": "Poster (VGG16, grey)",
    "fusion": "Fusion",
}
_COLUMNS = (
    ("auc_macro", "AUC macro"),
    ("auc_micro", "AUC micro"),
    ("map", "mAP"),
    ("f1_micro", "F1 micro"),
    ("f1_macro", "F1 macro"),
)


def write(workdir: pathlib.Path, results: dict, corpus, stages, present, best) -> dict:
    """Writes results.json, results.txt and the figures, and prints the table.

    Args:
      workdir: of the experiment.
      results: as of `evaluate.evaluate_stages`.
      corpus: the movies.
      stages: of each stage, arrays with `probabilities` <float32>[movies, genres].
      present: of each stage, which movies it can say something about, <bool>[movies].
      best: of stages whose best reachable probabilities are known, these; otherwise empty.

    Returns:
      The content of results.json.
    """
    for split in results:
        for stage, scores in best.items():
            rows = corpus.split[split][present[stage][corpus.split[split]]]
            figures = metrics.evaluate(corpus.labels[rows], scores[rows], corpus.genres)
            results[split][stage]["best_reachable_auc_macro"] = figures["auc_macro"]

    write_text(workdir / "results.json", json.dumps(_without_nan(results), indent=2))
    parts = embeddings.report(workdir)
    for split, figures in results.items():
        if split != "validation":  # on which the thresholds are tuned
            parts.append(f1_table(split, figures))
        parts.append(table(split, figures))
    text = "\n\n".join(parts)
    write_text(workdir / "results.txt", text + "\n")

    figures = workdir / "figures"
    split = "test" if "test" in results else "validation"
    _save(draw_auc_per_genre(results[split], split), figures / "auc_per_genre.png")
    _save(draw_roc(corpus, stages, present, split), figures / "roc.png")
    _save(draw_learning_curves(read_metrics(workdir)), figures / "learning_curves.png")
    print(text, flush=True)
    return results


def table(split: str, results: dict) -> str:
    """The comparison of one split as text; its last line says what fusion gains."""
    stages = [stage for stage in _NAMES if stage in results]
    with_best = any("best_reachable_auc_macro" in results[stage] for stage in stages)
    header = f"{split:<28}{'movies':>7}" + "".join(f"{title:>11}" for _, title in _COLUMNS)
    lines = [header + (f"{'best AUC':>11}" if with_best else "")]

    def add(title, figures):
        row = f"{title:<28}{figures['movies']:>7}"
        row += "".join(f"{figures[name]:>11.3f}" for name, _ in _COLUMNS)
        if with_best and "best_reachable_auc_macro" in figures:
            row += f"{figures['best_reachable_auc_macro']:>11.3f}"
        lines.append(row)

    lines.append("all movies that have what the model looks at")
    for stage in stages:
        add("  " + _NAMES[stage], results[stage])
    lines.append("movies with both plot and poster")
    for stage in stages:
        add("  " + _NAMES[stage], results[stage + "_both"])

    genres = len(results["fusion"]["per_genre"])
    counted, counted_both = (results[name]["genres_counted"] for name in ("fusion", "fusion_both"))
    lines.append(
        f"Macro averages run over the genres with a positive and a negative: "
        f"{counted} of {genres}; with both, {counted_both}."
    )
    if with_best:
        lines.append("best AUC: macro AUC of the true probabilities, the most that can be reached.")
    singles = [stage for stage in stages if stage != "fusion"]
    strongest = max(singles, key=lambda stage: results[stage + "_both"]["auc_macro"])
    if not results["fusion_both"]["movies"]:
        lines.append("No movie has both, so what fusion gains is not known.")
        return "\n".join(lines)
    gain = results["fusion_both"]["auc_macro"] - results[strongest + "_both"]["auc_macro"]
    lines.append(
        f"Fusion {'gains' if gain >= 0 else 'loses'} {abs(gain):.3f} macro AUC "
        f"{'over' if gain >= 0 else 'against'} the best single model, {_NAMES[strongest]}, on the "
        f"{results['fusion_both']['movies']} movies with both."
    )
    return "\n".join(lines)


def f1_table(split: str, results: dict) -> str:
    """F1 of one split as text, at 0.5 and at the thresholds tuned on the validation part."""
    stages = [stage for stage in _NAMES if stage in results]
    averages = ("micro", "macro", "weighted", "samples")
    lines = [
        f"{split + ', F1':<28}{'at 0.5':>36}{'tuned on validation':>36}",
        " " * 28 + "".join(f"{average:>9}" for average in 2 * averages),
    ]
    for suffix, title in (
        ("", "all movies that have what the model looks at"),
        ("_both", "movies with both plot and poster"),
    ):
        lines.append(title)
        for stage in stages:
            figures = [
                results[stage + suffix][f"f1_{average}{which}"]
                for which in ("", "_tuned")
                for average in averages
            ]
            cells = "".join(f"{figure:>9.3f}" for figure in figures)
            lines.append(f"{'  ' + _NAMES[stage]:<28}{cells}")
    return "\n".join(lines)


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl; of lines for the same step, as after a restart, the last.

    A line cut short by a kill is passed over: its step is run again.
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


def draw_learning_curves(entries: list[dict]) -> plt.Figure:
    """Training loss and validation AUC of every full training, against its epochs."""
    runs = [run for run in _NAMES if any(entry["run"] == run for entry in entries)]
    figure, axes = plt.subplots(2, max(1, len(runs)), figsize=(3.2 * max(1, len(runs)), 5),
                                squeeze=False, sharex="col", layout="constrained")  # fmt: skip
    for column, run in enumerate(runs):
        training = sorted((e["step"], e["loss"]) for e in entries
                          if e["run"] == run and "loss" in e)  # fmt: skip
        validation = sorted((e["step"], e["epoch"], e["validation"]["auc_macro"]) for e in entries
                            if e["run"] == run and "validation" in e)  # fmt: skip
        axes[0, column].plot(*zip(*training), linewidth=1)
        axes[0, column].set_title(_NAMES[run], fontsize=10)
        if validation:
            steps, _, auc = zip(*validation)
            axes[1, column].plot(steps, auc, marker="o", markersize=3)
            axes[1, column].margins(x=0.12)
            best = int(np.argmax(auc))
            axes[1, column].annotate(f"{auc[best]:.3f}", (steps[best], auc[best]), fontsize=8,
                                     xytext=(0, -12), textcoords="offset points",
                                     ha="center")  # fmt: skip
        axes[1, column].set_xlabel("step")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("validation AUC (macro)")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def draw_roc(corpus, stages, present, split: str) -> plt.Figure:
    """ROC curves over all genres at once (micro), on the movies with both modalities."""
    rows = corpus.split[split]
    rows = rows[np.all([present[stage] for stage in stages], axis=0)[rows]]
    figure, ax = plt.subplots(figsize=(5, 5))
    for stage, arrays in stages.items():
        labels, scores = corpus.labels[rows].ravel(), arrays["probabilities"][rows].ravel()
        auc = metrics.roc_auc(labels, scores)
        if math.isfinite(auc):
            false_positives, true_positives, _ = roc_curve(labels, scores)
            ax.plot(false_positives, true_positives, label=f"{_NAMES[stage]}: {auc:.3f}")
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="chance: 0.500")
    ax.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    ax.set_title(f"ROC, all genres pooled, {len(rows)} {split} movies with both", fontsize=10)
    ax.legend(title="AUC (micro)", fontsize=8, loc="lower right")
    ax.grid(alpha=0.3)
    return figure


def draw_auc_per_genre(results: dict, split: str) -> plt.Figure:
    """One row for each genre, one mark for each stage, on the movies with both modalities."""
    stages = [stage for stage in _NAMES if stage in results]
    fused = results["fusion_both"]["per_genre"]
    genres = sorted(
        (genre for genre in fused if math.isfinite(fused[genre]["auc"])),
        key=lambda genre: fused[genre]["auc"],
    )
    figure, ax = plt.subplots(figsize=(6.5, 7))
    for stage, marker in zip(stages, "os^D"):
        values = [results[stage + "_both"]["per_genre"][genre]["auc"] for genre in genres]
        size = 60 if stage == "fusion" else 28
        ax.scatter(values, range(len(genres)), marker=marker, s=size, label=_NAMES[stage],
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
) -> plt.Figure:
    """How often what was given a probability was true, before and after calibration.

    All genres are pooled, in bins of equal width; below stands how many probabilities are in each.

    Args:
      labels: <float32>[movies, genres], 0 or 1.
      before: probabilities as a model gave them, <float32>[movies, genres].
      after: the same, calibrated.
      title: says which model, and on which movies.
    """
    bins = 15
    edges = np.linspace(0, 1, bins + 1)
    figure, (ax, below) = plt.subplots(2, 1, figsize=(5, 6.5), sharex=True, layout="constrained",
                                       height_ratios=(3, 1))  # fmt: skip
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="perfect: 0.000")
    for name, probabilities, marker in (("as trained", before, "o"), ("calibrated", after, "s")):
        found = metrics.reliability(labels, probabilities, bins)
        error = metrics.expected_calibration_error(labels, probabilities, bins)
        filled = found["count"] > 0
        [line] = ax.plot(found["predicted"][filled], found["true"][filled], marker=marker,
                         markersize=4, linewidth=1.2, clip_on=False,
                         label=f"{name}: {error:.3f}")  # fmt: skip
        below.stairs(found["count"], edges, color=line.get_color(), linewidth=1.5, baseline=None)
    ax.set(ylabel="share of positives", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    ax.set_title(title, fontsize=10)
    ax.legend(title="ECE, mean over genres", fontsize=8, title_fontsize=8,
              loc="upper left")  # fmt: skip
    below.set(xlabel="predicted probability, all genres pooled", ylabel="count", yscale="log")
    for axes in (ax, below):
        axes.grid(alpha=0.3)
    return figure


def _save(figure: plt.Figure, file: pathlib.Path) -> None:
    write_beside(file, lambda beside: figure.savefig(beside, dpi=150, bbox_inches="tight"))
    plt.close(figure)


def _without_nan(tree):
    """JSON has no NaN: an undefined figure becomes null."""
    if isinstance(tree, dict):
        return {name: _without_nan(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
