"""A config with two encoders of a kind from outside the package."""

import ml_collections

from mmgc_jax.configs import default
from mmgc_jax.encoders import base
from tests import tiny, toy_encoder


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.folds = 2
    config.data = tiny.get_config().data
    config.fusion = tiny.get_config().fusion
    config.length = toy_encoder.default_settings()
    config.short_length = base.following(config.length, longest=5)
    config.encoders = config.fusion.encoders = ("length", "short_length")
    return config
