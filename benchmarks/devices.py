"""Measures the memory that XLA plans for training VGG16 on each of eight devices.

    python -m benchmarks.devices

A training step is compiled for eight virtual CPU devices, but not run. Parameters and Adam's
moments are either copied to each device or split over the devices. The table has megabytes per
device: the state (parameters and two moments), and the temporary buffers of a step (gradients and
activations) with one and with two posters per device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from jax.sharding import NamedSharding, PartitionSpec

from mmgc_jax.encoders.base import training_settings
from mmgc_jax.models import VGG16
from mmgc_jax.ops import kernels
from mmgc_jax.runtime import parallel
from mmgc_jax.training.loop import TrainState, make_train_step
from mmgc_jax.training.optimizer import make_optimizer
from mmgc_jax.training.run import ApplyFn

_DEVICES = 8
_STEPS = 100  # length of the learning-rate schedule
# Height and width of the posters in pixels; number of classes, None for no dense layers.
_NETWORKS = (((256, 160), None), ((224, 224), 1000))


def measure(size: tuple[int, int], classes: int | None, split: bool, posters: int) -> dict:
    """Compiles a training step for all devices of the process.

    Args:
      size: height and width of the posters in pixels.
      classes: number of outputs of the dense layers; None: no dense layers.
      split: whether to split parameters and moments over the devices.
      posters: number of posters per device.

    Returns:
      `parameters`, the total number of parameters; `state` and `step`, bytes per device.
    """
    mesh = parallel.data_mesh()
    network = VGG16(num_classes=classes, kernels=kernels.auto())
    images = np.zeros((1, *size, 3), np.uint8)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    settings = training_settings(epochs=1, batch_size=32, learning_rate=3e-3)
    optimizer = make_optimizer(settings, _STEPS)

    @ApplyFn
    def apply(params, batch, key):
        del key  # no dropout
        outputs = network.apply({"params": params}, batch["images"])
        return outputs["block5_pool"].mean(axis=(1, 2)) if classes is None else outputs["logits"]

    def begin(params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    state = jax.eval_shape(begin, params)
    shardings = parallel.shardings(state, mesh, split)
    step = make_train_step(apply, settings, _STEPS, shardings)
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    num_logits = classes or network.widths[-1]

    def batch_array(shape, dtype):
        return jax.ShapeDtypeStruct((posters * mesh.size, *shape), dtype, sharding=by_rows)

    batch = {
        "images": batch_array((*size, 3), jnp.uint8),
        "labels": batch_array((num_logits,), jnp.float32),
        "mask": batch_array((), jnp.float32),
    }
    placed = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        state,
        shardings,
    )
    memory = step.lower(placed, batch, np.uint32(0)).compile().memory_analysis()
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "state": memory.alias_size_in_bytes,  # the donated input, whose memory the output reuses
        "step": memory.temp_size_in_bytes,
    }


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", _DEVICES)
    print(f"{'parameters':>12}{'':<10}{'state':>8}{'step, 1 poster':>17}{'2 posters':>12}")
    for size, classes in _NETWORKS:
        for split in (False, True):
            one, two = (measure(size, classes, split, posters) for posters in (1, 2))
            print(
                f"{one['parameters']:>12,}{'  split' if split else '  copied':<10}"
                f"{one['state'] / 1e6:>8.0f}{one['step'] / 1e6:>17.0f}{two['step'] / 1e6:>12.0f}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
