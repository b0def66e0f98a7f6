"""The config of tests/tiny.py with a plot encoder of each kind and two kinds of fusion."""

import ml_collections

from mmgc_jax.encoders import plot_bag_of_words
from tests import tiny


def get_config() -> ml_collections.ConfigDict:
    config = tiny.get_config()
    config.encoders = ("plot", "plot_bag_of_words", "plot_transformer", "poster")
    config.plot_bag_of_words = plot_bag_of_words.default_settings()
    transformer = config.plot_transformer = tiny.transformer_settings("")
    transformer.max_length = 64
    transformer.pad_to_multiple_of = 32
    transformer.finetune_from = "layer2"
    config.poster.training.epochs = 2
    config.fusion.training.epochs = 4
    config.fusion.compare = ("joint",)
    return config
