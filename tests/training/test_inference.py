"""Probabilities of a split, in the order of the corpus."""

import jax
import numpy as np
import pytest
from scipy.special import expit

from mmgc_jax.data import pipeline
from mmgc_jax.training import inference


def apply(params, batch, key):
    """A model whose logits are the batch's `logits`, times a parameter."""
    assert key is None  # nothing is random
    return params["scale"] * batch["logits"]


class LongestFirst(pipeline.ArrayExamples):
    """Examples with lengths, which make `Batches` put movies of similar length together."""

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
    scores = inference.probabilities(apply, {"scale": np.float32(2)}, batches)
    assert scores.shape == (11, 24) and scores.dtype == np.float32
    np.testing.assert_allclose(scores[indices], expit(2 * logits[indices]), rtol=1e-5)
    others = np.setdiff1d(np.arange(11), indices)
    assert np.isnan(scores[others]).all()
