"""The talk's encoders plus a bag of words and MPNet; the best score so far.

    pip install huggingface_hub
    mmgc train --config=best --workdir=runs/best \
        --config.data.path=FOLDER \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

configs/talk.py explains FOLDER and VECTORS. MPNet is copied from Hugging Face; docs/inputs.md says
how to get it otherwise.

It took 67 to 72 minutes on a 2-core AMD EPYC (2026-11-30): 36 to 41 for the encoders of
configs/talk.py, and most of the rest for MPNet. On one with AVX512_BF16, in bfloat16, it took 36.
AUC, the mean over genres with at least 10 positive movies, in 5-fold cross-validation on 5,289
movies, and on those with both plot and poster:

    bag of words      0.891   0.892
    transformer       0.919   0.920
    fusion            0.932   0.936
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
    config.plot_transformer.model.head_layers = 7
    config.encoders = ("plot", "plot_bag_of_words", "plot_transformer", "poster", "poster_grey")
    config.fusion.encoders = config.encoders
    return config
