"""Dropout that draws one random byte per value."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with one random byte per value.

    The reference is `flax.linen.Dropout`; the rate is rounded and the random numbers differ. Flax
    draws four bytes per value, which on a CPU takes longer than an LSTM over word vectors.

    Attributes:
      rate: probability of setting a value to 0, from 0 to 1, rounded to a multiple of 1/256.
      deterministic: whether to return the input unchanged. If not, the module needs the random
        stream `dropout`.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Sets random values of <float>[...] to 0 and scales the others to preserve the mean."""
        dropped = round(256 * self.rate)
        if self.deterministic or not dropped:
            return x
        if dropped == 256:
            return jnp.zeros_like(x)
        *rows, columns = x.shape
        words = jax.random.bits(self.make_rng("dropout"), (*rows, -(-columns // 4)), jnp.uint32)
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*rows, -1)[..., :columns]
        return jnp.where(draws >= dropped, x * (256 / (256 - dropped)), 0)
