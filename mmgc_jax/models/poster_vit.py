"""The ViT poster encoder: a vision transformer and a head."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from mmgc_jax.models.vit import ViT
from mmgc_jax.ops.dropout import Dropout


class PosterViT(nn.Module):
    """A vision transformer and fully connected layers on its features; can start at any layer.

    The parameters are `vit` (those of `ViT`) and `head`.

    Attributes:
      vit: the layers to run, up to the last one. If its `first_layer` is one more than its last
        layer, only the head runs.
      hidden: sizes of the head's hidden layers; empty for a linear head.
      head_dropout: rate before each layer of the head.
      num_genres: number of logits.
    """

    vit: ViT
    hidden: Sequence[int] = ()
    head_dropout: float = 0.3
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          images: see `ViT`. If only the head runs: the features, <float32>[batch, hidden].
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres]; what `ViT` returns; `features` <float32>[batch,
          hidden], the head's input; and `embedding` <float32>[batch, hidden[-1]], the output of the
          head's last hidden layer (without hidden layers, the normalised features).
        """
        outputs, features = {}, images
        if self.vit.first_layer <= self.vit.last:
            outputs = self.vit(images, train=train)
            features = outputs["features"]
        head = _Head(self.hidden, self.head_dropout, self.num_genres, name="head")
        logits, intermediates = head(features, train)
        return logits, outputs | {"features": features} | intermediates


class _Head(nn.Module):
    """Normalises features and maps them to logits by fully connected layers."""

    hidden: Sequence[int]
    dropout: float
    num_genres: int

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps <float32>[batch, hidden] to logits, and to `embedding`, the last layer's input."""
        # The scale of features differs between families, and SigLIP's are not normalised.
        x = nn.LayerNorm(name="norm")(features)
        for number, size in enumerate(self.hidden, start=1):
            x = Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(size, name=f"dense{number}")(x))
        embedding = x
        x = Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}
