"""A small training that runs in one process or in several, for test_parallel.py.

    python -m tests.shared_training WORKDIR [distributed] [split]

The first process writes `found.npz` with the loss of each step, the parameters, the probabilities
of all movies, activations of frozen layers, and how often each process has read each movie.
"""

import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from scipy import sparse

from mmgc_jax.data import pipeline
from mmgc_jax.encoders import base, frozen
from mmgc_jax.models import PlotBagOfWords
from mmgc_jax.runtime import parallel
from mmgc_jax.training import inference, loop
from mmgc_jax.training.run import TrainingRun, make_apply

MOVIES, WORDS, BATCH = 37, 4096, 8


class Examples(pipeline.BagOfWordsExamples):
    """Examples that count how often each movie is read."""

    def __call__(self, indices, batch=None):
        np.add.at(times_read, indices, 1)
        return super().__call__(indices, batch)


def settings():
    training = base.training_settings(epochs=2, batch_size=BATCH, learning_rate=0.1)
    training.update(log_every=1, checkpoint_every=3)
    return training


def movies():
    """Makes labels and bags of 1 to 60 words, so that lengths differ between movies."""
    rng = np.random.default_rng(0)
    bags = np.zeros((MOVIES, WORDS), np.float32)
    for bag in bags:
        bag[rng.choice(WORDS, rng.integers(1, 60), replace=False)] = rng.uniform(0.1, 1)
    return sparse.csr_matrix(bags), rng.integers(0, 2, (MOVIES, 24)).astype(np.float32)


def main(workdir: pathlib.Path, split: bool) -> None:
    bags, labels = movies()
    examples = Examples(bags, pad_to_multiple_of=16)
    model = PlotBagOfWords(WORDS, 24)

    def augment(key, batch):
        kept = jax.random.bernoulli(key, 0.7, batch["weights"].shape)
        return batch | {"weights": batch["weights"] * kept}

    apply = make_apply(model, ("tokens", "weights"), augment)
    params = model.init(jax.random.key(0), np.zeros((1, 8), np.int32), np.zeros((1, 8)))["params"]
    rows = np.arange(MOVIES)

    def batches(**more):
        return pipeline.Batches(examples, labels, rows, BATCH, **more)

    run = TrainingRun("plot", workdir, seed=1, split_parameters=split)
    training = batches(shuffle_seed=1, epochs=2)
    trained = loop.fit(run, apply, params, training, settings())
    for leaf in jax.tree.leaves(trained):
        parts = {shard.data.size for shard in leaf.addressable_shards}
        assert parts == {
            leaf.size // jax.device_count() if split and leaf.size > 999 else leaf.size
        }

    times_read[:] = 0
    probabilities = inference.probabilities(apply, [trained], batches())[0]
    read = times_read.copy()
    network = frozen.Frozen.of(
        lambda scale, batch: {"sums": scale * jnp.cumsum(batch["weights"], axis=1)[:, :1]},
        np.float32(2),
    )
    kept = frozen.cache(workdir / "rows.npy", network, "sums", batches())
    disk = pathlib.Path(os.environ.get("DISK_OF_THIS_PROCESS", workdir))
    again = frozen.cache(disk / "again.npy", network, "sums", batches())
    np.testing.assert_array_equal(again(rows)["sums"], kept(rows)["sums"])

    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    reports = [line for line in lines if "loss" in line]
    found = {
        "losses": [line["loss"] for line in reports],
        "grad_norms": [line["grad_norm"] for line in reports],
        "probabilities": probabilities,
        "activations": kept(rows)["sums"],
        "read": multihost_utils.process_allgather(read).reshape(-1, MOVIES),
    } | {f"params/{name}": array for name, array in parallel.gather(trained).items()}
    if parallel.is_first():
        np.savez(workdir / "found.npz", **found)


if __name__ == "__main__":
    times_read = np.zeros(MOVIES, int)
    if "distributed" in sys.argv:
        parallel.initialize()
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    main(folder, "split" in sys.argv)
