"""The poster encoder: VGG16 and a head of fully connected layers."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.convolution import convolve, map_images, max_pool

# What the published Caffe and Keras weights want: pixels from 0 to 255, minus ImageNet's means of
# R, G and B.
KERAS_MEAN = (123.68, 116.779, 103.939)
KERAS_STD = (1.0, 1.0, 1.0)
# ITU-R BT.601 luma of R, G and B, as Pillow's mode "L" computes it.
_LUMA = (0.299, 0.587, 0.114)

BLOCKS = (1, 2, 3, 4, 5)
# Height and width of the map that the dense layers take.
TOP_SIDE = 7


def preprocess(
    posters: jax.Array, mean: jax.Array, std: jax.Array, grey: bool = False
) -> jax.Array:
    """From pixels to the network's input.

    Args:
      posters: <uint8>[batch, height, width, 3], RGB.
      mean: <float32>[3], of R, G and B, from 0 to 255.
      std: <float32>[3], likewise, above 0.
      grey: whether one channel of luma comes out, or three in the order RGB.

    Returns:
      <float32>[batch, height, width, 1 or 3]: (pixels - mean) / std; for one channel all three are
      taken as luma.
    """
    pixels = posters.astype(jnp.float32)
    if grey:
        pixels, mean, std = (_luma(colours) for colours in (pixels, mean, std))
    return (pixels - mean) / std


def _luma(colours: jax.Array) -> jax.Array:
    """<float32>[..., 3] to <float32>[..., 1]."""
    # A sum of products, since matrix units round their operands.
    return jnp.sum(colours * jnp.array(_LUMA), axis=-1, keepdims=True)


def to_grey_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel for one channel that equals the colour kernel on three copies of that channel.

    Args:
      kernel: <float>[height, width, 3, out].

    Returns:
      <float>[height, width, 1, out], the sum over the input channels.
    """
    return kernel.sum(axis=2, keepdims=True)


class VGG16(nn.Module):
    """VGG16 (Simonyan and Zisserman, arXiv 1409.1556), or some of its blocks.

    Five blocks of 3 x 3 convolutions with ReLU, each ended by 2 x 2 max pooling; then, if asked
    for, the dense layers that tell ImageNet's classes apart, without the dropout between them.
    Layers are named as in Keras, `block1_conv1` to `block5_conv3`, `fc1`, `fc2` and `predictions`,
    in every part, so that parts share one parameter tree.

    Block 1 begins with `preprocess`. Its `mean` and `std` belong to the weights, and so they are
    parameters, `preprocessing`, though they are not trained: their gradient is zero.

    Attributes:
      first_block: where to begin; the input of block n is what block n - 1 puts out.
      last_block: where to end, inclusive.
      grey: whether block 1 takes one channel of luma.
      widths: channels of each block.
      depths: convolutions of each block.
      num_classes: outputs of `predictions`, 1000 for ImageNet; None leaves out the dense layers.
      top_widths: sizes of `fc1` and `fc2`.
      dtype: of the computation; parameters stay float32.
    """

    first_block: int = 1
    last_block: int = 5
    grey: bool = False
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    depths: Sequence[int] = (2, 2, 3, 3, 3)
    num_classes: int | None = None
    top_widths: tuple[int, int] = (4096, 4096)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Runs the blocks.

        Args:
          images: posters <uint8>[batch, height, width, 3], RGB, if first_block is 1, otherwise the
            preceding block's activations <float>[batch, height, width, channels].

        Returns:
          `block<n>_pool` <dtype>[batch, height / 2^n, width / 2^n, widths[n - 1]] for each block;
          with dense layers also `fc<n>` <dtype>[batch, top_widths[n - 1]], after ReLU, and
          `logits` <float32>[batch, num_classes].

        Raises:
          ValueError: if there are dense layers, and last_block is not 5 or the posters are not of
            224 x 224 pixels.
        """
        x = images
        if self.first_block == 1:
            preprocessing = self.param("preprocessing", _keras_preprocessing)
            x = preprocess(images, **jax.lax.stop_gradient(preprocessing), grey=self.grey)
        outputs = {}
        for block in range(self.first_block, self.last_block + 1):
            width = self.widths[block - 1]
            for layer in range(1, self.depths[block - 1] + 1):
                name = f"block{block}_conv{layer}"
                conv = nn.Conv(
                    width,
                    (3, 3),
                    dtype=self.dtype,
                    # Keeps the scale through many layers of ReLU (arXiv 1502.01852).
                    kernel_init=nn.initializers.he_normal(),
                    conv_general_dilated=lambda images, kernel, *_, **__: convolve(images, kernel),
                    promote_dtype=_promote_all_but_bias,
                    name=name,
                )
                x = nn.relu(conv(x)).astype(self.dtype)
            x = outputs[f"block{block}_pool"] = max_pool(x)
        if self.num_classes is None:
            return outputs

        self._check_map(x)
        x = x.reshape(x.shape[0], -1)
        for number, width in enumerate(self.top_widths, start=1):
            dense = nn.Dense(width, dtype=self.dtype, name=f"fc{number}")
            x = outputs[f"fc{number}"] = nn.relu(dense(x))
        outputs["logits"] = nn.Dense(self.num_classes, name="predictions")(x.astype(jnp.float32))
        return outputs

    def _check_map(self, activations: jax.Array) -> None:
        if self.last_block != BLOCKS[-1]:
            raise ValueError(f"the dense layers follow block 5, but last_block={self.last_block}")
        height, width = activations.shape[1:3]
        if (height, width) != (TOP_SIDE, TOP_SIDE):
            pixels = 2 ** len(BLOCKS) * TOP_SIDE
            raise ValueError(
                f"the dense layers take the {TOP_SIDE} x {TOP_SIDE} map of posters of {pixels} x "
                f"{pixels} pixels; this one is {height} x {width}"
            )


def apply_blocks(network: VGG16, params: Mapping, images: jax.Array) -> dict[str, jax.Array]:
    """What `network.apply` gives, computed block by block; on a CPU that is faster.

    Args:
      network: without dense layers.
      params: at least those of its blocks.
      images: as the network takes them.

    Returns:
      `block<n>_pool` for each block.
    """
    outputs = {}
    for block in range(network.first_block, network.last_block + 1):
        name = f"block{block}_pool"
        alone = network.clone(first_block=block, last_block=block)
        images = outputs[name] = map_images(
            lambda images, alone=alone, name=name: alone.apply({"params": params}, images)[name],
            images,
        )
    return outputs


def _promote_all_but_bias(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, *, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What Flax does, but the bias is added in float32, and so its gradient is summed up in it.

    XLA takes 50 times as long for the sum of bfloat16 numbers on a CPU.
    """
    images, kernel = nn.dtypes.promote_dtype(images, kernel, dtype=dtype)
    return images, kernel, bias


