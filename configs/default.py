"""The fields that all experiments share; the other configs start from this one and add encoders.

An encoder is a section of a config. Its field `kind` is the name of a module in
mmgc_jax/encoders/, whose function `default_settings` documents the section's other fields. The
configs in this folder have these sections:

    plot, plot_one_hot, plot_unique_map    kind plot_lstm
    plot_bag_of_words                      kind plot_bag_of_words
    plot_transformer                       kind plot_transformer
    poster, poster_grey                    kind poster_vgg16
    poster_vit                             kind poster_vit
"""

import ml_collections

from mmgc_jax.data import table
from mmgc_jax.encoders import fusion


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # Random seed for everything except the splits (see data.split_seed).
    config.seed = 0
    # Encoders to train: names of sections, in the order in which tables show them.
    config.encoders = ()
    # Number of folds for cross-validation on the training movies. Each encoder and each fusion has
    # a model for each fold, trained on the other folds. A training movie's probabilities are those
    # of the model that was not trained on its fold; for other movies, all models are averaged.
    config.folds = 5
    # Whether to split parameters and optimizer state over the devices instead of replicating them.
    # This saves memory; the computation stays the same.
    config.split_parameters = False
    # Whether to also write metrics for TensorBoard, to tensorboard/ in the working directory. Needs
    # pip install 'mmgc_jax[tensorboard]'.
    config.tensorboard = False

    data = config.data = ml_collections.ConfigDict()
    # Source of movies: table (a table of your own), talk (a folder with movies.csv and posters/),
    # mmimdb (MM-IMDb's archive) or synthetic (generated).
    data.source = "talk"
    # Path of the source: the table, the talk's folder, or MM-IMDb's mmimdb.tar.gz or extracted
    # folder. All paths of inputs may be addresses such as gs://bucket/folder, which are copied to
    # this machine.
    data.path = ""
    # For source table: the folder of posters, <id>.jpg or with another suffix of images; empty if
    # the table has a column of paths or of web addresses, or if there are no posters.
    data.posters = ""
    # For source table: names of columns. Empty: found by their usual names. Needed are genres, and
    # plot or poster.
    data.columns = ml_collections.ConfigDict(dict.fromkeys(table.USUAL_NAMES, ""))
    # For source table: the delimiter of text, its encoding (such as cp1252), and the separator of
    # genres in one cell. Empty: found.
    data.delimiter = ""
    data.encoding = ""
    data.genre_separator = ""
    # For source table: genres to use, and renamings such as 'Science Fiction=Sci-Fi'. Without
    # names, or with renamings alone, all genres are used.
    data.genres = ()
    # For source table: genres of fewer movies are left out, unless data.genres names them.
    data.min_positives = 10
    # Local folder for shards, trained word vectors and cached activations. Empty: data/ in the
    # working directory, or ~/.cache/mmgc_jax if the working directory is in a bucket. Several
    # experiments can share a folder.
    data.directory = ""
    # Fraction of the movies to use for testing, if the source has no test split; 0 for none.
    data.test_fraction = 0.0
    # Fraction of the training movies to hold out as a validation split, if the source has none; 0
    # for none. Training does not use it: all figures of a config can be judged by cross-validation.
    data.validation_fraction = 0.0
    # Number of training movies to use, chosen at random, for learning curves; 0 for all. A larger
    # number adds movies to those of a smaller one.
    data.train_movies = 0
    # Random seed for the test split, the validation split, the training movies and the folds.
    data.split_seed = 0
    # Height of stored posters in pixels, a multiple of 32.
    data.poster_height = 256
    # Width of stored posters in pixels, a multiple of 32.
    data.poster_width = 160
    # Maximum fraction of unreadable posters; with more, the run stops with an error.
    data.max_bad_fraction = 0.05
    # Number of worker processes per host that prepare batches; 0: threads.
    data.workers = 0
    # Arguments of mmgc_jax.data.synthetic.generate: seed, train, validation, test.
    data.synthetic = ml_collections.ConfigDict()

    config.fusion = fusion.default_settings()
    return config
