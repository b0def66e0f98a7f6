"""The transformer plot encoder: BERT and a linear layer on the mean of its states."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.models.bert import BertEncoder, mean_of_tokens
from mmgc_jax.ops.dropout import Dropout


class PlotTransformer(nn.Module):
    """BERT and a linear layer on the mean of its states, whole or from a layer on.

    Parameters: `bert` (a tree as of `BertEncoder`) and `head`.

    Attributes:
      bert: the layers to run, with their kernels. If its `first_layer` is the one after its last
        layer, only the head runs.
      head_dropout: rate before the last layer.
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
          inputs: as in `BertEncoder`; for the head alone `mean_of_tokens` of the last layer's
            states, <float32>[batch, hidden].
          lengths: as in `BertEncoder`; ignored by the head alone.
          train: whether to apply dropout, which needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres]; every layer's states; `sentence`, their mean over the
          true tokens, and `embedding`, the mean scaled to length sqrt(hidden), both
          <float32>[batch, hidden].
        """
        states, sentence = {}, inputs
        if self.bert.first_layer <= self.bert.last:
            states = self.bert(inputs, lengths, train=train)
            sentence = mean_of_tokens(states[f"layer{self.bert.last}"], lengths)
        head = _Head(self.head_dropout, self.num_genres, name="head")
        logits, intermediates = head(sentence, train)
        return logits, states | {"sentence": sentence} | intermediates


class _Head(nn.Module):
    """Scales a sentence vector to length sqrt(hidden) and maps it linearly to logits."""

    dropout: float
    num_genres: int

    @nn.compact
    def __call__(self, sentence: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps <float32>[batch, hidden] to logits and `embedding`, the input of `genres`."""
        # sentence-transformers compares directions; the factor makes entries of order one.
        squares = jnp.sum(sentence**2, axis=-1, keepdims=True)
        embedding = sentence * jax.lax.rsqrt(squares + 1e-12) * jnp.sqrt(sentence.shape[-1])
        x = Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}
