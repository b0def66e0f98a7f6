"""Parts that transformers share: dense layers, normalisation, attention and pre-norm layers."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.ops.matmul import matmul_bfloat16

# Standard deviation of BERT's and ViT's initial weights.
initial = nn.initializers.normal(0.02)

# Values of the attribute `activation` of transformers. BERT's and DINOv2's GELU is the exact one,
# by the error function; SigLIP has the approximation by tanh, CLIP that by a sigmoid.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


def dense(dtype: str, transpose_first: bool = False) -> Callable[..., nn.Dense]:
    """Returns `nn.Dense` with factors in a dtype; sums and parameters are float32.

    Args:
      dtype: `float32` or `bfloat16`.
      transpose_first: for the gradient; see `matmul.matmul_transposed`.
    """
    dot_general = None
    if dtype == "bfloat16":
        dot_general = functools.partial(_dot_general_bfloat16, transpose_first)
    return functools.partial(nn.Dense, kernel_init=initial, dot_general=dot_general)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Makes a LayerNorm with the more precise variance."""
    # Flax's fast variance, E[x^2] - E[x]^2, is less precise.
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    heads: int,
    dtype: str,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Computes attention with several heads (Vaswani et al., arXiv 1706.03762).

    Args:
      query: <float32>[batch, queries, hidden].
      key: <float32>[batch, length, hidden].
      value: <float32>[batch, length, hidden].
      heads: number of heads; must divide `hidden`.
      dtype: `float32` or `bfloat16`, the dtype of the factors; sums are float32.
      bias: added to the logits of attention, <float32>[1, heads, queries, length].
      mask: which keys a query sees, <bool>, broadcast to [batch, heads, queries, length].
      dropout: rate on the attention weights, with the same mask for all texts and heads.
      dropout_key: random key of the dropout; None turns it off.

    Returns:
      <float32>[batch, queries, hidden].
    """

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], heads, -1).astype(dtype)

    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    attended = nn.dot_product_attention(
        split(query),
        split(key),
        split(value),
        bias,
        mask=mask,
        dropout_rng=dropout_key,
        dropout_rate=dropout,
        deterministic=dropout_key is None,
        force_fp32_for_softmax=True,
        qk_attn_weights_einsum=einsum,
        attn_weights_value_einsum=einsum,
    )
    return attended.reshape(query.shape)


class PreNormLayer(nn.Module):
    """A transformer layer with a LayerNorm before each sublayer, as in ViT (arXiv 2010.11929).

    Attributes:
      heads: number of attention heads.
      intermediate: size of the first of the two dense layers.
      activation: one of `ACTIVATIONS`, between the dense layers.
      norm_epsilon: epsilon of both LayerNorms.
      layer_scale: whether each sublayer's output is scaled by a learned vector (arXiv 2103.17239).
      dropout: rate on the attention weights and after each sublayer.
      dtype: dtype of the factors in matmuls.
      kernels: implementation of the gradient's bfloat16 matmuls.
    """

    heads: int
    intermediate: int
    activation: str
    norm_epsilon: float
    layer_scale: bool = False
    dropout: float = 0.0
    dtype: str = "float32"
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        """Maps <float32>[batch, length, hidden] to the same shape.

        Args:
          x: the states.
          mask: see `attend`.
          train: whether to apply dropout.
        """
        hidden = x.shape[-1]
        linear = dense(self.dtype, self.kernels.transpose_first)
        dropout = Dropout(self.dropout, deterministic=not train)

        def add(x: jax.Array, y: jax.Array, name: str) -> jax.Array:
            if self.layer_scale:
                y *= self.param(f"{name}_scale", nn.initializers.ones, (hidden,))
            return x + dropout(y)

        y = layer_norm(self.norm_epsilon, "attention_norm")(x)
        attended = attend(
            *(linear(hidden, name=name)(y) for name in ("query", "key", "value")),
            self.heads,
            self.dtype,
            mask=mask,
            dropout=self.dropout,
            dropout_key=self.make_rng("dropout") if train and self.dropout else None,
        )
        x = add(x, linear(hidden, name="attention_output")(attended), "attention")
        y = layer_norm(self.norm_epsilon, "intermediate_norm")(x)
        y = ACTIVATIONS[self.activation](linear(self.intermediate, name="intermediate")(y))
        return add(x, linear(hidden, name="output")(y), "output")


def _dot_general_bfloat16(
    transpose_first: bool, x: jax.Array, kernel: jax.Array, *_, **__
) -> jax.Array:
    """Replaces `lax.dot_general` in `nn.Dense`, with factors rounded to bfloat16."""
    return matmul_bfloat16(x, kernel, transpose_first)
