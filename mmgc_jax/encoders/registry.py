"""What an experiment trains: encoders of plots, encoders of posters, and what fuses them.

Each encoder has a module of its own with three functions: `prepare(experiment, stage)` says how it
is trained, `trainings(config, stage)` what that leaves behind, and `load(config, workdir, stage,
num_genres)` brings it back for new movies.
"""

import numpy as np

from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.encoders.base import MODALITY
from mmgc_jax.training.cross_fit import Experiment, cross_fit

ENCODERS = {
    "plot": plot,
    "plot_bag_of_words": bag_of_words,
    "plot_transformer": transformer,
    "poster": poster,
    "poster_grey": poster,
}


def present(corpus: Corpus, stage: str) -> np.ndarray:
    """Which movies have what an encoder looks at, <bool>[movies of the corpus]."""
    return corpus.has_plot if MODALITY[stage] == "plot" else corpus.has_poster


def fit_encoder(experiment: Experiment, stage: str) -> dict[str, np.ndarray]:
    """Trains an encoder; see `cross_fit.cross_fit` for what is returned."""
    recipe = ENCODERS[stage].prepare(experiment, stage)
    return cross_fit(experiment, stage, present(experiment.corpus, stage), recipe)
