"""The plot encoder: word vectors, an LSTM, and one logit for each genre."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class PlotLSTM(nn.Module):
    """An LSTM over the words of a plot.

    Words beyond a plot's length never change its result, however long the padding.

    Attributes:
      vocabulary_size: number of word ids, padding (0) and unknown (1) included.
      embedding_dim: size of a word vector.
      hidden: size of the LSTM's state, in each direction.
      bidirectional: whether a second LSTM reads the plot backwards.
      pooling: `last` state, or the `mean`, the `max`, or both (`mean_max`) over all states.
      dropout: rate on the word vectors and on the pooled state.
      word_dropout: the share of words replaced by the unknown word in training.
      num_genres: number of logits.
    """

    vocabulary_size: int
    embedding_dim: int = 300
    hidden: int = 128
    bidirectional: bool = True
    pooling: str = "mean_max"
    dropout: float = 0.5
    word_dropout: float = 0.0
    num_genres: int = 24

    @nn.compact
    def __call__(
        self, tokens: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          tokens: <int32>[batch, length], padded at the end.
          lengths: <int32>[batch], number of true words, at least 1 counted.
          train: whether dropout is on; it then needs the random stream `dropout`.

        Returns:
          logits <float32>[batch, num_genres], and `states` <float32>[batch, length, state],
          `embedding` <float32>[batch, pooled].
        """
        lengths = jnp.clip(lengths, 1, tokens.shape[1])
        if train and self.word_dropout:
            dropped = jax.random.bernoulli(
                self.make_rng("dropout"), self.word_dropout, tokens.shape
            )
            tokens = jnp.where(dropped & (tokens > 0), 1, tokens)
        words = nn.Embed(self.vocabulary_size, self.embedding_dim, name="words")(tokens)
        words = nn.Dropout(self.dropout, deterministic=not train)(words)

        forward = nn.RNN(nn.OptimizedLSTMCell(self.hidden, name="forward"))
        states = forward(words, seq_lengths=lengths)
        ends = [jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]]
        if self.bidirectional:
            backward = nn.RNN(
                nn.OptimizedLSTMCell(self.hidden, name="backward"), reverse=True, keep_order=True
            )
            reversed_states = backward(words, seq_lengths=lengths)
            ends.append(reversed_states[:, 0])
            states = jnp.concatenate([states, reversed_states], axis=-1)

        embedding = self._pool(states, ends, lengths)
        embedding = nn.Dropout(self.dropout, deterministic=not train)(embedding)
        logits = nn.Dense(self.num_genres, name="genres")(embedding)
        return logits, {"states": states, "embedding": embedding}

    def _pool(self, states, ends, lengths):
        is_word = (jnp.arange(states.shape[1]) < lengths[:, None])[..., None]
        mean = jnp.sum(states * is_word, axis=1) / lengths[:, None]
        highest = jnp.max(jnp.where(is_word, states, -jnp.inf), axis=1)
        pooled = {"last": ends, "mean": [mean], "max": [highest], "mean_max": [mean, highest]}
        if self.pooling not in pooled:
            raise ValueError(f"pooling is {self.pooling!r}, not one of {', '.join(pooled)}")
        return jnp.concatenate(pooled[self.pooling], axis=-1)
