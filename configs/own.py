"""A table of your own movies, with its own genres; needs no further files.

    mmgc train --config=own --workdir=runs/own --config.data.path=movies.csv

The table can be CSV, TSV, JSON lines or Parquet. Its columns and the form of its genres are found;
the log says how. Needed are genres, and a plot or a poster. docs/your_movies.md has more.

Plots are read by a bag of words, which is best with few movies, and by an LSTM, which is best with
many. Posters are read by a small network that is trained from scratch. With the weights of VGG16
posters get better, and take longer:

    --config.encoders="('plot_bag_of_words','plot','poster')" --config.poster.weights=vgg16.npz

Without posters:

    --config.encoders="('plot_bag_of_words','plot')"
"""

import ml_collections

from mmgc_jax.configs import best, default, demo, talk


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.data.source = "table"
    config.data.test_fraction = 0.15
    config.encoders = ("plot_bag_of_words", "plot", "poster_small")
    # Fusion follows the list of encoders.
    config.fusion.encoders = config.get_ref("encoders")

    config.plot_bag_of_words = best.get_config().plot_bag_of_words
    config.plot = talk.get_config().plot
    config.poster_small = demo.get_config().poster
    config.poster = talk.get_config().poster
    return config
