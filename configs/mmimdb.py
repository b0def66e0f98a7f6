"""The talk's system on MM-IMDb, with its official split and 23 genres.

    mmgc train --config=mmimdb --workdir=runs/mmimdb \
        --config.data.path=mmimdb.tar.gz \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

Download the archive from https://archive.org/download/mmimdb/mmimdb.tar.gz (8.1 GB). It need not be
extracted, but the path of the extracted folder works, too. docs/inputs.md explains how to get
vgg16.npz and VECTORS, a file of pretrained word vectors; without it, only word vectors trained on
the plots are used. Plots are tokenised as in the authors' code.

F1 is reported at the threshold 0.5, as in the paper (arXiv 1702.01992), and at thresholds tuned on
out-of-fold probabilities of the training movies.

Not measured on the real archive yet. VGG16 processes 25,959 posters in colour and again in grey, so
use a GPU if possible.
"""

import ml_collections

from mmgc_jax.configs import talk


def get_config() -> ml_collections.ConfigDict:
    config = talk.get_config()

    config.data.source = "mmimdb"
    config.plot.tokens = "mmimdb"
    return config
