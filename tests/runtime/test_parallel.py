"""Tests that several devices and several processes compute the same as one device.

Devices are simulated on the CPU; each test starts its own processes.
"""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.encoders import base
from mmgc_jax.models import VGG16
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training.optimizer import make_optimizer
from tests import tiny

TRAIN_AND_PREDICT = """
import jax, numpy as np
from jax.sharding import Mesh
from mmgc_jax.data import pipeline
from mmgc_jax.encoders import fusion
from mmgc_jax.models import LateFusion, drop_modalities
from mmgc_jax.runtime import parallel
from mmgc_jax.training import inference, loop
from mmgc_jax.training.optimizer import make_optimizer
from mmgc_jax.training.run import make_apply

assert jax.device_count() == 8
rng = np.random.default_rng(0)
mask = np.ones(16, np.float32)
mask[13:] = 0  # one device gets only padding, and half of another one's rows are padding
batch = {
    "probabilities": rng.uniform(size=(16, 2, 24)).astype(np.float32),
    "present": np.ones((16, 2), np.float32),
    "labels": rng.integers(0, 2, (16, 24)).astype(np.float32),
    "mask": mask,
}


def augment(key, batch):
    present = drop_modalities(key, batch["present"], ("plot", "poster"), 0.5)
    probabilities = jax.numpy.where(present[..., None] > 0, batch["probabilities"], 0.1)
    return batch | {"probabilities": probabilities, "present": present}


model = LateFusion(dropout=0.3)
apply = make_apply(model, ("probabilities", "present"), augment)
settings = fusion.default_settings().training
optimizer = make_optimizer(settings, 10)
params = model.init(jax.random.key(0), batch["probabilities"], batch["present"])["params"]


def four_steps(devices):
    mesh = Mesh(np.array(devices), ("data",))
    step = loop.make_train_step(apply, settings, 10)
    fresh = jax.tree.map(np.array, params)
    state = loop.TrainState(np.zeros((), np.int32), fresh, optimizer.init(fresh))
    state = parallel.replicate(state, mesh)
    sharded = parallel.shard_batch(batch, mesh)
    for array in sharded.values():
        assert array.addressable_shards[0].data.shape[0] == 16 // len(devices)
    losses = []
    for _ in range(4):
        state, metrics = step(state, sharded, np.uint32(1))
        losses.append(float(metrics.loss))
    for leaf in jax.tree.leaves(state.params):
        assert len(leaf.sharding.device_set) == len(devices) and leaf.is_fully_replicated
    return losses, jax.device_get(state.params)


one_losses, one = four_steps(jax.devices()[:1])
all_losses, all_ = four_steps(jax.devices())
np.testing.assert_allclose(all_losses, one_losses, rtol=1e-5)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), all_, one)
# The optimizer's first step has a learning rate of zero; by the fourth all parameters have moved.
moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, params)
assert moved.pop("prior") == 0  # it is not trained
assert min(jax.tree.leaves(moved)) > 1e-5, moved

# Parameters on one device, as restored from a checkpoint, predict on all devices.
examples = pipeline.ArrayExamples({n: batch[n] for n in ("probabilities", "present")})
sixteen = pipeline.Batches(examples, batch["labels"], np.arange(16), 16)
on_one = jax.device_put(one, jax.devices()[0])
scores = inference.probabilities(apply, [on_one], sixteen)[0]
logits, _ = model.apply({"params": one}, batch["probabilities"], batch["present"])
np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), rtol=1e-5)

assert parallel.data_mesh().shape == {"data": 8}
try:
    parallel.shard_batch({"x": np.zeros(12)}, parallel.data_mesh())
except ValueError:
    print("equal")
"""


def start(devices: int, *arguments, **environment) -> subprocess.Popen:
    """Starts Python with a number of simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | environment,
        cwd=tiny.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen, timeout: int = 300) -> list[str]:
    """Waits until all processes have ended with status 0; returns the output of each."""
    try:
        written = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, written):
        assert process.returncode == 0, errors
    return [printed for printed, _ in written]


@pytest.mark.slow
def test_a_training_step_on_eight_devices_equals_one_on_a_single_device():
    [printed] = finish(start(8, "-c", TRAIN_AND_PREDICT))
    assert printed.strip() == "equal"


TRAIN_VGG16 = """
import jax, numpy as np
from jax.sharding import Mesh
from mmgc_jax.encoders import base
from mmgc_jax.models import VGG16
from mmgc_jax.runtime import parallel
from mmgc_jax.training import loop
from mmgc_jax.training.optimizer import make_optimizer
from mmgc_jax.training.run import ApplyFn

rng = np.random.default_rng(0)
batch = {
    "images": rng.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8),
    "labels": rng.integers(0, 2, (8, 1000)).astype(np.float32),
    "mask": np.ones(8, np.float32),
}
network = VGG16(num_classes=1000)
params = network.init(jax.random.key(0), batch["images"][:1])["params"]
params = jax.device_get(params)
# Random weights make large logits.
settings = base.training_settings(epochs=1, batch_size=8, learning_rate=1e-6)
optimizer = make_optimizer(settings, 10)


@ApplyFn
def apply(params, batch, key):
    return network.apply({"params": params}, batch["images"])["logits"]


