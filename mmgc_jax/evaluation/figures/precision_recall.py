"""Precision-recall curves of each genre."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve

from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.figures import style
from mmgc_jax.evaluation.results import Predictions

_MOST_GENRES, _COLUMNS = 36, 6
_MARK = {"marker": "D", "markersize": 5, "markerfacecolor": "white", "color": style.BLACK,
         "linestyle": ""}  # fmt: skip


def draw_precision_recall(
    predictions: Mapping[str, Predictions],
    genres: Sequence[str],
    split: str,
    titles: Mapping[str, str],
) -> Figure:
    """Draws precision by recall in small axes, one for each genre; marks fusion's thresholds.

    Args:
      predictions: for `fusion` and some other models, predictions for the movies with both
        modalities.
      genres: the names of the columns.
      split: the movies' split.
      titles: title of each model.
    """
    names = [name for name in titles if name in predictions]
    figures = {
        name: metrics.evaluate(predictions[name].labels, predictions[name].probabilities, genres)
        for name in names
    }
    fused = figures["fusion"]["per_genre"]
    shown, line = style.shown_genres(fused, _MOST_GENRES)
    movies = style.movies_text((of["movies"] for of in figures.values()), split, both=True)
    title = f"Precision and recall of each genre, {movies}{line}"
    if not shown:
        return style.empty_figure(title, style.UNDEFINED)

    figure, axes = _small_axes(len(shown))
    figure.suptitle(title, fontsize=10)
    looks, columns = style.looks(titles), list(genres)
    for ax, genre in zip(axes, shown):
        for name in names:
            _draw_curve(ax, predictions[name], columns.index(genre), looks[name])
        ax.axhline(np.mean(predictions["fusion"].labels[:, columns.index(genre)]),
                   color=style.GREY, linestyle=":", linewidth=1)  # fmt: skip
        _mark_threshold(ax, predictions["fusion"], columns.index(genre))
        positives, average = fused[genre]["positives"], fused[genre]["average_precision"]
        ax.set_title(f"{style.plain(genre, 20)}\n{positives:,}; AP {average:.3f}", fontsize=8)
    handles = [
        Line2D([], [], color=looks[name].colour, linestyle=looks[name].line,
               linewidth=looks[name].width,
               label=f"{style.plain(titles[name])}: {figures[name]['map']:.3f}")
        for name in names
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=style.GREY, linestyle=":", label="chance"),
        Line2D([], [], label="fusion at the genre's tuned threshold", **_MARK),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=8, title_fontsize=8,
        alignment="left",
        title="average precision, mean over genres (mAP)\n"
        "below each genre: movies that have it; average precision (AP) of fusion\n"
        "recall: share of the genre's movies that are found\n"
        "precision: share of the found movies that have the genre",
    )  # fmt: skip
    return figure


def _small_axes(count: int) -> tuple[Figure, np.ndarray]:
    """Makes a grid of `count` axes, all from 0 to 1."""
    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    size = 1.5 if count > 3 else 2.4
    width = max(6, size * columns + 0.4)
    figure = Figure(figsize=(width, (size + 0.2) * rows + 2), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes[count:]:
        ax.set_axis_off()
    for n, ax in enumerate(axes[:count]):
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        ax.set_box_aspect(1)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)
        if n % columns == 0:
            ax.set_ylabel("precision", fontsize=8)
        if n + columns >= count:  # nothing below
            ax.set_xlabel("recall", fontsize=8)
            ax.tick_params(labelbottom=True)
    return figure, axes


def _draw_curve(ax: Axes, predictions: Predictions, genre: int, look: style.Look) -> None:
    labels = predictions.labels[:, genre] > 0
    if labels.any():
        probabilities = predictions.probabilities[:, genre]
        precision, recall, _ = precision_recall_curve(labels, probabilities)
        # The area below the steps is average precision.
        ax.plot(recall, precision, look.line, color=look.colour, linewidth=0.75 * look.width,
                drawstyle="steps-post")  # fmt: skip


def _mark_threshold(ax: Axes, predictions: Predictions, genre: int) -> None:
    """Marks precision and recall at a genre's tuned threshold; nothing if it predicts no movie."""
    labels = predictions.labels[:, genre] > 0
    found = predictions.probabilities[:, genre] >= predictions.thresholds[:, genre]
    if found.any():
        ax.plot(found[labels].mean(), labels[found].mean(), zorder=3, clip_on=False, **_MARK)
