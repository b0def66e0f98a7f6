"""Tests PlotLSTM against numpy, its pooling and dropout, and that padding has no effect."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.models import PlotLSTM
from mmgc_jax.models.plot_lstm import SelfAttentivePooling
from mmgc_jax.ops.kernels import Kernels

POOLINGS = ("last", "mean", "max", "mean_max")
BOTH_DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])
EVERY_POOLING = pytest.mark.parametrize("pooling", POOLINGS)

# Three plots of 5, 3 and 1 words.
TOKENS = np.array([[7, 3, 9, 2, 4], [5, 8, 6, 0, 0], [2, 0, 0, 0, 0]], np.int32)
LENGTHS = np.array([5, 3, 1], np.int32)


def build(**settings):
    """Makes a small encoder and random variables, with nonzero biases."""
    model = PlotLSTM(**{"vocabulary_size": 12, "embedding_dim": 6, "hidden": 4} | settings)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, LENGTHS)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f4"), shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(model, variables, tokens, lengths):
    return model.apply(variables, tokens, lengths)


@functools.partial(jax.jit, static_argnums=0)
def run_training(model, variables, tokens, lengths, seed):
    """Runs with dropout; also returns the word vectors."""
    return model.apply(
        variables,
        tokens,
        lengths,
        train=True,
        rngs={"dropout": jax.random.key(seed)},
        capture_intermediates=lambda module, _: module.name == "words",
        mutable=["intermediates"],
    )


def cells(params):
    """Returns the parameters of each direction's LSTM."""
    return [part for name, part in params.items() if name not in ("words", "genres")]


