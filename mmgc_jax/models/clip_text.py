"""The text tower of CLIP."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.models.transformer import PreNormLayer, dense, initial, layer_norm
from mmgc_jax.ops.kernels import Kernels


class CLIPText(nn.Module):
    """The text tower of CLIP (Radford et al., arXiv 2103.00020).

    A transformer in which a token sees itself and the tokens before it. The state of the last token
    is projected to the space that texts share with images. The default sizes are those of
    ViT-B/32's tower.

    Attributes:
      vocabulary_size: number of token ids.
      hidden: size of a state.
      layers: number of layers.
      heads: number of attention heads; must divide `hidden`.
      intermediate: size of the first of a layer's two dense layers.
      max_length: number of position embeddings, the maximum length of a text in tokens.
      activation: one of `transformer.ACTIVATIONS`.
      norm_epsilon: epsilon of all LayerNorms.
      projection: size of the shared space.
      kernels: implementation of the gradient's bfloat16 matmuls.
    """

    vocabulary_size: int = 49408
    hidden: int = 512
    layers: int = 12
    heads: int = 8
    intermediate: int = 2048
    max_length: int = 77
    activation: str = "quick_gelu"
    norm_epsilon: float = 1e-5
    projection: int = 512
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Maps texts to the shared space.

        Args:
          tokens: <int32>[batch, length], padded at the end; padding does not matter.
          lengths: <int32>[batch], number of tokens without padding, at least 1.

        Returns:
          <float32>[batch, projection].

        Raises:
          ValueError: if the texts are longer than `max_length`.
        """
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"the texts have {length} tokens, but max_length={self.max_length}")
        words = nn.Embed(self.vocabulary_size, self.hidden, embedding_init=initial, name="words")
        positions = self.param("positions", initial, (self.max_length, self.hidden))
        x = words(tokens) + positions[:length]
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
        for number in range(1, self.layers + 1):
            x = PreNormLayer(
                self.heads,
                self.intermediate,
                self.activation,
                self.norm_epsilon,
                kernels=self.kernels,
                name=f"layer{number}",
            )(x, mask, False)
        last = x[jnp.arange(len(x)), lengths - 1]
        project = dense("float32")(self.projection, use_bias=False, name="projection")
        return project(layer_norm(self.norm_epsilon, "norm")(last))
