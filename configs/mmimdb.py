"""MM-IMDb as its makers split it (arXiv 1702.01992): 23 genres, F1 on the test part, AUC beside it.

    python -m mmgc_jax.main --config=configs/mmimdb.py --workdir=runs/mmimdb \
        --config.data.path=mmimdb.tar.gz \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=VECTORS

The archive (https://archive.org/download/mmimdb/mmimdb.tar.gz, 8.1 GB) is read as it is; the folder
that it extracts to does as well. The README says how to get the weights and VECTORS, a file of word
vectors; without one, those trained on the plots stand alone. Plots become words as the makers' do.
F1 is given at the threshold 0.5, as theirs, and at thresholds tuned on the training movies, out of
fold.

Not measured on the archive. It needs a GPU or patience: 25,959 posters go through VGG16 once in
colour and once in grey.
"""

import ml_collections

from mmgc_jax.configs import talk


def get_config() -> ml_collections.ConfigDict:
    config = talk.get_config()

    config.data.source = "mmimdb"
    config.plot.tokens = "mmimdb"
    return config
