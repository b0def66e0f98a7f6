"""The poster encoder: VGG16 and fully connected layers on top."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.models.vgg16 import BLOCKS, VGG16
from mmgc_jax.ops.kernels import Kernels


class PosterVGG16(nn.Module):
    """VGG16 and a genre head; can start at any block.

    The parameters are `vgg16` (those of `VGG16`) and `head` (those of `GenreHead`).

    Attributes:
      first_block: first block to run, 1 to 6; 6 runs only the head.
      head_blocks: blocks whose pooled activations the head takes, each at least first_block - 1.
        Block 4 still represents textures and colours, which are informative about genres, too
        (hypercolumns, arXiv 1411.5752).
      grey: see `VGG16`.
      widths: see `VGG16`.
      depths: see `VGG16`.
      hidden: see `GenreHead`.
      pooling: see `GenreHead`.
      dropout: see `GenreHead`.
      num_genres: number of logits.
      dtype: see `VGG16`.
      kernels: see `VGG16`.
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
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          images: RGB posters <uint8>[batch, height, width, 3] if first_block is 1; the preceding
            block's activations <float>[batch, height, width, channels] if it is 2 to 5; `features`
            (see below) if it is 6.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres]; `block<n>_pool`, the output of each block that ran;
          `features` <float32>[batch, features], the head's input; and `embedding`
          <float32>[batch, hidden[-1]], the output of the head's last hidden layer.
        """
        maps, features = {}, images
        if self.first_block <= BLOCKS[-1]:
            maps = VGG16(
                self.first_block,
                grey=self.grey,
                widths=self.widths,
                depths=self.depths,
                dtype=self.dtype,
                kernels=self.kernels,
                name="vgg16",
            )(images)
            seen = {f"block{self.first_block - 1}_pool": images} | maps
            features = pool_blocks(seen, self.head_blocks, self.pooling)
        head = GenreHead(self.hidden, self.pooling, self.dropout, self.num_genres, name="head")
        logits, intermediates = head(features, train=train)
        return logits, maps | {"features": features} | intermediates


class GenreHead(nn.Module):
    """Fully connected layers that map VGG16's activations to genre logits.

    Attributes:
      hidden: sizes of the hidden layers.
      pooling: how to pool a map of activations; see `pool`.
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
          activations: nonnegative; a map <float>[batch, height, width, channels], or vectors
            <float32>[batch, features] that `pool` or `pool_blocks` returned.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres], and `embedding` <float32>[batch, hidden[-1]], the
          last hidden layer (without hidden layers, the normalised activations).
        """
        x = activations if activations.ndim == 2 else pool(activations, self.pooling)
        # With ImageNet weights, activations reach the hundreds; square roots reduce their range.
        x = nn.LayerNorm(name="norm")(jnp.sqrt(jax.nn.relu(x) + 1e-6))
        for number, size in enumerate(self.hidden, start=1):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(size, name=f"dense{number}")(x))
        embedding = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


def pool(activations: jax.Array, pooling: str) -> jax.Array:
    """Pools a map of activations to one vector per image.

    Args:
      activations: <float>[batch, height, width, channels].
      pooling: `flatten` the map as VGG16 does, or take the `mean`, the `max` or both (`mean_max`)
        over all positions.

    Returns:
      <float32>[batch, features], where features is height * width * channels, channels or
      2 * channels.

    Raises:
      ValueError: if `pooling` is unknown.
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
    """Pools the activations of some blocks and concatenates the vectors.

    Args:
      maps: `block<n>_pool` <float>[batch, height, width, channels] for at least these blocks.
      blocks: numbers of the blocks, in the order of concatenation.
      pooling: see `pool`.

    Returns:
      <float32>[batch, features].
    """
    return jnp.concatenate([pool(maps[f"block{block}_pool"], pooling) for block in blocks], axis=-1)
