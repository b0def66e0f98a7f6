"""BERT and its relatives, or a range of their layers, and pooling of their states."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.models.transformer import ACTIVATIONS, attend, dense, initial, layer_norm
from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.kernels import Kernels

# Values of the argument `pooling` of `pool_tokens`.
POOLINGS = ("mean", "cls", "max")
# Largest distance that the buckets of the relative bias cover, as in T5 and MPNet; larger ones
# are in the last bucket.
_MAX_DISTANCE = 128


def pool_tokens(states: jax.Array, lengths: jax.Array, pooling: str = "mean") -> jax.Array:
    """Makes one vector of a text's states, without the padding, as sentence-transformers does.

    Args:
      states: <float>[batch, length, hidden].
      lengths: <int32>[batch], number of tokens without padding; less than 1 counts as 1.
      pooling: `mean` of the states, their `max` in each dimension, or the state of the first token,
        `cls`.

    Returns:
      <float32>[batch, hidden].

    Raises:
      ValueError: if `pooling` is none of these.
    """
    states = states.astype(jnp.float32)
    if pooling == "cls":
        return states[:, 0]
    is_token = _is_token(states, lengths)
    if pooling == "mean":
        total = jnp.sum(jnp.where(is_token[..., None], states, 0), axis=1)
        return total / jnp.sum(is_token, axis=1, keepdims=True)
    if pooling == "max":
        return jnp.max(states, axis=1, where=is_token[..., None], initial=-jnp.inf)
    raise ValueError(f"pooling is {pooling!r}, not one of {', '.join(POOLINGS)}")


def _is_token(inputs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the padding mask <bool>[batch, length]: True for tokens, False for padding.

    The first position is always True, so that means and attention are defined for empty texts:
    lengths [2, 0] padded to 3 give [[1, 1, 0], [1, 0, 0]].
    """
    return jnp.arange(inputs.shape[1]) < jnp.maximum(lengths, 1)[:, None]


