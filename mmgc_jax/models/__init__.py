"""Pure functions from arrays to genre logits: Flax Linen modules without files, flags or globals.

Each module returns `(logits, intermediates)`: <float32>[batch, genres] and a dictionary of named
arrays on the way to them.

    model = PlotLSTM(vocabulary_size=20_000)
    variables = model.init(key, tokens, lengths)
    logits, intermediates = model.apply(variables, tokens, lengths)
"""

from mmgc_jax.models.fusion import LateFusion
from mmgc_jax.models.plot import PlotLSTM
from mmgc_jax.models.poster import VGG16, GenreHead, PosterVGG16
from mmgc_jax.models.transformer import BertEncoder, PlotTransformer

__all__ = [
    "VGG16",
    "BertEncoder",
    "GenreHead",
    "LateFusion",
    "PlotLSTM",
    "PlotTransformer",
    "PosterVGG16",
]
