"""Dropout that draws one random byte for each value."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with one random byte for each value.

    The reference is `flax.linen.Dropout`, up to the rate's rounding and the numbers drawn. That one
    draws four bytes for each value, which on a CPU takes longer than an LSTM over word vectors.

    Attributes:
      rate: the share of values set to 0, 0 to 1, rounded to a multiple of 1/256.
      deterministic: whether to return the input unchanged.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Sets values to 0 at random, and scales the others so that the mean stays the same."""
        dropped = round(256 * self.rate)
        if self.deterministic or not dropped:
            return x
        if dropped == 256:
            return jnp.zeros_like(x)
        *rows, columns = x.shape
        words = jax.random.bits(self.make_rng("dropout"), (*rows, -(-columns // 4)), jnp.uint32)
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*rows, -1)[..., :columns]
        return jnp.where(draws >= dropped, x * (256 / (256 - dropped)), 0)