def three_losses(devices, split):
    mesh = Mesh(np.array(devices), ("data",))
    state = loop.TrainState(np.zeros((), np.int32), params, jax.eval_shape(optimizer.init, params))
    where = parallel.shardings(state, mesh, split)
    placed = parallel.place(params, where.params)
    moments = jax.jit(optimizer.init, out_shardings=where.opt_state)(placed)
    state = loop.TrainState(np.zeros((), np.int32), placed, moments)
    step = loop.make_train_step(apply, settings, 10, where)
    on_devices, losses = parallel.shard_batch(batch, mesh), []
    for _ in range(3):
        state, metrics = step(state, on_devices, np.uint32(1))
        losses.append(float(metrics.loss))
    on_first = [
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.device == devices[0]
    ]
    return losses, sum(on_first)


one, whole = three_losses(jax.devices()[:1], split=False)
eight, part = three_losses(jax.devices(), split=True)
assert one[2] < one[1], one  # the first step has a learning rate of zero
np.testing.assert_allclose(eight, one, rtol=1e-4)
print(whole // 10**6, part // 10**6)
"""


@pytest.mark.slow
def test_vgg16_with_its_138_million_parameters_trains_split_over_eight_devices():
    [printed] = finish(start(8, "-c", TRAIN_VGG16), timeout=1200)
    assert printed.split() == ["1660", "208"]


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_training_with_split_parameters_never_deadlocks(tmp_path, attempt):
    """If devices start collectives in different orders, they sometimes wait for each other."""
    finish(start(2, "-m", "tests.shared_training", tmp_path, "split"), timeout=200)


@pytest.mark.slow
def test_two_processes_and_eight_devices_train_and_predict_as_one(tmp_path):
    command = ("-m", "tests.shared_training")
    finish(start(1, *command, tmp_path / "one"), start(8, *command, tmp_path / "eight", "split"))
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    finish(
        *(
            start(
                4, *command, tmp_path / "two", "distributed", "split",
                JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(number),
                DISK_OF_THIS_PROCESS=str(tmp_path / f"disk{number}"),
            )
            for number in range(2)
        )
    )  # fmt: skip
    disks = [sorted((tmp_path / f"disk{number}").iterdir()) for number in range(2)]
    assert [[file.name for file in files] for files in disks] == [["again.npy", "lock"]] * 2
    assert sorted(file.name for file in (tmp_path / "two").glob("*.npy")) == ["rows.npy"]
    one, eight, two = (np.load(tmp_path / name / "found.npz") for name in ("one", "eight", "two"))
    assert len(one["losses"]) == 10 and one["losses"][-1] < one["losses"][0]
    assert np.isfinite(one["probabilities"]).all() and np.ptp(one["probabilities"][:, 0]) > 0.1
    for other in (eight, two):
        assert other.files == one.files
        for name in set(one.files) - {"read"}:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
    # Five batches of eight rows, the last three rows padding; each process reads half of them.
    assert one["read"].sum() == 40 and two["read"].sum(axis=1).tolist() == [20, 20]
    assert sorted(two["read"].sum(axis=0).tolist()) == [1] * 36 + [4]


def test_incomplete_or_malformed_environment_variables_are_refused():
    with pytest.raises(InputError, match=r"JAX_PROCESS_ID is set, but not JAX_COORD.*JAX_NUM"):
        parallel.initialize({"JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": ""})
    with pytest.raises(InputError, match="invalid literal"):
        numbers = {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}
        parallel.initialize({"JAX_COORDINATOR_ADDRESS": "localhost:1"} | numbers)


# Eight abstract devices.
MESH = jax.sharding.AbstractMesh((8,), ("data",))


def parts(tree, split: bool) -> dict:
    """Returns the shape of each array's part on one device."""
    where = parallel.shardings(tree, MESH, split)
    return jax.tree.map(lambda array, sharding: sharding.shard_shape(array.shape), tree, where)


def test_an_array_is_split_along_the_largest_axis_that_the_devices_divide():
    tree = {
        "kernel": jnp.zeros((512, 4096)),
        "convolution": jnp.zeros((3, 3, 512, 512)),
        "odd": jnp.zeros((1000, 4097)),
        "odder": jnp.zeros((1001, 4097)),
        "small": jnp.zeros((512, 8)),
        "step": jnp.zeros((), jnp.int32),
    }
    assert parts(tree, split=True) == {
        "kernel": (512, 512),
        "convolution": (3, 3, 64, 512),
        "odd": (125, 4097),
        "odder": (1001, 4097),
        "small": (512, 8),
        "step": (),
    }
    assert parts(tree, split=False) == jax.tree.map(jnp.shape, tree)


@pytest.mark.parametrize(
    ("classes", "side", "millions", "whole", "of_eight"),
    [(None, 160, 14.7, 177, 23), (1000, 224, 138.4, 1660, 208)],
)
def test_memory_on_a_device_is_as_documented(classes, side, millions, whole, of_eight):
    """Parameters and Adam's two moments of VGG16, in megabytes."""
    images = np.zeros((1, side, side, 3), np.uint8)
    init = VGG16(num_classes=classes).init
    params = jax.eval_shape(init, jax.random.key(0), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == pytest.approx(millions * 1e6, 0.01)
    settings = base.training_settings(epochs=1, batch_size=8, learning_rate=1e-3)
    optimizer = make_optimizer(settings, 10)
    state = params, jax.eval_shape(optimizer.init, params)
    for split, megabytes in ((False, whole), (True, of_eight)):
        where = parallel.shardings(state, MESH, split)
        on_one = jax.tree.map(lambda a, w: 4 * np.prod(w.shard_shape(a.shape)), state, where)
        assert sum(jax.tree.leaves(on_one)) == pytest.approx(megabytes * 1e6, abs=5e5)
