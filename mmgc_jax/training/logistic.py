"""Logistic regression on sparse features with scikit-learn, one classifier for each genre."""

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression


def fit_logistic(
    rows: scipy.sparse.csr_matrix, labels: np.ndarray, C: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a linear classifier for each genre, with logits `rows @ kernel + bias`.

    The L2 penalty includes the bias (liblinear; Fan et al. 2008). It pulls probabilities towards
    0.5, most of all for rare genres, so calibrate them before use.

    Args:
      rows: features, <float>[movies, words], for instance from `TfIdf`.
      labels: <bool>[movies, genres], or numbers 0 and 1.
      C: scikit-learn's inverse regularisation strength, above 0: the factor of the summed
        cross-entropy, which is added to half the squared norm of kernel and bias. A larger C fits
        the training movies more closely.

    Returns:
      kernel <float32>[words, genres] and bias <float32>[genres]. A genre without positives or
      without negatives gets a kernel of zeros and, as bias, the log-odds of the frequency
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
