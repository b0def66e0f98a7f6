"""A pretrained network below a head, cut into the blocks that are frozen and those that train."""

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
    """A network of blocks 1 to `num_blocks`, each with some layers.

    Attributes:
      params: of the layers, by name; for predictions those of the frozen blocks suffice.
      num_blocks: how many there are.
      first_trained: the first block that trains; `num_blocks + 1` if only the head does.
      block_of: the number of the block that a layer belongs to.
      run: (first block, last block, params, batch) -> the batch with the last block's activations
        in place of the first one's inputs; of the last block of all, the features that the head
        takes.
    """

    params: Mapping[str, Any]
    num_blocks: int
    first_trained: int
    block_of: Callable[[str], int]
    run: Callable[[int, int, Any, dict], dict[str, jax.Array]]

    @property
    def only_head_trains(self) -> bool:
        return self.first_trained > self.num_blocks

    @property
    def trained_params(self) -> dict[str, Any]:
        """The initial parameters of the blocks that train."""
        return self.layers(self.first_trained, self.num_blocks)

    def layers(self, first: int, last: int) -> dict[str, Any]:
        """The parameters of the blocks from `first` to `last`."""
        return {
            name: values
            for name, values in self.params.items()
            if first <= self.block_of(name) <= last
        }

    def part(self, first: int, last: int) -> Frozen:
        """The blocks from `first` to `last`, jitted."""
        return Frozen.of(functools.partial(self.run, first, last), self.layers(first, last))

    def frozen_part(self) -> Frozen | None:
        """The blocks below `first_trained`; None if all train."""
        return self.part(1, self.first_trained - 1) if self.first_trained > 1 else None

    def save_frozen(self, workdir: Path, name: str) -> None:
        """Saves the parameters of the frozen blocks for predictions; see `frozen.restore`."""
        if self.first_trained > 1:
            frozen.save(workdir, name, self.layers(1, self.first_trained - 1))


@dataclasses.dataclass(frozen=True)
class Activations:
    """Activations of a backbone for the movies of an experiment, kept on the disk.

    Attributes:
      experiment: the experiment.
      name: of the encoder.
      backbone: with the parameters of all blocks.
      present: which movies to run, <bool>[movies of the corpus].
      array: the name of the array of a batch that holds inputs, then activations.
      settings: what decides activations beside the parameters, such as the image size.
      feature_settings: what decides the features of the last block, in addition.
    """

    experiment: Experiment
    name: str
    backbone: Backbone
    present: np.ndarray
    array: str
    settings: Mapping[str, Any]
    feature_settings: Mapping[str, Any]

    def below_trained(self, examples: Examples) -> Examples:
        """The inputs of the first block that trains; `examples` themselves if that is the first."""
        backbone = self.backbone
        if backbone.first_trained == 1 or backbone.only_head_trains:
            return examples
        return self._cached(examples, 1, backbone.first_trained - 1)

    def features(self, examples: Examples) -> ActivationExamples:
        """The inputs of the head, <float32>, from the initial parameters of all blocks.

        Args:
          examples: as `below_trained` returns them.
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
