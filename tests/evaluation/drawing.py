"""Titles of models, and what tests read from figures."""

import itertools

TITLES = {"plot": "Plot (LSTM)", "poster": "Poster (VGG16, colour)", "fusion": "Fusion"}
# More models than markers and colours.
MANY = {f"encoder{n}": f"Encoder {n}" for n in range(24)} | {
    "fusion": "Fusion",
    "fusion_gated": "Fusion: gated",
}


def legend(of):
    """The texts of a legend, of axes or of a figure."""
    [shown] = of.legends if hasattr(of, "legends") else [of.get_legend()]
    return [text.get_text() for text in shown.get_texts()]


def texts(figure):
    """All texts of a figure, after it is laid out."""
    figure.draw_without_rendering()
    return figure.findobj(lambda artist: hasattr(artist, "get_text"))


def overlaps(figure):
    """Pairs of axes (with their labels), title and legends of a figure that cover one another.

    Neighbouring tick labels of an axis count, too.
    """
    figure.draw_without_rendering()
    parts = [(ax.get_title() or "axes", ax.get_tightbbox()) for ax in figure.axes if ax.axison]
    parts += [("legend", legend.get_window_extent()) for legend in figure.legends]
    if figure.get_suptitle():
        parts.append(("title", figure._suptitle.get_window_extent()))
    pairs = list(itertools.combinations(parts, 2))
    for axis in (axis for ax in figure.axes if ax.axison for axis in (ax.xaxis, ax.yaxis)):
        labels = [label for label in axis.get_ticklabels() if label.get_text()]
        boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
        pairs += itertools.pairwise(boxes)
    return [(one, other) for (one, a), (other, b) in pairs if a.padded(-1).overlaps(b.padded(-1))]
