"""Co-occurrence of genres, true and predicted."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mmgc_jax.evaluation import metrics
from mmgc_jax.evaluation.figures import style
from mmgc_jax.evaluation.results import Predictions

_MOST_GENRES = 30


def draw_cooccurrence(predictions: Predictions, genres: Sequence[str], split: str) -> Figure:
    """Draws how often genres occur together: true genres beside those that fusion predicts.

    A genre is predicted where its probability is at least its tuned threshold. Both matrices have
    one colour scale.

    Args:
      predictions: of fusion.
      genres: the names of the columns.
      split: the movies' split.
    """
    true = predictions.labels > 0
    predicted = predictions.probabilities >= predictions.thresholds
    kept = np.sort(np.argsort(-true.sum(axis=0), kind="stable")[:_MOST_GENRES])
    line = "" if len(kept) == len(genres) else f"\n(the {len(kept)} most frequent of {len(genres)})"
    names = [style.plain(genres[g], 18) for g in kept]
    title = f"Genres that occur together, {style.movies_text([len(true)], split)}{line}"
    if len(kept) < 2 or not len(true):
        return style.empty_figure(title, "At least two genres and a movie are needed.")

    size = max(2.6, 0.16 * len(kept))
    figure = Figure(figsize=(2 * size + 2.6, size + 2), layout="compressed")
    axes = figure.subplots(1, 2)
    figure.suptitle(title, fontsize=10)
    shares = [100 * metrics.cooccurrence(flags[:, kept]) for flags in (true, predicted)]
    highest = max(np.max(of, initial=0, where=np.isfinite(of)) for of in shares)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=style.LIGHT_GREY)
    for ax, of, title in zip(axes, shares, ("true genres", "genres that fusion predicts")):
        image = ax.imshow(of, vmin=0, vmax=highest or 100, cmap=colours)
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(kept)), names, rotation=90, fontsize=8)
        ax.set_xlabel("... that also have this genre", fontsize=9)
    left, right = (flags.sum(axis=0)[kept] for flags in (true, predicted))
    axes[0].set_yticks(
        range(len(kept)), [f"{name} ({n:,})" for name, n in zip(names, left)], fontsize=8
    )
    axes[0].set_ylabel("movies with this genre (their number) ...", fontsize=9)
    axes[1].set_yticks(range(len(kept)), [f"({n:,})" for n in right], fontsize=8)
    figure.colorbar(image, ax=axes, location="right", shrink=0.8, pad=0.02).set_label(
        "share of the row's movies (%)\ngrey: the genre itself, or no movie", fontsize=9
    )
    return figure
