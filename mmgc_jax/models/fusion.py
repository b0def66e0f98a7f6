"""Late fusion of the genre probabilities of several encoders."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Probabilities are clipped this far from 0 and 1 before their logits are taken: float32's epsilon.
_MARGIN = 2.0**-23
# The part of a logit beyond this, odds of 1 : 10,000, is scaled to a tenth. For most movies a rare
# genre is as improbable: so certain an encoder must not outweigh the others, but clipping would
# make such movies equal.
_MAX_LINEAR_LOGIT = 9.21


class LateFusion(nn.Module):
    """A fully connected network over the encoders' genre probabilities.

    Each encoder that is present gives evidence: the difference between its logits, calibrated as in
    Platt scaling, and the genres' prior log-odds. The logits are the prior, plus the sum of the
    evidence, plus the network's output. For conditionally independent, calibrated encoders the
    prior and the sum suffice (a product of experts); calibration, which is trained too, and the
    network correct for the rest.

    Parameters besides the layers: `weights` and `shifts` <float32>[encoders, num_genres], of the
    calibration, initialised with 1 and 0, and `prior` <float32>[num_genres], the log-odds,
    initialised with 0, which the caller sets and which is not trained.

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
            is not present should be the genres' frequencies.
          present: <float32>[batch, encoders], 1 where the movie has the modality, otherwise 0.
          train: whether to apply dropout, which needs the random stream `dropout`.

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
    """Late fusion by a fusion of feature vectors, which takes each encoder's logits as a vector.

    Attributes:
      fusion: an instance of one of `FUSIONS` other than `late`.
    """

    fusion: nn.Module

    @nn.compact
    def __call__(
        self, probabilities: jax.Array, present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits, with the arguments of `LateFusion` and the results of `fusion`."""
        logits = _to_logits(probabilities)
        return self.fusion([logits[:, i] for i in range(logits.shape[1])], present, train=train)


def _to_logits(probabilities: jax.Array) -> jax.Array:
    """Maps <float32>[...] in [0, 1] to logits, compressed beyond `_MAX_LINEAR_LOGIT`."""
    clipped = jnp.clip(probabilities, _MARGIN, 1 - _MARGIN)
    logits = jnp.log(clipped) - jnp.log1p(-clipped)
    return logits - 0.9 * (logits - jnp.clip(logits, -_MAX_LINEAR_LOGIT, _MAX_LINEAR_LOGIT))


def drop_modalities(
    key: jax.Array, present: jax.Array, modalities: Sequence[int | str], rate: float
) -> jax.Array:
    """Marks one modality as absent in some of the movies that have several (modality dropout).

    A network trained on movies that all have a plot would otherwise not learn to do without one.
    The caller has to replace the probabilities or vectors of encoders that become absent.

    Args:
      key: a random key.
      present: <float32>[batch, encoders], 1 or 0.
      modalities: the modality of each encoder; encoders of the same modality lose it together.
      rate: the share of movies with several modalities that lose one, 0 to 1.

    Returns:
      <float32>[batch, encoders], `present` with 0 for the encoders of the lost modalities.
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
