"""Draws figures of the README and of the page of results.

    python docs/draw_figures.py

`architecture.png` shows the system on a movie of the embedded corpus, with the exact probabilities
of its genres. `results.png` shows docs/results/talk.csv and missing_modalities.csv, and
`learning_curves.png` learning_curves.csv. All are written to docs/images/ in a few seconds.
"""

import csv
import hashlib
import io
import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from mmgc_jax.data import synthetic
from mmgc_jax.data.movies import GENRES

_DOCS = pathlib.Path(__file__).parent
RESULTS = tuple(_DOCS / "results" / f"{n}.csv" for n in ("talk", "missing_modalities"))
CURVES = (_DOCS / "results" / "learning_curves.csv",)
IMAGES = _DOCS / "images"

# Of the palette by Okabe and Ito, which colour-blind people can tell apart; grey is for text.
_PLOT, _POSTER, _FUSION, _INK, _FAINT = "#0072B2", "#D55E00", "#00795A", "#24292f", "#8c959f"
_DPI = 200
_EXAMPLE = 2348  # number of a training movie whose plot and poster tell of different genres
_BEST_OF_TALK = 0.91  # macro AUC, as the talk reports it


def draw_architecture() -> Figure:
    """Draws the system: a movie, its two encoders and their fusion."""
    corpus = synthetic.generate(seed=0, train=_EXAMPLE + 1, validation=0, test=0)["train"]
    *_, (movie, cues) = corpus
    probabilities = {
        name: synthetic.true_probabilities(cues, modalities)
        for name, modalities in {
            "plot": ("plot",), "poster": ("poster",), "fusion": ("plot", "poster"),
        }.items()
    }  # fmt: skip

    figure = pyplot.figure(figsize=(10, 4.5))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    upper, lower = 33.5, 11.5

    for y, title, colour in ((upper, "Plot", _PLOT), (lower, "Poster", _POSTER)):
        _box(ax, 2, y - 9, 21, 18, "white", _FAINT)
        ax.text(3.4, y + 7.6, title, color=colour, weight="bold", fontsize=12, va="top")
    sentences = (f"{sentence[0].upper()}{sentence[1:]}." for sentence in _sentences(movie.plot))
    plot = textwrap.fill(" ".join(sentences), 27)
    ax.text(3.4, upper + 4.6, plot, color=_INK, fontsize=8.5, va="top", linespacing=1.35)
    poster = np.asarray(Image.open(io.BytesIO(movie.poster)))
    ax.imshow(poster, extent=(13.5, 21.5, lower - 8, lower + 8), aspect="auto", zorder=2)
    ax.text(3.4, lower - 7.6, "A made-up\nmovie, as all\nof the demo", color=_FAINT, fontsize=8,
            linespacing=1.25)  # fmt: skip
    ax.set(xlim=(0, 100), ylim=(0, 45))  # imshow has changed them

    _step(ax, 28, upper, 12.5, _PLOT, "Word2Vec", "a vector for\neach word")
    _step(ax, 44.5, upper, 12.5, _PLOT, "LSTM", "reads them in\nboth directions")
    _step(ax, 28, lower, 12.5, _POSTER, "VGG16", "ImageNet weights,\nfine-tuned")
    _step(ax, 44.5, lower, 12.5, _POSTER, "Dense", "fully connected\nlayers")
    middle = (upper + lower) / 2
    _step(ax, 73.5, middle, 9, _FUSION, "Fusion", "dense\nlayers")

    shown = np.argsort(-probabilities["fusion"])[:3]
    for name, y, colour in (("plot", upper, _PLOT), ("poster", lower, _POSTER)):
        _genres(ax, 59.8, y, 11.5, probabilities[name], shown, colour)
    _genres(ax, 85.5, middle, 13, probabilities["fusion"], shown, _FUSION)
    ax.text(86.7, middle + 8.3, "Genres", color=_FUSION, weight="bold", fontsize=12)

    for y, colour in ((upper, _PLOT), (lower, _POSTER)):
        _arrow(ax, (23.4, y), (27.6, y), colour)
        _arrow(ax, (40.9, y), (44.1, y), colour)
        _arrow(ax, (57.4, y), (60.4, y), colour)
    _arrow(ax, (71.6, upper - 1.5), (77, middle + 5.4), _PLOT, bend=-0.25)
    _arrow(ax, (71.6, lower + 1.5), (77, middle - 5.4), _POSTER, bend=0.25)
    _arrow(ax, (82.9, middle), (86, middle), _FUSION)
    return figure


