"""The talk's comparisons in one table: three ways to give words to the LSTM, colour, grey, fusion.

    python -m mmgc_jax.main --config=configs/talk_comparisons.py --workdir=runs/comparisons \
        --config.data.path=FOLDER \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

The LSTMs differ in how words enter them, and in nothing else: one-hot (`plot_one_hot`), by a unique
map (`plot_unique_map`), as Word2Vec's vectors (`plot`). One-hot words have no vectors to pool, so
that none of the three pools them, unlike configs/talk.py. `plot` and `poster` are fused.
"""

import ml_collections

from mmgc_jax.configs import talk
from mmgc_jax.encoders import base


def get_config() -> ml_collections.ConfigDict:
    config = talk.get_config()
    config.plot.model.pool_words = False
    config.plot_one_hot = base.following(config.plot, vectorisation="one_hot")
    config.plot_unique_map = base.following(config.plot, vectorisation="unique_map")
    config.encoders = ("plot_one_hot", "plot_unique_map", "plot", "poster", "poster_grey")
    return config
