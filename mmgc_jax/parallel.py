"""Devices: one axis, over which batches are split and parameters copied."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices along one axis, `data`."""
    return Mesh(np.array(jax.devices()), ("data",))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits the first axis of every array over the devices.

    Raises:
      ValueError: if the batch size is not a multiple of the number of devices.
    """
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def replicate(tree, mesh: Mesh):
    """Copies every array of a tree to all devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
