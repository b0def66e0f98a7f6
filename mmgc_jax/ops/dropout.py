"""Dropout for large arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that draws a byte for each value.

    `flax.linen.Dropout` draws four, which on a CPU takes longer than reading words by an LSTM.

    Attributes:
      rate: the share of values set to 0, 0 to 1, rounded to a 256th.
      deterministic: whether to leave all values as they are.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales what is kept so that sums stay the same on average."""
        dropped = round(256 * self.rate)
        if self.deterministic or not dropped:
            return x
        if dropped == 256:
            return jnp.zeros_like(x)
        *rows, columns = x.shape
        words = jax.random.bits(self.make_rng("dropout"), (*rows, -(-columns // 4)), jnp.uint32)
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*rows, -1)[..., :columns]
        return jnp.where(draws >= dropped, x * (256 / (256 - dropped)), 0)
