"""Devices and processes: one axis of devices, over which batches, and if asked parameters, split.

Every process runs the same program on its own devices; together they hold the arrays (the docs of
JAX call it multi-controller). What is a matter of the host, such as files, is done by the first
process, and the others wait for it.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmgc_jax.runtime.errors import InputError, Interrupted

_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_FAILED, _INTERRUPTED, _DONE = range(3)  # how the first process ends what it does alone
# Arrays with fewer numbers are on every device whole: 256 KiB of float32.
_SMALL = 65_536


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of a run; comes before anything that touches a device.

    On SLURM, Cloud TPUs and TPUs of GKE JAX finds the others by itself. Elsewhere the environment
    says where they are: `JAX_COORDINATOR_ADDRESS`, host:port of the first process, which must be
    free there; `JAX_NUM_PROCESSES`; and `JAX_PROCESS_ID`, from 0 on.

    Raises:
      InputError: if some of these are set and others not, or the others cannot be found.
    """
    there = {name: environment[name] for name in _ENVIRONMENT if environment.get(name)}
    if there and len(there) < len(_ENVIRONMENT):
        missing = ", ".join(name for name in _ENVIRONMENT if name not in there)
        raise InputError(
            f"--distributed: {', '.join(there)} is set, but not {missing}. Set all three, or none "
            "where JAX finds the processes itself (SLURM, Cloud TPU, GKE)."
        )
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if there:
            address, count, number = (there[name] for name in _ENVIRONMENT)
            jax.distributed.initialize(
                address, int(count), int(number), cluster_detection_method="deactivate"
            )
        else:
            jax.distributed.initialize()
    except ValueError as error:
        raise InputError(
            f"--distributed: {error} Outside SLURM, Cloud TPU and GKE set all of "
            f"{', '.join(_ENVIRONMENT)}."
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes files; true where there is no other."""
    # A process alone need not touch its devices to know.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def is_alone() -> bool:
    """Whether this process is the only one of the run."""
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
    """Whether this process is the first of those that see the same folder.

    Hosts may have a disk in common or one each. All processes must call this.
    """
    if is_alone():
        return True
    run = broadcast(os.getpid())
    mine = folder / f"process-{run}-{jax.process_index()}"
    mine.touch()
    multihost_utils.sync_global_devices("all have left a file")
    seen = [int(file.name.rpartition("-")[2]) for file in folder.glob(f"process-{run}-*")]
    multihost_utils.sync_global_devices("all have looked")
    mine.unlink()
    return min(seen) == jax.process_index()


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Lets the first process through the block alone; the others then find what it has made.

    Raises:
      InputError: on the other processes, if the first one has failed.
      Interrupted: on the other processes, if the first one was asked to stop.
    """
    if not is_first():
        ended = broadcast(_FAILED)
        if ended == _FAILED:
            raise InputError("The first process has failed; its output says why.")
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
    """All devices along one axis, `data`; those of a process stand together."""
    return Mesh(np.array(sorted(jax.devices(), key=lambda device: device.process_index)), ("data",))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits the first axis of every array over the devices.

    Args:
      batch: a tree of arrays; of several processes each brings its own rows, in their order.
      mesh: as of `data_mesh`.

    Raises:
      ValueError: if the batch size is not a multiple of the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def gather(tree: Any) -> Any:
    """The whole of every array of a tree, as numpy, on every process."""
    return multihost_utils.process_allgather(tree, tiled=True)


def outputs_of_movies(
    function: Callable[[dict], Any], batch: dict[str, np.ndarray], mesh: Mesh
) -> tuple[Any, np.ndarray]:
    """Runs a batch on all devices; brings back what belongs to its movies, and not to the padding.

    Args:
      function: batch on the devices -> a tree of arrays, a row for each of its rows.
      batch: as of `shard_batch`, `indices` and `mask` among its arrays.
      mesh: as of `data_mesh`.

    Returns:
      The tree, as numpy, and the movies' indices, on every process.
    """
    batch = shard_batch(batch, mesh)
    outputs, indices, mask = gather((function(batch), batch["indices"], batch["mask"]))
    return jax.tree.map(lambda rows: rows[mask > 0], outputs), indices[mask > 0]


def shardings(tree: Any, mesh: Mesh, split: bool) -> Any:
    """Where the arrays of a tree go: parameters, or a whole state of training.

    Args:
      tree: of arrays, or of their shapes.
      mesh: as of `data_mesh`.
      split: whether a device holds a part of each, as in ZeRO's third stage (arXiv 1910.02054), or
        a copy. An array is split along the largest axis that the number of devices divides; small
        ones, and those without such an axis, are copied.
    """

    def of_one(array) -> NamedSharding:
        axes = [None] * len(array.shape)
        possible = [size for size in array.shape if size % mesh.size == 0]
        if split and possible and array.size >= _SMALL:
            axes[array.shape.index(max(possible))] = "data"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(of_one, tree)


def place(tree: Any, where: Any) -> Any:
    """Puts arrays on devices.

    Args:
      tree: of arrays; of several processes the first one's are taken.
      where: the sharding of each, as of `shardings`.
    """
    return jax.tree.map(_place, tree, where)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies every array of a tree to all devices; one that is on them, if only in parts, stays."""
    devices = set(mesh.devices.flat)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def of_one(array) -> jax.Array:
        there = isinstance(array, jax.Array) and array.sharding.device_set == devices
        return array if there else _place(array, everywhere)

    return jax.tree.map(of_one, tree)


def _place(array, sharding: NamedSharding) -> jax.Array:
    of_all = isinstance(array, jax.Array) and not array.is_fully_addressable
    if of_all or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    array = multihost_utils.broadcast_one_to_all(np.asarray(array))
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
