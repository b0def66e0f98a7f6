"""A small training problem for tests: a linear model of 24 features predicts 24 genres."""

import flax.linen as nn
import jax
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.encoders import base
from mmgc_jax.evaluation import metrics
from mmgc_jax.training import checkpoints, inference, loop
from mmgc_jax.training.run import TrainingRun, make_apply

# 40 training movies in batches of 8.
STEPS_PER_EPOCH = 5
VALIDATION = np.arange(40, 70)
PARAMS = {
    "genres": {
        "kernel": 0.1 * np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32),
        "bias": np.zeros(24, np.float32),
    }
}


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(24, name="genres")(x), {}


def augment(key, batch):
    return batch | {"x": batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)}


apply = make_apply(Linear(), ("x",), augment)


def settings(**changes):
    """Makes the settings of a small training."""
    training = base.training_settings(epochs=3, batch_size=8, learning_rate=0.02)
    training.update(dict(weight_decay=0.0, log_every=3, checkpoint_every=2) | changes)
    return training


def problem():
    """Makes examples and labels of 70 movies; the features are the rotated labels, with noise."""
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(70, 24)) < 0.3).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.normal(size=(24, 24)))
    x = labels @ rotation + 0.1 * rng.normal(size=(70, 24))
    return pipeline.ArrayExamples({"x": x.astype(np.float32)}), labels


def batches(epochs, kind=pipeline.Batches):
    examples, labels = problem()
    return kind(examples, labels, np.arange(40), 8, shuffle_seed=0, epochs=epochs)


def validate(params):
    examples, labels = problem()
    whole = pipeline.Batches(examples, labels, VALIDATION, 8)
    probabilities = inference.probabilities(apply, [params], whole)[0]
    return metrics.auc_macro(labels[VALIDATION], probabilities[VALIDATION])


def fit(workdir, name="fusion", epochs=3, batches=batches, field="training", tensorboard=False,
        **changes):  # fmt: skip
    run = TrainingRun(name, workdir, seed=7, field=field, tensorboard=tensorboard)
    return loop.fit(run, apply, PARAMS, batches(epochs), settings(**changes))


def trained(workdir, name="fusion"):
    """Returns the parameters of a finished training."""
    return loop.restore_trained(TrainingRun(name, workdir, seed=7))


def latest(workdir, name="fusion"):
    """Returns the training state of the latest checkpoint."""
    return checkpoints.restore(workdir / "checkpoints" / name / "latest")


def assert_same(one, two):
    """Asserts that all arrays of two trees are exactly equal."""
    jax.tree.map(np.testing.assert_array_equal, one, two)
