"""The bag-of-words plot encoder: a linear model over word weights."""

import flax.linen as nn
import jax


class PlotBagOfWords(nn.Module):
    """A linear model over the weights of a plot's words, which ignores their order.

    The kernel starts at zero. Fit it by logistic regression, or train it by gradient descent.

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
          tokens: <int32>[batch, words], ids of a plot's distinct words; any valid id as padding.
          weights: <float32>[batch, words], the words' TF-IDF weights; 0 for padding.
          train: ignored.

        Returns:
          logits <float32>[batch, num_genres], and `contributions` <float32>[batch, words,
          num_genres], each word's additive share of the logits (the bias not included).
        """
        del train
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros, (self.vocabulary_size, self.num_genres))
        bias = self.param("bias", zeros, (self.num_genres,))
        contributions = weights[..., None] * kernel[tokens]
        return contributions.sum(axis=1) + bias, {"contributions": contributions}
