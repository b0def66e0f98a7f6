"""The workloads of the comparison, with this project's models and training step.

Each function sets up a workload and returns (run, count) for `pairs.Worker`. Models use
`kernels.auto()`, as in an experiment.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import work
from mmgc_jax.encoders.base import training_settings
from mmgc_jax.encoders.frozen import Frozen
from mmgc_jax.models import VGG16, PlotLSTM, PosterVGG16, ViT, apply_blocks, pool_blocks
from mmgc_jax.ops import kernels
from mmgc_jax.training.loop import TrainState, make_train_step
from mmgc_jax.training.optimizer import make_optimizer
from mmgc_jax.training.run import ApplyFn, make_apply

# (run, count): `run()` does the work and waits until it is done; `count` is its number of items.
Workload = tuple[Callable[[], None], int]

_STEPS = 1000  # length of the learning-rate schedule


def vgg16_features(dtype: str) -> Workload:
    """Computes pooled features of a batch of posters with frozen VGG16.

    Args:
      dtype: `float32` or `bfloat16`, the dtype of activations.
    """
    fastest = kernels.auto().for_inference()
    network = VGG16(dtype=dtype, kernels=fastest)
    posters = work.posters(work.FROZEN_BATCH)
    params = network.init(jax.random.key(0), posters[:1])["params"]

    def features(params, batch):
        maps = apply_blocks(network, params, batch["images"])
        return {"images": pool_blocks(maps, (4, 5), "mean_max")}

    frozen = Frozen.of(features, params, fastest.compiler_options(dtype))
    return lambda: jax.block_until_ready(frozen({"images": posters})), len(posters)


def vit_features(dtype: str) -> Workload:
    """Computes features of a batch of posters with a frozen ViT-B/16.

    Args:
      dtype: `float32` or `bfloat16`, the dtype of the factors in matmuls.
    """
    size = (work.VIT_SIDE, work.VIT_SIDE)
    network = ViT(image_size=size, dtype=dtype, kernels=kernels.auto())
    posters = work.posters(work.FROZEN_BATCH, size)
    params = jax.jit(network.init)(jax.random.key(0), posters[:1])["params"]
    frozen = Frozen.of(
        lambda params, batch: {
            "images": network.apply({"params": params}, batch["images"])["features"]
        },
        params,
    )
    return lambda: jax.block_until_ready(frozen({"images": posters})), len(posters)


def finetune(first_block: int, batch_size: int, dtype: str) -> Workload:
    """Takes one step of fine-tuning VGG16 and a linear head.

    Args:
      first_block: first block to train; if it is 2 or more, the inputs are activations.
      batch_size: number of posters.
      dtype: see `vgg16_features`.
    """
    fastest = kernels.auto()
    model = PosterVGG16(first_block, head_blocks=(5,), hidden=(), dtype=dtype, kernels=fastest)
    images = (
        work.posters(batch_size) if first_block == 1 else work.activations(first_block, batch_size)
    )
    params = model.init(jax.random.key(0), images[:1])["params"]
    options = fastest.compiler_options(dtype)
    trainer = _Trainer(make_apply(model, ("images",), None, options), params)
    batch = {"images": images, "labels": work.labels(batch_size)}

    def run():
        trainer.step(batch)
        trainer.wait()

    return run, batch_size


def plot_lstm(lengths: str, pad_to_multiple_of: int, dtype: str = "float32") -> Workload:
    """Trains an LSTM and its word vectors for one epoch.

    Args:
      lengths: `equal` or `real`; see `work.plots`.
      pad_to_multiple_of: plots are padded to a multiple of this many words.
      dtype: `float32` or `bfloat16`, the dtype of the factors in the LSTM's matmuls.
    """
    model = PlotLSTM(
        work.VOCABULARY,
        work.WORD_DIM,
        work.HIDDEN,
        bidirectional=False,
        dtype=dtype,
        kernels=kernels.auto(),
    )
    batches = [
        {"tokens": tokens, "lengths": sizes, "labels": work.labels(len(sizes))}
        for tokens, sizes in work.plots(lengths, pad_to_multiple_of)
    ]
    first = batches[0]
    params = model.init(jax.random.key(0), first["tokens"][:1], first["lengths"][:1])["params"]
    trainer = _Trainer(make_apply(model, ("tokens", "lengths")), params)

    def run():
        for batch in batches:
            trainer.step(batch)
        trainer.wait()

    return run, sum(len(batch["lengths"]) for batch in batches)


class _Trainer:
    """Runs the training step of `training.loop` and keeps its state."""

    def __init__(self, apply: ApplyFn, params):
        settings = training_settings(epochs=1, batch_size=32, learning_rate=3e-4)
        optimizer = make_optimizer(settings, _STEPS)
        self._train_step = make_train_step(apply, settings, _STEPS)
        self._state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
        self._metrics = None

    def step(self, batch: dict[str, np.ndarray]) -> None:
        """Starts a step on a batch that has no padding."""
        batch = batch | {"mask": np.ones(len(batch["labels"]), np.float32)}
        self._state, self._metrics = self._train_step(self._state, batch, np.uint32(0))

    def wait(self) -> None:
        """Waits until the steps are done."""
        jax.block_until_ready((self._state, self._metrics))
