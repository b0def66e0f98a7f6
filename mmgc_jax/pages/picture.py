"""Draws an explanation as one picture, a PNG."""

from typing import BinaryIO

import numpy as np

from mmgc_jax.explanations import Explanation, poster_pixels
from mmgc_jax.pages import heat_picture

_MOST_BARS, _MOST_WORDS = 12, 10
_FOR, _AGAINST, _OTHER = "#1f6fc7", "#c85c00", "#7d8fa3"


def save(stream: BinaryIO, explanation: Explanation) -> None:
    """Writes a PNG with the genres' bars, and why the first explained genre is given.

    Args:
      stream: binary file to write to.
      explanation: of the movie.
    """
    from matplotlib.figure import Figure

    e = explanation
    genre = e.chosen[0]
    poster = poster_pixels(e, 288)
    maps = {name: found[0] for name, found in e.heat_maps.items() if poster is not None}
    widths = [3.2, 3.2] if e.words else [3.2]
    widths += [1.6] * (len(maps) + 1 if poster is not None else 0)
    figure = Figure(figsize=(1.2 + 1.25 * sum(widths), 4.2), layout="constrained", dpi=150)
    axes = iter(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    figure.suptitle(e.movie.title or e.movie.id or "The movie")
    _draw_genres(next(axes), e)
    if e.words:
        _draw_words(next(axes), e, genre)
    if poster is not None:
        _draw_image(next(axes), poster, "Poster")
    for name, heat in maps.items():
        _draw_image(next(axes), _decoded(heat_picture(poster, heat)), f"{genre}:\n{e.titles[name]}")
    figure.savefig(stream, format="png")


def _draw_genres(axis, e: Explanation) -> None:
    order = np.argsort(-e.probabilities, kind="stable")[:_MOST_BARS][::-1]
    names = [f"✓ {e.genres[n]}" if e.predicted[n] else e.genres[n] for n in order]
    colours = [_FOR if e.predicted[n] else _OTHER for n in order]
    axis.barh(names, e.probabilities[order], color=colours)
    axis.scatter(
        e.thresholds[order], range(len(order)), marker="|", s=120, color="black", label="threshold"
    )
    axis.set(xlim=(0, 1), xlabel="probability", title="Genres (✓ predicted)")
    axis.legend(loc="lower right")


def _draw_words(axis, e: Explanation, genre: str) -> None:
    scores = e.word_scores[:, e.chosen.index(genre)]
    order = np.argsort(-np.abs(scores), kind="stable")[:_MOST_WORDS]
    order = order[np.argsort(scores[order], kind="stable")]
    # Words can occur twice, so that positions are numbers.
    axis.barh(range(len(order)), scores[order], color=np.where(scores[order] > 0, _FOR, _AGAINST))
    axis.set_yticks(range(len(order)), [e.words[n].text[:20] for n in order])
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="logits: + for, − against", title=f"Words: why {genre}?")


def _draw_image(axis, pixels: np.ndarray, title: str) -> None:
    axis.imshow(pixels)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def _decoded(jpeg: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)))
