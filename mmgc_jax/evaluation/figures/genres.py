"""Figures with a row for each genre: AUC of each model, F1 and thresholds of fusion."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mmgc_jax.evaluation.figures import style

_MOST_GENRES = 60
_LEAST_AUC_RANGE = 0.1


def draw_auc_per_genre(
    results: Mapping[str, Mapping], split: str, titles: Mapping[str, str]
) -> Figure:
    """Draws AUC on the movies with both modalities: a row for each genre, a marker for each model.

    Within a row each model has a line of its own, so that no marker hides another one.

    Args:
      results: figures of the split, one of those that `results.evaluate_models` returns.
      split: its name.
      titles: title of each model.
    """
    of_models = {name: results[f"{name}_both"] for name in titles if name in results}
    fused = of_models["fusion"]["per_genre"]
    genres, line = style.shown_genres(fused, _MOST_GENRES)
    genres.sort(key=lambda genre: fused[genre]["auc"])

    movies = style.movies_text((of["movies"] for of in of_models.values()), split, both=True)
    title = f"AUC of each genre, {movies}{line}"
    if not genres:
        return style.empty_figure(title, style.UNDEFINED)

    row = max(0.26, 0.07 * len(of_models) + 0.05)
    legend = 0.3 + 0.2 * math.ceil((len(of_models) + 1) / 2)
    figure, [ax] = _with_rows(genres, fused, row, legend, columns=1)
    ax.set_title(title, fontsize=10)
    looks = style.looks(titles)
    offsets = np.linspace(0.4, -0.4, 2 * len(of_models) + 1)[1::2]
    values = [0.5]
    for (name, of_model), offset in zip(of_models.items(), offsets):
        aucs = [of_model["per_genre"][genre]["auc"] for genre in genres]
        ax.scatter(
            aucs, np.arange(len(genres)) + offset, s=19, linewidths=0, zorder=3, clip_on=False,
            marker=looks[name].marker, color=looks[name].colour,
            label=f"{style.plain(titles[name])}: {of_model['auc_macro']:.3f}",
        )  # fmt: skip
        values += aucs
    ax.axvline(0.5, color=style.GREY, linewidth=1, linestyle=":", label="chance: 0.500")
    style.set_range(ax, values, _LEAST_AUC_RANGE, "x")
    ax.set_xlabel("AUC (in brackets: movies that have the genre)", fontsize=9)
    figure.legend(title="AUC, mean over genres (macro)", title_fontsize=9, fontsize=9, ncols=2,
                  loc="outside upper center")  # fmt: skip
    return figure


def draw_f1_per_genre(results: Mapping, split: str) -> Figure:
    """Draws F1 of fusion at 0.5 and at the tuned threshold of each genre, and the thresholds.

    Args:
      results: figures of fusion on the split, as `results.evaluate_models` returns them.
      split: its name.
    """
    of_genres, thresholds = results["per_genre"], results["thresholds"]
    genres, line = style.shown_genres(of_genres, _MOST_GENRES)
    genres.sort(key=lambda genre: of_genres[genre]["f1_tuned"])

    title = f"F1 of each genre, fusion, {style.movies_text([results['movies']], split)}{line}"
    if not genres:
        return style.empty_figure(title, style.UNDEFINED)

    figure, [ax, right] = _with_rows(genres, of_genres, 0.26, legend=0.5, columns=2)
    figure.suptitle(title, fontsize=10)
    rows = np.arange(len(genres))
    at_half, tuned = ([of_genres[genre][f1] for genre in genres] for f1 in ("f1", "f1_tuned"))
    ax.hlines(rows, at_half, tuned, color=style.GREY, linewidth=1)
    # Hollow and larger, to be seen where both F1 are equal.
    ax.scatter(
        at_half, rows, s=60, facecolors="white", edgecolors=style.COLOURS[1], linewidths=1.5,
        zorder=3, clip_on=False, label=f"threshold 0.5: {results['f1_macro']:.3f}",
    )  # fmt: skip
    ax.scatter(
        tuned, rows, s=22, color=style.COLOURS[0], zorder=3, clip_on=False,
        label=f"threshold tuned on training movies: {results['f1_macro_tuned']:.3f}",
    )  # fmt: skip
    right.scatter(
        [thresholds[genre] for genre in genres], rows, s=22, marker="s", color=style.COLOURS[0],
        zorder=3, clip_on=False,
    )  # fmt: skip
    right.axvline(0.5, color=style.COLOURS[1], linewidth=1.5)
    ax.set(xlim=(0, 1), xticks=np.linspace(0, 1, 6))
    right.set(xlim=(0, 1), xticks=(0, 0.5, 1))
    ax.set_xlabel("F1 (in brackets: movies that have the genre)", fontsize=9)
    right.set_xlabel("threshold (probability)", fontsize=9)
    figure.legend(title="F1, mean over genres (macro)", title_fontsize=9, fontsize=9,
                  ncols=2, loc="outside lower center")  # fmt: skip
    return figure


def _with_rows(
    genres: Sequence[str], of_genres: Mapping[str, Mapping], row: float, legend: float, columns: int
) -> tuple[Figure, np.ndarray]:
    """Makes axes that share a row for each genre; every second row is shaded.

    Args:
      genres: the genres, from the bottom up.
      of_genres: figures of each genre, with its number of `positives`.
      row: height of a row, in inches.
      legend: height of the legend, in inches.
      columns: number of axes, 1 or 2.
    """
    height = 1.1 + legend + row * max(4, len(genres))
    figure = Figure(figsize=(7.2, height), layout="constrained")
    ratios = (2.2, 1)[:columns]
    axes = figure.subplots(1, columns, squeeze=False, sharey=True, width_ratios=ratios)[0]
    for ax in axes:
        for n in range(0, len(genres), 2):
            ax.axhspan(n - 0.5, n + 0.5, color=style.LIGHT_GREY, alpha=0.4, linewidth=0, zorder=0)
        ax.grid(axis="x", alpha=0.4)
        ax.tick_params(labelsize=9)
    axes[0].set_ylim(-0.5, len(genres) - 0.5)
    labels = [f"{style.plain(g, 24)} ({of_genres[g]['positives']:,})" for g in genres]
    axes[0].set_yticks(range(len(genres)), labels)
    return figure, axes
