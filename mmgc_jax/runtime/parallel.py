"""Several processes and devices: one mesh axis, which shards batches and, if wanted, parameters.

Every process runs the same program on its own devices, and together they hold the arrays
(multi-controller JAX). Files are written by process 0 while the others wait. A function called a
collective must be called by all processes, in the same order.
"""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmgc_jax.runtime.errors import InputError, Interrupted, PeerFailed

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT_SECONDS = 20  # JAX's 100 would let the others compute for nothing
_FAILED, _INTERRUPTED, _DONE = range(3)  # how process 0 leaves `first_process_first`
# Smaller arrays are not split: 256 KiB of float32.
_MIN_SIZE_TO_SPLIT = 65_536


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of a run; call it before anything that uses a device.

    On SLURM, Cloud TPU and GKE with TPUs, JAX finds the others by itself. Elsewhere the environment
    names them: `JAX_COORDINATOR_ADDRESS`, host:port of process 0, a free port there;
    `JAX_NUM_PROCESSES`; and `JAX_PROCESS_ID`, counted from 0.

    Raises:
      InputError: if some of these are set and others not, or the processes cannot be found.
    """
    given = {name: environment[name] for name in _ENVIRONMENT if environment.get(name)}
    if given and len(given) < len(_ENVIRONMENT):
        missing = ", ".join(name for name in _ENVIRONMENT if name not in given)
        raise InputError(
            f"--distributed: {', '.join(given)} is set, but not {missing}. Set all three, or none "
            "where JAX finds the processes itself (SLURM, Cloud TPU, GKE)."
        )
    # JAX's preemption service would handle SIGTERM; `preemption` does.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if given:
            address, count, number = (given[name] for name in _ENVIRONMENT)
            jax.distributed.initialize(
                address,
                int(count),
                int(number),
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise InputError(
            f"--distributed: {error} Outside SLURM, Cloud TPU and GKE set all of "
            f"{', '.join(_ENVIRONMENT)}."
        ) from error


def is_first() -> bool:
    """Whether this is process 0, which writes files; true in a run of one process."""
    # `jax.process_index` would initialize the devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def is_alone() -> bool:
    """Whether the run has one process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def any_of(value: bool) -> bool:
    """Whether the value is true on any process; a collective."""
    return value if is_alone() else bool(multihost_utils.process_allgather(np.bool_(value)).any())


def broadcast(value: int) -> int:
    """Broadcasts process 0's value; a collective."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def minimum(value: int) -> int:
    """Minimum over the processes; a collective."""
    return value if is_alone() else int(multihost_utils.process_allgather(np.int32(value)).min())


def is_first_of_disk(folder: pathlib.Path) -> bool:
    """Whether this process has the lowest index of those that share a folder; a collective.

    Hosts may share a file system or have one each.
    """
    if is_alone():
        return True
    run = broadcast(secrets.randbits(31))
    mine = folder / f"process-{run}-{jax.process_index()}"
    mine.touch()
    multihost_utils.sync_global_devices("every process has made its file")
    seen = [int(file.name.rpartition("-")[2]) for file in folder.glob(f"process-{run}-*")]
    multihost_utils.sync_global_devices("every process has listed the files")
    mine.unlink()
    return min(seen) == jax.process_index()


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Runs the block on process 0, then on the others, which find the files it made; a collective.

    Raises:
      PeerFailed: on the others, if process 0 has failed.
      Interrupted: on the others, if process 0 was asked to stop.
    """
    if not is_first():
        ended = broadcast(_FAILED)
        if ended == _FAILED:
            raise PeerFailed("Process 0 has failed; its output says why.")
        if ended == _INTERRUPTED:
            raise Interrupted("Stopped with the first process; what was done is kept.")
        yield
        return
    ended = _FAILED
    try:
        yield
        ended = _DONE
    except Interrupted:
        ended = _INTERRUPTED
        raise
    finally:
        broadcast(ended)


def data_mesh() -> Mesh:
    """Mesh of all devices along one axis, `data`, ordered by process."""
    return Mesh(np.array(sorted(jax.devices(), key=lambda device: device.process_index)), ("data",))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Shards the first axis of every array over the devices.

    Args:
      batch: tree of arrays; with several processes, the rows of this process.
      mesh: as of `data_mesh`.

    Raises:
      ValueError: if the batch size is not a multiple of the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def gather(tree: Any) -> Any:
    """Gathers the arrays of a tree, as numpy, on every process; a collective."""
    if is_alone():  # without the programs that JAX would compile to gather
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def outputs_of_movies(
    function: Callable[[dict], Any], batch: dict[str, np.ndarray], mesh: Mesh
) -> tuple[Any, np.ndarray]:
    """Applies a function to a sharded batch and drops the rows of padding; a collective.

    Args:
      function: sharded batch -> tree of arrays, each `[batch, ...]`.
      batch: as of `shard_batch`, with `indices`, <int>[batch], and `mask`, <float>[batch], which is
        0 for padding.
      mesh: as of `data_mesh`.

    Returns:
      The tree, as numpy, `[movies, ...]`, and the movies' indices, <int>[movies].
    """
    batch = shard_batch(batch, mesh)
    outputs, indices, mask = gather((function(batch), batch["indices"], batch["mask"]))
    return jax.tree.map(lambda rows: rows[mask > 0], outputs), indices[mask > 0]


def shardings(tree: Any, mesh: Mesh, split: bool) -> Any:
    """Shardings for a tree of parameters, or for a training state.

    Args:
      tree: of arrays, or of `ShapeDtypeStruct`.
      mesh: as of `data_mesh`.
      split: False replicates every array. True splits each along the largest axis that the number
        of devices divides, as stage 3 of ZeRO does (arXiv 1910.02054), and replicates small arrays
        and those without such an axis.
    """

    def of_one(array) -> NamedSharding:
        axes = [None] * len(array.shape)
        possible = [size for size in array.shape if size % mesh.size == 0]
        if split and possible and array.size >= _MIN_SIZE_TO_SPLIT:
            axes[array.shape.index(max(possible))] = "data"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(of_one, tree)


def place(tree: Any, where: Any) -> Any:
    """Puts arrays on devices; a collective.

    Args:
      tree: of arrays, those of process 0.
      where: the sharding of each, as of `shardings`.
    """
    return jax.tree.map(_place, tree, where)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates the arrays of a tree; returns those on all devices unchanged, even if sharded."""
    devices = set(mesh.devices.flat)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def of_one(array) -> jax.Array:
        placed = isinstance(array, jax.Array) and array.sharding.device_set == devices
        return array if placed else _place(array, everywhere)

    return jax.tree.map(of_one, tree)


def _place(array, sharding: NamedSharding) -> jax.Array:
    is_global = isinstance(array, jax.Array) and not array.is_fully_addressable
    if is_global or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    array = multihost_utils.broadcast_one_to_all(np.asarray(array))
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
