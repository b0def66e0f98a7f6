"""Logistic regression on sparse rows, one for each genre, as scikit-learn fits it."""

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression


def fit_logistic(
    rows: scipy.sparse.csr_matrix,
    labels: np.ndarray,
    C: float = 3.0,
    class_weight: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits the logits of each genre: rows @ kernel + bias.

    The L2 penalty takes in the bias too (liblinear; Fan et al. 2008). It draws probabilities
    together, above all those of rare genres: calibrate them before they are read as such.

    Args:
      rows: <float>[movies, words], such as `TfIdf` gives.
      labels: <bool>[movies, genres], or 0/1 numbers.
      C: the weight of the cross-entropy's sum against half the squared length of the kernel: the
        larger, the closer the fit.
      class_weight: `balanced` makes a genre's positives count as much as its negatives.

    Returns:
      kernel <float32>[words, genres] and bias <float32>[genres]. Of a genre without a positive or
      without a negative, the kernel is 0, and the bias the log-odds of
      (positives + 0.5) / (movies + 1).
    """
    labels = np.asarray(labels).astype(bool)
    movies, genres = labels.shape
    kernel = np.zeros((rows.shape[1], genres), np.float32)
    positives = labels.sum(axis=0)
    bias = np.log((positives + 0.5) / (movies - positives + 0.5)).astype(np.float32)
    for genre in np.flatnonzero((positives > 0) & (positives < movies)):
        model = LogisticRegression(
            C=C, class_weight=class_weight, solver="liblinear", max_iter=1000, random_state=0
        )
        model.fit(rows, labels[:, genre])
        kernel[:, genre], bias[genre] = model.coef_[0], model.intercept_[0]
    return kernel, bias
