"""Tests of logistic regression: optimality, rare genres, and the Flax model that applies it."""

import pathlib

import jax
import numpy as np
import pytest
import scipy.sparse
from scipy.special import expit

from mmgc_jax.data import movies, pipeline, splits, table
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.evaluation import metrics
from mmgc_jax.models import PlotBagOfWords
from mmgc_jax.training.logistic import fit_logistic

TALK = pathlib.Path(__file__).parents[3] / "shared" / "data" / "talk" / "train" / "movies.csv"


def random_rows(movies=200, words=12, genres=4, seed=0):
    """Makes sparse features, and labels drawn from a logistic model of them."""
    rng = np.random.default_rng(seed)
    dense = rng.random((movies, words)) * (rng.random((movies, words)) < 0.4)
    logits = dense @ rng.normal(0, 3, (words, genres)) - 1
    labels = rng.random((movies, genres)) < expit(logits)
    return scipy.sparse.csr_matrix(dense.astype(np.float32)), labels


@pytest.mark.parametrize("C", [0.5, 3.0])
def test_the_gradient_of_the_penalised_loss_vanishes(C):
    rows, labels = random_rows()
    kernel, bias = fit_logistic(rows, labels, C)
    assert kernel.shape == (12, 4) and bias.shape == (4,)
    assert kernel.dtype == bias.dtype == np.float32
    errors = C * (expit(rows @ kernel + bias) - labels)
    # The penalty includes the bias.
    np.testing.assert_allclose(rows.T @ errors, -kernel, atol=0.05)
    np.testing.assert_allclose(errors.sum(axis=0), -bias, atol=0.05)
    assert np.abs(kernel).max() > 1


def test_genres_without_both_classes_have_their_log_odds():
    rows, labels = random_rows()
    labels[:, 1], labels[:, 2] = False, True
    kernel, bias = fit_logistic(rows, labels)
    assert (kernel[:, 1:3] == 0).all() and (kernel[:, [0, 3]] != 0).any(axis=0).all()
    np.testing.assert_allclose(expit(bias[1:3]), [0.5 / 201, 200.5 / 201], rtol=1e-5)
    others, _ = fit_logistic(rows, labels[:, [0, 3]])
    np.testing.assert_array_equal(kernel[:, [0, 3]], others)


def test_the_same_rows_give_the_same_kernel():
    first, second = (fit_logistic(*random_rows()) for _ in range(2))
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)


def test_from_plots_to_probabilities():
    """The logits of the model equal rows @ kernel + bias."""
    plots = ["a spy in love", "love , love", "a war", "", "the spy and the war", "unheard of"]
    labels = np.array([[1, 1], [0, 1], [0, 0], [0, 0], [1, 0], [0, 0]], np.float32)
    tfidf = TfIdf.fit(plots, min_plots=1)
    rows = tfidf(plots)
    kernel, bias = fit_logistic(rows, labels)
    examples = pipeline.BagOfWordsExamples(rows, pad_to_multiple_of=4)
    batch = examples(np.array([4, 3, 0]))
    model = PlotBagOfWords(len(tfidf), num_genres=2)
    params = {"kernel": kernel, "bias": bias}
    logits, _ = jax.jit(model.apply)({"params": params}, batch["tokens"], batch["weights"])
    expected = (rows @ kernel + bias)[[4, 3, 0]]
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert (logits[:, 0] > 0).tolist() == [True, False, True]


@pytest.mark.slow
@pytest.mark.skipif(not TALK.exists(), reason=f"{TALK} does not exist")
def test_real_plots_out_of_fold():
    plots, labels = [], []
    for movie in table.read_movies(TALK, labelled=True):
        plots.append(movie.plot or "")
        labels.append([genre in movie.genres for genre in movies.GENRES])
    labels = np.float32(labels)
    in_test = splits.assign_folds(labels, 5, seed=0) == 0
    train, test = np.flatnonzero(~in_test), np.flatnonzero(in_test)
    tfidf = TfIdf.fit([plots[n] for n in train])
    kernel, bias = fit_logistic(tfidf([plots[n] for n in train]), labels[train])
    scores = expit(tfidf([plots[n] for n in test]) @ kernel + bias)
    # The mean of the five folds is 0.892, their standard deviation 0.003.
    assert metrics.auc_macro(labels[test], scores) > 0.88
