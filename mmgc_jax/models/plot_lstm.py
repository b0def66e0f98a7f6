"""The LSTM plot encoder, over word vectors or one-hot vectors."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops import lstm
from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.kernels import Kernels


class PlotLSTM(nn.Module):
    """An LSTM over the words of a plot, followed by a linear layer on its pooled states.

    Padding never changes the result, however long it is and whatever ids it has.

    Attributes:
      vocabulary_size: number of word ids, including padding (0) and the unknown word (1).
      embedding_dim: size of a word vector. None for one-hot encoding: each input vector is as long
        as the vocabulary, with 1 at the word's id and 0 elsewhere.
      hidden: size of the LSTM's state in each direction.
      dtype: `float32` or `bfloat16`, the dtype of the factors in the LSTM's matmuls. Sums and
        everything else are float32.
      bidirectional: whether a second LSTM reads the plot backwards.
      pooling: `last` takes each direction's final state; `mean`, `max` or both (`mean_max`) pool
        over all states.
      attention_heads: number of weighted means of the states that are concatenated to the pooled
        states, each with attention weights of its own (arXiv 1703.03130); 0 for none.
      pool_words: whether to concatenate the mean, maximum and minimum over the word vectors to the
        pooled states, so that a single telling word reaches the output layer directly (arXiv
        1805.09843). Needs word vectors, not one-hot encoding.
      dropout: rate on the word vectors and on the pooled states.
      word_dropout: probability of replacing a word by the unknown word in training.
      num_genres: number of logits.
      kernels: unroll factor of the scan, and implementation of the gradient's bfloat16 matmuls.
    """

    vocabulary_size: int
    embedding_dim: int | None = 300
    hidden: int = 128
    dtype: str = "float32"
    bidirectional: bool = True
    pooling: str = "mean_max"
    attention_heads: int = 0
    pool_words: bool = False
    dropout: float = 0.5
    word_dropout: float = 0.0
    num_genres: int = 24
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(
        self, tokens: jax.Array, lengths: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes genre logits.

        Args:
          tokens: word ids <int32>[batch, length], padded at the end.
          lengths: <int32>[batch], number of words without padding; less than 1 counts as 1.
          train: whether to apply dropout; if so, the random stream `dropout` is needed.

        Returns:
          logits <float32>[batch, num_genres]; `states` <float32>[batch, length, hidden *
          directions], the LSTM's states; and `embedding` <float32>[batch, features], the input of
          the last layer.

        Raises:
          ValueError: if `pooling` is unknown, or `pool_words` is used with one-hot encoding.
        """
        lengths = jnp.clip(lengths, 1, tokens.shape[1])
        if train and self.word_dropout:
            dropped = jax.random.bernoulli(
                self.make_rng("dropout"), self.word_dropout, tokens.shape
            )
            tokens = jnp.where(dropped & (tokens > 0), 1, tokens)
        dropout = Dropout(self.dropout, deterministic=not train)
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        if self.embedding_dim is None:
            states = self._read_one_hot(tokens, lengths, directions, dropout)
        else:
            vectors = nn.Embed(self.vocabulary_size, self.embedding_dim, name="words")(tokens)
            states = self._read(dropout(vectors), lengths, directions)
        forward, backward = jnp.split(states, [self.hidden], axis=-1)
        ends = [jnp.take_along_axis(forward, (lengths - 1)[:, None, None], axis=1)[:, 0]]
        if self.bidirectional:
            ends.append(backward[:, 0])

        is_word = (jnp.arange(tokens.shape[1]) < lengths[:, None])[..., None]
        embedding = self._pool(states, ends, is_word)
        if self.attention_heads:
            attended = SelfAttentivePooling(self.attention_heads, name="attention")(states, is_word)
            embedding = jnp.concatenate([embedding, attended], axis=-1)
        if self.pool_words:
            if self.embedding_dim is None:
                raise ValueError("pool_words needs word vectors; one-hot encoding has none")
            pooled_words = jnp.concatenate(
                [_mean(vectors, is_word), _max(vectors, is_word), -_max(-vectors, is_word)], axis=-1
            )
            normed_words = nn.LayerNorm(name="words_norm")(pooled_words)
            embedding = jnp.concatenate([embedding, normed_words], axis=-1)
        embedding = dropout(embedding)
        logits = nn.Dense(self.num_genres, name="genres")(embedding)
        return logits, {"states": states, "embedding": embedding}

    def _read(self, words: jax.Array, lengths: jax.Array, directions: Sequence[str]) -> jax.Array:
        """Runs the LSTM over word vectors <float32>[batch, length, embedding_dim].

        Returns:
          <float32>[batch, length, hidden * directions], the concatenated states of all directions.
        """
        words = jnp.swapaxes(words, 0, 1)
        cells = [
            _parameters(nn.OptimizedLSTMCell(self.hidden, name=name), words[0])
            for name in directions
        ]
        return lstm.scan_states(
            words,
            lengths,
            cells,
            self.dtype,
            self.kernels.scan_unroll,
            self.kernels.transpose_first,
            self.kernels.reverse_scan,
        )

    def _read_one_hot(
        self, tokens: jax.Array, lengths: jax.Array, directions: Sequence[str], dropout: Dropout
    ) -> jax.Array:
        """Runs the LSTM over one-hot vectors of the tokens; returns states as `_read` does.

        One-hot vectors are never created: multiplying one by the input kernel is the same as
        looking up a row of the kernel.
        """
        ones = dropout(jnp.ones((*tokens.T.shape, 1)))  # the one-hot vectors' nonzero entries
        inputs, kernels = [], []
        for name in directions:
            input_kernel = nn.Embed(
                self.vocabulary_size,
                4 * self.hidden,
                embedding_init=nn.initializers.lecun_normal(),
                name=f"{name}_input",
            )
            kernel, bias = _Recurrence(self.hidden, name=name)()
            inputs.append(ones * input_kernel(tokens.T) + bias)
            kernels.append(kernel)
        return lstm.recurrent_states(
            inputs,
            lengths,
            kernels,
            self.dtype,
            self.kernels.scan_unroll,
            self.kernels.transpose_first,
            self.kernels.reverse_scan,
        )

    def _pool(self, states: jax.Array, ends: Sequence[jax.Array], is_word: jax.Array) -> jax.Array:
        """Pools states to <float32>[batch, features]; `ends` has each direction's final states."""
        mean, highest = _mean(states, is_word), _max(states, is_word)
        pooled = {"last": ends, "mean": [mean], "max": [highest], "mean_max": [mean, highest]}
        if self.pooling not in pooled:
            raise ValueError(f"pooling is {self.pooling!r}, not one of {', '.join(pooled)}")
        return jnp.concatenate(pooled[self.pooling], axis=-1)