def _sentences(plot: str) -> list[str]:
    """Splits a plot of the corpus, whose punctuation stands apart."""
    return plot.replace(" ,", ",").removesuffix(" .").split(" . ")


def _box(ax: Axes, x: float, y: float, width: float, height: float, face: str, edge: str) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x, y), width, height, "round,pad=0,rounding_size=1",
            facecolor=face, edgecolor=edge, linewidth=1.2,
        )
    )  # fmt: skip


def _step(ax, x: float, y: float, width: float, colour: str, title: str, text: str) -> None:
    """Draws a box of the network; y is of its middle."""
    _box(ax, x, y - 5, width, 10, matplotlib.colors.to_rgba(colour, 0.1), colour)
    centre = x + width / 2
    ax.text(centre, y + 2.4, title, color=colour, weight="bold", fontsize=12, ha="center",
            va="center")  # fmt: skip
    ax.text(centre, y - 1.7, text, color=_INK, fontsize=8.5, ha="center", va="center")


def _genres(ax, x: float, y: float, width: float, probabilities, shown, colour: str) -> None:
    """Draws the probabilities of some genres as bars; y is of the middle."""
    for position, genre in enumerate(shown):
        bottom = y + 3.2 - 4.4 * position
        ax.text(x + 1.2, bottom + 1.8, GENRES[genre], fontsize=8.5, color=_INK, va="center")
        ax.text(x + width, bottom + 1.8, f"{probabilities[genre]:.2f}", fontsize=8.5,
                color=_INK, va="center", ha="right")  # fmt: skip
        for share, alpha in ((1, 0.15), (probabilities[genre], 1)):
            ax.barh(bottom, share * (width - 1.2), 1.1, left=x + 1.2, color=colour, alpha=alpha,
                    align="center")  # fmt: skip
    ax.text(x + 1.2, y - 8.2, "... 24 genres", fontsize=8.5, color=_FAINT, va="center")


def _arrow(ax, start, end, colour: str, bend: float = 0.0) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=13, linewidth=1.6, color=colour,
            connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip


def draw_results() -> Figure:
    """Draws AUC of all models, and of fusions when posters or plots are missing."""
    talk, missing = map(read_rows, RESULTS)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 3.9), width_ratios=(1.25, 1), layout="constrained"
    )
    figure.get_layout_engine().set(wspace=0.05)
    _draw_models(left, talk)
    _draw_missing(right, missing)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=10, colors=_INK)
        ax.grid(alpha=0.25)
    return figure


def _draw_models(ax: Axes, talk: list[dict]) -> None:
    rows = {row["model"]: row for row in talk if row["movies_with"] == "both"}
    rows = dict(sorted(rows.items(), key=lambda item: float(item[1]["auc_steady"])))
    for y, (name, row) in enumerate(rows.items()):
        auc, low, high = (
            float(row[column]) for column in ("auc_steady", "auc_steady_low", "auc_steady_high")
        )
        colour = _colour(name)
        ax.errorbar(auc, y, xerr=[[auc - low], [high - auc]], fmt=_marker(name), color=colour,
                    markersize=5, capsize=4)  # fmt: skip
        ax.text(1.02, y, f"{auc:.3f}", va="center", fontsize=10, color=colour, weight="bold",
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(rows)), rows)
    ax.axvline(_BEST_OF_TALK, color=_FAINT, linestyle="--", linewidth=1.2, zorder=0)
    ax.text(_BEST_OF_TALK - 0.004, 0.5, f"the talk: {_BEST_OF_TALK}", fontsize=9, ha="right",
            color="#57606a", va="center")  # fmt: skip
    ax.set_xlim(0.72, 0.95)
    movies = {row["movies"] for row in rows.values()}
    (count,) = movies
    ax.set_xlabel("AUC, mean over steady genres, with 95 % interval", fontsize=10)
    ax.set_title(f"{int(count):,} movies with plot and poster", fontsize=11, loc="left")


