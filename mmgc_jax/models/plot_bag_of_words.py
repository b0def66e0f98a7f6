"""The bag-of-words plot encoder: a linear model of weighted words."""

import flax.linen as nn
import jax


class PlotBagOfWords(nn.Module):
    """A linear model of the words of a plot, in any order.

    The kernel is initialised with zeros, to be fitted by logistic regression or trained from there.

    Attributes:
      vocabulary_size: number of word ids.
      num_genres: number of logits.
    """

    vocabulary_size: int
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, tokens: jax.Array, weights: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          tokens: <int32>[batch, words], the distinct words of a plot; any id where the weight is 0.
          weights: <float32>[batch, words], 0 for padding.
          train: ignored.

        Returns:
          logits <float32>[batch, num_genres], and `contributions` <float32>[batch, words,
          num_genres], each word's summand in the logits.
        """
        del train
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros, (self.vocabulary_size, self.num_genres))
        bias = self.param("bias", zeros, (self.num_genres,))
        contributions = weights[..., None] * kernel[tokens]
        return contributions.sum(axis=1) + bias, {"contributions": contributions}
