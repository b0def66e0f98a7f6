"""What every experiment has. The other configs start from this one, and add their encoders.

An encoder is a section of the config, whose field `kind` names a module of mmgc_jax/encoders/; its
fields, with their meaning, are those of the module's `default_settings`. The sections of the
configs in this folder:

    plot, plot_one_hot, plot_unique_map    kind plot_lstm
    plot_bag_of_words                      kind plot_bag_of_words
    plot_transformer                       kind plot_transformer
    poster, poster_grey                    kind poster_vgg16
"""

import ml_collections

from mmgc_jax.encoders import fusion


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # Decides every random choice but the split.
    config.seed = 0
    # The encoders, names of sections, in the order of the table.
    config.encoders = ()
    # Number of folds of the training movies. Each encoder and each fusion has one model for each
    # fold, trained on the other folds. Training movies are predicted out of fold, others by the
    # mean of all models.
    config.folds = 5
    # Whether each device holds a part of the parameters and of the optimizer's state in place of a
    # copy. Changes what fits into memory, not what is computed.
    config.split_parameters = False
    # Whether metrics are written for TensorBoard too, in tensorboard/ of the working directory:
    # pip install 'mmgc_jax[tensorboard]'.
    config.tensorboard = False

    data = config.data = ml_collections.ConfigDict()
    # talk (movies.csv and posters/), mmimdb (the official archive) or synthetic (embedded).
    data.source = "talk"
    # The source's folder; of mmimdb, mmimdb.tar.gz or the folder that it extracts to. This and all
    # other inputs may be addresses, such as gs://bucket/folder, and are copied to this machine.
    data.path = ""
    # Local folder for shards, trained word vectors and cached activations; empty: data/ in the
    # working directory, or in ~/.cache/mmgc_jax if that is in a bucket.
    # Several experiments may share one, but the first must have written it before the next begins.
    data.directory = ""
    # The share of the training movies that validates, where the source has no such part.
    data.validation_fraction = 0.15
    # Decides which movies these are, and the folds.
    data.split_seed = 0
    # Of the stored posters, in pixels; multiples of 32.
    data.poster_height = 256
    data.poster_width = 160
    # The run stops if a larger share of the posters is unreadable.
    data.max_bad_fraction = 0.05
    # Processes that prepare batches, on each host; 0 uses threads.
    data.workers = 0
    # The arguments of mmgc_jax.data.synthetic.generate.
    data.synthetic = ml_collections.ConfigDict()

    config.fusion = fusion.default_settings()
    return config
