"""Late fusion: combines the genre probabilities of several encoders."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Probabilities are clipped to at least float32's epsilon and at most 1 minus it before the logit.
_MARGIN = 2.0**-23
# Beyond this logit (odds of 10,000 : 1 or 1 : 10,000) the slope is reduced to a tenth, so that an
# overconfident encoder does not outweigh the others. Rare genres have such odds for most movies;
# clipping would make all of these movies equal.
_MAX_LINEAR_LOGIT = 9.21


class LateFusion(nn.Module):
    """A product of experts over the encoders' genre probabilities, corrected by a small network.

    The logits are the sum of three terms:

    - the genres' prior log-odds;
    - evidence from each encoder whose modality the movie has: the encoder's logit, calibrated by a
      trained weight and shift as in Platt scaling, minus the prior, times a trained exponent of the
      encoder;
    - the output of a fully connected network that takes all encoders' logits and `present`.

    For calibrated encoders that are conditionally independent given the genre, the first two terms
    are exact with exponents of 1 (a product of experts). Encoders that repeat each other, such as
    two that read the same plot, count the same evidence twice; exponents below 1 undo it (a
    generalised product of experts, arXiv 1410.7827). The network corrects for other cases.

    Parameters besides the network's layers: `weights` and `shifts` <float32>[encoders, num_genres]
    of the calibration, initialised with 1 and 0; `exponents` <float32>[encoders], initialised with
    1; and `prior` <float32>[num_genres], initialised with 0. The caller sets the prior; it is not
    trained.

    Attributes:
      hidden: size of the network's hidden layer.
      dropout: rate before and after the hidden layer.
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
          probabilities: <float32>[batch, encoders, num_genres], in [0, 1]. Where the encoder's
            modality is missing, pass the genres' frequencies.
          present: <float32>[batch, encoders], 1 where the movie has the encoder's modality,
            otherwise 0.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres]; `embedding` <float32>[batch, hidden]; and the terms
          that make the logits together with `prior`: `evidence` <float32>[batch, encoders,
          num_genres] and `correction` <float32>[batch, num_genres].
        """
        logits = _to_logits(probabilities)
        shape = logits.shape[1:]
        weights = self.param("weights", nn.initializers.ones, shape)
        shifts = self.param("shifts", nn.initializers.zeros, shape)
        prior = jax.lax.stop_gradient(self.param("prior", nn.initializers.zeros, shape[1:]))
        exponents = self.param("exponents", nn.initializers.ones, shape[:1])
        evidence = logits * weights + shifts - prior
        evidence *= (present * exponents)[..., None]

        x = jnp.concatenate([logits.reshape(logits.shape[0], -1), present], axis=-1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        embedding = nn.relu(nn.Dense(self.hidden, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        correction = nn.Dense(self.num_genres, kernel_init=nn.initializers.zeros, name="genres")(x)
        intermediates = {"embedding": embedding, "evidence": evidence, "correction": correction}
        return prior + evidence.sum(axis=1) + correction, intermediates


class ProbabilityMLP(nn.Module):
    """The talk's fusion to the letter: a fully connected network over the encoders' probabilities.

    Attributes:
      hidden: size of the hidden layer.
      dropout: rate before the output layer.
      num_genres: number of logits.
    """

    hidden: int = 64
    dropout: float = 0.3
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, probabilities: jax.Array, present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits; takes the arguments of `LateFusion`.

        The network sees a missing modality only by its probabilities, the genres' frequencies.

        Returns:
          logits <float32>[batch, num_genres], and `embedding` <float32>[batch, hidden].
        """
        del present
        x = probabilities.reshape(probabilities.shape[0], -1)
        embedding = nn.relu(nn.Dense(self.hidden, name="dense")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        return nn.Dense(self.num_genres, name="genres")(x), {"embedding": embedding}


class FusionOfLogits(nn.Module):
    """Late fusion by a feature fusion network, with each encoder's logits as its feature vector.

    Attributes:
      fusion: an instance of a class in `FUSIONS` that fuses feature vectors.
    """

    fusion: nn.Module

    @nn.compact
    def __call__(
        self, probabilities: jax.Array, present: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits; takes the arguments of `LateFusion`, returns as `fusion` does."""
        logits = _to_logits(probabilities)
        return self.fusion([logits[:, i] for i in range(logits.shape[1])], present, train=train)


def _to_logits(probabilities: jax.Array) -> jax.Array:
    """Maps probabilities <float32>[...] to logits, compressed beyond `_MAX_LINEAR_LOGIT`."""
    clipped = jnp.clip(probabilities, _MARGIN, 1 - _MARGIN)
    logits = jnp.log(clipped) - jnp.log1p(-clipped)
    return logits - 0.9 * (logits - jnp.clip(logits, -_MAX_LINEAR_LOGIT, _MAX_LINEAR_LOGIT))


def drop_modalities(
    key: jax.Array, present: jax.Array, modalities: Sequence[int | str], rate: float
) -> jax.Array:
    """Marks one modality as missing in some movies that have several (modality dropout).

    Without it, a network trained on movies that nearly all have a plot would not learn to predict
    from a poster alone. The caller must replace the probabilities or vectors of encoders whose
    modality is dropped.

    Args:
      key: random key.
      present: <float32>[batch, encoders], 1 where the movie has the encoder's modality, else 0.
      modalities: the modality of each encoder. All encoders of a modality are dropped together.
      rate: probability, 0 to 1, that a movie with several modalities loses one of them.

    Returns:
      <float32>[batch, encoders], `present` with 0 for the encoders of dropped modalities.
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
