"""Networks that fuse the feature vectors of several encoders.

All have the same arguments as `LinearSum`. Where an encoder's modality is missing, its vector
affects neither the result nor the gradients. Vectors may have any scale: each goes through a
LayerNorm first. The output layer of every network is named `genres`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


class LinearSum(nn.Module):
    """Maps each vector linearly into one space and adds them up: a baseline of arXiv 1702.01992.

    Attributes:
      hidden: dimension of that space.
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
          features: a feature vector <float>[batch, dim] from each encoder, with dim at least 2.
          present: <float32>[batch, encoders], 1 where the movie has the encoder's modality,
            otherwise 0.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres], and `embedding` <float32>[batch, hidden].

        Raises:
          ValueError: if `features` and `present` have different numbers of encoders.
        """
        inputs = _prepare(features, present, self.dropout, train)
        # No biases: they would be added for missing modalities, too.
        embedding = sum(
            nn.Dense(self.hidden, use_bias=False, name=f"linear{number}")(x)
            for number, x in enumerate(inputs, start=1)
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class ConcatMaxout(nn.Module):
    """Applies two layers of maxout units to the concatenated vectors, as in arXiv 1702.01992.

    Vectors of missing modalities are zero, and `present` is concatenated to the vectors.

    Attributes:
      hidden: number of units in each layer.
      dropout: rate before each layer.
      num_genres: number of logits.
      pieces: number of linear functions per unit; the unit returns their maximum.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24
    pieces: int = 2

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits; see `LinearSum`. Returns `embedding` <float32>[batch, hidden]."""
        inputs = _prepare(features, present, self.dropout, train)
        x = jnp.concatenate([*inputs, present], axis=-1)
        maxout = _MaxoutLayers(self.hidden, self.dropout, self.pieces, name="maxout")
        embedding = maxout(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class MixtureOfExperts(nn.Module):
    """Averages the predictions of one expert per encoder, with weights from a gate.

    Each expert is a classifier with two layers of maxout units and an output layer. As in the code
    of arXiv 1702.01992, the gate is a linear function of all vectors, with separate weights for
    each genre. It averages the experts' probabilities, not their logits, so that the cross-entropy
    is the negative log-likelihood of a mixture (Jacobs et al., Adaptive Mixtures of Local Experts,
    1991).

    Attributes:
      hidden: number of maxout units in each layer of an expert.
      dropout: rate on the vectors and before every layer after the first.
      num_genres: number of logits.
      pieces: see `ConcatMaxout`.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24
    pieces: int = 2

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits; see `LinearSum` for the arguments.

        Returns:
          logits <float32>[batch, num_genres]; `embedding` <float32>[batch, encoders * hidden], the
          experts' last hidden layers, zero where the modality is missing; and `gates`
          <float32>[batch, encoders, num_genres], the experts' weights, which are 0 where the
          modality is missing and add up to 1 over the encoders.
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
        # With minus infinity, the softmax would be NaN for a movie without any modality.
        lowest = jnp.finfo(scores.dtype).min
        log_gates = nn.log_softmax(jnp.where(is_present, scores, lowest), axis=1)
        # Log-probabilities of having the genre and of not having it, neither of which underflows.
        positive = jax.nn.logsumexp(log_gates + nn.log_sigmoid(logits), axis=1)
        negative = jax.nn.logsumexp(log_gates + nn.log_sigmoid(-logits), axis=1)
        return positive - negative, {
            "embedding": embedding.reshape(embedding.shape[0], -1),
            "gates": jnp.where(is_present, jnp.exp(log_gates), 0),
        }