def numpy_lstm(cell, words):
    """Computes an LSTM with a forget gate (Gers et al. 2000), <float64>[length, hidden]."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h = c = np.zeros(cell["hi"]["kernel"].shape[1])
    states = []
    for word in words:
        i, f, g, o = (
            word @ cell["i" + gate]["kernel"]
            + h @ cell["h" + gate]["kernel"]
            + cell["h" + gate]["bias"]
            for gate in "ifgo"
        )
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def test_states_equal_an_lstm_in_numpy():
    model, variables = build(bidirectional=False)
    states = run(model, variables, TOKENS, LENGTHS)[1]["states"]
    [cell] = cells(variables["params"])
    for row, length in enumerate(LENGTHS):
        words = np.float64(variables["params"]["words"]["embedding"])[TOKENS[row, :length]]
        np.testing.assert_allclose(states[row, :length], numpy_lstm(cell, words), atol=1e-6)


def test_the_second_direction_reads_the_words_from_the_end():
    model, variables = build(bidirectional=True)
    one, other = cells(variables["params"])
    other.update(one)  # equal weights, so it does not matter which one reads backwards
    states = run(model, variables, TOKENS, LENGTHS)[1]["states"]
    for row, length in enumerate(LENGTHS):
        words = np.float64(variables["params"]["words"]["embedding"])[TOKENS[row, :length]]
        expected = [numpy_lstm(one, words), numpy_lstm(one, words[::-1])[::-1]]
        np.testing.assert_allclose(
            states[row, :length], np.concatenate(expected, axis=-1), atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize("embedding_dim", [6, None])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_change_neither_parameters_nor_results(embedding_dim, dtype):
    model, variables = build(embedding_dim=embedding_dim, dtype=dtype)
    other = model.clone(kernels=Kernels(scan_unroll=3, transpose_first=True))
    made = [m.init(jax.random.key(0), TOKENS, LENGTHS) for m in (model, other)]
    jax.tree.map(np.testing.assert_array_equal, *made)

    def gradients(which):
        return jax.grad(lambda v: (run(which, v, TOKENS, LENGTHS)[0] ** 2).sum())(variables)

    atol = 1e-5 if dtype == "float32" else 0.05
    found, expected = ((run(m, variables, TOKENS, LENGTHS), gradients(m)) for m in (other, model))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-2), found, expected
    )


def test_the_two_directions_have_names():
    _, variables = build(bidirectional=True)
    assert sorted(variables["params"]) == ["backward", "forward", "genres", "words"]


@EVERY_POOLING
@BOTH_DIRECTIONS
def test_padding_never_changes_a_result(pooling, bidirectional):
    model, variables = build(
        pooling=pooling, pool_words=True, attention_heads=2, bidirectional=bidirectional
    )
    logits, _ = run(model, variables, TOKENS, LENGTHS)

    longer = np.pad(TOKENS, ((0, 0), (0, 6)))
    np.testing.assert_allclose(run(model, variables, longer, LENGTHS)[0], logits, atol=1e-6)

    is_padding = np.arange(longer.shape[1]) >= LENGTHS[:, None]
    random_words = np.random.default_rng(2).integers(1, 12, longer.shape)
    other = np.where(is_padding, random_words, longer).astype(np.int32)
    np.testing.assert_allclose(run(model, variables, other, LENGTHS)[0], logits, atol=1e-6)

    # Changing a word, in contrast, changes the result.
    changed = TOKENS.copy()
    changed[:, 0] += 1
    difference = np.abs(run(model, variables, changed, LENGTHS)[0] - logits).max(axis=1)
    assert (difference > 1e-3).all()


@EVERY_POOLING
def test_pooling_ignores_padding(pooling):
    model, variables = build(pooling=pooling)
    logits, intermediates = run(model, variables, TOKENS, LENGTHS)
    head = variables["params"]["genres"]
    for row, length in enumerate(LENGTHS):
        states = np.asarray(intermediates["states"])[row, :length]
        last = np.concatenate([states[-1, :4], states[0, 4:]])
        mean, highest = states.mean(axis=0), states.max(axis=0)
        expected = {"last": last, "mean": mean, "max": highest,
                    "mean_max": np.concatenate([mean, highest])}[pooling]  # fmt: skip
        np.testing.assert_allclose(intermediates["embedding"][row], expected, atol=1e-6)
        np.testing.assert_allclose(logits[row], expected @ head["kernel"] + head["bias"], atol=1e-5)


@BOTH_DIRECTIONS
def test_shapes(bidirectional):
    model, variables = build(bidirectional=bidirectional, pooling="mean_max")
    logits, intermediates = jax.eval_shape(model.apply, variables, TOKENS, LENGTHS)
    state = 8 if bidirectional else 4
    assert logits.shape == (3, 24) and logits.dtype == jnp.float32
    assert intermediates["states"].shape == (3, 5, state)
    assert intermediates["embedding"].shape == (3, 2 * state)


@EVERY_POOLING
def test_a_plot_without_words_counts_as_one_word_of_padding(pooling):
    model, variables = build(pooling=pooling, attention_heads=2)
    empty = np.zeros_like(TOKENS)
    logits, _ = run(model, variables, empty, np.zeros_like(LENGTHS))
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits, run(model, variables, empty, np.ones_like(LENGTHS))[0])


def test_dropout_acts_only_in_training():
    model, variables = build(dropout=0.5, word_dropout=0.5)
    still, _ = run(model, variables, TOKENS, LENGTHS)

    def training(seed, model=model):
        return run_training(model, variables, TOKENS, LENGTHS, seed)[0][0]

    np.testing.assert_array_equal(training(1), training(1))
    assert np.abs(training(1) - training(2)).max() > 1e-3
    assert np.abs(training(1) - still).max() > 1e-3
    # With both rates 0, training gives the same result as evaluation.
    without, _ = build(dropout=0.0, word_dropout=0.0)
    np.testing.assert_allclose(training(1, without), still, atol=1e-6)


def test_word_dropout_replaces_the_right_fraction_of_words_and_no_padding():
    model, variables = build(dropout=0.0, word_dropout=0.3)
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 50, 64).astype(np.int32)
    is_word = np.arange(50) < lengths[:, None]
    tokens = np.where(is_word, rng.integers(2, 12, (64, 50)), 0).astype(np.int32)

    _, captured = run_training(model, variables, tokens, lengths, 0)
    seen = np.asarray(captured["intermediates"]["words"]["__call__"][0])
    table = variables["params"]["words"]["embedding"]
    unknown = (seen == table[1]).all(axis=-1)
    kept = (seen == table[tokens]).all(axis=-1)

    assert (unknown ^ kept).all()
    assert kept[~is_word].all()
    # About 2,200 words: three standard deviations are 0.03.
    assert unknown[is_word].mean() == pytest.approx(0.3, abs=0.03)


def test_word_vectors_are_pooled_without_padding():
    model, variables = build(pool_words=True)
    _, plain = build()
    params = variables["params"]
    _, intermediates = run(model, variables, TOKENS, LENGTHS)
    for row, length in enumerate(LENGTHS):
        words = np.float64(params["words"]["embedding"])[TOKENS[row, :length]]
        pooled = np.concatenate([words.mean(axis=0), words.max(axis=0), words.min(axis=0)])
        normed = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-6)
        expected = normed * params["words_norm"]["scale"] + params["words_norm"]["bias"]
        np.testing.assert_allclose(intermediates["embedding"][row, -18:], expected, atol=1e-5)
    without = {name: part for name, part in params.items() if name in plain["params"]}
    without["genres"] = {"kernel": params["genres"]["kernel"][:-18], "bias": np.zeros(24)}
    states = run(build()[0], {"params": without}, TOKENS, LENGTHS)[1]["embedding"]
    np.testing.assert_allclose(intermediates["embedding"][:, :-18], states, atol=1e-6)
    with pytest.raises(ValueError, match="pool_words needs word vectors"):
        build(embedding_dim=None, pool_words=True)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_equals_weighted_means_in_numpy(heads):
    """Lin et al. 2017, arXiv 1703.03130: softmax(W2 tanh(W1 H)) H, equations 5 and 6."""
    model, variables = build(attention_heads=heads)
    params = jax.tree.map(np.float64, variables["params"])
    embedding = run(model, variables, TOKENS, LENGTHS)[1]["embedding"]
    states = run(model, variables, TOKENS, LENGTHS)[1]["states"]
    assert embedding.shape == (3, 2 * 8 + heads * 8)
    for row, length in enumerate(LENGTHS):
        words = np.float64(states[row, :length])
        hidden = np.tanh(words @ params["attention"]["hidden"]["kernel"])
        scores = np.exp(hidden @ params["attention"]["scores"]["kernel"])
        assert scores.shape == (length, heads)
        weights = scores / scores.sum(axis=0)
        expected = np.concatenate([of_head @ words for of_head in weights.T])
        np.testing.assert_allclose(embedding[row, 16:], expected, atol=1e-6)
        # A plot of one word gets the state of this word.
        if length == 1:
            np.testing.assert_allclose(expected, np.tile(words[0], heads), atol=1e-12)
    # The other pooled states stay what they are without attention.
    without = run(build()[0], {"params": without_attention(params)}, TOKENS, LENGTHS)[1]
    np.testing.assert_allclose(embedding[:, :16], without["embedding"], atol=1e-6)


def without_attention(params):
    """Removes attention, and the output layer's weights for it, which are the last ones."""
    left = {name: part for name, part in params.items() if name != "attention"}
    kernel = params["genres"]["kernel"][:16]
    return jax.tree.map(np.float32, left | {"genres": params["genres"] | {"kernel": kernel}})


