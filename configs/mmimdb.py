"""MM-IMDb as its makers split it (arXiv 1702.01992): 23 genres, F1 on the test part, AUC beside it.

    python -m mmgc_jax.main --config=configs/mmimdb.py --workdir=runs/mmimdb \
        --config.data.path=mmimdb.tar.gz \
        --config.poster.weights=vgg16.npz \
        --config.plot.vectors.file=word2vec-google-news-300.gz

The path is that of the archive (https://archive.org/download/mmimdb/mmimdb.tar.gz, 8.1 GB) or of
the folder that it extracts to. Plots become words as the makers' do. F1 is given at the threshold
0.5, as theirs, and at thresholds tuned on the 2,608 validation movies. Without a file of pretrained
vectors, those trained on the plots stand alone.

Not measured on the archive. It needs a GPU or patience: 25,959 posters go through VGG16 once in
colour and once in grey.
"""

import ml_collections

from mmgc_jax.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()

    config.data.source = "mmimdb"
    config.plot.tokens = "mmimdb"
    return config
