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
      head_layers: number of layers whose pooled states the linear layer takes, counted from the
        last one; all of them must run, or none. A linear layer often finds more in a transformer's
        middle layers than in its last one (Liu et al., arXiv 1903.08855).
    """

    bert: BertEncoder
    head_dropout: float = 0.1
    num_genres: int = 24
    head_layers: int = 1

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          inputs: see `BertEncoder`. If only the head runs: `sentence`, as below.
          lengths: see `BertEncoder`; ignored if only the head runs.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres]; the states of each layer that ran, `layer<n>`
          <float32>[batch, length, hidden]; `sentence` <float32>[batch, head_layers * hidden], the
          states pooled as `bert.pooling` says, the last layer's at the end; and `embedding`
          <float32>[batch, head_layers * hidden], each layer's part of it scaled to an L2 norm of
          sqrt(hidden). The scaling is the same whether or not the published model ends with
          sentence-transformers' module Normalize, which scales to a norm of 1: with it, the last
          part is the published vector times sqrt(hidden); without it, only the direction of the
          published vector is kept.
        """
        states, sentence = {}, inputs
        if self.bert.first_layer <= self.bert.last:
            states = self.bert(inputs, lengths, train=train)
            sentence = pool_layers(states, lengths, self.bert, self.head_layers)
        head = _Head(self.head_dropout, self.num_genres, self.head_layers, name="head")
        logits, intermediates = head(sentence, train)
        return logits, states | {"sentence": sentence} | intermediates


def pool_layers(
    states: dict[str, jax.Array], lengths: jax.Array, bert: BertEncoder, count: int
) -> jax.Array:
    """Pools the states of the last layers that ran, as `bert.pooling` says.

    Args:
      states: the states of the layers, as `bert` returns them.
      lengths: <int32>[batch], number of tokens without padding.
      bert: the layers.
      count: number of layers to pool.

    Returns:
      <float32>[batch, count * hidden], the last layer's at the end.
    """
    numbers = range(bert.last - count + 1, bert.last + 1)
    pooled = [pool_tokens(states[f"layer{number}"], lengths, bert.pooling) for number in numbers]
    return jnp.concatenate(pooled, axis=-1)


class _Head(nn.Module):
    """Scales each layer's pooled states to an L2 norm of sqrt(hidden), then maps them to logits."""

    dropout: float
    num_genres: int
    layers: int

    @nn.compact
    def __call__(self, sentence: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps <float32>[batch, features] to logits; also returns the linear layer's input."""
        # Most published sentence vectors were trained for cosine similarity, so only the direction
        # matters. The factor sqrt(hidden) brings the entries to the order of 1.
        of_layers = sentence.reshape(*sentence.shape[:-1], self.layers, -1)
        squares = jnp.sum(of_layers**2, axis=-1, keepdims=True)
        scaled = of_layers * jax.lax.rsqrt(squares + 1e-12) * jnp.sqrt(of_layers.shape[-1])
        embedding = scaled.reshape(sentence.shape)
        x = Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}
