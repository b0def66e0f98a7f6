"""BERT, or a range of its layers, and mean pooling of its states."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.ops.matmul import matmul_bfloat16

# The published BERT's value.
_NORM_EPSILON = 1e-12
# Standard deviation of BERT's initial weights.
_initial = nn.initializers.normal(0.02)


def mean_of_tokens(states: jax.Array, lengths: jax.Array) -> jax.Array:
    """Averages the states of all tokens but the padding: sentence-transformers' mean pooling.

    Args:
      states: <float>[batch, length, hidden].
      lengths: <int32>[batch], number of tokens without padding; less than 1 counts as 1.

    Returns:
      <float32>[batch, hidden].
    """
    is_token = _is_token(states, lengths)
    total = jnp.sum(jnp.where(is_token[..., None], states.astype(jnp.float32), 0), axis=1)
    return total / jnp.sum(is_token, axis=1, keepdims=True)


def _is_token(inputs: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the padding mask <bool>[batch, length]: True for tokens, False for padding.

    The first position is always True, so that means and attention are defined for empty texts:
    lengths [2, 0] padded to 3 give [[1, 1, 0], [1, 0, 0]].
    """
    return jnp.arange(inputs.shape[1]) < jnp.maximum(lengths, 1)[:, None]


class BertEncoder(nn.Module):
    """BERT (Devlin et al., arXiv 1810.04805), or a range of its layers.

    Word and position embeddings are followed by transformer layers. Each layer has two sublayers,
    self-attention and two dense layers with a GELU between them; a residual connection and a
    LayerNorm follow each sublayer. All tokens of a text belong to the same segment. The default
    sizes are those of MiniLM-L6-H384 (Wang et al., arXiv 2002.10957).

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
                self.vocabulary_size, self.hidden, self.max_length, self.dropout, name="embeddings"
            )(inputs, train)
        mask = _is_token(inputs, lengths)
        for number in range(self.first_layer, self.last + 1):
            layer = _Layer(
                self.heads,
                self.intermediate,
                self.dropout,
                self.dtype,
                self.kernels.transpose_first,
                name=f"layer{number}",
            )
            x = outputs[f"layer{number}"] = layer(x, mask, train)
        return outputs

    def _check(self, inputs: jax.Array) -> None:
        if inputs.shape[1] > self.max_length:
            length = inputs.shape[1]
            raise ValueError(f"the texts have {length} tokens, but max_length={self.max_length}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, not one of float32, bfloat16")
        if not 1 <= self.first_layer <= self.last + 1 <= self.layers + 1:
            raise ValueError(
                f"first_layer={self.first_layer} and last_layer={self.last_layer} are not a range "
                f"of {self.layers} layers"
            )


class _Embeddings(nn.Module):
    """Adds word, position and segment embeddings, and applies LayerNorm and dropout."""

    vocabulary_size: int
    hidden: int
    max_length: int
    dropout: float

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        """Maps <int32>[batch, length] to <float32>[batch, length, hidden]."""
        embed = functools.partial(nn.Embed, features=self.hidden, embedding_init=_initial)
        words = embed(self.vocabulary_size, name="words")(tokens)
        positions = embed(self.max_length, name="positions")(jnp.arange(tokens.shape[1]))
        # BERT has two segments with an embedding each; here all tokens belong to the first.
        segment = self.param("segment", _initial, (self.hidden,))
        x = _norm("norm")(words + positions + segment)
        return Dropout(self.dropout, deterministic=not train)(x)


class _Layer(nn.Module):
    """A transformer layer: self-attention and two dense layers.

    Attributes: see `BertEncoder`; for transpose_first see `matmul.matmul_transposed`.
    """

    heads: int
    intermediate: int
    dropout: float
    dtype: str
    transpose_first: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Maps <float32>[batch, length, hidden] to the same shape; mask <bool>[batch, length]."""
        dot_general = None
        if self.dtype == "bfloat16":
            dot_general = functools.partial(_dot_general_bfloat16, self.transpose_first)
        dense = functools.partial(nn.Dense, kernel_init=_initial, dot_general=dot_general)
        dropout = Dropout(self.dropout, deterministic=not train)
        hidden = x.shape[-1]

        def heads(name: str) -> jax.Array:
            projected = dense(hidden, name=name)(x)
            return projected.reshape(*x.shape[:2], self.heads, -1).astype(self.dtype)

        einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        attended = nn.dot_product_attention(
            heads("query"),
            heads("key"),
            heads("value"),
            mask=mask[:, None, None, :],
            dropout_rng=self.make_rng("dropout") if train and self.dropout else None,
            dropout_rate=self.dropout,
            deterministic=not train,
            force_fp32_for_softmax=True,
            qk_attn_weights_einsum=einsum,
            attn_weights_value_einsum=einsum,
        )
        attended = dense(hidden, name="attention_output")(attended.reshape(x.shape))
        x = _norm("attention_norm")(x + dropout(attended))
        # BERT uses the exact GELU, by the error function, not the tanh approximation.
        between = nn.gelu(dense(self.intermediate, name="intermediate")(x), approximate=False)
        output = dense(hidden, name="output")(between)
        return _norm("output_norm")(x + dropout(output))


def _norm(name: str) -> nn.LayerNorm:
    # Flax's fast variance, E[x^2] - E[x]^2, is less precise.
    return nn.LayerNorm(epsilon=_NORM_EPSILON, use_fast_variance=False, name=name)


def _dot_general_bfloat16(
    transpose_first: bool, x: jax.Array, kernel: jax.Array, *_, **__
) -> jax.Array:
    """Replaces `lax.dot_general` in `nn.Dense`, with factors rounded to bfloat16."""
    return matmul_bfloat16(x, kernel, transpose_first)
