"""Figures of an experiment, drawn with matplotlib.

Each `draw_...` function returns a figure and writes no file; `save` writes a figure as PNG.
`titles` maps the name of each model to the title that figures show, in the order of legends.
"""

from mmgc_jax.evaluation.figures.cooccurrence import draw_cooccurrence
from mmgc_jax.evaluation.figures.genres import draw_auc_per_genre, draw_f1_per_genre
from mmgc_jax.evaluation.figures.models import (
    draw_missing_modalities,
    draw_reliability,
    draw_roc,
)
from mmgc_jax.evaluation.figures.precision_recall import draw_precision_recall
from mmgc_jax.evaluation.figures.style import movies_text, save
from mmgc_jax.evaluation.figures.training import draw_learning_curves, read_metrics

__all__ = [
    "draw_auc_per_genre",
    "draw_cooccurrence",
    "draw_f1_per_genre",
    "draw_learning_curves",
    "draw_missing_modalities",
    "draw_precision_recall",
    "draw_reliability",
    "draw_roc",
    "movies_text",
    "read_metrics",
    "save",
]
