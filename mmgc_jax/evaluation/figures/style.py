"""Colours, text, axis limits and files that all figures share."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmgc_jax.evaluation.results import is_fusion
from mmgc_jax.runtime.files import Path, write_atomically

# Okabe and Ito's palette (Color Universal Design, 2008), whose colours people with any kind of
# colour blindness can tell apart; without yellow, too pale on white, and with black for fusions.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
BLACK, GREY, LIGHT_GREY = "#000000", "#777777", "#DDDDDD"
LINES = ("-", "--", ":", "-.")
_MARKERS, _FUSION_MARKERS = "os^vP*X<>ph", "DdHx"
UNDEFINED = "No genre has both a positive and a negative among these movies."


class Look(NamedTuple):
    """How all figures draw a model.

    Attributes:
      colour: colour of lines and markers.
      marker: matplotlib's code of the marker.
      line: matplotlib's code of the line style.
      width: width of lines, in points.
    """

    colour: str
    marker: str
    line: str
    width: float


def looks(titles: Mapping[str, str]) -> dict[str, Look]:
    """Assigns a look to each model, by its position; fusions are black.

    No two of up to 24 encoders, or of up to 4 fusions, have the same colour and line style, nor the
    same colour and marker.
    """
    encoders = [name for name in titles if not is_fusion(name)]
    fusions = [name for name in titles if is_fusion(name)]
    assigned = {}
    for n, name in enumerate(encoders):
        colour, line = COLOURS[n % len(COLOURS)], LINES[n // len(COLOURS) % len(LINES)]
        assigned[name] = Look(colour, _MARKERS[n % len(_MARKERS)], line, 1.3)
    for n, name in enumerate(fusions):
        marker = _FUSION_MARKERS[n % len(_FUSION_MARKERS)]
        assigned[name] = Look(BLACK, marker, LINES[n % len(LINES)], 1.9)
    return assigned


def plain(text: str, width: int = 0) -> str:
    """Returns text that matplotlib shows as it is.

    Args:
      text: a name from the data or a config; its `$` would begin a formula.
      width: number of characters at which the text is cut; 0 for any length.
    """
    if width and len(text) > width:
        text = text[: width - 1].rstrip() + "…"
    return text.replace("$", r"\$")


def wrapped(text: str, width: int) -> str:
    """Breaks text into lines of at most `width` characters, shown as they are."""
    return plain(textwrap.fill(text, width))


def movies_text(counts: Iterable[int], split: str, both: bool = False) -> str:
    """Names a set of movies, such as `815 test movies with both plot and poster`.

    Args:
      counts: number of movies of each model; given as a range if they differ.
      split: the movies' split; `cross_validation` for training movies, predicted out-of-fold.
      both: whether they are those with both modalities.
    """
    counts = sorted(set(counts)) or [0]
    number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    noun = "movie" if counts == [1] else "movies"
    if split == "cross_validation":
        split = "cross-validated"
    return f"{number} {split} {noun}" + (" with both plot and poster" if both else "")


def shown_genres(of_genres: Mapping[str, Mapping], most: int) -> tuple[list[str], str]:
    """Chooses the genres of a figure: those with a defined AUC; of too many, the most frequent.

    Args:
      of_genres: figures of each genre, `per_genre` of `metrics.evaluate`.
      most: the most genres that the figure has room for.

    Returns:
      The genres, in their order, and a line for the title that says which are left out, if any.
    """
    defined = [genre for genre, figures in of_genres.items() if math.isfinite(figures["auc"])]
    ranked = sorted(defined, key=lambda genre: -of_genres[genre]["positives"])
    kept = set(ranked[:most])
    parts = []
    if len(kept) < len(defined):
        parts.append(f"the {len(kept)} most frequent of {len(defined)} genres")
    if undefined := len(of_genres) - len(defined):
        noun = "genre" if undefined == 1 else "genres"
        parts.append(f"left out: {undefined} {noun} without a positive or a negative")
    line = f"\n({'; '.join(parts)})" if parts else ""
    return [genre for genre in defined if genre in kept], line


def set_range(ax: Axes, values: Iterable[float], least: float, axis: str = "y") -> None:
    """Fits an axis to values in [0, 1], over a range wide enough that noise looks like noise.

    Args:
      ax: the axes.
      values: what the axis must contain; values that are not finite are left out.
      least: the smallest range of the axis.
      axis: `x` or `y`.
    """
    values = np.asarray(list(values), np.float64)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = max(0.05 * (high - low), (least - (high - low)) / 2)
    low, high = low - margin, high + margin
    # Shifted into [0, 1], and never cut: the range may be wider than that.
    shift = min(0.0, 1.0 - high) or max(0.0, -low)
    ax.set(**{f"{axis}lim": (max(0.0, low + shift), min(1.0, high + shift))})


def empty_figure(title: str, reason: str) -> Figure:
    """Makes a small figure that says why there is nothing to draw."""
    figure = Figure(figsize=(6, 2))
    ax = figure.subplots()
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    ax.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, transform=ax.transAxes)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG, at 150 dots per inch; equal figures become equal files."""
    write_atomically(
        file, lambda stream: figure.savefig(stream, format="png", dpi=150, bbox_inches="tight")
    )
