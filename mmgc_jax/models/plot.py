"""Plot encoders: an LSTM over word vectors, and a weighted bag of words."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import rnn


class PlotLSTM(nn.Module):
    """An LSTM over the words of a plot.

    Words beyond a plot's length never change its result, however long the padding.

    Attributes:
      vocabulary_size: number of word ids, padding (0) and unknown (1) included.
      embedding_dim: size of a word vector; None for one-hot encoding: the LSTM's input is then as
        long as the vocabulary, 1 in the word's place and 0 elsewhere.
      hidden: size of the LSTM's state, in each direction.
      lstm: `scan`, which runs anywhere, or `cudnn`, NVIDIA's own for its GPUs, with the same
        parameters; not with one-hot encoding.
      bidirectional: whether a second LSTM reads the plot backwards.
      pooling: `last` state, or the `mean`, the `max`, or both (`mean_max`) over all states.
      pool_words: whether mean, maximum and minimum over the word vectors join the pooled states, so
        that a single telling word need not pass through the LSTM (arXiv 1805.09843); not with
        one-hot encoding.
      dropout: rate on the word vectors and on the pooled state.
      word_dropout: the share of words replaced by the unknown word in training.
      num_genres: number of logits.
    """

    vocabulary_size: int
    embedding_dim: int | None = 300
    hidden: int = 128
    lstm: str = "scan"
    bidirectional: bool = True
    pooling: str = "mean_max"
    pool_words: bool = False
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

        Raises:
          ValueError: if there is no such pooling or LSTM, or `pool_words` or `cudnn` is asked for
            without vectors.
        """
        lengths = jnp.clip(lengths, 1, tokens.shape[1])
        if train and self.word_dropout:
            dropped = jax.random.bernoulli(
                self.make_rng("dropout"), self.word_dropout, tokens.shape
            )
            tokens = jnp.where(dropped & (tokens > 0), 1, tokens)
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        if self.embedding_dim is None:
            ones = dropout(jnp.ones((*tokens.shape, 1)))  # of the one-hot vectors
        else:
            vectors = nn.Embed(self.vocabulary_size, self.embedding_dim, name="words")(tokens)
            words = dropout(vectors)

        def read(name: str, **order) -> jax.Array:
            if self.embedding_dim is not None:
                cell = nn.OptimizedLSTMCell(self.hidden, name=name)
                return nn.RNN(cell, **order)(words, seq_lengths=lengths)
            # A one-hot vector times a matrix is a row of the matrix.
            input_kernel = nn.Embed(
                self.vocabulary_size,
                4 * self.hidden,
                embedding_init=nn.initializers.lecun_normal(),
                name=f"{name}_input",
            )
            cell = _RecurrentLSTMCell(self.hidden, name=name)
            return nn.RNN(cell, **order)(ones * input_kernel(tokens), seq_lengths=lengths)

        directions = {"forward": {}}
        if self.bidirectional:
            directions["backward"] = {"reverse": True, "keep_order": True}
        # The scan makes the parameters, cuDNN uses them.
        if self._uses_cudnn() and not self.is_initializing():
            cells = [self.variables["params"][name] for name in directions]
            states = _cudnn_states(words, lengths, cells)
        else:
            states = jnp.concatenate(
                [read(name, **order) for name, order in directions.items()], axis=-1
            )
        forward, backward = jnp.split(states, [self.hidden], axis=-1)
        ends = [jnp.take_along_axis(forward, (lengths - 1)[:, None, None], axis=1)[:, 0]]
        if self.bidirectional:
            ends.append(backward[:, 0])

        is_word = (jnp.arange(tokens.shape[1]) < lengths[:, None])[..., None]
        embedding = self._pool(states, ends, is_word)
        if self.pool_words:
            if self.embedding_dim is None:
                raise ValueError("pool_words needs word vectors; with one-hot encoding are none")
            pooled_words = jnp.concatenate(
                [_mean(vectors, is_word), _max(vectors, is_word), -_max(-vectors, is_word)], axis=-1
            )
            normed_words = nn.LayerNorm(name="words_norm")(pooled_words)
            embedding = jnp.concatenate([embedding, normed_words], axis=-1)
        embedding = dropout(embedding)
        logits = nn.Dense(self.num_genres, name="genres")(embedding)
        return logits, {"states": states, "embedding": embedding}

    def _uses_cudnn(self) -> bool:
        if self.lstm not in ("scan", "cudnn"):
            raise ValueError(f"lstm is {self.lstm!r}, not one of scan, cudnn")
        if self.lstm == "cudnn" and self.embedding_dim is None:
            raise ValueError("cudnn needs word vectors; with one-hot encoding are none")
        return self.lstm == "cudnn"

    def _pool(self, states, ends, is_word):
        mean, highest = _mean(states, is_word), _max(states, is_word)
        pooled = {"last": ends, "mean": [mean], "max": [highest], "mean_max": [mean, highest]}
        if self.pooling not in pooled:
            raise ValueError(f"pooling is {self.pooling!r}, not one of {', '.join(pooled)}")
        return jnp.concatenate(pooled[self.pooling], axis=-1)


