"""Movie genre classifiers as Flax Linen modules: arrays and parameters in, genre logits out.

Models read no files and no flags, and nothing of the process that they run in. Each returns
`(logits, intermediates)`: <float32>[batch, genres], and a dictionary of named activations.

    model = PlotLSTM(vocabulary_size=20_000)
    variables = model.init(key, tokens, lengths)
    logits, intermediates = model.apply(variables, tokens, lengths)

The attribute `kernels` of some models chooses how their operations are computed, not what they
compute. By default that is plain XLA, which runs on every platform and can be exported for it;
`mmgc_jax.ops.kernels.auto()` is what is fastest on this machine.
"""

from mmgc_jax.models.bert import BertEncoder, mean_of_tokens
from mmgc_jax.models.feature_fusion import (
    ConcatMaxout,
    GatedMultimodalUnit,
    LinearSum,
    LowRankTensorFusion,
    MixtureOfExperts,
)
from mmgc_jax.models.fusion import FusionOfLogits, LateFusion, drop_modalities
from mmgc_jax.models.plot_bag_of_words import PlotBagOfWords
from mmgc_jax.models.plot_lstm import PlotLSTM
from mmgc_jax.models.plot_transformer import PlotTransformer
from mmgc_jax.models.poster_vgg16 import GenreHead, PosterVGG16, pool_blocks
from mmgc_jax.models.vgg16 import VGG16, apply_blocks

# By name in a config. `late` fuses probabilities, the others fuse feature vectors.
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
    "drop_modalities",
    "mean_of_tokens",
    "pool_blocks",
]
