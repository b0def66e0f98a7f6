"""What an experiment ends with: results.json, the table, and figures."""

import json
import math

import matplotlib
import numpy as np
from sklearn.metrics import roc_curve

from mmgc_jax.encoders import word_vectors
from mmgc_jax.evaluation import metrics, results
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.files import Path, write_atomically, write_text

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# In the order of the tables.
_NAMES = {
    "plot": "Plot (LSTM)",
    "plot_bag_of_words": "Plot (bag of words)",
    "plot_transformer": "Plot (transformer)",
    "poster": "Poster (VGG16, colour)",
    "poster_grey": "Poster (VGG16, grey)",
    "fusion": "Fusion",
    "fusion_late": "Fusion: late",
    "fusion_linear_sum": "Fusion: linear sum",
    "fusion_concat": "Fusion: maxout",
    "fusion_mixture_of_experts": "Fusion: experts",
    "fusion_gated": "Fusion: gated",
    "fusion_low_rank_tensor": "Fusion: low-rank tensor",
    "fusion_joint": "Fusion: joint training",
}
_COLUMNS = (
    ("auc_macro", "AUC macro"),
    ("auc_micro", "AUC micro"),
    ("map", "mAP"),
    ("f1_micro", "F1 micro"),
    ("f1_macro", "F1 macro"),
)


def write(
    workdir: Path, results: dict, missing: dict, corpus, scores, present, calibrations, best
) -> dict:
    """Writes results.json, results.txt and the figures, and prints the tables.

    Args:
      workdir: of the experiment.
      results: as of `results.evaluate_stages`.
      missing: as of `experiment.try_without`.
      corpus: the movies.
      scores: of each stage, probabilities <float32>[movies, genres].
      present: of each stage, which movies it can say something about, <bool>[movies].
      calibrations: of each stage.
      best: of stages whose best reachable probabilities are known, these; otherwise empty.

    Returns:
      The content of results.json.
    """
    for split in results.keys() - {"cross_validation"}:
        for stage, true_scores in best.items():
            rows = corpus.split[split][present[stage][corpus.split[split]]]
            figures = metrics.evaluate(corpus.labels[rows], true_scores[rows], corpus.genres)
            results[split][stage]["best_reachable_auc_macro"] = figures["auc_macro"]

    split = "test" if "test" in results else "validation"
    parts = word_vectors.report(workdir)
    if missing:
        parts.append(missing_table(missing))
    parts += [calibration_table(split, results[split]), f1_table(split, results[split])]
    parts += [table(name, figures) for name, figures in results.items()]
    text = "\n\n".join(parts)
    content = results | ({"missing_modalities": missing} if missing else {})
    write_text(workdir / "results.json", json.dumps(_without_nan(content), indent=2))
    write_text(workdir / "results.txt", text + "\n")

    figures = workdir / "figures"
    rows = corpus.split[split][present["fusion"][corpus.split[split]]]
    fused = scores["fusion"][rows]
    reliability = draw_reliability(
        corpus.labels[rows],
        fused,
        calibrations["fusion"](fused),
        f"Fusion, {len(rows)} {split} movies, all genres",
    )
    _save(draw_auc_per_genre(results[split], split), figures / "auc_per_genre.png")
    _save(draw_roc(corpus, scores, present, split), figures / "roc.png")
    _save(reliability, figures / "reliability.png")
    _save(draw_learning_curves(read_metrics(workdir)), figures / "learning_curves.png")
    if missing:
        _save(draw_missing_modalities(missing), figures / "missing_modalities.png")
    if parallel.is_first():
        print(text, flush=True)
    return content


def table(split: str, results: dict, parts: str = "the folds") -> str:
    """The comparison of one split as text; its last line says what fusion gains.

    Args:
      split: its name.
      results: its figures, as of `results.evaluate_stages`.
      parts: what cross-validation's figures are the means of.
    """
    stages = [stage for stage in _NAMES if stage in results]
    with_best = any("best_reachable_auc_macro" in results[stage] for stage in stages)
    with_std = split == "cross_validation"
    header = f"{split.replace('_', '-'):<28}{'movies':>7}"
    for name, title in _COLUMNS:
        header += f"{title:>11}" + (f"{'+-':>7}" if with_std and name == "auc_macro" else "")
    lines = [header + (f"{'best AUC':>11}" if with_best else "")]

    def add(title, figures):
        row = f"{title:<28}{figures['movies']:>7}"
        for name, _ in _COLUMNS:
            row += f"{figures[name]:>11.3f}"
            if with_std and name == "auc_macro":
                row += f"{figures['auc_macro_std']:>7.3f}"
        if with_best and "best_reachable_auc_macro" in figures:
            row += f"{figures['best_reachable_auc_macro']:>11.3f}"
        lines.append(row)

    lines.append("all movies that have what the model looks at")
    for stage in stages:
        add("  " + _NAMES[stage], results[stage])
    lines.append("movies with both plot and poster")
    for stage in stages:
        add("  " + _NAMES[stage], results[stage + "_both"])

    counted, counted_both = (_counted(results[name]) for name in ("fusion", "fusion_both"))
    lines.append(
        f"Macro averages run over the genres with a positive and a negative: {counted}; "
        f"with both, {counted_both}."
    )
    if with_std:
        lines.append(f"Each figure is the mean over {parts}; +- is its standard deviation.")
    if with_best:
        lines.append("best AUC: macro AUC of the true probabilities, the most that can be reached.")
    singles = [stage for stage in stages if not stage.startswith("fusion")]
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


def _counted(figures: dict) -> str:
    least, most = figures["genres_counted"], figures.get("genres_counted_most")
    return f"{least}" if most in (None, least) else f"{least} to {most}"


