"""Tests of inference over many movies: order of the rows, padding, stopping."""

import os
import signal

import jax
import numpy as np
import pytest
from scipy.special import expit

from mmgc_jax.data import pipeline
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.training import inference
from mmgc_jax.training.run import ApplyFn


@ApplyFn
def apply(params, batch, key):
    """Returns the batch's `logits`, times a parameter."""
    assert key is None  # no dropout or augmentation in inference
    return params["scale"] * batch["logits"]


class LongestFirst(pipeline.ArrayExamples):
    """Examples with lengths, so that `Batches` groups movies of similar length."""

    lengths = np.arange(11)[::-1]


@pytest.mark.parametrize("examples", [pipeline.ArrayExamples, LongestFirst])
@pytest.mark.parametrize("shuffle_seed", [None, 5])
def test_probabilities_come_back_in_the_order_of_the_corpus(examples, shuffle_seed):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(11, 24)).astype(np.float32)
    # Seven movies in batches of four: the last one is padded.
    indices = np.array([9, 2, 4, 0, 7, 10, 3])
    batches = pipeline.Batches(
        examples({"logits": logits}),
        np.zeros((11, 24), np.float32),
        indices,
        4 * jax.device_count(),
        shuffle_seed=shuffle_seed,
    )
    models = [{"scale": np.float32(2)}, {"scale": np.float32(-1)}]
    found = inference.probabilities(apply, models, batches)
    assert found.shape == (2, 11, 24) and found.dtype == np.float32
    others = np.setdiff1d(np.arange(11), indices)
    for params, of_model in zip(models, found, strict=True):
        expected = expit(params["scale"] * logits[indices])
        np.testing.assert_allclose(of_model[indices], expected, rtol=1e-5)
        assert np.isnan(of_model[others]).all()


def test_the_model_does_not_see_labels():
    @ApplyFn
    def apply(params, batch, key):
        assert batch.keys() == {"logits"}
        return batch["logits"]

    examples = pipeline.ArrayExamples({"logits": np.zeros((4, 24), np.float32)})
    batches = pipeline.Batches(
        examples, np.ones((4, 24), np.float32), np.arange(4), 4 * jax.device_count()
    )
    assert (inference.probabilities(apply, [{}], batches) == 0.5).all()


def test_a_requested_stop_ends_inference():
    examples = pipeline.ArrayExamples({"logits": np.zeros((4, 24), np.float32)})
    batches = pipeline.Batches(
        examples, np.ones((4, 24), np.float32), np.arange(4), 4 * jax.device_count()
    )
    with preemption.listening(), pytest.raises(preemption.Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
        inference.probabilities(apply, [{"scale": np.float32(2)}], batches)


def test_a_batch_is_sent_before_the_outputs_of_the_one_before_are_fetched(monkeypatch):
    order, gather = [], parallel.gather
    monkeypatch.setattr(parallel, "gather", lambda tree: (order.append("fetch"), gather(tree))[1])

    def function(batch):
        order.append("send")
        return batch["x"]

    examples = pipeline.ArrayExamples({"x": np.arange(3.0)})
    size = jax.device_count()
    batches = pipeline.Batches(examples, np.zeros((3 * size, 1)), np.arange(3 * size) % 3, size)
    found = parallel.outputs_of_movies(function, pipeline.iterate(batches), parallel.data_mesh())
    assert len(list(found)) == 3
    assert order == ["send", "send", "fetch", "send", "fetch", "fetch"]


def test_outputs_of_a_function_are_kept_by_name_in_the_order_of_movies():
    x = np.random.default_rng(0).normal(size=(11, 5)).astype(np.float32)
    # Five movies in batches of four: the last one is padded.
    indices = np.array([9, 2, 4, 0, 7])

    def function(batch):
        return {"double": 2 * batch["x"], "rows": batch["indices"][:, None]}

    examples = pipeline.ArrayExamples({"x": x})
    present = np.isin(np.arange(11), indices)
    outputs = inference.outputs(function, examples, present, 4 * jax.device_count())
    found = outputs(indices)
    assert found.keys() == {"double", "rows"}
    np.testing.assert_array_equal(found["double"], 2 * x[indices])
    np.testing.assert_array_equal(found["rows"], indices[:, None])
    assert (outputs(np.array([1, 3, 10]))["double"] == 0).all()
