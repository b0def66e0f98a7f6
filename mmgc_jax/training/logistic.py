"""Logistic regression on sparse rows, one for each genre, fitted by scikit-learn."""

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression


def fit_logistic(
    rows: scipy.sparse.csr_matrix, labels: np.ndarray, C: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the logits of each genre: rows @ kernel + bias.

    The L2 penalty includes the bias (liblinear; Fan et al. 2008). It draws probabilities together,
    above all those of rare genres, so calibrate them before use.

    Args:
      rows: <float>[movies, words], such as `TfIdf` gives.
      labels: <bool>[movies, genres], or 0/1 numbers.
      C: inverse of the strength of the L2 penalty: the weight of the summed cross-entropy against
        half the squared length of the kernel.

    Returns:
      kernel <float32>[words, genres] and bias <float32>[genres]. For a genre without a positive or
      without a negative, the kernel is 0, and the bias the log-odds of
      (positives + 0.5) / (movies + 1).
    """
    labels = np.asarray(labels).astype(bool)
    movies, genres = labels.shape
    kernel = np.zeros((rows.shape[1], genres), np.float32)
    positives = labels.sum(axis=0)
    bias = np.log((positives + 0.5) / (movies - positives + 0.5)).astype(np.float32)
    for genre in np.flatnonzero((positives > 0) & (positives < movies)):
        model = LogisticRegression(C=C, solver="liblinear", max_iter=1000, random_state=0)
        model.fit(rows, labels[:, genre])
        kernel[:, genre], bias[genre] = model.coef_[0], model.intercept_[0]
    return kernel, bias