def f1_table(split: str, results: dict) -> str:
    """F1 of one split as text, at 0.5 and at the genres' thresholds."""
    stages = [stage for stage in _NAMES if stage in results]
    averages = ("micro", "macro", "weighted", "samples")
    lines = [
        f"{split + ', F1':<28}{'at 0.5':>36}{'at the threshold of each genre':>36}",
        " " * 28 + "".join(f"{average:>9}" for average in 2 * averages),
    ]
    for suffix, title in (
        ("", "all movies that have what the model looks at"),
        ("_both", "movies with both plot and poster"),
    ):
        lines.append(title)
        for stage in stages:
            figures = results[stage + suffix]
            values = [
                figures[f"f1_{average}{which}"] for which in ("", "_tuned") for average in averages
            ]
            cells = "".join(f"{value:>9.3f}" for value in values)
            lines.append(f"{'  ' + _NAMES[stage]:<28}{cells}")
    return "\n".join(lines)


def calibration_table(split: str, results: dict) -> str:
    """Expected calibration error of one split as text, before Platt scaling and after it."""
    lines = [f"{split + ', calibration error':<28}{'before':>9}{'after':>9}"]
    for stage in (stage for stage in _NAMES if stage in results):
        before, after = (results[stage][name] for name in ("ece_uncalibrated", "ece"))
        lines.append(f"{'  ' + _NAMES[stage]:<28}{before:>9.3f}{after:>9.3f}")
    lines.append("Platt scaling and thresholds are fitted on the training part, out of fold.")
    return "\n".join(lines)


def missing_table(missing: dict) -> str:
    """Macro AUC when some movies of the training part lose a modality, as text."""
    lines = []
    for modality, of_stages in missing.items():
        shares = "".join(f"{share:>9.0%}" for share in results.SHARES)
        lines.append(f"{modality + 's missing, AUC macro':<28}{shares}")
        for stage, values in of_stages.items():
            cells = "".join(f"{value:>9.3f}" for value in values)
            lines.append(f"{'  ' + _NAMES[stage]:<28}{cells}")
    lines.append(
        "Cross-validation on the movies with both plot and poster, the mean over the folds."
    )
    return "\n".join(lines)


def read_metrics(workdir: Path) -> list[dict]:
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
    """Training loss and validation AUC against the steps, a line for each fold."""
    stages = [stage for stage in _NAMES if any(_stage(entry) == stage for entry in entries)]
    figure, axes = plt.subplots(2, max(1, len(stages)), figsize=(3.2 * max(1, len(stages)), 5),
                                squeeze=False, sharex="col", layout="constrained")  # fmt: skip
    for (loss_ax, auc_ax), stage in zip(axes.T, stages):
        runs = sorted({entry["run"] for entry in entries if _stage(entry) == stage})
        peaks = []
        for run in runs:
            own = sorted((e for e in entries if e["run"] == run), key=lambda e: e["step"])
            losses = [(e["step"], e["loss"]) for e in own if "loss" in e]
            aucs = [(e["step"], e["validation"]["auc_macro"]) for e in own if "validation" in e]
            loss_ax.plot(*zip(*losses), linewidth=0.8)
            if aucs:
                auc_ax.plot(*zip(*aucs), marker="o", markersize=2, linewidth=0.8)
                peaks.append(max(auc for _, auc in aucs))
        title = f"{_NAMES[stage]}\nbest {np.mean(peaks):.3f}" if peaks else _NAMES[stage]
        loss_ax.set_title(title, fontsize=10)
        auc_ax.set_xlabel("step")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("validation AUC (macro)")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def _stage(entry: dict) -> str | None:
    """The stage of a line of metrics.jsonl; None for a training that only prepares another."""
    stage, *rest = entry["run"].split("/")
    return stage if len(rest) == 1 else None


def draw_missing_modalities(missing: dict) -> plt.Figure:
    """Macro AUC against the share of movies that lost a modality, a line for each fusion.

    The encoders that do not look at it are broken lines.
    """
    figure, axes = plt.subplots(1, len(missing), figsize=(4.2 * len(missing), 3.6), squeeze=False,
                                sharey=True, layout="constrained")  # fmt: skip
    for ax, (modality, of_stages) in zip(axes[0], missing.items()):
        for (stage, values), marker in zip(of_stages.items(), "os^Dv<>pP*hX8"):
            line = "-" if stage.startswith("fusion") else "--"
            ax.plot(np.multiply(results.SHARES, 100), values, line, marker=marker,
                    markersize=4, label=_NAMES[stage])  # fmt: skip
        ax.set_xlabel(f"{modality}s missing (%)")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    axes[0, 0].set_ylabel("AUC (macro), out of fold")
    return figure


def draw_roc(corpus, scores, present, split: str) -> plt.Figure:
    """ROC curves over all genres at once (micro), on the movies with both modalities."""
    rows = corpus.split[split]
    rows = rows[np.all([present[stage] for stage in scores], axis=0)[rows]]
    figure, ax = plt.subplots(figsize=(5, 5))
    for stage, of_movies in scores.items():
        labels, pooled = corpus.labels[rows].ravel(), of_movies[rows].ravel()
        auc = metrics.roc_auc(labels, pooled)
        if math.isfinite(auc):
            false_positives, true_positives, _ = roc_curve(labels, pooled)
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
    for stage, marker in zip(stages, "os^DvP<>phX8"):
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


def _save(figure: plt.Figure, file: Path) -> None:
    write_atomically(
        file, lambda stream: figure.savefig(stream, format="png", dpi=150, bbox_inches="tight")
    )
    plt.close(figure)


def _without_nan(tree):
    """JSON has no NaN: an undefined figure becomes null."""
    if isinstance(tree, dict):
        return {name: _without_nan(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
