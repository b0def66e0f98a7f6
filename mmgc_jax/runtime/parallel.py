"""Several processes and devices: one mesh axis that shards batches and, optionally, parameters.

Every process runs the same program on its own devices and holds its own part of global arrays
(multi-controller JAX). Only process 0 writes files. Functions whose docstring says "a collective"
must be called by all processes in the same order.
"""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmgc_jax.runtime.errors import InputError, Interrupted, PeerFailed

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT_SECONDS = 20  # with JAX's default, 100, failures would be noticed late
_FAILED, _INTERRUPTED, _DONE = range(3)  # how process 0 ends the block of `first_process_first`
# Array elements; smaller arrays (256 KiB of float32) are replicated instead of split.
_MIN_SIZE_TO_SPLIT = 65_536


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Connects to the other processes of a run; call it before any use of a device.

    On SLURM, Cloud TPU and GKE with TPUs, JAX detects the other processes. Elsewhere three
    variables must be set: `JAX_COORDINATOR_ADDRESS`, host:port of process 0 with a free port;
    `JAX_NUM_PROCESSES`; and `JAX_PROCESS_ID`, counted from 0.

    Args:
      environment: environment variables.

    Raises:
      InputError: if only some of the variables are set, or the processes cannot connect.
    """
    given = {name: environment[name] for name in _ENVIRONMENT if environment.get(name)}
    if given and len(given) < len(_ENVIRONMENT):
        missing = ", ".join(name for name in _ENVIRONMENT if name not in given)
        raise InputError(
            f"--distributed: {', '.join(given)} is set, but not {missing}. Set all three, or none "
            "where JAX detects the processes (SLURM, Cloud TPU, GKE)."
        )
    # Otherwise JAX's preemption service would handle SIGTERM instead of `preemption`.
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
            f"--distributed: {error} Outside of SLURM, Cloud TPU and GKE, set all of "
            f"{', '.join(_ENVIRONMENT)}."
        ) from error


def is_first() -> bool:
    """Returns whether this is process 0, which writes files; True in runs of one process."""
    # `jax.process_index` would initialize the devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def is_alone() -> bool:
    """Returns whether the run has only one process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def any_of(value: bool) -> bool:
    """Returns whether the value is true on any process; a collective."""
    return value if is_alone() else bool(multihost_utils.process_allgather(np.bool_(value)).any())


def broadcast(value: int) -> int:
    """Returns process 0's value on every process; a collective."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def minimum(value: int) -> int:
    """Returns the minimum of the value over all processes; a collective."""
    return value if is_alone() else int(multihost_utils.process_allgather(np.int32(value)).min())


def is_first_of_disk(folder: pathlib.Path) -> bool:
    """Returns whether this process is the first of those that share a folder; a collective.

    Hosts may share a file system or have separate ones. Processes that see the same folder elect
    the one with the lowest index.

    Args:
      folder: an existing folder.
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
    """Runs the block on process 0 first, then on the other processes; a collective.

    The other processes thus see the files that process 0 has written in the block.

    Raises:
      PeerFailed: on the other processes, if process 0 failed.
      Interrupted: on the other processes, if process 0 was stopped.
    """
    if not is_first():
        ended = broadcast(_FAILED)
        if ended == _FAILED:
            raise PeerFailed("Process 0 failed; see its output.")
        if ended == _INTERRUPTED:
            raise Interrupted("Stopped together with process 0; finished work is kept.")
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
    """Returns a mesh of all devices with one axis, `data`, ordered by process."""
    return Mesh(np.array(sorted(jax.devices(), key=lambda device: device.process_index)), ("data",))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Shards the first axis of every array over the devices.

    Args:
      batch: arrays [batch, ...] by name; with several processes, only this process's rows.
      mesh: the mesh that `data_mesh` returned.

    Returns:
      Global arrays with all processes' rows.

    Raises:
      ValueError: if the batch size is not a multiple of the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def gather(tree: Any) -> Any:
    """Gathers the global arrays of a tree to numpy arrays on every process; a collective."""
    if is_alone():  # avoids the programs that JAX would compile for gathering
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def outputs_of_movies(
    function: Callable[[dict], Any], batches: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> Iterator[tuple[Any, np.ndarray]]:
    """Applies a function to batches and drops padding rows; each step is a collective.

    The function is called for a batch before the outputs of the batch before are fetched, so that
    the devices do not wait for the host.

    Args:
      function: maps a sharded batch to a tree of arrays [batch, ...].
      batches: this process's rows; see `shard_batch`. Need `indices` <int>[batch] and `mask`
        <float>[batch], 0 for padding.
      mesh: the mesh that `data_mesh` returned.

    Yields:
      For each batch, the tree as numpy arrays [movies, ...], and the movies' indices <int>[movies],
      for the rows of all processes.
    """
    computed = None
    for batch in batches:
        batch = shard_batch(batch, mesh)
        before, computed = computed, (function(batch), batch["indices"], batch["mask"])
        if before is not None:
            yield _without_padding(before)
    if computed is not None:
        yield _without_padding(computed)


def _without_padding(computed: tuple[Any, jax.Array, jax.Array]) -> tuple[Any, np.ndarray]:
    outputs, indices, mask = gather(computed)
    return jax.tree.map(lambda rows: rows[mask > 0], outputs), indices[mask > 0]


def shardings(tree: Any, mesh: Mesh, split: bool) -> Any:
    """Returns shardings for a tree of parameters or a training state.

    Args:
      tree: tree of arrays or `jax.ShapeDtypeStruct`.
      mesh: the mesh that `data_mesh` returned.
      split: False: replicate every array. True: split each array along the largest axis that the
        number of devices divides, as in stage 3 of ZeRO (arXiv 1910.02054), and replicate small
        arrays and arrays without such an axis.

    Returns:
      A tree of `NamedSharding`.
    """

    def of_one(array) -> NamedSharding:
        axes = [None] * len(array.shape)
        possible = [size for size in array.shape if size % mesh.size == 0]
        if split and possible and array.size >= _MIN_SIZE_TO_SPLIT:
            axes[array.shape.index(max(possible))] = "data"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(of_one, tree)


def place(tree: Any, where: Any) -> Any:
    """Puts arrays on devices with given shardings; a collective.

    Args:
      tree: tree of arrays. With several processes, the values of process 0 are used.
      where: tree of shardings; see `shardings`.

    Returns:
      A tree of global arrays.
    """
    return jax.tree.map(_place, tree, where)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays on all devices; keeps arrays that are on all devices, even if sharded."""
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