def test_attention_gives_padding_no_weight_and_no_gradient():
    pooling = SelfAttentivePooling(heads=2)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 5, 4)).astype(np.float32)
    is_word = (np.arange(5) < LENGTHS[:, None])[..., None]
    variables = pooling.init(jax.random.key(0), states, is_word)
    pooled = pooling.apply(variables, states, is_word)
    assert pooled.shape == (3, 2 * 4)
    huge = np.where(is_word, states, 1e30)
    np.testing.assert_array_equal(pooling.apply(variables, huge, is_word), pooled)

    gradient = jax.grad(lambda s: (pooling.apply(variables, s, is_word) ** 2).sum())(states)
    assert (gradient[~is_word[..., 0]] == 0).all() and (gradient[is_word[..., 0]] != 0).all()
    # Means lie between the least and the greatest state.
    low, high = (f(states[0], axis=0) for f in (np.min, np.max))
    for head in np.split(pooled[0], 2):
        assert (low < head).all() and (head < high).all()


def test_heads_have_weights_of_their_own():
    model, variables = build(attention_heads=2)
    embedding = run(model, variables, TOKENS, LENGTHS)[1]["embedding"]
    one, other = np.split(embedding[:, 16:], 2, axis=1)
    assert (np.abs(one - other).max(axis=1) > 1e-3).tolist() == [True, True, False]


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match=r"'median', not one of last, mean, max, mean_max"):
        build(pooling="median")


