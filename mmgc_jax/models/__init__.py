"""Pure functions from arrays to genre logits: Flax Linen modules without files, flags or globals.

Each module returns `(logits, intermediates)`: <float32>[batch, genres] and a dictionary of named
arrays on the way to them.

    model = PlotLSTM(vocabulary_size=20_000)
    variables = model.init(key, tokens, lengths)
    logits, intermediates = model.apply(variables, tokens, lengths)
"""

from mmgc_jax.models.feature_fusion import (
    ConcatMaxout,
    GatedMultimodalUnit,
    LinearSum,
    LowRankTensorFusion,
    MixtureOfExperts,
)
from mmgc_jax.models.fusion import FusionOfLogits, LateFusion, drop_modalities
from mmgc_jax.models.plot import PlotBagOfWords, PlotLSTM
from mmgc_jax.models.poster import VGG16, GenreHead, PosterVGG16, apply_blocks, pool_blocks
from mmgc_jax.models.transformer import BertEncoder, PlotTransformer, mean_of_tokens
from mmgc_jax.ops.convolution import convolve

# By the names that a config gives them. `late` takes probabilities, the others vectors.
FUSIONS = {
    "late": LateFusion,
    "linear_sum": LinearSum,
    "concat": ConcatMaxout,
    "mixture_of_experts": MixtureOfExperts,
    "gated": GatedMultimodalUnit,
    "low_rank_tensor": LowRankTensorFusion,
}

__all__ = [
    "FUSIONS",
    "VGG16",
    "BertEncoder",
    "ConcatMaxout",
    "FusionOfLogits",
    "GatedMultimodalUnit",
    "GenreHead",
    "LateFusion",
    "LinearSum",
    "LowRankTensorFusion",
    "MixtureOfExperts",
    "PlotBagOfWords",
    "PlotLSTM",
    "PlotTransformer",
    "PosterVGG16",
    "apply_blocks",
    "convolve",
    "drop_modalities",
    "mean_of_tokens",
    "pool_blocks",
]
