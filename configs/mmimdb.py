"""The same system on the official MM-IMDb archive (arXiv 1702.01992), extracted.

    python -m mmgc_jax.main --config=configs/mmimdb.py --workdir=runs/mmimdb \
        --config.data.path=mmimdb --config.poster.weights=vgg16_imagenet_notop.npz

Needs a GPU or patience: 25,959 posters go through VGG16 once in colour and once in grey. Not yet
measured.
"""

import ml_collections

from mmgc_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()

    config.data.source = "mmimdb"
    return config
