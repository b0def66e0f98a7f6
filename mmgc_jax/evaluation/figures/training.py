"""Learning curves, read from metrics.jsonl."""

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
        latest[entry["run"], entry["step"]] = entry
    return list(latest.values())


def draw_learning_curves(entries: Sequence[Mapping], titles: Mapping[str, str]) -> Figure:
    """Draws the training loss by step: axes for each model, with a line for each fold's model.

    Args:
      entries: entries of metrics.jsonl, as `read_metrics` returns them.
      titles: title of each model; models without entries are left out.
    """
    models = {name: [e for e in entries if _model_and_fold(e)[0] == name] for name in titles}
    models = {name: of_model for name, of_model in models.items() if of_model}
    if not models:
        return style.empty_figure("Learning curves", "metrics.jsonl has no steps of these models.")
    columns = min(_COLUMNS, len(models))
    rows = math.ceil(len(models) / columns)
    figure = Figure(figsize=(max(2.4 * columns, 4), 2.4 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    looks = _fold_looks(models)
    for ax, (name, of_model) in zip(axes, models.items()):
        ax.set_title(style.wrapped(titles[name], 26), fontsize=9)
        for fold, look in looks.items():
            own = [e for e in of_model if _model_and_fold(e)[1] == fold]
            _draw_losses(ax, sorted(own, key=lambda e: e["step"]), look)
        top = ax.dataLim.y1
        ax.set_ylim(0, 1.05 * top if np.isfinite(top) and top > 0 else 1)
        ax.set_xlabel("training step", fontsize=9)
    for n, ax in enumerate(axes):
        if n % columns == 0:
            ax.set_ylabel("training loss\n(cross-entropy, nats)", fontsize=9)
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
        if n >= len(models):
            ax.set_axis_off()
    handles = [
        Line2D([], [], label=style.plain(f.replace("_", " ")), **k) for f, k in looks.items()
    ]
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
    points = [(e["step"], e["loss"]) for e in entries]
    ax.plot(*np.reshape(points, (-1, 2)).T, **look)


def _model_and_fold(entry: Mapping) -> tuple[str | None, str]:
    """The model and the fold of an entry: `plot` and `fold_0` of the run `plot/fold_0`.

    The model is None for a run that only prepares another one, such as `poster/fold_0/head`.
    """
    name, *rest = entry["run"].split("/")
    return (name, rest[0]) if len(rest) == 1 else (None, "")