def _draw_missing(ax: Axes, missing: list[dict]) -> None:
    shares = (0, 25, 50, 75, 100)
    for modality, colour, marker in (("poster", _PLOT, "o"), ("plot", _POSTER, "s")):
        (row,) = (
            row
            for row in missing
            if (row["config"], row["missing"], row["model"]) == ("talk", modality, "Fusion")
        )
        values = [float(row[f"auc_macro_{share}"]) for share in shares]
        ax.plot(shares, values, color=colour, marker=marker, markersize=5, label=f"{modality}s")
    ax.set_xticks(shares, [f"{share} %" for share in shares])
    ax.set_ylim(0.72, 0.97)
    ax.set_xlabel("share of movies that lose their poster or plot", fontsize=10)
    ax.set_ylabel("macro AUC of fusion", fontsize=10)
    ax.legend(title="missing", fontsize=9, title_fontsize=9, loc="lower left", frameon=False)
    ax.set_title("When a modality is missing", fontsize=11, loc="left")


def draw_learning_curves() -> Figure:
    """Draws AUC by the number of training movies, on a logarithmic axis."""
    rows = [row for row in read_rows(CURVES[0]) if row["movies_with"] == "any"]
    sizes = [int(column.rpartition("_")[2]) for column in rows[0] if column.startswith("auc")]
    rows.sort(key=lambda row: -float(row[f"auc_steady_{sizes[-1]}"]))
    figure, ax = pyplot.subplots(figsize=(7.5, 4.6), layout="constrained")
    label = 1.0
    for row in rows:
        name, values = row["model"], [float(row[f"auc_steady_{size}"]) for size in sizes]
        # The models of configs/best.py alone have dashed lines.
        of_best = "best.py" in name or name in ("Plot (bag of words)", "Plot (transformer)")
        ax.plot(sizes, values, color=_colour(name), marker=_marker(name), markersize=5,
                linestyle="--" if of_best else "-")  # fmt: skip
        label = min(values[-1], label - 0.01)  # labels do not overlap
        ax.text(sizes[-1] * 1.04, label, name.removeprefix("Fusion of "), va="center",
                fontsize=9, color=_colour(name))  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlim(sizes[0] * 0.93, sizes[-1] * 1.9)
    ax.set_xlabel("training movies", fontsize=10)
    ax.set_ylabel("AUC, mean over steady genres", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=10, colors=_INK)
    ax.grid(alpha=0.25)
    return figure


def _colour(model: str) -> str:
    return {"Pl": _PLOT, "Po": _POSTER, "Fu": _FUSION}[model[:2]]


def _marker(model: str) -> str:
    return {"Pl": "o", "Po": "s", "Fu": "D"}[model[:2]]


def read_rows(file: pathlib.Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a header."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def fingerprint(files: Sequence[pathlib.Path]) -> str:
    """Computes a SHA-256 hash of the CSV files that a figure shows."""
    texts = "".join(file.read_text(encoding="utf-8") for file in files)
    return hashlib.sha256(texts.encode()).hexdigest()


FIGURES = {
    "architecture": (draw_architecture, ()),
    "results": (draw_results, RESULTS),
    "learning_curves": (draw_learning_curves, CURVES),
}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, (draw, files) in FIGURES.items():
        figure = draw()
        # The hash lets a test find out that the figure is older than the CSV files.
        metadata = {"Software": None, "Description": fingerprint(files) if files else ""}
        file = IMAGES / f"{name}.png"
        figure.savefig(file, dpi=_DPI, facecolor="white", metadata=metadata)
        pyplot.close(figure)
        print(file)


if __name__ == "__main__":
    main()
