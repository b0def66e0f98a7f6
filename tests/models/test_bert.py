"""Tests BERT against an independent implementation, and PlotTransformer."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.models import BertEncoder, PlotTransformer, pool_tokens
from mmgc_jax.models.bert import relative_buckets
from mmgc_jax.ops.dropout import Dropout
from mmgc_jax.ops.kernels import Kernels

BERT = BertEncoder(
    vocabulary_size=12, hidden=8, layers=2, heads=2, intermediate=16, max_length=16, dropout=0.0
)
# MPNet's differences; eight buckets, of which short texts use more than one of each kind.
MPNET = BERT.clone(segments=False, relative_buckets=8, norm_epsilon=1e-2)
FAMILIES = pytest.mark.parametrize(
    "bert", [BERT, MPNET, BERT.clone(segments=False)], ids=["bert", "mpnet", "distilbert"]
)
LAYERS = [f"layer{number}" for number in range(3)]
# Three texts of 5, 3 and 1 tokens.
TOKENS = np.array([[7, 3, 9, 2, 4], [5, 8, 6, 0, 0], [2, 0, 0, 0, 0]], np.int32)
LENGTHS = np.array([5, 3, 1], np.int32)
IS_TOKEN = np.arange(5) < LENGTHS[:, None]
DTYPES = pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)


def build(model, inputs=TOKENS):
    """Returns random parameters with nonzero biases, large enough for peaked attention."""
    rng = np.random.default_rng(1)

    def random(path, like):
        mean = 1 if path[-1].key == "scale" else 0
        return rng.normal(mean, 0.4, like.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs, LENGTHS)["params"]
    return jax.tree_util.tree_map_with_path(random, shapes)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, inputs=TOKENS, lengths=LENGTHS):
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, inputs, lengths)


@functools.partial(jax.jit, static_argnums=0)
def gradient(model, params, lengths=LENGTHS):
    return jax.grad(lambda p: (run(model, p, TOKENS, lengths)[0] ** 2).sum())(params)


def numpy_norm(params, x, epsilon=1e-12):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


# Buckets of 5 positions, from a query (row) to a key (column), counted by hand: distances 2 to 4
# share a bucket, and keys after the query have buckets of their own.
BUCKETS = np.array([
    [0, 5, 6, 6, 6],
    [1, 0, 5, 6, 6],
    [2, 1, 0, 5, 6],
    [2, 2, 1, 0, 5],
    [2, 2, 2, 1, 0],
])  # fmt: skip


def numpy_bert(bert, params, tokens):
    """Computes the states of one text after every layer, in float64, without padding."""
    params = jax.tree.map(np.float64, params)
    numpy_norm_of = functools.partial(numpy_norm, epsilon=bert.norm_epsilon)
    buckets = BUCKETS[: len(tokens), : len(tokens)]

    def dense(part, x):
        return x @ part["kernel"] + part["bias"]

    embeddings = params["embeddings"]
    x = embeddings["words"]["embedding"][tokens]
    if bert.segments:
        x = x + embeddings["segment"]
    x = numpy_norm_of(embeddings["norm"], x + embeddings["positions"]["embedding"][: len(tokens)])
    states = {"layer0": x}
    for name in LAYERS[1:]:
        layer = params[name]
        query, key, value = (dense(layer[part], x) for part in ("query", "key", "value"))
        attended = []
        for number, head in enumerate(np.split(np.arange(x.shape[1]), bert.heads)):
            scores = query[:, head] @ key[:, head].T / math.sqrt(len(head))
            if bert.relative_buckets:
                scores += layer["relative_bias"][buckets, number]
            scores = np.exp(scores)
            attended.append(scores / scores.sum(axis=1, keepdims=True) @ value[:, head])
        attended = dense(layer["attention_output"], np.concatenate(attended, axis=1))
        x = numpy_norm_of(layer["attention_norm"], x + attended)
        z = dense(layer["intermediate"], x)
        z = z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2
        x = states[name] = numpy_norm_of(layer["output_norm"], x + dense(layer["output"], z))
    return states


def relative_error(x, expected):
    x, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (x, expected)
    )
    return np.linalg.norm(np.float64(x) - expected) / np.linalg.norm(np.float64(expected))


@pytest.mark.parametrize(
    ("encoder", "published"),
    [
        # The count of PyTorch's sentence-transformers/all-MiniLM-L6-v2.
        (BertEncoder(), 22_713_216),
        # The count of PyTorch's bert-base-uncased.
        (BertEncoder(hidden=768, layers=12, intermediate=3072), 109_482_240),
        # The count of PyTorch's distilbert-base-uncased.
        (BertEncoder(hidden=768, intermediate=3072, segments=False), 66_362_880),
        # The count of PyTorch's all-mpnet-base-v2.
        (
            BertEncoder(
                30527, 768, 12, 12, 3072, max_length=512, segments=False, relative_buckets=32
            ),
            109_486_464,
        ),
    ],
)
def test_parameters_are_the_published_ones(encoder, published):
    params = jax.eval_shape(encoder.init, jax.random.key(0), TOKENS, LENGTHS)["params"]
    beside, pooling_layer = 0, encoder.hidden * encoder.hidden + encoder.hidden
    if encoder.segments:  # PyTorch's models also have the embedding of a second segment
        beside = pooling_layer + encoder.hidden
    if encoder.relative_buckets:  # the bias is shared, and two positions are for padding
        copies = (encoder.layers - 1) * encoder.relative_buckets * encoder.heads
        beside = pooling_layer + 2 * encoder.hidden - copies
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) + beside == published


@pytest.mark.parametrize("length", [1, 5])
def test_buckets_of_pairs_of_positions(length):
    np.testing.assert_array_equal(relative_buckets(length, 8), BUCKETS[:length, :length])


def test_distant_positions_share_ranges_of_buckets():
    first, last = np.array(relative_buckets(300, 32))[[0, -1]]
    # Single distances up to 7; after it ranges begin at 8, 11.3, 16, 22.6, 32, 45.3, 64 and 90.5.
    expected = [*range(8), *(8,) * 4, *(9,) * 4, *(10,) * 7, *(11,) * 9, *(12,) * 14, *(13,) * 18]
    expected = np.array([*expected, *(14,) * 27, *(15,) * 209])
    np.testing.assert_array_equal(last[::-1], expected)
    np.testing.assert_array_equal(first[1:], expected[1:] + 16)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_ignores_padding(pooling):
    rng = np.random.default_rng(3)
    states = rng.normal(-2, 1, (3, 5, 8)).astype(np.float32)
    pooled = pool_tokens(jnp.asarray(states, jnp.bfloat16), LENGTHS, pooling)
    assert pooled.dtype == jnp.float32
    function = {"mean": np.mean, "cls": lambda x, axis: x[0], "max": np.max}[pooling]
    pooled = pool_tokens(states, LENGTHS, pooling)
    for row, length in enumerate(LENGTHS):
        expected = function(states[row, :length], axis=0)
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-5)
    np.testing.assert_array_equal(pool_tokens(states, LENGTHS * 0, pooling), states[:, 0])


def test_other_poolings_are_refused():
    with pytest.raises(ValueError, match="pooling is 'last', not one of mean, cls, max"):
        pool_tokens(np.zeros((3, 5, 8)), LENGTHS, "last")


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_sentence_vector_is_pooled_as_the_network_says(pooling):
    model = PlotTransformer(BERT.clone(pooling=pooling))
    params = build(model)
    _, intermediates = run(model, params)
    expected = pool_tokens(intermediates["layer2"], LENGTHS, pooling)
    np.testing.assert_allclose(intermediates["sentence"], expected, atol=1e-5)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(model, params, LENGTHS))
    )


@FAMILIES
def test_every_layer_equals_bert_in_numpy(bert):
    params = build(bert)
    states = run(bert, params)
    assert list(states) == LAYERS
    for row, length in enumerate(LENGTHS):
        expected = numpy_bert(bert, params, TOKENS[row, :length])
        for layer, of_layer in states.items():
            np.testing.assert_allclose(of_layer[row, :length], expected[layer], atol=1e-5)


@DTYPES
@FAMILIES
def test_padding_never_changes_a_result(bert, dtype):
    model = PlotTransformer(bert.clone(dtype=dtype))
    params = build(model)
    logits, intermediates = run(model, params)

    def assert_same(tokens):
        other_logits, other = run(model, params, tokens)
        np.testing.assert_allclose(other_logits, logits, atol=1e-5)
        for layer in LAYERS:
            np.testing.assert_allclose(
                other[layer][:, :5][IS_TOKEN], intermediates[layer][IS_TOKEN], atol=1e-5
            )

    longer = np.pad(TOKENS, ((0, 0), (0, 6)))
    assert_same(longer)
    random_tokens = np.random.default_rng(2).integers(1, 12, longer.shape)
    is_padding = np.arange(longer.shape[1]) >= LENGTHS[:, None]
    assert_same(np.where(is_padding, random_tokens, longer).astype(np.int32))

    # Changing a token or the order of tokens, in contrast, changes the result.
    changed = TOKENS.copy()
    changed[:, 0] += 1
    assert (np.abs(run(model, params, changed)[0] - logits).max(axis=1) > 1e-3).all()
    swapped = TOKENS[:, [1, 0, 2, 3, 4]]
    assert (np.abs(run(model, params, swapped)[0] - logits).max(axis=1)[:2] > 1e-3).all()


@DTYPES
@FAMILIES
def test_ranges_of_layers_equal_the_whole_encoder(bert, dtype):
    bert = bert.clone(dtype=dtype)
    params = build(bert)
    below = run(bert.clone(last_layer=1), params)
    above = run(bert.clone(first_layer=2), params, below["layer1"])
    whole = run(bert, params)
    assert (below | above).keys() == whole.keys()
    for layer, states in (below | above).items():
        assert states.dtype == jnp.float32
        np.testing.assert_allclose(states[IS_TOKEN], whole[layer][IS_TOKEN], atol=1e-5)


def test_a_part_has_the_parameters_of_its_layers_only():
    states = np.zeros((3, 5, 8), np.float32)
    assert sorted(build(BERT.clone(first_layer=2), states)) == ["layer2"]
    assert sorted(build(BERT.clone(last_layer=1))) == ["embeddings", "layer1"]
    assert sorted(build(BERT.clone(last_layer=0))) == ["embeddings"]
    only_head = PlotTransformer(BERT.clone(first_layer=3))
    assert sorted(build(only_head, states[:, 0])) == ["head"]


@pytest.mark.parametrize("first_layer", [2, 3])
def test_the_encoder_from_any_layer_on_gives_the_same_logits(first_layer):
    whole = PlotTransformer(BERT)
    params = build(whole)
    logits, intermediates = run(whole, params)
    assert logits.shape == (3, 24)

    inputs = {2: intermediates["layer1"], 3: intermediates["sentence"]}[first_layer]
    part = PlotTransformer(BERT.clone(first_layer=first_layer))
    part_logits, of_part = run(part, params, inputs)
    np.testing.assert_allclose(part_logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_part["sentence"], intermediates["sentence"], atol=1e-5)


def test_the_sentence_vector_comes_from_the_last_layer_that_runs():
    whole, short = PlotTransformer(BERT), PlotTransformer(BERT.clone(last_layer=1))
    params = build(whole)
    expected = pool_tokens(run(whole, params)[1]["layer1"], LENGTHS)
    np.testing.assert_allclose(run(short, params)[1]["sentence"], expected, atol=1e-5)


def test_head_takes_the_normalised_mean_without_padding():
    model = PlotTransformer(BERT)
    params = build(model)
    logits, intermediates = run(model, params)
    for row, length in enumerate(LENGTHS):
        mean = np.float64(intermediates["layer2"])[row, :length].mean(axis=0)
        embedding = mean / np.linalg.norm(mean) * math.sqrt(8)
        np.testing.assert_allclose(intermediates["sentence"][row], mean, atol=1e-5)
        np.testing.assert_allclose(intermediates["embedding"][row], embedding, atol=1e-5)
        genres = params["head"]["genres"]
        expected = embedding @ genres["kernel"] + genres["bias"]
        np.testing.assert_allclose(logits[row], expected, atol=1e-5)


def test_head_takes_several_layers_each_normalised():
    model = PlotTransformer(BERT, head_layers=2)
    params = build(model)
    logits, intermediates = run(model, params)
    means = [pool_tokens(intermediates[name], LENGTHS) for name in ("layer1", "layer2")]
    np.testing.assert_allclose(intermediates["sentence"], np.concatenate(means, 1), atol=1e-5)
    scaled = [mean / np.linalg.norm(mean, axis=1, keepdims=True) * math.sqrt(8) for mean in means]
    embedding = np.concatenate(scaled, 1)
    np.testing.assert_allclose(intermediates["embedding"], embedding, atol=1e-5)
    genres = params["head"]["genres"]
    np.testing.assert_allclose(logits, embedding @ genres["kernel"] + genres["bias"], atol=1e-5)
    only_head = PlotTransformer(BERT.clone(first_layer=3), head_layers=2)
    of_head = run(only_head, params, intermediates["sentence"])[0]
    np.testing.assert_allclose(of_head, logits, atol=1e-5)


@DTYPES
def test_an_empty_text_counts_as_one_token_and_has_finite_gradients(dtype):
    model = PlotTransformer(BERT.clone(last_layer=1, dtype=dtype))
    params = build(model)
    lengths = np.array([0, 1, 0], np.int32)
    logits, _ = run(model, params, TOKENS, lengths)
    np.testing.assert_array_equal(logits, run(model, params, TOKENS, np.ones(3, np.int32))[0])
    gradients = gradient(model, params, lengths)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_sentence_of_zeros_has_finite_gradients():
    model = PlotTransformer(BERT.clone(first_layer=3))
    zeros = np.zeros((3, 8), np.float32)
    params = build(model, zeros)
    gradients = jax.grad(lambda x: run(model, params, x)[0].sum())(zeros)
    assert np.isfinite(gradients).all()


def test_bfloat16_changes_the_matmuls_but_not_the_parameters():
    half, full = PlotTransformer(BERT.clone(dtype="bfloat16")), PlotTransformer(BERT)
    shapes = jax.eval_shape(half.init, jax.random.key(0), TOKENS, LENGTHS)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}

    params = build(half)
    logits, intermediates = run(half, params)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in intermediates.values()} == {np.dtype("float32")}
    # Two layers whose factors have 8 bits of precision: close, but not equal.
    assert 1e-4 < relative_error(logits, run(full, params)[0]) < 0.05
    half_gradient, full_gradient = gradient(half, params), gradient(full, params)
    for name in LAYERS[1:]:
        for part in ("value", "attention_output", "intermediate", "output"):
            parts = (tree["bert"][name][part] for tree in (half_gradient, full_gradient))
            assert 1e-4 < relative_error(*parts) < 0.05, (name, part)


@pytest.mark.slow
def test_kernels_change_neither_logits_nor_gradients():
    plain = PlotTransformer(BERT.clone(dtype="bfloat16"))
    other = PlotTransformer(BERT.clone(dtype="bfloat16", kernels=Kernels(transpose_first=True)))
    params = build(plain)
    tokens, lengths = np.tile(TOKENS, (2, 1)), np.tile(LENGTHS, 2)

    def gradients(model):
        return jax.grad(lambda p: (run(model, p, tokens, lengths)[0] ** 2).sum())(params)

    np.testing.assert_array_equal(
        run(other, params, tokens, lengths)[0], run(plain, params, tokens, lengths)[0]
    )
    assert relative_error(gradients(other), gradients(plain)) < 1e-3


@pytest.mark.parametrize(("dropout", "head_dropout"), [(0.3, 0.0), (0.0, 0.3)])
def test_drops_out_only_in_training(dropout, head_dropout):
    bert = BERT.clone(last_layer=1)
    model = PlotTransformer(bert.clone(dropout=dropout), head_dropout=head_dropout)
    params = build(model)

    @jax.jit
    def training(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, TOKENS, LENGTHS, train=True, rngs=rngs)[0]

    still, _ = run(model, params)
    assert np.abs(training(1) - training(2)).max() > 1e-3
    assert np.abs(training(1) - still).max() > 1e-3
    # The rate changes nothing outside training.
    np.testing.assert_array_equal(run(PlotTransformer(bert, head_dropout=0.0), params)[0], still)


def training(bert, params):
    return bert.apply(
        {"params": params}, TOKENS, LENGTHS, train=True, rngs={"dropout": jax.random.key(1)}
    )


def test_embeddings_and_both_sublayers_drop_out():
    bert = BERT.clone(last_layer=1, dropout=1.0)
    params = build(bert)
    states = training(bert, params)
    np.testing.assert_array_equal(states["layer0"], 0)
    # Both sublayers add 0, so only the norms remain.
    layer = params["layer1"]
    expected = numpy_norm(layer["output_norm"], numpy_norm(layer["attention_norm"], np.zeros(8)))
    np.testing.assert_allclose(states["layer1"], np.broadcast_to(expected, (3, 5, 8)), atol=1e-5)


def test_attention_drops_out():
    bert = BERT.clone(last_layer=1, dropout=0.3)
    params = build(bert)

    def without_the_others(call, arguments, keywords, context):
        if isinstance(context.module, Dropout):
            return arguments[0]
        return call(*arguments, **keywords)

    with nn.intercept_methods(without_the_others):
        states = training(bert, params)
    still = run(bert, params)
    np.testing.assert_allclose(states["layer0"], still["layer0"], atol=1e-5)
    assert np.abs(states["layer1"] - still["layer1"]).max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 4}, "the texts have 5 tokens, but max_length=4"),
        ({"heads": 3}, "hidden=8 is not a multiple of heads=3"),
        ({"relative_buckets": 6}, "relative_buckets=6 is not a multiple of 4"),
        ({"dtype": "float16"}, "'float16', not one of float32, bfloat16"),
        ({"first_layer": 0}, "first_layer=0 and last_layer=None are not a range of 2 layers"),
        ({"last_layer": 3}, "first_layer=1 and last_layer=3 are not a range of 2 layers"),
        ({"first_layer": 2, "last_layer": 0}, "first_layer=2 and last_layer=0 are not a range"),
    ],
)
def test_invalid_attributes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(BERT.clone(**settings))