def _keras_preprocessing(key: jax.Array) -> dict[str, jax.Array]:
    del key  # nothing is random
    return {"mean": jnp.float32(KERAS_MEAN), "std": jnp.float32(KERAS_STD)}


def pool(activations: jax.Array, pooling: str) -> jax.Array:
    """One vector from a map of activations.

    Args:
      activations: <float>[batch, height, width, channels].
      pooling: `flatten` the map as VGG16 does, or take the `mean`, the `max` or both (`mean_max`)
        over its positions.

    Returns:
      <float32>[batch, features].

    Raises:
      ValueError: if there is no such pooling.
    """
    pooled = {
        "flatten": lambda a: a.reshape(a.shape[0], -1),
        "mean": lambda a: a.mean(axis=(1, 2)),
        "max": lambda a: a.max(axis=(1, 2)),
        "mean_max": lambda a: jnp.concatenate([a.mean(axis=(1, 2)), a.max(axis=(1, 2))], -1),
    }
    if pooling not in pooled:
        raise ValueError(f"pooling is {pooling!r}, not one of {', '.join(pooled)}")
    return pooled[pooling](activations.astype(jnp.float32))


def pool_blocks(maps: Mapping[str, jax.Array], blocks: Sequence[int], pooling: str) -> jax.Array:
    """What `pool` makes of the maps `block<n>_pool` of some blocks, <float32>[batch, features]."""
    return jnp.concatenate([pool(maps[f"block{block}_pool"], pooling) for block in blocks], axis=-1)


class GenreHead(nn.Module):
    """Fully connected layers from activations to genre logits.

    Attributes:
      hidden: sizes of the hidden layers.
      pooling: of a map of activations, as of `pool`.
      dropout: rate before each layer.
      num_genres: number of logits.
    """

    hidden: Sequence[int] = (256,)
    pooling: str = "mean_max"
    dropout: float = 0.5
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, activations: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          activations: at least 0, a map <float>[batch, height, width, channels], or what `pool`
            made of one or several maps, <float32>[batch, features].
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres] and `embedding` <float32>[batch, hidden[-1]].
        """
        x = activations if activations.ndim == 2 else pool(activations, self.pooling)
        # ReLU activations of ImageNet weights reach hundreds; their roots suit a small network.
        x = nn.LayerNorm(name="norm")(jnp.sqrt(jax.nn.relu(x) + 1e-6))
        for number, size in enumerate(self.hidden, start=1):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(size, name=f"dense{number}")(x))
        embedding = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class PosterVGG16(nn.Module):
    """VGG16 and its head: the poster encoder, whole or from a block on.

    Parameters: `vgg16` (a tree as of `VGG16`) and `head`.

    Attributes:
      first_block: the first block that runs here; 6 means that only the head does.
      head_blocks: the blocks whose pooled activations the head sees, from the one before
        first_block on. Textures and colours, which block 4 still has, tell of a poster's genre too
        (hypercolumns, arXiv 1411.5752).
      grey: as in `VGG16`.
      widths: as in `VGG16`.
      depths: as in `VGG16`.
      hidden: as in `GenreHead`.
      pooling: as in `GenreHead`.
      dropout: as in `GenreHead`.
      num_genres: number of logits.
      dtype: as in `VGG16`.
    """

    first_block: int = 1
    head_blocks: Sequence[int] = (5,)
    grey: bool = False
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    depths: Sequence[int] = (2, 2, 3, 3, 3)
    hidden: Sequence[int] = (256,)
    pooling: str = "mean_max"
    dropout: float = 0.5
    num_genres: int = 24
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          images: posters <uint8>[batch, height, width, 3] if first_block is 1; the activations of
            the block before it if that is 2 to 5; `features` if it is 6.
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres]; every block's pooled activations, `features`
          <float32>[batch, features], which the head takes, and `embedding`.
        """
        maps, features = {}, images
        if self.first_block <= BLOCKS[-1]:
            maps = VGG16(
                self.first_block,
                grey=self.grey,
                widths=self.widths,
                depths=self.depths,
                dtype=self.dtype,
                name="vgg16",
            )(images)
            seen = {f"block{self.first_block - 1}_pool": images} | maps
            features = pool_blocks(seen, self.head_blocks, self.pooling)
        head = GenreHead(self.hidden, self.pooling, self.dropout, self.num_genres, name="head")
        logits, intermediates = head(features, train=train)
        return logits, maps | {"features": features} | intermediates
