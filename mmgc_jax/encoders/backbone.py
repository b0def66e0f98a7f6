"""Backbones: pretrained networks below a head, divided into frozen and trained blocks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.encoders import frozen
from mmgc_jax.encoders.frozen import ActivationExamples, Frozen
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Examples
from mmgc_jax.training.run import Experiment


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained network without its head, as a sequence of blocks from 1 to `num_blocks`.

    Blocks below `first_trained` are frozen; the others are trained.

    Attributes:
      params: pretrained parameters of the layers, by the layers' names. For prediction, those of
        the frozen blocks are enough.
      num_blocks: number of blocks.
      first_trained: the first block to train; `num_blocks + 1` to train only the head.
      block_of: function from the name of a layer to the number of its block.
      run: `run(first, last, params, batch)` applies the blocks from `first` to `last`. It returns
        the batch with the output of block `last` in place of the input of block `first`; for
        `last == num_blocks`, with the features that the head takes.
      compiler_options: options of `jax.jit` for `run`; see `Kernels.compiler_options`.
    """

    params: Mapping[str, Any]
    num_blocks: int
    first_trained: int
    block_of: Callable[[str], int]
    run: Callable[[int, int, Any, dict], dict[str, jax.Array]]
    compiler_options: Mapping[str, bool] | None = None

    @property
    def only_head_trains(self) -> bool:
        """Whether all blocks are frozen."""
        return self.first_trained > self.num_blocks

    @property
    def trained_params(self) -> dict[str, Any]:
        """The initial parameters of the trained blocks, by layer."""
        return self.layers(self.first_trained, self.num_blocks)

    def layers(self, first: int, last: int) -> dict[str, Any]:
        """Returns the parameters of the blocks from `first` to `last`, by layer."""
        return {
            name: values
            for name, values in self.params.items()
            if first <= self.block_of(name) <= last
        }

    def part(self, first: int, last: int) -> Frozen:
        """Returns the blocks from `first` to `last` as a jitted function of a batch."""
        run = functools.partial(self.run, first, last)
        return Frozen.of(run, self.layers(first, last), self.compiler_options)

    def frozen_part(self) -> Frozen | None:
        """Returns the frozen blocks as a jitted function of a batch; None if there are none."""
        return self.part(1, self.first_trained - 1) if self.first_trained > 1 else None

    def save_frozen(self, workdir: Path, name: str) -> None:
        """Saves the parameters of the frozen blocks; `frozen.restore` reads them for prediction."""
        if self.first_trained > 1:
            frozen.save(workdir, name, self.layers(1, self.first_trained - 1))


@dataclasses.dataclass(frozen=True)
class Activations:
    """Computes activations of a backbone for the movies of an experiment, and caches them on disk.

    Attributes:
      experiment: the experiment.
      name: name of the encoder.
      backbone: the backbone, with the parameters of all blocks.
      present: whether the movie has the encoder's modality, <bool>[movies of the corpus]; others
        are left out.
      array: name of the array of a batch that has the inputs and, later, the activations.
      settings: all settings, other than parameters and dtype, that change activations, such as the
        image size; part of the key of the cache.
      feature_settings: further settings that change only the features for the head.
    """

    experiment: Experiment
    name: str
    backbone: Backbone
    present: np.ndarray
    array: str
    settings: Mapping[str, Any]
    feature_settings: Mapping[str, Any]

    def below_trained(self, examples: Examples) -> Examples:
        """Returns the inputs of the first trained block.

        These are activations of the frozen blocks, or `examples` themselves if block 1 is trained
        or if no block is.
        """
        backbone = self.backbone
        if backbone.first_trained == 1 or backbone.only_head_trains:
            return examples
        return self._cached(examples, 1, backbone.first_trained - 1)

    def features(self, examples: Examples) -> ActivationExamples:
        """Returns the inputs of the head, <float32>, computed with the pretrained parameters.

        Args:
          examples: the examples that `below_trained` returned.
        """
        backbone = self.backbone
        first = 1 if backbone.only_head_trains else backbone.first_trained
        return self._cached(examples, first, backbone.num_blocks)

    def _cached(self, examples: Examples, first: int, last: int) -> ActivationExamples:
        backbone, experiment = self.backbone, self.experiment
        section = experiment.config[self.name]
        is_features = last == backbone.num_blocks
        settings = {**self.settings, **(self.feature_settings if is_features else {})}
        key = frozen.key_of(backbone.layers(1, last), dtype=section.dtype, **settings)
        output = "features" if is_features else f"block{last}"
        return frozen.cache(
            experiment.cache / "activations" / f"{section.kind}-{output}-{key}.npy",
            backbone.part(first, last),
            self.array,
            pipeline.Batches(
                examples,
                experiment.corpus.labels,
                np.flatnonzero(self.present),
                section.training.batch_size,
            ),
            experiment.config.data.workers,
            "float32" if is_features else section.dtype,
        )
