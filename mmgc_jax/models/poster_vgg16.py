"""The poster encoder: VGG16 and a head of fully connected layers."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.models.vgg16 import BLOCKS, VGG16
from mmgc_jax.ops.kernels import Kernels


class PosterVGG16(nn.Module):
    """VGG16 and a genre head, whole or from a block on.

    Parameters: `vgg16` (a tree as of `VGG16`) and `head`.

    Attributes:
      first_block: first block to run; 6 runs the head alone.
      head_blocks: the blocks whose pooled activations the head takes, from the one before
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
      kernels: as in `VGG16`.
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
          images: posters <uint8>[batch, height, width, 3] if first_block is 1; the activations of
            the preceding block if it is 2 to 5; `features` if it is 6.
          train: whether to apply dropout, which needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres]; `block<n>_pool` of each block that ran; `features`
          <float32>[batch, features], the input of the head; and the head's `embedding`.
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
    """Fully connected layers from activations to genre logits.

    Attributes:
      hidden: sizes of the hidden layers.
      pooling: how to pool a map of activations, as in `pool`.
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
          activations: from 0 up; a map <float>[batch, height, width, channels], or pooled
            activations <float32>[batch, features] as of `pool` or `pool_blocks`.
          train: whether to apply dropout, which needs the random stream `dropout`.

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


def pool(activations: jax.Array, pooling: str) -> jax.Array:
    """Pools a map of activations to one vector.

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
    """Pools the maps `block<n>_pool` of some blocks and concatenates the vectors.

    Args:
      maps: `block<n>_pool` <float>[batch, height, width, channels], at least of these blocks.
      blocks: numbers of the blocks, in the order of the vectors.
      pooling: as in `pool`.

    Returns:
      <float32>[batch, features].
    """
    return jnp.concatenate([pool(maps[f"block{block}_pool"], pooling) for block in blocks], axis=-1)