class SelfAttentivePooling(nn.Module):
    """Pools states by weights that a small network gives them (arXiv 1703.03130, equation 6).

    Attributes:
      heads: number of weighted means.
    """

    heads: int

    @nn.compact
    def __call__(self, states: jax.Array, is_word: jax.Array) -> jax.Array:
        """Computes weighted means.

        Args:
          states: <float32>[batch, length, dim].
          is_word: <bool>[batch, length, 1], False for padding, which gets the weight 0.

        Returns:
          <float32>[batch, heads * dim].
        """
        hidden = nn.tanh(nn.Dense(states.shape[-1], use_bias=False, name="hidden")(states))
        scores = nn.Dense(self.heads, use_bias=False, name="scores")(hidden)
        weights = jax.nn.softmax(jnp.where(is_word, scores, -jnp.inf), axis=1)
        pooled = jnp.einsum("blh,bld->bhd", weights, states)
        return pooled.reshape(pooled.shape[0], -1)


def _mean(x: jax.Array, is_word: jax.Array) -> jax.Array:
    """Averages <float32>[batch, length, dim] over the words without padding, to [batch, dim]."""
    return jnp.sum(x * is_word, axis=1) / is_word.sum(axis=1)


def _max(x: jax.Array, is_word: jax.Array) -> jax.Array:
    """Takes the maximum of <float32>[batch, length, dim] over the words without padding."""
    return jnp.max(jnp.where(is_word, x, -jnp.inf), axis=1)


def _parameters(cell: nn.RNNCellBase, words: jax.Array) -> lstm.Cell:
    """Returns a cell's parameters; during init, runs one step so that Flax creates them."""
    if cell.is_initializing():
        cell(cell.initialize_carry(jax.random.key(0), words.shape), words)
    return cell.variables["params"]


class _Recurrence(nn.Module):
    """The recurrent kernel and bias of an LSTM.

    Attributes:
      features: size of the state.
    """

    features: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Returns kernel <float32>[features, 4 * features] and bias; gates in order i, f, g, o."""
        orthogonal = nn.initializers.orthogonal()

        def orthogonal_gates(key, shape):
            keys = jax.random.split(key, 4)
            return jnp.concatenate([orthogonal(k, (shape[0],) * 2) for k in keys], axis=1)

        kernel = self.param("kernel", orthogonal_gates, (self.features, 4 * self.features))
        return kernel, self.param("bias", nn.initializers.zeros, (4 * self.features,))