class TestOneHot:
    """Tests one-hot encoding against an LSTM over explicit one-hot vectors."""

    @staticmethod
    def as_dense(params):
        """Converts parameters to those of an LSTM over a table of one-hot vectors."""
        dense = {"genres": params["genres"], "words": {"embedding": np.eye(12, dtype=np.float32)}}
        for direction in ("forward", "backward"):
            input_kernel = params[f"{direction}_input"]["embedding"]
            recurrent = params[direction]
            dense[direction] = {}
            for gate, kernel, recurrent_kernel, bias in zip(
                "ifgo",
                np.split(input_kernel, 4, axis=1),
                np.split(recurrent["kernel"], 4, axis=1),
                np.split(recurrent["bias"], 4),
            ):
                dense[direction]["i" + gate] = {"kernel": kernel}
                dense[direction]["h" + gate] = {"kernel": recurrent_kernel, "bias": bias}
        return {"params": dense}

    @EVERY_POOLING
    def test_equals_the_dense_lstm(self, pooling):
        model, variables = build(embedding_dim=None, pooling=pooling)
        dense_model = PlotLSTM(vocabulary_size=12, embedding_dim=12, hidden=4, pooling=pooling)
        dense = self.as_dense(variables["params"])
        logits, intermediates = run(model, variables, TOKENS, LENGTHS)
        expected, expected_intermediates = run(dense_model, dense, TOKENS, LENGTHS)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        is_word = np.arange(TOKENS.shape[1]) < LENGTHS[:, None]
        np.testing.assert_allclose(
            intermediates["states"][is_word], expected_intermediates["states"][is_word], atol=1e-6
        )

    def test_gradients_equal_those_of_the_dense_lstm(self):
        model, variables = build(embedding_dim=None)
        dense_model = PlotLSTM(vocabulary_size=12, embedding_dim=12, hidden=4)

        def gradients(which, of):
            return jax.grad(lambda v: (run(which, v, TOKENS, LENGTHS)[0] ** 2).sum())(of)["params"]

        expected = gradients(dense_model, self.as_dense(variables["params"]))
        del expected["words"]  # one-hot vectors are not trained
        found = self.as_dense(gradients(model, variables))["params"]
        del found["words"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)

    def test_no_one_hot_array_is_allocated(self):
        """A dense one-hot array of 64 plots, 256 positions and 10,000 words would take 655 MB."""
        vocabulary_size, batch, length = 10_000, 64, 256
        model = PlotLSTM(vocabulary_size=vocabulary_size, embedding_dim=None, hidden=8)
        tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
        variables = jax.eval_shape(model.init, jax.random.key(0), tokens, lengths)
        gradient = jax.jit(jax.grad(lambda v, t, n: model.apply(v, t, n)[0].sum()))
        compiled = gradient.lower(variables, tokens, lengths).compile()
        needed = compiled.memory_analysis().temp_size_in_bytes
        assert needed < 4 * vocabulary_size * batch * length / 10

    def test_dropout_leaves_words_out_of_both_directions(self):
        model, variables = build(embedding_dim=None, dropout=0.5)
        still = run(model, variables, TOKENS, LENGTHS)[0]

        def training(seed):
            rngs = {"dropout": jax.random.key(seed)}
            return model.apply(variables, TOKENS, LENGTHS, train=True, rngs=rngs)[0]

        assert np.abs(training(1) - training(2)).max() > 1e-3
        assert np.abs(training(1) - still).max() > 1e-3

    def test_recurrent_kernels_begin_orthogonal_gate_by_gate(self):
        model = PlotLSTM(vocabulary_size=12, embedding_dim=None, hidden=4)
        params = model.init(jax.random.key(0), TOKENS, LENGTHS)["params"]
        gates = np.split(params["forward"]["kernel"], 4, axis=1)
        for gate in gates:
            np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-5)
        assert np.abs(gates[0] - gates[1]).max() > 1e-2
