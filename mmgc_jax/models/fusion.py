"""Late fusion: one vector of probabilities from several."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Probabilities are kept this far from 0 and 1 before their logits are taken: little, for float32.
_MARGIN = 2.0**-23
# Logits beyond this, 1 : 10,000, count for a tenth. Of a rare genre most movies are there: that an
# encoder is so certain must not outweigh the others, nor two movies be taken for equal.
_CERTAIN = 9.21


class LateFusion(nn.Module):
    """A fully connected network over the encoders' genre probabilities.

    Each encoder that is present gives evidence: how far its logits, calibrated as in Platt scaling,
    are from the genres' log-odds without looking. The network's output, a correction, is added to
    the sum of the evidence. For independent encoders the plain sum is right (a product of experts);
    calibration, which is trained too, and the correction put right what is not.

    Parameters besides the layers: `weights` and `shifts` <float32>[encoders, num_genres], of the
    calibration, and `prior` <float32>[num_genres], the log-odds, which is given and not trained;
    1, 0 and 0 at first.

    Attributes:
      hidden: size of the hidden layer.
      dropout: rate before the hidden layer and after it.
      num_genres: number of logits.
    """

    hidden: int = 64
    dropout: float = 0.3
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, probabilities: jax.Array, present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          probabilities: <float32>[batch, encoders, num_genres], in [0, 1]; those of an encoder that
            is not present should say how frequent each genre is.
          present: <float32>[batch, encoders], 1 where the movie has the modality, otherwise 0.
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres], and `embedding` <float32>[batch, hidden].
        """
        logits = _to_logits(probabilities)
        shape = logits.shape[1:]
        weights = self.param("weights", nn.initializers.ones, shape)
        shifts = self.param("shifts", nn.initializers.zeros, shape)
        prior = jax.lax.stop_gradient(self.param("prior", nn.initializers.zeros, shape[1:]))
        evidence = present[..., None] * (logits * weights + shifts - prior)

        x = jnp.concatenate([logits.reshape(logits.shape[0], -1), present], axis=-1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        embedding = nn.relu(nn.Dense(self.hidden, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        correction = nn.Dense(self.num_genres, kernel_init=nn.initializers.zeros, name="genres")(x)
        return prior + evidence.sum(axis=1) + correction, {"embedding": embedding}


class FusionOfLogits(nn.Module):
    """A fusion of vectors, given what the encoders say: their logits are its vectors.

    Attributes:
      fusion: one of `FUSIONS` but `late`.
    """

    fusion: nn.Module

    @nn.compact
    def __call__(
        self, probabilities: jax.Array, present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits from what `LateFusion` takes; returns what `fusion` does."""
        logits = _to_logits(probabilities)
        return self.fusion([logits[:, i] for i in range(logits.shape[1])], present, train=train)


def _to_logits(probabilities: jax.Array) -> jax.Array:
    clipped = jnp.clip(probabilities, _MARGIN, 1 - _MARGIN)
    logits = jnp.log(clipped) - jnp.log1p(-clipped)
    return logits - 0.9 * (logits - jnp.clip(logits, -_CERTAIN, _CERTAIN))


def drop_modalities(
    key: jax.Array, present: jax.Array, modalities: Sequence[int | str], rate: float
) -> jax.Array:
    """Takes one modality away from some of the movies that have several.

    Without this, a network trained on movies that all have a plot would never learn what to do
    without one. What the encoders say of a lost modality is for the caller to replace.

    Args:
      key: a random key.
      present: <float32>[batch, encoders].
      modalities: what each encoder looks at; those that look at the same lose it together.
      rate: the share of movies with several modalities that lose one.

    Returns:
      present, changed.
    """
    names, modality_of_encoder = np.unique(modalities, return_inverse=True)
    has = jnp.stack(
        [present[:, modality_of_encoder == m].max(axis=1) for m in range(len(names))], axis=1
    )
    movie_key, modality_key = jax.random.split(key)
    loses = jax.random.bernoulli(movie_key, rate, (len(present),)) & (has.sum(axis=1) > 1)
    which = jax.random.categorical(modality_key, jnp.log(has), axis=1)
    lost = loses[:, None] & (modality_of_encoder == which[:, None])
    return jnp.where(lost, 0.0, present)
