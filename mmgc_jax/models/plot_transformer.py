"""The transformer plot encoder: BERT or a relative, pooling and a linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.models.bert import BertEncoder, pool_tokens
from mmgc_jax.ops.dropout import Dropout


class PlotTransformer(nn.Module):
    """BERT or a relative, and a linear layer on its pooled states; can start at any layer.

    The parameters are `bert` (those of `BertEncoder`) and `head`.

    Attributes:
      bert: the layers to run. If its `first_layer` is one more than its last layer, only the head
        runs.
      head_dropout: rate before the linear layer.
      num_genres: number of logits.
    """

    bert: BertEncoder
    head_dropout: float = 0.1
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          inputs: see `BertEncoder`. If only the head runs: the last layer's states after
            `pool_tokens`, <float32>[batch, hidden].
          lengths: see `BertEncoder`; ignored if only the head runs.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres]; the states of each layer that ran, `layer<n>`
          <float32>[batch, length, hidden]; `sentence` <float32>[batch, hidden], the last layer's
          states pooled as `bert.pooling` says; and `embedding` <float32>[batch, hidden], the
          sentence vector scaled to an L2 norm of sqrt(hidden). The scaling is the same whether or
          not the published model ends with sentence-transformers' module Normalize, which scales
          to a norm of 1: with it, `embedding` is the published vector times sqrt(hidden); without
          it, only the direction of the published vector is kept.
        """
        states, sentence = {}, inputs
        if self.bert.first_layer <= self.bert.last:
            states = self.bert(inputs, lengths, train=train)
            sentence = pool_tokens(states[f"layer{self.bert.last}"], lengths, self.bert.pooling)
        head = _Head(self.head_dropout, self.num_genres, name="head")
        logits, intermediates = head(sentence, train)
        return logits, states | {"sentence": sentence} | intermediates


class _Head(nn.Module):
    """Scales a sentence vector to an L2 norm of sqrt(hidden) and maps it linearly to logits."""

    dropout: float
    num_genres: int

    @nn.compact
    def __call__(self, sentence: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps <float32>[batch, hidden] to logits, and to `embedding`, the linear layer's input."""
        # Most published sentence vectors were trained for cosine similarity, so only the direction
        # matters. The factor sqrt(hidden) brings the entries to the order of 1.
        squares = jnp.sum(sentence**2, axis=-1, keepdims=True)
        embedding = sentence * jax.lax.rsqrt(squares + 1e-12) * jnp.sqrt(sentence.shape[-1])
        x = Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}
