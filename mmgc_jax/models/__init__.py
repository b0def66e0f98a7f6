"""Movie genre classifiers as Flax Linen modules: arrays and parameters in, genre logits out.

Models are pure functions of their arguments: they read no files, no flags and no global state.
Each returns `(logits, intermediates)`: logits <float32>[batch, genres] before the sigmoid, and a
dictionary of named activations.

    model = PlotLSTM(vocabulary_size=20_000)
    variables = model.init(key, tokens, lengths)
    logits, intermediates = model.apply(variables, tokens, lengths)

The attribute `kernels` of some models selects implementations of their operations; results differ
only by rounding. The default is plain XLA, which runs on every platform and can be exported for any
of them; `mmgc_jax.ops.kernels.auto()` selects the fastest implementations on this machine. Jit with
`compiler_options=kernels.compiler_options(dtype)`, which some of them need.

This package defines only the networks. Their settings, training and loading in an experiment are in
`mmgc_jax.encoders`, often in a file of the same name.
"""

from mmgc_jax.models.bert import BertEncoder, pool_tokens
from mmgc_jax.models.clip_text import CLIPText
from mmgc_jax.models.feature_fusion import (
    ConcatMaxout,
    GatedMultimodalUnit,
    LinearSum,
    LowRankTensorFusion,
    MixtureOfExperts,
)
from mmgc_jax.models.fusion import FusionOfLogits, LateFusion, ProbabilityMLP, drop_modalities
from mmgc_jax.models.plot_bag_of_words import PlotBagOfWords
from mmgc_jax.models.plot_lstm import PlotLSTM
from mmgc_jax.models.plot_transformer import PlotTransformer, pool_layers
from mmgc_jax.models.poster_vgg16 import GenreHead, PosterVGG16, pool_blocks
from mmgc_jax.models.poster_vit import PosterViT
from mmgc_jax.models.vgg16 import VGG16, apply_blocks
from mmgc_jax.models.vit import ViT

# The names used in configs. `late` and `mlp` fuse probabilities; the others fuse feature vectors.
FUSIONS = {
    "late": LateFusion,
    "mlp": ProbabilityMLP,
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
    "CLIPText",
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
    "PosterViT",
    "ProbabilityMLP",
    "ViT",
    "apply_blocks",
    "drop_modalities",
    "pool_blocks",
    "pool_layers",
    "pool_tokens",
]
