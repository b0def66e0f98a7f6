"""The poster encoder: VGG16 and a head of fully connected layers."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

# What the published Caffe and Keras weights want: BGR, 0 to 255, minus ImageNet's means.
_MEAN_BGR = (103.939, 116.779, 123.68)
# ITU-R BT.601 luma of R, G and B, as Pillow's mode "L" computes it.
_LUMA = (0.299, 0.587, 0.114)
_MEAN_GREY = 0.299 * 123.68 + 0.587 * 116.779 + 0.114 * 103.939

BLOCKS = (1, 2, 3, 4, 5)


def preprocess(posters: jax.Array, grey: bool) -> jax.Array:
    """From pixels to the network's input.

    Args:
      posters: <uint8>[batch, height, width, 3], RGB.
      grey: whether one channel of luma comes out, or three in the order BGR.

    Returns:
      <float32>[batch, height, width, 1 or 3], pixels minus ImageNet's mean.
    """
    pixels = posters.astype(jnp.float32)
    if grey:
        # A sum of products, since matrix units round their operands.
        return jnp.sum(pixels * jnp.array(_LUMA), axis=-1, keepdims=True) - _MEAN_GREY
    return pixels[..., ::-1] - jnp.array(_MEAN_BGR)


def to_grey_kernel(kernel: jax.Array) -> jax.Array:
    """The kernel for one channel that equals the colour kernel on three copies of that channel.

    Args:
      kernel: <float>[height, width, 3, out].

    Returns:
      <float>[height, width, 1, out], the sum over the input channels.
    """
    return kernel.sum(axis=2, keepdims=True)


class VGG16(nn.Module):
    """The convolutions of VGG16 (Simonyan and Zisserman, arXiv 1409.1556), or some of its blocks.

    Five blocks of 3 x 3 convolutions with ReLU, each ended by 2 x 2 max pooling. Layers are named
    `block1_conv1` to `block5_conv3` in every part, so that parts share one parameter tree.

    Attributes:
      first_block: where to begin; the input of block n is what block n - 1 puts out.
      last_block: where to end, inclusive.
      grey: whether block 1 takes one channel of luma.
      widths: channels of each block.
      depths: convolutions of each block.
      dtype: of the computation; parameters stay float32.
    """

    first_block: int = 1
    last_block: int = 5
    grey: bool = False
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    depths: Sequence[int] = (2, 2, 3, 3, 3)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Runs the blocks.

        Args:
          images: posters <uint8>[batch, height, width, 3] if first_block is 1, otherwise the
            preceding block's activations <float>[batch, height, width, channels].

        Returns:
          `block<n>_pool` <dtype>[batch, height / 2^n, width / 2^n, widths[n - 1]] for each block.
        """
        x = preprocess(images, self.grey) if self.first_block == 1 else images
        pooled = {}
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
                    name=name,
                )
                x = nn.relu(conv(x))
            x = pooled[f"block{block}_pool"] = nn.max_pool(x, (2, 2), strides=(2, 2))
        return pooled


class GenreHead(nn.Module):
    """Fully connected layers from a map of activations to genre logits.

    Attributes:
      hidden: sizes of the hidden layers.
      pooling: `flatten` the map as VGG16 does, or take the `mean`, the `max` or both (`mean_max`)
        over its positions.
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
        """Computes genre logits from <float>[batch, height, width, channels].

        Returns:
          logits <float32>[batch, num_genres] and `embedding` <float32>[batch, hidden[-1]].
        """
        pooled = {
            "flatten": lambda a: a.reshape(a.shape[0], -1),
            "mean": lambda a: a.mean(axis=(1, 2)),
            "max": lambda a: a.max(axis=(1, 2)),
            "mean_max": lambda a: jnp.concatenate([a.mean(axis=(1, 2)), a.max(axis=(1, 2))], -1),
        }
        if self.pooling not in pooled:
            raise ValueError(f"pooling is {self.pooling!r}, not one of {', '.join(pooled)}")
        # ReLU activations of ImageNet weights reach hundreds; their roots suit a small network.
        x = jnp.sqrt(jax.nn.relu(pooled[self.pooling](activations.astype(jnp.float32))) + 1e-6)
        x = nn.LayerNorm(name="norm")(x)
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
          images: posters <uint8>[batch, height, width, 3] if first_block is 1, otherwise the
            activations of the block before it.
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres]; every block's pooled activations and `embedding`.
        """
        pooled = {"block5_pool": images}
        if self.first_block <= BLOCKS[-1]:
            pooled = VGG16(
                self.first_block,
                grey=self.grey,
                widths=self.widths,
                depths=self.depths,
                dtype=self.dtype,
                name="vgg16",
            )(images)
        head = GenreHead(self.hidden, self.pooling, self.dropout, self.num_genres, name="head")
        logits, intermediates = head(pooled["block5_pool"], train=train)
        return logits, pooled | intermediates
