"""Vision transformers, or a range of their layers: the image towers of CLIP, SigLIP and DINOv2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.models.transformer import (
    ACTIVATIONS,
    PreNormLayer,
    attend,
    dense,
    initial,
    layer_norm,
)
from mmgc_jax.models.vgg16 import preprocess
from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.kernels import Kernels


class ViT(nn.Module):
    """A vision transformer (ViT; Dosovitskiy et al., arXiv 2010.11929), or a range of its layers.

    The image is cut into patches. A dense layer makes a vector of each, position embeddings are
    added, transformer layers follow, and at the end the tokens are pooled to one vector. The
    families differ:

    - CLIP (arXiv 2103.00020): `class_token`, `embedding_norm`, `activation="quick_gelu"`, no
      `patch_bias`, and a `projection` to the space that images share with texts.
    - SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) with a fixed resolution:
      `attention_pooling`, no `class_token`, `activation="gelu_tanh"`.
    - DINOv2 (arXiv 2304.07193): `class_token`, `layer_scale` and, in some, `registers` (arXiv
      2309.16588).

    A range of layers has the names of the whole network's parameters, so it can take its parameter
    tree; `block_of` says which layer a part runs with.

    Layer 1 includes the embeddings, which begin with `preprocess`. Its `mean` and `std` depend on
    how the weights were trained, so they are parameters, `preprocessing`. Their gradient is zero,
    so training does not change them. The last layer includes the pooling.

    Attributes:
      image_size: height and width of the images in pixels. What is left beside whole patches, at
        the bottom and on the right, is not used.
      patch_size: height and width of a patch in pixels.
      hidden: size of a state.
      layers: number of layers in the whole network.
      heads: number of attention heads; must divide `hidden`.
      intermediate: size of the first of a layer's two dense layers.
      class_token: whether a learned token precedes the patches.
      registers: number of learned tokens, without positions, between the class token and the
        patches; needs a class token.
      patch_bias: whether the dense layer of the patches has a bias.
      embedding_norm: whether a LayerNorm follows the embeddings.
      layer_scale: whether each sublayer's output is scaled by a learned vector.
      attention_pooling: whether a learned query attends to all tokens at the end, and two dense
        layers follow. Otherwise the class token's state is the result.
      activation: one of `transformer.ACTIVATIONS`.
      norm_epsilon: epsilon of all LayerNorms.
      projection: size of the output of a last dense layer, without bias; None: no such layer.
      dropout: rate after the embeddings, on the attention weights and after each sublayer.
      first_layer: first layer to run, counted from 1. Layer 1 takes images; layer n takes the
        output of layer n - 1.
      last_layer: last layer to run, inclusive. None: the network's last layer. 0: only the
        embeddings.
      dtype: `float32` or `bfloat16`, the dtype of the factors in matmuls. Sums, parameters and
        everything else are float32.
      kernels: implementation of the gradient's bfloat16 matmuls.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    class_token: bool = True
    registers: int = 0
    patch_bias: bool = True
    embedding_norm: bool = False
    layer_scale: bool = False
    attention_pooling: bool = False
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    projection: int | None = None
    dropout: float = 0.0
    first_layer: int = 1
    last_layer: int | None = None
    dtype: str = "float32"
    kernels: Kernels = Kernels()

    @property
    def last(self) -> int:
        """Number of the last layer that runs."""
        return self.layers if self.last_layer is None else self.last_layer

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches in a column and in a row."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Runs the layers.

        Args:
          inputs: RGB images <uint8>[batch, height, width, 3] if first_layer is 1, otherwise the
            preceding layer's states <float>[batch, tokens, hidden]. The tokens are the class token,
            the registers and the patches, row by row.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          The states after each layer that ran, <float32>[batch, tokens, hidden] by the name
          `layer<n>`; the embeddings are `layer0`. If the network's last layer runs, also
          `features` <float32>[batch, hidden], the pooled tokens, and with a projection `projected`
          <float32>[batch, projection].

        Raises:
          ValueError: if the images do not have the size `image_size`, or an attribute has an
            invalid value.
        """
        self._check(inputs)
        x, outputs = inputs, {}
        if self.first_layer == 1:
            preprocessing = self.param("preprocessing", _no_preprocessing)
            x = preprocess(inputs, **jax.lax.stop_gradient(preprocessing))
            embed = _Embeddings(
                self.patch_size,
                self.hidden,
                self.class_token,
                self.registers,
                self.patch_bias,
                self.dtype,
                self.kernels,
                name="embeddings",
            )
            x = embed(x)
            if self.embedding_norm:
                x = layer_norm(self.norm_epsilon, "embedding_norm")(x)
            x = outputs["layer0"] = Dropout(self.dropout, deterministic=not train)(x)
        x = x.astype(jnp.float32)
        for number in range(self.first_layer, self.last + 1):
            layer = PreNormLayer(
                self.heads,
                self.intermediate,
                self.activation,
                self.norm_epsilon,
                self.layer_scale,
                self.dropout,
                self.dtype,
                self.kernels,
                name=f"layer{number}",
            )
            x = outputs[f"layer{number}"] = layer(x, None, train)
        if self.last == self.layers:
            x = layer_norm(self.norm_epsilon, "norm")(x if self.attention_pooling else x[:, 0])
            if self.attention_pooling:
                x = _AttentionPooling(
                    self.heads,
                    self.intermediate,
                    self.activation,
                    self.norm_epsilon,
                    self.dtype,
                    self.kernels,
                    name="pooling",
                )(x)
            outputs["features"] = x
            if self.projection is not None:
                project = dense(self.dtype, self.kernels.transpose_first)
                project = project(self.projection, use_bias=False, name="projection")
                outputs["projected"] = project(x)
        return outputs

    def _check(self, inputs: jax.Array) -> None:
        if self.first_layer == 1 and inputs.shape[1:] != (*self.image_size, 3):
            raise ValueError(
                f"the images have the shape {inputs.shape[1:]}, but image_size={self.image_size}"
            )
        if min(self.grid) < 1:
            raise ValueError(f"image_size={self.image_size} is below patch_size={self.patch_size}")
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}, not one of {', '.join(ACTIVATIONS)}"
            )
        if not self.class_token and (self.registers or not self.attention_pooling):
            raise ValueError("without a class token, attention_pooling and no registers are needed")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, not one of float32, bfloat16")
        if not 1 <= self.first_layer <= self.last + 1 <= self.layers + 1:
            raise ValueError(
                f"first_layer={self.first_layer} and last_layer={self.last_layer} are not a range "
                f"of {self.layers} layers"
            )


class _Embeddings(nn.Module):
    """Makes a vector of each patch and adds its position, and the tokens before the patches.

    Attributes: see `ViT`.
    """

    patch_size: int
    hidden: int
    class_token: bool
    registers: int
    patch_bias: bool
    dtype: str
    kernels: Kernels

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps <float32>[batch, height, width, 3] to <float32>[batch, tokens, hidden]."""
        side = self.patch_size
        batch, rows, columns = images.shape[0], images.shape[1] // side, images.shape[2] // side
        pixels = images[:, : rows * side, : columns * side]
        # A convolution with a stride of its own size, as a matmul.
        pixels = pixels.reshape(batch, rows, side, columns, side, 3).swapaxes(2, 3)
        pixels = pixels.reshape(batch, rows * columns, side * side * 3)
        project = dense(self.dtype, self.kernels.transpose_first)
        x = project(self.hidden, use_bias=self.patch_bias, name="patches")(pixels)
        if self.class_token:
            token = self.param("class_token", initial, (self.hidden,))
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, self.hidden)), x], axis=1)
        x += self.param("positions", initial, x.shape[1:])
        if self.registers:
            tokens = self.param("registers", initial, (self.registers, self.hidden))
            tokens = jnp.broadcast_to(tokens, (batch, *tokens.shape))
            x = jnp.concatenate([x[:, :1], tokens, x[:, 1:]], axis=1)
        return x


