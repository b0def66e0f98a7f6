"""Figures that compare whole models: ROC curves, missing modalities, reliability."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.figures import style
from mmgc_jax.evaluation.results import SHARES, Predictions, is_fusion

_LEAST_AUC_RANGE = 0.1
_BINS = 15


def draw_roc(
    predictions: Mapping[str, Predictions], split: str, titles: Mapping[str, str]
) -> Figure:
    """Draws ROC curves over all genres at once (micro), of calibrated probabilities.

    Args:
      predictions: for each model, its predictions for the movies with both modalities.
      split: their split.
      titles: title of each model.
    """
    names = [name for name in titles if name in predictions]
    movies = style.movies_text((len(predictions[n].labels) for n in names), split, both=True)
    title = f"ROC curves, all genres pooled\n{movies}"
    pooled = {
        name: (predictions[name].labels.ravel(), predictions[name].probabilities.ravel())
        for name in names
    }
    aucs = {name: metrics.roc_auc(*of_model) for name, of_model in pooled.items()}
    defined = [name for name in names if math.isfinite(aucs[name])]
    if not defined:
        return style.empty_figure(title, style.UNDEFINED)

    figure = Figure(figsize=(6, 6.2), layout="constrained")
    ax = figure.subplots()
    ax.set_title(title, fontsize=10)
    looks = style.looks(titles)
    for name in defined:
        false_positives, true_positives, _ = roc_curve(*pooled[name])
        ax.plot(
            false_positives, true_positives, looks[name].line, color=looks[name].colour,
            linewidth=looks[name].width, label=f"{style.plain(titles[name])}: {aucs[name]:.3f}",
        )  # fmt: skip
    ax.plot([0, 1], [0, 1], ":", color=style.GREY, linewidth=0.9, label="chance: 0.500")
    ax.set(
        xlabel="false positive rate: share of wrong genres that are predicted",
        ylabel="true positive rate: share of right genres that are predicted",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    ax.grid(alpha=0.3)
    # In the axes, a legend of many curves or of long titles would cover them.
    if len(names) <= 8 and max(len(titles[name]) for name in names) <= 28:
        ax.legend(title="AUC (micro)", fontsize=9, loc="lower right")
    else:
        figure.set_size_inches(6, 6.6 + 0.18 * math.ceil(len(names) / 2))
        figure.legend(title="AUC (micro)", fontsize=8, loc="outside lower center", ncols=2)
    return figure


def draw_missing_modalities(
    missing: Mapping[str, Mapping], titles: Mapping[str, str], movies: int
) -> Figure:
    """Draws macro AUC by the share of movies that lose a modality, a line for each model.

    Lines of encoders, which do not use the lost modality, are dashed.

    Args:
      missing: as `results.evaluate_missing` returns it.
      titles: title of each model.
      movies: number of movies that they were computed on.
    """
    names = [name for name in titles if any(name in of_models for of_models in missing.values())]
    rows = math.ceil(len(names) / 3)
    figure = Figure(figsize=(4.2 * max(len(missing), 1.4), 3.6 + 0.2 * rows), layout="constrained")
    axes = figure.subplots(1, len(missing), squeeze=False, sharey=True)
    looks = style.looks(titles)
    drawn = {}
    for ax, (modality, of_models) in zip(axes[0], missing.items()):
        for name in (name for name in names if name in of_models):
            look = looks[name]
            [drawn[name]] = ax.plot(
                np.multiply(SHARES, 100), of_models[name], "-" if is_fusion(name) else "--",
                color=look.colour, marker=look.marker, linewidth=look.width,
                # Larger below the marks of fusions, which are equal to them at 100 %.
                markersize=5 if is_fusion(name) else 8,
            )  # fmt: skip
        ax.set_xlabel(f"movies that lose their {modality} (%)")
        ax.set_xticks(np.multiply(SHARES, 100))
        ax.grid(alpha=0.3)
    aucs = [
        auc for of_models in missing.values() for of_one in of_models.values() for auc in of_one
    ]
    style.set_range(axes[0, 0], aucs, _LEAST_AUC_RANGE)
    axes[0, 0].set_ylabel("AUC (macro), mean over the folds")
    of_movies = style.movies_text([movies], "training", both=True)
    figure.suptitle(f"Lost modalities, {of_movies}, out-of-fold", fontsize=10)
    figure.legend([drawn[name] for name in names], [style.plain(titles[name]) for name in names],
                  fontsize=8, loc="outside lower center", ncols=3)  # fmt: skip
    return figure


def draw_reliability(predictions: Predictions, title: str) -> Figure:
    """Draws a reliability diagram before and after calibration, with the counts of its bins below.

    All genres are pooled, in 15 bins of equal width.

    Args:
      predictions: of one model.
      title: names the model and the movies.
    """
    if not predictions.labels.size:
        return style.empty_figure(title, "No movie has what the model needs.")
    figure = Figure(figsize=(5.5, 7.5), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ax.set_title(style.wrapped(title, 60), fontsize=10)
    ax.plot([0, 1], [0, 1], ":", color=style.GREY, linewidth=0.9, label="perfect: 0.000")
    # The first marker is larger and hollow, to be seen behind the second at the same place.
    for name, probabilities, line, colour, marker in (
        ("as trained", predictions.uncalibrated, "--", style.COLOURS[1],
         {"marker": "o", "markersize": 8, "markerfacecolor": "none"}),
        ("calibrated", predictions.probabilities, "-", style.COLOURS[0],
         {"marker": "s", "markersize": 4}),
    ):  # fmt: skip
        diagram = metrics.reliability(predictions.labels, probabilities, _BINS)
        error = metrics.expected_calibration_error(predictions.labels, probabilities, _BINS)
        filled = diagram["count"] > 0
        ax.plot(diagram["predicted"][filled], diagram["true"][filled], line, color=colour,
                linewidth=1.3, clip_on=False, label=f"{name}: {error:.3f}", **marker)  # fmt: skip
        below.stairs(diagram["count"], np.linspace(0, 1, _BINS + 1), color=colour, linestyle=line,
                     linewidth=1.5, baseline=None)  # fmt: skip
    ax.set(ylabel="share that have the genre", xlim=(0, 1), ylim=(0, 1))
    ax.legend(title="calibration error (ECE),\nmean over genres", fontsize=9, title_fontsize=9,
              loc="upper left")  # fmt: skip
    below.set(
        xlabel="predicted probability of a genre",
        ylabel="number of predictions",
        yscale="log",
    )
    ax.set_box_aspect(1)
    for axes in (ax, below):
        axes.grid(alpha=0.3)
    return figure
