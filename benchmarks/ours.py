"""The work that is timed, with this project's own models and steps.

Each function makes everything ready and returns (run, count), as `pairs.Worker` wants it.
"""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from benchmarks import work
from mmgc_jax.configs import default
from mmgc_jax.models import VGG16, PlotLSTM, PosterVGG16, apply_blocks, pool_blocks
from mmgc_jax.training import loop

_WEIGHTS = np.ones(work.GENRES, np.float32)
Ready = tuple[Callable[[], None], int]


def vgg16_features(dtype: str) -> Ready:
    """Posters through the frozen network, pooled."""
    network = VGG16(dtype=dtype)
    posters = work.posters(work.FROZEN_BATCH)
    params = network.init(jax.random.key(0), posters[:1])["params"]

    def features(images):
        return pool_blocks(apply_blocks(network, params, images), (4, 5), "mean_max")

    run = jax.jit(features)
    return lambda: jax.block_until_ready(run(posters)), len(posters)


def finetune(first_block: int, batch_size: int, dtype: str) -> Ready:
    """Steps of fine-tuning from a block on; what is below it is given."""
    model = PosterVGG16(first_block, head_blocks=(5,), hidden=(), dtype=dtype)
    images = (
        work.posters(batch_size) if first_block == 1 else work.activations(first_block, batch_size)
    )
    params = model.init(jax.random.key(0), images[:1])["params"]
    step = _Step(loop.make_apply(model, ("images",)), params)
    batch = {"images": images, "labels": work.labels(batch_size)}
    return lambda: step(batch), batch_size


def plot_lstm(lengths: str, bucket: int, dtype: str = "float32", lstm: str = "scan") -> Ready:
    """An epoch of training of the talk's LSTM over batches of plots.

    Args:
      lengths: `equal` or `real`, see `work.plots`.
      bucket: padded lengths are multiples of this.
    """
    model = PlotLSTM(
        work.VOCABULARY, work.WORD_DIM, work.HIDDEN, bidirectional=False, dtype=dtype, lstm=lstm
    )
    batches = [
        {"tokens": tokens, "lengths": sizes, "labels": work.labels(len(sizes))}
        for tokens, sizes in work.plots(lengths, bucket)
    ]
    first = batches[0]
    params = model.init(jax.random.key(0), first["tokens"][:1], first["lengths"][:1])["params"]
    step = _Step(loop.make_apply(model, ("tokens", "lengths")), params)

    def run():
        for batch in batches:
            step(batch, wait=False)
        jax.block_until_ready(step.state)

    return run, sum(len(batch["lengths"]) for batch in batches)


class _Step:
    """The training step of `train`, and its state."""

    def __init__(self, apply: loop.ApplyFn, params):
        settings = ml_collections.ConfigDict(default.get_config().poster.training)
        settings.learning_rate_scale = ml_collections.ConfigDict()
        optimizer = loop.make_optimizer(settings, steps=1000)
        self._step = loop.make_train_step(apply, optimizer)
        params = jax.tree.map(jax.numpy.asarray, params)
        self.state = loop.TrainState(jax.numpy.zeros((), np.int32), params, optimizer.init(params))

    def __call__(self, batch: dict[str, np.ndarray], wait: bool = True) -> None:
        batch = batch | {"mask": np.ones(len(batch["labels"]), np.float32)}
        self.state, loss = self._step(self.state, batch, np.uint32(0), _WEIGHTS)
        if wait:
            jax.block_until_ready((self.state, loss))