class BertEncoder(nn.Module):
    """BERT (Devlin et al., arXiv 1810.04805) or a relative of it, or a range of its layers.

    Word and position embeddings are followed by transformer layers. Each layer has two sublayers,
    self-attention and two dense layers with a GELU between them; a residual connection and a
    LayerNorm follow each sublayer. All tokens of a text belong to the same segment. The default
    sizes are those of MiniLM-L6-H384 (Wang et al., arXiv 2002.10957).

    RoBERTa (arXiv 1907.11692) and XLM-RoBERTa (arXiv 1911.02116) are the same network with other
    sizes. DistilBERT (arXiv 1910.01108) has no segments. MPNet (arXiv 2004.09297) has none either;
    its attention has a bias for the distance and direction between two tokens. MPNet shares the
    bias among its layers; here each layer has a copy, which it trains by itself.

    The parameters are `embeddings` and `layer1` to `layer<layers>`. A range of layers uses the same
    names, so it can take the whole encoder's parameter tree. States at padding positions are
    undefined and do not affect other states.

    Attributes:
      vocabulary_size: number of token ids.
      hidden: size of a state.
      layers: number of layers in the whole encoder.
      heads: number of attention heads; must divide `hidden`.
      intermediate: size of the first of a layer's two dense layers.
      max_length: number of position embeddings, the maximum length of a text in tokens.
      segments: whether the embeddings include one for the segment.
      relative_buckets: number of buckets of distances in the relative bias; 0: no such bias.
      norm_epsilon: epsilon of all LayerNorms.
      pooling: how `pool_tokens` should make a vector of a text; the encoder itself returns states.
      dropout: rate after the embeddings, on the attention weights (with the same mask for all texts
        and heads, as in Flax) and after each sublayer.
      first_layer: first layer to run, counted from 1. Layer 1 includes the embeddings and takes
        token ids; layer n takes the output of layer n - 1.
      last_layer: last layer to run, inclusive. None: the encoder's last layer. 0: only the
        embeddings.
      dtype: `float32` or `bfloat16`, the dtype of the factors in matmuls. Sums, parameters and
        everything else are float32.
      kernels: implementation of the gradient's bfloat16 matmuls.
    """

    vocabulary_size: int = 30522
    hidden: int = 384
    layers: int = 6
    heads: int = 12
    intermediate: int = 1536
    max_length: int = 512
    segments: bool = True
    relative_buckets: int = 0
    norm_epsilon: float = 1e-12
    pooling: str = "mean"
    dropout: float = 0.1
    first_layer: int = 1
    last_layer: int | None = None
    dtype: str = "float32"
    kernels: Kernels = Kernels()

    @property
    def last(self) -> int:
        """Number of the last layer that runs."""
        return self.layers if self.last_layer is None else self.last_layer

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Runs the layers.

        Args:
          inputs: token ids <int32>[batch, length] if first_layer is 1, otherwise the preceding
            layer's states <float>[batch, length, hidden]; padded at the end.
          lengths: <int32>[batch], number of tokens without padding; less than 1 counts as 1.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          The states after each layer that ran, <float32>[batch, length, hidden] by the name
          `layer<n>`; the embeddings are `layer0`.

        Raises:
          ValueError: if the texts are longer than `max_length`, or an attribute has an invalid
            value.
        """
        self._check(inputs)
        x, outputs = inputs.astype(jnp.float32), {}
        if self.first_layer == 1:
            x = outputs["layer0"] = _Embeddings(
                self.vocabulary_size,
                self.hidden,
                self.max_length,
                self.segments,
                self.norm_epsilon,
                self.dropout,
                name="embeddings",
            )(inputs, train)
        mask = _is_token(inputs, lengths)
        buckets = None
        if self.relative_buckets:
            buckets = relative_buckets(inputs.shape[1], self.relative_buckets)
        for number in range(self.first_layer, self.last + 1):
            layer = _Layer(
                self.heads,
                self.intermediate,
                self.relative_buckets,
                self.norm_epsilon,
                self.dropout,
                self.dtype,
                self.kernels.transpose_first,
                name=f"layer{number}",
            )
            x = outputs[f"layer{number}"] = layer(x, mask, buckets, train)
        return outputs

    def _check(self, inputs: jax.Array) -> None:
        if inputs.shape[1] > self.max_length:
            length = inputs.shape[1]
            raise ValueError(f"the texts have {length} tokens, but max_length={self.max_length}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.relative_buckets % 4:
            raise ValueError(f"relative_buckets={self.relative_buckets} is not a multiple of 4")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, not one of float32, bfloat16")
        if not 1 <= self.first_layer <= self.last + 1 <= self.layers + 1:
            raise ValueError(
                f"first_layer={self.first_layer} and last_layer={self.last_layer} are not a range "
                f"of {self.layers} layers"
            )


def relative_buckets(length: int, buckets: int) -> jax.Array:
    """Returns the bucket of each pair of positions: T5's buckets (arXiv 1910.10683), both ways.

    Half of the buckets are for a key at or before the query, the others for a key after it. In each
    half, the first half of the buckets are for one distance each; each of the others is for a range
    of distances that grows with the distance. With 8 buckets, distance 0, 1, ..., 5 of a key before
    the query is in bucket 0, 1, 2, 2, 2, 2, and that of a key after it in 5, 6, 6, 6, 6 from 1 on.

    Args:
      length: number of positions.
      buckets: number of buckets, a multiple of 4.

    Returns:
      <int32>[length, length], from a query (row) to a key (column).
    """
    half, single = buckets // 2, buckets // 4
    distances = np.arange(length)
    octaves = np.log(np.maximum(distances, single) / single) / np.log(_MAX_DISTANCE / single)
    ranges = np.minimum(single + (octaves * (half - single)).astype(np.int32), half - 1)
    bucket_of = jnp.asarray(np.where(distances < single, distances, ranges), jnp.int32)
    positions = jnp.arange(length)
    difference = positions - positions[:, None]
    return bucket_of[jnp.abs(difference)] + jnp.where(difference > 0, half, 0)


class _Embeddings(nn.Module):
    """Adds the embeddings of words, positions and the segment; then LayerNorm and dropout.

    Attributes: see `BertEncoder`.
    """

    vocabulary_size: int
    hidden: int
    max_length: int
    segments: bool
    norm_epsilon: float
    dropout: float

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        """Maps <int32>[batch, length] to <float32>[batch, length, hidden]."""
        embed = functools.partial(nn.Embed, features=self.hidden, embedding_init=initial)
        words = embed(self.vocabulary_size, name="words")(tokens)
        positions = embed(self.max_length, name="positions")(jnp.arange(tokens.shape[1]))
        x = words + positions
        if self.segments:
            # BERT has two segments with an embedding each; here all tokens belong to the first.
            x += self.param("segment", initial, (self.hidden,))
        x = layer_norm(self.norm_epsilon, "norm")(x)
        return Dropout(self.dropout, deterministic=not train)(x)


class _Layer(nn.Module):
    """A transformer layer: self-attention and two dense layers.

    Attributes: see `BertEncoder`; for transpose_first see `matmul.matmul_transposed`.
    """

    heads: int
    intermediate: int
    relative_buckets: int
    norm_epsilon: float
    dropout: float
    dtype: str
    transpose_first: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, buckets: jax.Array | None, train: bool
    ) -> jax.Array:
        """Maps <float32>[batch, length, hidden] to the same shape.

        Args:
          x: the states.
          mask: <bool>[batch, length], True for tokens.
          buckets: `relative_buckets`; None without a relative bias.
          train: whether to apply dropout.
        """
        hidden, bias = x.shape[-1], None
        linear = dense(self.dtype, self.transpose_first)
        dropout = Dropout(self.dropout, deterministic=not train)
        if buckets is not None:
            of_bucket = self.param("relative_bias", initial, (self.relative_buckets, self.heads))
            bias = of_bucket[buckets].transpose(2, 0, 1)[None]
        attended = attend(
            *(linear(hidden, name=name)(x) for name in ("query", "key", "value")),
            self.heads,
            self.dtype,
            bias,
            mask[:, None, None, :],
            self.dropout,
            self.make_rng("dropout") if train and self.dropout else None,
        )
        attended = linear(hidden, name="attention_output")(attended)
        x = layer_norm(self.norm_epsilon, "attention_norm")(x + dropout(attended))
        between = ACTIVATIONS["gelu"](linear(self.intermediate, name="intermediate")(x))
        output = linear(hidden, name="output")(between)
        return layer_norm(self.norm_epsilon, "output_norm")(x + dropout(output))
