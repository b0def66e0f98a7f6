"""The talk's system: Word2Vec and LSTM, fine-tuned VGG16, late fusion.

    mmgc train --config=talk --workdir=runs/talk \
        --config.data.path=FOLDER \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

FOLDER has movies.csv and posters/. docs/inputs.md explains how to get vgg16.npz and VECTORS, a file
of pretrained word vectors, which are concatenated to vectors trained on the plots. Without VECTORS,
only those are used.

It took 36 to 44 minutes on a 2-core AMD EPYC in float32, and 25 on one with AVX512_BF16 in bfloat16
(2026-11-30). AUC, the mean over genres with at least 10 positive movies, in 5-fold cross-validation
on 5,289 movies, and on those with both plot and poster:

    plot              0.895   0.898
    poster            0.770   0.770
    grey poster       0.758   0.758
    fusion            0.908   0.916
"""

import ml_collections

from mmgc_jax.configs import default
from mmgc_jax.encoders import base, plot_lstm, poster_vgg16


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.data.source = "talk"
    config.encoders = ("plot", "poster", "poster_grey")
    config.fusion.encoders = ("plot", "poster")

    # Two settings help rare genres: strong weight decay of kernels (not of word vectors), and
    # pooled word vectors, by which telling words bypass the LSTM.
    plot = config.plot = plot_lstm.default_settings()
    plot.dtype = "auto"
    plot.vectors.learning_rate_scale = 1.0
    plot.model.hidden = 128
    plot.model.pool_words = True
    plot.model.word_dropout = 0.2
    plot.training.epochs = 7
    plot.training.learning_rate = 4e-3
    plot.training.weight_decay = 1.0

    config.poster = poster_vgg16.default_settings()
    config.poster.dtype = "auto"
    # Grey posters are not fused. To save time, only their head is trained.
    config.poster_grey = base.following(config.poster, grey=True, finetune_from="head")
    return config
