"""Several devices compute what one computes. They are simulated, in a process of their own."""

import os
import subprocess
import sys

import pytest

STORY = """
import jax, numpy as np
from jax.sharding import Mesh
from mmgc_jax import evaluate, parallel, train
from mmgc_jax.configs import default
from mmgc_jax.data import pipeline
from mmgc_jax.models import LateFusion
from mmgc_jax.models.fusion import drop_modalities

assert jax.device_count() == 8
rng = np.random.default_rng(0)
mask = np.ones(16, np.float32)
mask[13:] = 0  # one device gets padding alone, another half
batch = {
    "probabilities": rng.uniform(size=(16, 2, 24)).astype(np.float32),
    "present": np.ones((16, 2), np.float32),
    "labels": rng.integers(0, 2, (16, 24)).astype(np.float32),
    "mask": mask,
}


def augment(key, batch):
    there = drop_modalities(key, batch["present"], ("plot", "poster"), 0.5)
    probabilities = jax.numpy.where(there[..., None] > 0, batch["probabilities"], 0.1)
    return batch | {"probabilities": probabilities, "present": there}


model = LateFusion(dropout=0.3)
apply = train.make_apply(model, ("probabilities", "present"), augment)
optimizer = train.make_optimizer(default.get_config().fusion.training, 10)
params = model.init(jax.random.key(0), batch["probabilities"], batch["present"])["params"]


def four_steps(devices):
    mesh = Mesh(np.array(devices), ("data",))
    step = train.make_train_step(apply, optimizer, np.ones(24, np.float32), jax.random.key(1))
    fresh = jax.tree.map(np.array, params)
    state = train.TrainState(np.zeros((), np.int32), fresh, optimizer.init(fresh))
    state = parallel.replicate(state, mesh)
    sharded = parallel.shard_batch(batch, mesh)
    for array in sharded.values():
        assert array.addressable_shards[0].data.shape[0] == 16 // len(devices)
    losses = []
    for _ in range(4):
        state, loss = step(state, sharded)
        losses.append(float(loss))
    for leaf in jax.tree.leaves(state.params):
        assert len(leaf.sharding.device_set) == len(devices) and leaf.is_fully_replicated
    return losses, jax.device_get(state.params)


one_losses, one = four_steps(jax.devices()[:1])
all_losses, all_ = four_steps(jax.devices())
np.testing.assert_allclose(all_losses, one_losses, rtol=1e-5)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), all_, one)
# The optimizer's first step has a learning rate of zero; by the fourth all parameters have moved.
moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, params)
assert moved.pop("prior") == 0  # it is given, not trained
assert min(jax.tree.leaves(moved)) > 1e-5, moved

# Parameters as a checkpoint brings them, on one device, predict on all.
examples = pipeline.ArrayExamples({n: batch[n] for n in ("probabilities", "present")})
sixteen = pipeline.Batches(examples, batch["labels"], np.arange(16), 16)
on_one = jax.device_put(one, jax.devices()[0])
scores = evaluate.probabilities(apply, on_one, sixteen)
logits, _ = model.apply({"params": one}, batch["probabilities"], batch["present"])
np.testing.assert_allclose(scores, jax.nn.sigmoid(logits), rtol=1e-5)

assert parallel.data_mesh().shape == {"data": 8}
try:
    parallel.shard_batch({"x": np.zeros(12)}, parallel.data_mesh())
except ValueError:
    print("equal")
"""


@pytest.mark.slow
def test_a_training_step_on_eight_devices_equals_one_on_a_single_device():
    flags = "--xla_force_host_platform_device_count=8"
    finished = subprocess.run(
        [sys.executable, "-c", STORY],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "equal"
