"""The talk: Word2Vec and LSTM for plots, fine-tuned VGG16 for posters, a network that fuses them.

    python -m mmgc_jax.main --config=configs/talk.py --workdir=runs/talk \
        --config.data.path=FOLDER \
        --config.poster.weights=vgg16_imagenet_notop.npz \
        --config.plot.vectors.file=vectors.bin.gz

FOLDER holds movies.csv and posters/. Without a file of pretrained vectors, those trained on the
plots stand alone.
"""

import ml_collections

from mmgc_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()

    config.data.source = "talk"
    return config
