"""The talk's comparisons: one-hot, unique map or Word2Vec; colour or grey posters.

    mmgc train --config=talk_comparisons --workdir=runs/comparisons \
        --config.data.path=FOLDER \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

configs/talk.py explains FOLDER and VECTORS. Three LSTMs differ only in their input: one-hot vectors
(`plot_one_hot`), embeddings learned from scratch (`plot_unique_map`) or Word2Vec vectors (`plot`).
Unlike in configs/talk.py, none of them pools word vectors, because one-hot encoding has none, and
none has attention. The fusion combines `plot` and `poster`.

Not measured as a whole. Measured one by one on 2026-11-29 with a state of 64 and three seeds, AUC,
the mean over genres with at least 10 positive movies, was 0.791 for one-hot, 0.785 for the unique
map and 0.869 for Word2Vec on 5,289 movies; docs/results.md has the details.
"""

import ml_collections

from mmgc_jax.configs import talk
from mmgc_jax.encoders import base


def get_config() -> ml_collections.ConfigDict:
    config = talk.get_config()
    config.plot.model.pool_words = False
    config.plot.model.attention_heads = 0
    config.plot_one_hot = base.following(config.plot, vectorisation="one_hot")
    config.plot_unique_map = base.following(config.plot, vectorisation="unique_map")
    config.encoders = ("plot_one_hot", "plot_unique_map", "plot", "poster", "poster_grey")
    return config
