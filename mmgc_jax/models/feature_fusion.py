"""Fusions of several encoders' feature vectors of a movie.

All have the arguments of `LinearSum`. The vector of an absent encoder affects neither the result
nor the gradients. Vectors may have any scale, since each goes through a LayerNorm first, which
removes their mean and scale. In each fusion the output layer is named `genres`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class LinearSum(nn.Module):
    """Vectors mapped linearly into one space and summed: a baseline of arXiv 1702.01992.

    Attributes:
      hidden: size of the space.
      dropout: rate on the vectors and before the output layer.
      num_genres: number of logits.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          features: <float>[batch, dim] for each encoder, with dim at least 2.
          present: <float32>[batch, encoders], 1 where the movie has the encoder's modality,
            otherwise 0.
          train: whether to apply dropout, which needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres], and `embedding` <float32>[batch, hidden].

        Raises:
          ValueError: if the number of encoders in `present` is not the number of vectors.
        """
        inputs = _prepare(features, present, self.dropout, train)
        # Without biases, since they would count for absent encoders too.
        embedding = sum(
            nn.Dense(self.hidden, use_bias=False, name=f"linear{number}")(x)
            for number, x in enumerate(inputs, start=1)
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class ConcatMaxout(nn.Module):
    """Two layers of maxout units over the concatenated vectors, as in arXiv 1702.01992.

    Absent vectors are zero, and the flags of presence are inputs too.

    Attributes:
      hidden: units of each layer.
      dropout: rate before each layer.
      num_genres: number of logits.
      pieces: linear functions of which a unit takes the largest.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24
    pieces: int = 2

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits, as `LinearSum` does; `embedding` <float32>[batch, hidden]."""
        inputs = _prepare(features, present, self.dropout, train)
        x = jnp.concatenate([*inputs, present], axis=-1)
        maxout = _MaxoutLayers(self.hidden, self.dropout, self.pieces, name="maxout")
        embedding = maxout(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class MixtureOfExperts(nn.Module):
    """An expert for each encoder, and a gate that weighs the experts.

    An expert is a classifier of its own: two layers of maxout units and an output layer. As in the
    code of arXiv 1702.01992 the gate is linear, takes all vectors, and has weights for each genre.
    The experts' probabilities are mixed, not their logits: cross-entropy is then the negative
    log-likelihood of a mixture (Jacobs et al., Adaptive Mixtures of Local Experts, 1991).

    Attributes:
      hidden: maxout units of each layer of an expert.
      dropout: rate on the vectors and before each further layer.
      num_genres: number of logits.
      pieces: as in `ConcatMaxout`.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24
    pieces: int = 2

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits, as `LinearSum` does.

        Returns:
          logits <float32>[batch, num_genres]; `embedding` <float32>[batch, encoders * hidden], the
          experts' last layers, zero where absent; `gates` <float32>[batch, encoders, num_genres],
          which add up to 1 over the encoders that are present.
        """
        inputs = _prepare(features, present, self.dropout, train)
        is_present = present[..., None] > 0
        experts = [
            _MaxoutLayers(self.hidden, self.dropout, self.pieces, name=f"expert{number}")(
                x, train=train
            )
            for number, x in enumerate(inputs, start=1)
        ]
        embedding = jnp.where(is_present, jnp.stack(experts, axis=1), 0)
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        output_layers = nn.vmap(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=1,
            out_axes=1,
        )
        logits = output_layers(self.num_genres, name="genres")(x)

        scores = nn.Dense(len(inputs) * self.num_genres, name="gate")(jnp.concatenate(inputs, -1))
        scores = scores.reshape(logits.shape)
        # Not minus infinity, whose softmax is undefined for a movie without any modality.
        lowest = jnp.finfo(scores.dtype).min
        log_gates = nn.log_softmax(jnp.where(is_present, scores, lowest), axis=1)
        # Logarithms of the mixed probability and of its complement, neither of which underflows.
        positive = jax.nn.logsumexp(log_gates + nn.log_sigmoid(logits), axis=1)
        negative = jax.nn.logsumexp(log_gates + nn.log_sigmoid(-logits), axis=1)
        return positive - negative, {
            "embedding": embedding.reshape(embedding.shape[0], -1),
            "gates": jnp.where(is_present, jnp.exp(log_gates), 0),
        }


class GatedMultimodalUnit(nn.Module):
    """The Gated Multimodal Unit of arXiv 1702.01992, and an output layer.

    Each vector becomes h_e = tanh(W_e x_e), and each of its units has a weight z_e, a gate computed
    from all vectors: the embedding is the sum of z_e h_e.

    For two encoders this is the paper's bimodal unit, z_1 = sigmoid(W_z [x_1, x_2]) and
    z_2 = 1 - z_1. For more the paper gives each modality a sigmoid gate of its own,
    z_e = sigmoid(W_z,e [x_1, x_2, ...]), and so does this; but the gates are then divided by their
    sum, which the tied gates of the bimodal unit do not need, since theirs is 1. The sum runs over
    the encoders that are present, and an absent one's gate is 0, so that the embedding is always an
    average over the encoders that are present.

    Attributes:
      hidden: units.
      dropout: rate on the vectors and before the output layer.
      num_genres: number of logits.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits, as `LinearSum` does.

        Returns:
          logits <float32>[batch, num_genres], `embedding` <float32>[batch, hidden], and `gates`
          <float32>[batch, encoders, hidden], which add up to 1 over the encoders that are present.
        """
        inputs = _prepare(features, present, self.dropout, train)
        units = [
            nn.tanh(nn.Dense(self.hidden, use_bias=False, name=f"linear{number}")(x))
            for number, x in enumerate(inputs, start=1)
        ]
        tied = len(inputs) == 2
        gate = nn.Dense((1 if tied else len(inputs)) * self.hidden, name="gate")
        scores = gate(jnp.concatenate(inputs, axis=-1)).reshape(len(present), -1, self.hidden)
        if tied:
            scores = jnp.concatenate([scores, -scores], axis=1)  # 1 - sigmoid(s) = sigmoid(-s)
        # A softmax of logarithms: the sigmoids divided by their sum, also where all are tiny.
        gates = nn.softmax(nn.log_sigmoid(scores), axis=1, where=present[..., None] > 0)
        embedding = jnp.sum(gates * jnp.stack(units, axis=1), axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        logits = nn.Dense(self.num_genres, name="genres")(x)
        return logits, {"embedding": embedding, "gates": gates}


class LowRankTensorFusion(nn.Module):
    """Low-rank Multimodal Fusion (arXiv 1806.00064), and an output layer.

    Tensor fusion (arXiv 1707.07250) appends a 1 to each vector, takes the outer product of all,
    and contracts it with a weight tensor W for each unit. Here W is a sum over ranks r of outer
    products of one factor for each encoder, so that the contraction needs no outer product: it is
    sum_r prod_e (W_e,r x_e + b_e,r), where b_e,r is the row of the factor for the appended 1.

    An absent encoder's term is 1, so that the result is the fusion of the others with the same
    factors. (A vector of zeros in its place would contribute b_e,r.) The biases are initialised
    with 1, so that at first a vector of zeros, the mean after the LayerNorm, equals an absent one.

    With all encoders absent the sum is the rank. The embedding is the sum less this constant, which
    the output layer's bias would otherwise have to offset. With entries of mean 0 and variance 1 a
    kernel's initial variance of 1 / (dim * rank * encoders) gives it the variance
    rank * ((1 + 1 / (rank * encoders))^encoders - 1) for a movie that has all modalities: from 1 up
    to e - 1, whatever the number of encoders.

    Attributes:
      hidden: units.
      dropout: rate on the vectors and before the output layer.
      num_genres: number of logits.
      rank: of the decomposition; a higher one models more interactions between encoders.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24
    rank: int = 4

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits, as `LinearSum` does; `embedding` <float32>[batch, hidden]."""
        inputs = _prepare(features, present, self.dropout, train)
        kernel_init = nn.initializers.variance_scaling(
            1 / (self.rank * len(inputs)), "fan_in", "normal"
        )
        terms = jnp.ones((len(present), self.rank * self.hidden))
        for number, x in enumerate(inputs, start=1):
            factor = nn.Dense(
                self.rank * self.hidden,
                kernel_init=kernel_init,
                bias_init=nn.initializers.ones,
                name=f"factor{number}",
            )
            terms *= jnp.where(present[:, number - 1, None] > 0, factor(x), 1)
        terms = terms.reshape(-1, self.rank, self.hidden)
        embedding = jnp.sum(terms, axis=1) - self.rank
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class _MaxoutLayers(nn.Module):
    """Two layers of maxout units (arXiv 1302.4389), with dropout between them.

    Attributes: as in `ConcatMaxout`.
    """

    hidden: int
    dropout: float
    pieces: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps <float32>[batch, dim] to <float32>[batch, hidden]."""
        x = self._maxout(x, "dense1")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self._maxout(x, "dense2")

    def _maxout(self, x: jax.Array, name: str) -> jax.Array:
        x = nn.Dense(self.hidden * self.pieces, name=name)(x)
        return x.reshape(-1, self.hidden, self.pieces).max(axis=-1)


def _prepare(
    features: Sequence[jax.Array], present: jax.Array, dropout: float, train: bool
) -> list[jax.Array]:
    """Normalises each vector, sets it to zero where absent, and applies dropout.

    To be called by a module with the arguments of `LinearSum`; creates its submodules `norm1`, ...
    """
    if present.shape[1] != len(features):
        raise ValueError(f"{len(features)} vectors, but present is for {present.shape[1]} encoders")
    inputs = []
    for number, x in enumerate(features, start=1):
        is_present = present[:, number - 1, None] > 0
        # Before the norm too: an absent vector may be NaN or overflow, and so would its gradient.
        x = jnp.where(is_present, x.astype(jnp.float32), 0)
        # Flax's fast variance is a difference of two squares, inexact where the mean is large.
        x = nn.LayerNorm(use_fast_variance=False, name=f"norm{number}")(x)
        x = nn.Dropout(dropout, deterministic=not train)(x)
        inputs.append(jnp.where(is_present, x, 0))
    return inputs
