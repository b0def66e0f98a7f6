"""What training VGG16 takes on each of eight devices, as XLA plans it.

    python -m benchmarks.devices

Nothing is trained: the step is compiled for eight virtual CPU devices, which tell how much they
would need. In megabytes: the state, parameters and Adam's two moments; and beside it what a step
needs for gradients and activations, with one poster on each device and with two.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from jax.sharding import NamedSharding, PartitionSpec

from mmgc_jax.configs import default
from mmgc_jax.models import VGG16
from mmgc_jax.runtime import parallel
from mmgc_jax.training import loop

_DEVICES = 8
# Height and width of the posters, and outputs of the dense layers.
_NETWORKS = (((256, 160), None), ((224, 224), 1000))


def measure(size: tuple[int, int], classes: int | None, split: bool, posters: int) -> dict:
    """Compiles a step.

    Args:
      size: of the posters, in pixels.
      classes: outputs of the dense layers; None leaves these out.
      split: whether parameters and moments are split over the devices.
      posters: on each device.

    Returns:
      `parameters` in all; `state` and `step` of one device, in bytes.
    """
    mesh = parallel.data_mesh()
    network = VGG16(num_classes=classes)
    images = np.zeros((1, *size, 3), np.uint8)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    optimizer = loop.make_optimizer(default.get_config().poster.head_training, steps=100)

    def apply(params, batch, key):
        outputs = network.apply({"params": params}, batch["images"])
        return outputs["block5_pool"].mean(axis=(1, 2)) if classes is None else outputs["logits"]

    def begin(params) -> loop.TrainState:
        return loop.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    state = jax.eval_shape(begin, params)
    where = parallel.shardings(state, mesh, split)
    genres = classes or 512  # one for each channel that block 5 puts out
    weights = np.ones(genres, np.float32)
    step = loop.make_train_step(apply, optimizer, where)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    count = posters * mesh.size
    batch = {
        "images": jax.ShapeDtypeStruct((count, *size, 3), jnp.uint8, sharding=rows),
        "labels": jax.ShapeDtypeStruct((count, genres), jnp.float32, sharding=rows),
        "mask": jax.ShapeDtypeStruct((count,), jnp.float32, sharding=rows),
    }

    def of_one(array, sharding):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    placed = jax.tree.map(of_one, state, where)
    needed = step.lower(placed, batch, np.uint32(0), weights).compile().memory_analysis()
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "state": needed.alias_size_in_bytes,  # what goes in and comes out changed
        "step": needed.temp_size_in_bytes,
    }


def main(argv: list[str]) -> None:
    del argv
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