def _mean(x: jax.Array, is_word: jax.Array) -> jax.Array:
    """Over the words, <float32>[batch, length, dim] to [batch, dim]."""
    return jnp.sum(x * is_word, axis=1) / is_word.sum(axis=1)


def _max(x: jax.Array, is_word: jax.Array) -> jax.Array:
    """As `_mean`, the maximum."""
    return jnp.max(jnp.where(is_word, x, -jnp.inf), axis=1)


def _cudnn_states(
    words: jax.Array, lengths: jax.Array, cells: Sequence[Mapping[str, Mapping]]
) -> jax.Array:
    """Every state, <float32>[batch, length, hidden * directions], by cuDNN; 0 in the padding.

    Args:
      words: <float32>[batch, length, dim].
      lengths: <int32>[batch].
      cells: parameters of an `OptimizedLSTMCell` for each direction.
    """
    hidden = cells[0]["hi"]["bias"].shape[0]
    zeros = jnp.zeros((len(cells), words.shape[0], hidden))
    sizes = (words.shape[2], hidden, 1, 0.0, len(cells) == 2)
    return rnn.lstm(words, zeros, zeros, cudnn_weights(cells), lengths, *sizes)[0]


def cudnn_weights(cells: Sequence[Mapping[str, Mapping]]) -> jax.Array:
    """Parameters of `OptimizedLSTMCell`s, one for each direction, as cuDNN packs them.

    Kernels come first, each direction's input kernel before its recurrent one, then biases, in the
    gates' order i, f, g, o (jax.experimental.rnn). cuDNN has a second bias, of the input: 0.

    Returns:
      <float32>[weights].
    """
    kernels, biases = [], []
    for cell in cells:
        kernels += [cell[side + gate]["kernel"].T.ravel() for side in "ih" for gate in "ifgo"]
        bias = jnp.concatenate([cell[f"h{gate}"]["bias"] for gate in "ifgo"])
        biases += [jnp.zeros_like(bias), bias]
    return jnp.concatenate(kernels + biases)


class _RecurrentLSTMCell(nn.RNNCellBase):
    """An LSTM's step for inputs that were multiplied by its input kernel before.

    Attributes:
      features: size of the state.
    """

    features: int

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], inputs: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """One step: carry (c, h) and inputs <float32>[batch, 4 * features], gates i, f, g, o."""
        c, h = carry
        kernel_init = nn.initializers.orthogonal()

        def orthogonal_gates(key, shape, dtype):
            keys = jax.random.split(key, 4)
            return jnp.concatenate([kernel_init(k, (shape[0],) * 2, dtype) for k in keys], axis=1)

        gates = inputs + nn.Dense(4 * self.features, kernel_init=orthogonal_gates, name="gates")(h)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
        h = nn.sigmoid(o) * nn.tanh(c)
        return (c, h), h

    @nn.nowrap
    def initialize_carry(
        self, rng: jax.Array, input_shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """Zeros."""
        zeros = jnp.zeros((*input_shape[:-1], self.features))
        return zeros, zeros

    @property
    def num_feature_axes(self) -> int:
        """Inputs are vectors."""
        return 1


class PlotBagOfWords(nn.Module):
    """A linear model of the words of a plot, in any order.

    The kernel is 0 at first: it is meant to be fitted elsewhere, or trained from there.

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
          tokens: <int32>[batch, words], the words that occur; any id where the weight is 0.
          weights: <float32>[batch, words], 0 for padding.
          train: changes nothing.

        Returns:
          logits <float32>[batch, num_genres], and `contributions` <float32>[batch, words,
          num_genres], what each word adds to them.
        """
        del train
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros, (self.vocabulary_size, self.num_genres))
        bias = self.param("bias", zeros, (self.num_genres,))
        contributions = weights[..., None] * kernel[tokens]
        return contributions.sum(axis=1) + bias, {"contributions": contributions}