class _AttentionPooling(nn.Module):
    """Pools tokens by attention with one learned query, the probe; two dense layers follow.

    Attributes: see `ViT`.
    """

    heads: int
    intermediate: int
    activation: str
    norm_epsilon: float
    dtype: str
    kernels: Kernels

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps <float32>[batch, tokens, hidden] to <float32>[batch, hidden]."""
        batch, _, hidden = x.shape
        linear = dense(self.dtype, self.kernels.transpose_first)
        probe = jnp.broadcast_to(self.param("probe", initial, (hidden,)), (batch, 1, hidden))
        query = linear(hidden, name="query")(probe)
        key, value = linear(hidden, name="key")(x), linear(hidden, name="value")(x)
        attended = attend(query, key, value, self.heads, self.dtype)[:, 0]
        x = linear(hidden, name="attention_output")(attended)
        y = layer_norm(self.norm_epsilon, "intermediate_norm")(x)
        y = ACTIVATIONS[self.activation](linear(self.intermediate, name="intermediate")(y))
        return x + linear(hidden, name="output")(y)


def block_of(part: str, layers: int) -> int:
    """Returns the layer that a top-level part of the parameters runs with.

    Args:
      part: such as `embeddings`, `layer3` or `pooling`.
      layers: number of layers in the whole network.
    """
    if part in ("preprocessing", "embeddings", "embedding_norm"):
        return 1
    return layers if part in ("norm", "pooling", "projection") else int(part.removeprefix("layer"))


def _no_preprocessing(key: jax.Array) -> dict[str, jax.Array]:
    del key  # not random
    return {"mean": jnp.full(3, 127.5), "std": jnp.full(3, 127.5)}