class GatedMultimodalUnit(nn.Module):
    """The Gated Multimodal Unit of arXiv 1702.01992, followed by an output layer.

    Each vector x_e is transformed to h_e = tanh(W_e x_e). The embedding is the sum of z_e * h_e,
    elementwise, where the gates z_e are computed from all vectors.

    For two encoders this is the paper's bimodal unit: z_1 = sigmoid(W_z [x_1, x_2]) and
    z_2 = 1 - z_1. For more encoders there is one sigmoid gate per encoder, as in the paper:
    z_e = sigmoid(W_z,e [x_1, x_2, ...]). Unlike in the paper, these gates are then divided by their
    sum. The gate of a missing modality is 0 and the others add up to 1, so the embedding is a
    weighted average over the modalities that the movie has.

    Attributes:
      hidden: number of units.
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
        """Computes genre logits; see `LinearSum` for the arguments.

        Returns:
          logits <float32>[batch, num_genres]; `embedding` <float32>[batch, hidden]; and `gates`
          <float32>[batch, encoders, hidden], which are 0 where the modality is missing and add up
          to 1 over the encoders.
        """
        inputs = _prepare(features, present, self.dropout, train)
        units = [
            nn.tanh(nn.Dense(self.hidden, use_bias=False, name=f"linear{number}")(x))
            for number, x in enumerate(inputs, start=1)
        ]
        tied = len(inputs) == 2
        gate = nn.Dense((1 if tied else len(inputs)) * self.hidden, name="gate")
        # `shape[0]`, not `len`: in an exported graph the batch size is symbolic.
        rows = present.shape[0]
        scores = gate(jnp.concatenate(inputs, axis=-1)).reshape(rows, -1, self.hidden)
        if tied:
            scores = jnp.concatenate([scores, -scores], axis=1)  # 1 - sigmoid(s) = sigmoid(-s)
        # The softmax of log-sigmoids divides the sigmoids by their sum without underflow.
        gates = nn.softmax(nn.log_sigmoid(scores), axis=1, where=present[..., None] > 0)
        embedding = jnp.sum(gates * jnp.stack(units, axis=1), axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        logits = nn.Dense(self.num_genres, name="genres")(x)
        return logits, {"embedding": embedding, "gates": gates}


class LowRankTensorFusion(nn.Module):
    """Low-rank Multimodal Fusion (arXiv 1806.00064), followed by an output layer.

    Tensor fusion (arXiv 1707.07250) appends a 1 to each vector, takes the outer product of all
    vectors, and contracts it with one weight tensor W per unit. Here each W is a sum of `rank`
    outer products with one factor per encoder. The contraction then needs no outer product of the
    vectors: it is sum_r prod_e (W_e,r x_e + b_e,r), where b_e,r multiplies the appended 1.

    For a missing modality, W_e,r x_e + b_e,r is replaced by 1, so that the result is the fusion of
    the other vectors. The biases start at 1, so at first a vector of zeros (the mean after the
    LayerNorm) has the same effect as a missing modality.

    For a movie without any modality the sum is `rank`. This constant is subtracted, so that the
    output layer's bias need not offset it. Kernels start with the variance
    1 / (dim * rank * encoders). For vectors of mean 0 and variance 1, and no missing modality,
    the embedding then has the variance rank * ((1 + 1 / (rank * encoders))^encoders - 1), which is
    between 1 and e - 1 for any number of encoders.

    Attributes:
      hidden: number of units.
      dropout: rate on the vectors and before the output layer.
      num_genres: number of logits.
      rank: number of outer products in each weight tensor; higher ranks model more interactions
        between encoders.
    """

    hidden: int = 512
    dropout: float = 0.5
    num_genres: int = 24
    rank: int = 4

    @nn.compact
    def __call__(
        self, features: Sequence[jax.Array], present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits; see `LinearSum`. Returns `embedding` <float32>[batch, hidden]."""
        inputs = _prepare(features, present, self.dropout, train)
        kernel_init = nn.initializers.variance_scaling(
            1 / (self.rank * len(inputs)), "fan_in", "normal"
        )
        terms = jnp.ones((present.shape[0], self.rank * self.hidden))
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

    Attributes: see `ConcatMaxout`.
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
    """Applies LayerNorm and dropout to each vector, and zeros vectors of missing modalities.

    Call it from a module's compact method. It creates the submodules `norm1`, `norm2`, ... of that
    module.

    Args:
      features: see `LinearSum`.
      present: see `LinearSum`.
      dropout: rate on the vectors.
      train: whether to apply dropout.

    Returns:
      For each encoder, <float32>[batch, dim].
    """
    if present.shape[1] != len(features):
        raise ValueError(f"{len(features)} vectors, but `present` has {present.shape[1]} encoders")
    inputs = []
    for number, x in enumerate(features, start=1):
        is_present = present[:, number - 1, None] > 0
        # Zeros before the norm as well: NaN or infinity in a missing modality's vector would
        # make the gradient NaN.
        x = jnp.where(is_present, x.astype(jnp.float32), 0)
        # Flax's fast variance, E[x^2] - E[x]^2, is imprecise where the mean is large.
        x = nn.LayerNorm(use_fast_variance=False, name=f"norm{number}")(x)
        x = nn.Dropout(dropout, deterministic=not train)(x)
        inputs.append(jnp.where(is_present, x, 0))
    return inputs
