"""The other plot encoder: BERT, whole or some of its layers, and one logit for each genre."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.matmul import product_bfloat16

# As BERT's authors have it; a variance is never as small.
_NORM_EPSILON = 1e-12
# Standard deviation of BERT's random weights.
_initial = nn.initializers.normal(0.02)


def mean_of_tokens(states: jax.Array, lengths: jax.Array) -> jax.Array:
    """The mean of the true tokens' states, as sentence-transformers pools them.

    Args:
      states: <float>[batch, length, hidden].
      lengths: <int32>[batch], number of true tokens, at least 1 counted.

    Returns:
      <float32>[batch, hidden].
    """
    is_token = _is_token(states, lengths)
    total = jnp.sum(jnp.where(is_token[..., None], states.astype(jnp.float32), 0), axis=1)
    return total / jnp.sum(is_token, axis=1, keepdims=True)


def _is_token(inputs: jax.Array, lengths: jax.Array) -> jax.Array:
    """<bool>[batch, length]: not padding. The first one never is, so that no mean is of nothing."""
    return jnp.arange(inputs.shape[1]) < jnp.maximum(lengths, 1)[:, None]


class BertEncoder(nn.Module):
    """BERT (Devlin et al., arXiv 1810.04805), or some of its layers.

    Embeddings of words and positions, then layers of self-attention and of two dense layers with
    GELU, each added to its input and normalised after that. Every text is one segment. The defaults
    are the sizes of MiniLM-L6-H384 (Wang et al., arXiv 2002.10957).

    Parts are named `embeddings` and `layer1` to `layer<layers>`, in every part, so that parts share
    one parameter tree. States of padding mean nothing, and change no other state.

    Attributes:
      vocabulary_size: number of token ids.
      hidden: size of a state.
      layers: number of layers of the whole.
      heads: of the attention; they share `hidden` evenly.
      intermediate: size of the first dense layer.
      max_length: number of positions.
      dropout: rate after the embeddings, on the attention (there alike for every text and head, as
        Flax has it) and after each of the two sublayers.
      first_layer: where to begin; the input of layer n is what layer n - 1 puts out. Layer 1 begins
        with the embeddings.
      last_layer: where to end, inclusive; None is the last of all, 0 are the embeddings alone.
      dtype: `float32` or `bfloat16`, of the factors in matrix products. Their sums and everything
        else, parameters included, are float32.
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

    @property
    def last(self) -> int:
        """The number of the last layer that runs."""
        return self.layers if self.last_layer is None else self.last_layer

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> dict[str, jax.Array]:
        """Runs the layers.

        Args:
          inputs: token ids <int32>[batch, length] if first_layer is 1, otherwise the preceding
            layer's states <float>[batch, length, hidden]; padded at the end.
          lengths: <int32>[batch], number of true tokens, at least 1 counted.
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          `layer<n>` <float32>[batch, length, hidden] for each layer that ran; with embeddings also
          `layer0`.

        Raises:
          ValueError: if a text is longer than `max_length`, or a setting is none of those above.
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
                self.heads, self.intermediate, self.dropout, self.dtype, name=f"layer{number}"
            )
            x = outputs[f"layer{number}"] = layer(x, mask, train)
        return outputs

    def _check(self, inputs: jax.Array) -> None:
        if inputs.shape[1] > self.max_length:
            raise ValueError(f"{inputs.shape[1]} tokens, but max_length={self.max_length}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is no multiple of heads={self.heads}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, not one of float32, bfloat16")
        if not 1 <= self.first_layer <= self.last + 1 <= self.layers + 1:
            raise ValueError(
                f"first_layer={self.first_layer} and last_layer={self.last_layer} are no part of "
                f"{self.layers} layers"
            )


class _Embeddings(nn.Module):
    """What enters the first layer: <int32>[batch, length] to <float32>[batch, length, hidden]."""

    vocabulary_size: int
    hidden: int
    max_length: int
    dropout: float

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        embed = functools.partial(nn.Embed, features=self.hidden, embedding_init=_initial)
        words = embed(self.vocabulary_size, name="words")(tokens)
        positions = embed(self.max_length, name="positions")(jnp.arange(tokens.shape[1]))
        # BERT tells the first of two texts from the second; here there is but one.
        segment = self.param("segment", _initial, (self.hidden,))
        x = _norm("norm")(words + positions + segment)
        return Dropout(self.dropout, deterministic=not train)(x)


class _Layer(nn.Module):
    """Attention and two dense layers, <float32>[batch, length, hidden] to the same.

    The mask is <bool>[batch, length], False for padding.
    """

    heads: int
    intermediate: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        dot_general = _dense_bfloat16 if self.dtype == "bfloat16" else None
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
        # The exact GELU, with the error function.
        between = nn.gelu(dense(self.intermediate, name="intermediate")(x), approximate=False)
        output = dense(hidden, name="output")(between)
        return _norm("output_norm")(x + dropout(output))


def _norm(name: str) -> nn.LayerNorm:
    # The fast variance, a difference of two squares, loses digits.
    return nn.LayerNorm(epsilon=_NORM_EPSILON, use_fast_variance=False, name=name)


def _dense_bfloat16(x: jax.Array, kernel: jax.Array, *_, **__) -> jax.Array:
    """`lax.dot_general` as `nn.Dense` uses it, with factors rounded to bfloat16."""
    return product_bfloat16(x, kernel)


class PlotTransformer(nn.Module):
    """BERT and a linear layer on the mean of its states, whole or from a layer on.

    Parameters: `bert` (a tree as of `BertEncoder`) and `head`.

    Attributes:
      bert: the layers to run. If its `first_layer` is the one after its last layer, only the head
        runs.
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
          inputs: as of `BertEncoder`; for the head alone what `mean_of_tokens` makes of the last
            layer's states, <float32>[batch, hidden].
          lengths: as of `BertEncoder`; for the head alone it is not looked at.
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres]; every layer's states, `sentence`, their mean over the
          true tokens, and `embedding`, the same as the head sees it, <float32>[batch, hidden] both.
        """
        states, sentence = {}, inputs
        if self.bert.first_layer <= self.bert.last:
            states = self.bert(inputs, lengths, train=train)
            sentence = mean_of_tokens(states[f"layer{self.bert.last}"], lengths)
        head = _Head(self.head_dropout, self.num_genres, name="head")
        logits, intermediates = head(sentence, train)
        return logits, states | {"sentence": sentence} | intermediates


class _Head(nn.Module):
    """<float32>[batch, hidden] to logits and the `embedding` that the layer `genres` takes."""

    dropout: float
    num_genres: int

    @nn.compact
    def __call__(self, sentence: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        # sentence-transformers compares directions; the factor makes entries of order one.
        squares = jnp.sum(sentence**2, axis=-1, keepdims=True)
        embedding = sentence * jax.lax.rsqrt(squares + 1e-12) * jnp.sqrt(sentence.shape[-1])
        x = Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}
