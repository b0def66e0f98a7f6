"""Learning curves, read from metrics.jsonl."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmgc_jax.evaluation.figures import style
from mmgc_jax.runtime.files import Path

_COLUMNS = 4
_LEAST_AUC_RANGE = 0.1
_FLAT = 0.03  # AUCs that take less than this share of an axis look constant
_BEST = {"marker": "D", "markerfacecolor": "none", "linestyle": "", "zorder": 3}


def read_metrics(workdir: Path) -> list[dict]:
    """Reads metrics.jsonl.

    If lines are about the same step, as after a restart, the last one counts. A line cut short by a
    kill is skipped: its step is run again.

    Returns:
      The lines' entries; none if the file does not exist.
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


def draw_learning_curves(
    entries: Sequence[Mapping], titles: Mapping[str, str], movies: Mapping[str, int]
) -> Figure:
    """Draws training loss above validation AUC: a pair of axes for each model, a line per fold.

    Each line is the model of one fold, alone, whereas tables show the mean of all folds' models. A
    loss axis begins at 0, and all AUC axes have one range, of at least 0.1. Curves that look
    constant on it, such as those of a late fusion, which begins as a product of its encoders'
    evidence, have a note.

    Args:
      entries: entries of metrics.jsonl, as `read_metrics` returns them.
      titles: title of each model; models without entries are left out.
      movies: number of validation movies of each model.
    """
    models = {name: [e for e in entries if _model_and_fold(e)[0] == name] for name in titles}
    models = {name: of_model for name, of_model in models.items() if of_model}
    if not models:
        return style.empty_figure("Learning curves", "metrics.jsonl has no steps of these models.")
    columns = min(_COLUMNS, len(models))
    pairs = math.ceil(len(models) / columns)
    figure = Figure(figsize=(max(2.4 * columns, 4), 4.4 * pairs + 0.4), layout="constrained")
    axes = figure.subplots(2 * pairs, columns, squeeze=False)
    loss_axes, auc_axes = axes[0::2].ravel(), axes[1::2].ravel()
    looks = _fold_looks(models)
    aucs = {}
    for loss_ax, auc_ax, (name, of_model) in zip(loss_axes, auc_axes, models.items()):
        loss_ax.set_title(style.wrapped(titles[name], 26), fontsize=9)
        aucs[name] = []
        for fold, look in looks.items():
            own = sorted(
                (e for e in of_model if _model_and_fold(e)[1] == fold), key=lambda e: e["step"]
            )
            _draw_losses(loss_ax, own, look)
            aucs[name] += _draw_aucs(auc_ax, own, look)
        top = loss_ax.dataLim.y1
        loss_ax.set_ylim(0, 1.05 * top if np.isfinite(top) and top > 0 else 1)
        # Validation comes after the first epoch, so its own limits would begin later.
        auc_ax.set_xlim(loss_ax.get_xlim())
        about = style.movies_text([movies[name]], "validation")
        auc_ax.set_title(f"{about}\n{_range_text(aucs[name])}", fontsize=8)
        auc_ax.set_xlabel("training step", fontsize=9)
    for n, (loss_ax, auc_ax) in enumerate(zip(loss_axes, auc_axes)):
        style.set_range(auc_ax, itertools.chain(*aucs.values()), _LEAST_AUC_RANGE)
        if n % columns == 0:
            loss_ax.set_ylabel("training loss\n(cross-entropy, nats)", fontsize=9)
            auc_ax.set_ylabel("validation AUC\n(macro)", fontsize=9)
        for ax in (loss_ax, auc_ax):
            ax.grid(alpha=0.3)
            ax.tick_params(labelsize=8)
            if n >= len(models):
                ax.set_axis_off()
    for auc_ax, of_model in zip(auc_axes, aucs.values()):
        _note_if_flat(auc_ax, of_model)
    handles = [
        Line2D([], [], label=style.plain(f.replace("_", " ")), **k) for f, k in looks.items()
    ]
    handles.append(
        Line2D([], [], color=style.GREY, label="best epoch, which is kept", markersize=6, **_BEST)
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8,
                  title="fold left out of training", title_fontsize=8)  # fmt: skip
    return figure


def _fold_looks(models: Mapping[str, Sequence[Mapping]]) -> dict[str, dict]:
    """Colour and line style of each fold, the same for every model."""
    folds = {_model_and_fold(e)[1] for of_model in models.values() for e in of_model}
    return {
        fold: {
            "color": style.COLOURS[n % len(style.COLOURS)],
            "linestyle": style.LINES[n // len(style.COLOURS) % len(style.LINES)],
            # Thinner than the lines below it, so that folds with equal values are all seen.
            "linewidth": 2.0 - n / max(1, len(folds) - 1),
        }
        for n, fold in enumerate(sorted(folds, key=lambda fold: (len(fold), fold)))
    }


def _draw_losses(ax: Axes, entries: Sequence[Mapping], look: Mapping) -> None:
    points = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    ax.plot(*np.reshape(points, (-1, 2)).T, **look)


def _draw_aucs(ax: Axes, entries: Sequence[Mapping], look: Mapping) -> list[float]:
    """Draws a fold's validation AUC by step, and marks the best; returns the values."""
    points = [(e["step"], e["validation"]["auc_macro"]) for e in entries if "validation" in e]
    steps, aucs = np.array(points, np.float64).reshape(-1, 2).T
    ax.plot(steps, aucs, marker="o", markersize=1 + 2 * look["linewidth"], **look)
    if np.isfinite(aucs).any():
        best = np.nanargmax(aucs)
        ax.plot(
            steps[best],
            aucs[best],
            color=look["color"],
            clip_on=False,
            markersize=5 + look["linewidth"],
            **_BEST,
        )
    return aucs.tolist()


def _range_text(aucs: Sequence[float]) -> str:
    """Returns the least and the greatest AUC as text, with enough digits to tell them apart."""
    finite = [auc for auc in aucs if math.isfinite(auc)]
    if not finite:
        return "AUC undefined"
    low, high = min(finite), max(finite)
    digits = 4 if 0 < high - low < 0.002 else 3
    low, high = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return f"AUC {low}" if low == high else f"AUC {low} to {high}"


def _note_if_flat(ax: Axes, aucs: Sequence[float]) -> None:
    """Says in axes whose curves have several points and look constant that the scale is shared."""
    values = np.array([auc for auc in aucs if math.isfinite(auc)])
    low, high = ax.get_ylim()
    if len(values) > 1 and np.ptp(values) < _FLAT * (high - low):
        above = values.mean() > (low + high) / 2
        ax.text(
            0.5,
            0.35 if above else 0.65,
            "almost constant after the\nfirst epoch; all models\nhave the same AUC axis",
            transform=ax.transAxes,
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            ha="center",
            va="center",
        )


def _model_and_fold(entry: Mapping) -> tuple[str | None, str]:
    """The model and the fold of an entry: `plot` and `fold_0` of the run `plot/fold_0`.

    The model is None for a run that only prepares another one, such as `poster/fold_0/head`.
    """
    name, *rest = entry["run"].split("/")
    return (name, rest[0]) if len(rest) == 1 else (None, "")
