"""An encoder from outside the package, which predicts genres from the length of a plot.

The config tests/toy_config.py uses it.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders.base import (
    Encoder,
    Portable,
    load_params,
    plots_of,
    training_settings,
)
from mmgc_jax.encoders.checks import Checker
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Phase, Recipe, in_phases
from mmgc_jax.training.run import Experiment, make_apply
from tests import toy_reader

MODALITY = "plot"


class PlotLength(nn.Module):
    """A linear model on the logarithm of a plot's length, <float32>[batch, 1]."""

    num_genres: int

    @nn.compact
    def __call__(self, lengths: jax.Array, *, train: bool = False):
        del train
        return nn.Dense(self.num_genres, name="genres")(lengths), {}


def default_settings() -> ml_collections.ConfigDict:
    settings = ml_collections.ConfigDict()
    # Module of this encoder.
    settings.kind = "tests.toy_encoder"
    # Longer plots are treated as having this number of words.
    settings.longest = 100
    # Training of the linear model.
    settings.training = training_settings(epochs=3, batch_size=16, learning_rate=1e-2)
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    return f"Plot (length up to {settings.longest})"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    return {}


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    checker = Checker(settings)
    checker.at_least(1, "longest")
    checker.training("training")
    return checker.problems


def prepare(experiment: Experiment, name: str) -> Recipe:
    settings, corpus = experiment.config[name], experiment.corpus
    examples = _examples(settings, map(corpus.plot, range(len(corpus.ids))))
    model = PlotLength(len(corpus.genres))

    def init(key):
        return model.init(key, np.zeros((1, 1), np.float32))["params"]

    phase = Phase(examples, make_apply(model, ("lengths_of_plots",)), init)
    return in_phases([phase], settings.training.batch_size)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    def read(movies: Sequence[Movie]):
        plots, present = plots_of(movies)
        return _examples(config[name], plots), present

    apply = make_apply(PlotLength(num_genres), ("lengths_of_plots",))
    return Encoder(read, apply, load_params(config, workdir, name))


def portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    del workdir
    shapes = {"lengths_of_plots": ("batch, 1", "float32")}
    return Portable(toy_reader.open_lengths, {"longest": config[name].longest}, shapes)


def _examples(settings, plots) -> pipeline.ArrayExamples:
    lengths = [min(len(plot.split()), settings.longest) for plot in plots]
    return pipeline.ArrayExamples({"lengths_of_plots": np.log1p(np.float32(lengths))[:, None]})
