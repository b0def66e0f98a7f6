"""Tests feature fusion networks against numpy formulas, and the properties that all share."""

import functools

import jax
import numpy as np
import optax
import pytest

from mmgc_jax.models import (
    FUSIONS,
    ConcatMaxout,
    GatedMultimodalUnit,
    LinearSum,
    LowRankTensorFusion,
    MixtureOfExperts,
)

# The encoders' vectors differ in size, scale and mean.
SIZES, SCALES, LEVELS = (5, 3, 7), (0.05, 40.0, 1.0), (0.0, 90.0, -2.0)
GENRES, HIDDEN = 6, 4
RNG = np.random.default_rng(0)
FEATURES = tuple(
    RNG.normal(level, scale, (8, size)).astype(np.float32)
    for size, scale, level in zip(SIZES, SCALES, LEVELS)
)
# All, each alone, each pair, none.
PRESENT = np.float32(
    [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]]
)
LABELS = RNG.integers(0, 2, (8, GENRES)).astype(np.float32)
OF_VECTORS = [fusion for name, fusion in FUSIONS.items() if name not in ("late", "mlp")]


def build(fusion, encoders=3, **attributes):
    """Makes a small network with random parameters, so that none has its initial value."""
    model = fusion(hidden=HIDDEN, dropout=0.5, num_genres=GENRES, **attributes)
    like = jax.eval_shape(
        model.init, jax.random.key(0), FEATURES[:encoders], PRESENT[:, :encoders]
    )["params"]
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda p: rng.normal(0, 0.7, p.shape).astype(np.float32), like)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, features, present):
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, features, present)


@functools.partial(jax.jit, static_argnums=0)
def run_training(model, params, features, present, seed):
    rngs = {"dropout": jax.random.key(seed)}
    return model.apply({"params": params}, features, present, train=True, rngs=rngs)[0]


def loss_of(model, params, features, present):
    """Returns the cross-entropy for random labels, independent of the vectors."""
    logits = model.apply({"params": params}, features, present)[0]
    return optax.sigmoid_binary_cross_entropy(logits, LABELS).mean()


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, features, present):
    """Returns the loss's gradients with respect to the parameters and the vectors."""
    return jax.grad(loss_of, argnums=(1, 2))(model, params, features, present)


@functools.partial(jax.jit, static_argnums=0)
def train_briefly(model, features, present):
    """Trains for 30 steps; returns the parameters before and after, and the losses."""
    params = model.init(jax.random.key(0), features, present)["params"]
    optimizer = optax.adam(0.01)

    def step(carry, _):
        params, state = carry
        loss, found = jax.value_and_grad(loss_of, argnums=1)(model, params, features, present)
        updates, state = optimizer.update(found, state)
        return (optax.apply_updates(params, updates), state), loss

    start = params, optimizer.init(params)
    (trained, _), losses = jax.lax.scan(step, start, length=30)
    return params, trained, losses


def normalised(params, movie):
    """Returns {encoder: normalised vector} for the encoders that a movie has, in float64."""
    vectors = {}
    for e in np.flatnonzero(PRESENT[movie]):
        x = np.float64(FEATURES[e][movie])
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        norm = params[f"norm{e + 1}"]
        vectors[e] = x * norm["scale"] + norm["bias"]
    return vectors


def dense(params, x):
    return x @ np.float64(params["kernel"]) + params.get("bias", 0.0)


def side_by_side(vectors):
    """Concatenates vectors, with zeros for missing ones."""
    return np.concatenate([vectors.get(e, np.zeros(size)) for e, size in enumerate(SIZES)])


def maxout(params, x, pieces=2):
    for layer in ("dense1", "dense2"):
        z = dense(params[layer], x)
        x = np.array([max(z[unit * pieces : (unit + 1) * pieces]) for unit in range(HIDDEN)])
    return x


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear_sum(params, movie):
    embedding = np.zeros(HIDDEN)
    for e, x in normalised(params, movie).items():
        embedding += dense(params[f"linear{e + 1}"], x)
    return embedding, dense(params["genres"], embedding)


def concat_maxout(params, movie):
    x = np.concatenate([side_by_side(normalised(params, movie)), PRESENT[movie]])
    embedding = maxout(params["maxout"], x)
    return embedding, dense(params["genres"], embedding)


def mixture_of_experts(params, movie):
    vectors = normalised(params, movie)
    scores = dense(params["gate"], side_by_side(vectors)).reshape(3, GENRES)
    # For a movie without any modality, all experts have equal weights.
    weights = {e: np.exp(scores[e]) for e in vectors} or dict.fromkeys(range(3), np.ones(GENRES))
    embedding, probabilities = np.zeros((3, HIDDEN)), np.zeros(GENRES)
    for e, weight in weights.items():
        if e in vectors:
            embedding[e] = maxout(params[f"expert{e + 1}"], vectors[e])
        layer = {name: values[e] for name, values in params["genres"].items()}
        probabilities += weight / sum(weights.values()) * sigmoid(dense(layer, embedding[e]))
    return embedding.ravel(), np.log(probabilities / (1 - probabilities))


def gated(params, movie):
    vectors = normalised(params, movie)
    gates = sigmoid(dense(params["gate"], side_by_side(vectors)).reshape(3, HIDDEN))
    embedding = np.zeros(HIDDEN)
    for e, x in vectors.items():
        share = gates[e] / sum(gates[other] for other in vectors)
        embedding += share * np.tanh(dense(params[f"linear{e + 1}"], x))
    return embedding, dense(params["genres"], embedding)


def low_rank_tensor(params, movie, rank=4):
    terms = np.ones((rank, HIDDEN))
    for e, x in normalised(params, movie).items():
        terms *= dense(params[f"factor{e + 1}"], x).reshape(rank, HIDDEN)
    embedding = terms.sum(axis=0) - rank
    return embedding, dense(params["genres"], embedding)


@pytest.mark.parametrize(
    ("fusion", "formula"),
    [
        (LinearSum, linear_sum),
        (ConcatMaxout, concat_maxout),
        (MixtureOfExperts, mixture_of_experts),
        (GatedMultimodalUnit, gated),
        (LowRankTensorFusion, low_rank_tensor),
    ],
)
def test_the_formula(fusion, formula):
    model, params = build(fusion)
    logits, intermediates = run(model, params, FEATURES, PRESENT)
    embedding, expected = zip(*(formula(params, movie) for movie in range(len(PRESENT))))
    np.testing.assert_allclose(intermediates["embedding"], embedding, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_more_pieces_of_a_maxout_unit():
    model, params = build(ConcatMaxout, pieces=3)
    _, intermediates = run(model, params, FEATURES, PRESENT)
    x = np.concatenate([side_by_side(normalised(params, 0)), PRESENT[0]])
    expected = maxout(params["maxout"], x, pieces=3)
    np.testing.assert_allclose(intermediates["embedding"][0], expected, rtol=1e-3, atol=1e-4)


def test_the_bimodal_unit_ties_its_gates():
    model, params = build(GatedMultimodalUnit, encoders=2)
    _, intermediates = run(model, params, FEATURES[:2], PRESENT[:, :2])
    vectors = normalised(params, 4)  # this movie has exactly these two modalities
    z = sigmoid(dense(params["gate"], np.concatenate([vectors[0], vectors[1]])))
    h = [np.tanh(dense(params[f"linear{e + 1}"], vectors[e])) for e in (0, 1)]
    np.testing.assert_allclose(intermediates["gates"][4], [z, 1 - z], atol=1e-5)
    expected = z * h[0] + (1 - z) * h[1]
    np.testing.assert_allclose(intermediates["embedding"][4], expected, atol=1e-5)


def test_low_rank_fusion_is_the_contraction_of_the_whole_tensor():
    model, params = build(LowRankTensorFusion, rank=2)
    _, intermediates = run(model, params, FEATURES, PRESENT)
    factors, vectors = [], []
    for e, x in normalised(params, 0).items():
        vectors.append(np.append(x, 1))
        layer = params[f"factor{e + 1}"]
        factors.append(np.vstack([layer["kernel"], layer["bias"]]).reshape(-1, 2, HIDDEN))
    weights = np.einsum("irh,jrh,krh->ijkh", *factors)
    fused = np.einsum("i,j,k->ijk", *vectors)
    expected = np.einsum("ijk,ijkh->h", fused, weights) - 2
    np.testing.assert_allclose(intermediates["embedding"][0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fusion", [LinearSum, LowRankTensorFusion])
def test_without_a_modality_it_equals_the_fusion_of_the_others(fusion):
    model, params = build(fusion)
    absent = np.float32([[1, 1, 0]]).repeat(8, axis=0)
    logits, _ = run(model, params, FEATURES, absent)
    of_two = {name: values for name, values in params.items() if not name.endswith("3")}
    expected, _ = run(model, of_two, FEATURES[:2], absent[:, :2])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("encoders", "rank"), [(1, 1), (2, 4), (5, 2)])
def test_low_rank_fusion_begins_with_embeddings_of_its_stated_variance(encoders, rank):
    rng = np.random.default_rng(3)
    features = [rng.normal(size=(128, 100)).astype(np.float32) for _ in range(encoders)]
    present = np.ones((128, encoders), np.float32)
    model = LowRankTensorFusion(hidden=128, rank=rank)
    params = jax.jit(model.init)(jax.random.key(0), features, present)["params"]
    embedding = run(model, params, features, present)[1]["embedding"]
    expected = rank * ((1 + 1 / (rank * encoders)) ** encoders - 1)
    assert np.mean(embedding**2) == pytest.approx(expected, rel=0.1)
    # At first a missing modality has the same effect as a vector of zeros.
    without = present.copy()
    without[:, 0] = 0
    absent = run(model, params, features, without)[0]
    zeros = [np.zeros_like(features[0]), *features[1:]]
    np.testing.assert_allclose(run(model, params, zeros, present)[0], absent, atol=1e-5)


@pytest.mark.parametrize("fusion", [MixtureOfExperts, GatedMultimodalUnit])
@pytest.mark.parametrize("encoders", [1, 2, 3])
def test_gates_of_present_modalities_add_up_to_one(fusion, encoders):
    model, params = build(fusion, encoders)
    present = PRESENT[:, :encoders]
    gates = np.asarray(run(model, params, FEATURES[:encoders], present)[1]["gates"])
    assert gates.shape == (8, encoders, GENRES if fusion is MixtureOfExperts else HIDDEN)
    assert (gates[present == 0] == 0).all()
    assert (gates[present == 1] > 0).all()
    some = present.any(axis=1)
    np.testing.assert_allclose(gates[some].sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_vectors_of_missing_modalities_have_no_effect(fusion):
    model, params = build(fusion)
    expected = run(model, params, FEATURES, PRESENT)
    expected_gradients = gradients(model, params, FEATURES, PRESENT)
    for garbage in (0.0, 7.0, 3e38, np.inf, np.nan):
        features = tuple(
            np.where(PRESENT[:, e, None] > 0, x, np.float32(garbage))
            for e, x in enumerate(FEATURES)
        )
        jax.tree.map(np.testing.assert_array_equal, run(model, params, features, PRESENT), expected)
        after = gradients(model, params, features, PRESENT)
        jax.tree.map(np.testing.assert_array_equal, after, expected_gradients)
    for e, gradient in enumerate(expected_gradients[1]):
        assert (gradient[PRESENT[:, e] == 0] == 0).all()
        assert (np.abs(gradient[PRESENT[:, e] == 1]).max(axis=1) > 0).all()


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_gradients_are_finite_for_saturated_gates_and_logits(fusion):
    model, params = build(fusion)
    for scale in (0, 1, 100):
        large = jax.tree.map(lambda p, scale=scale: p * scale, params)
        logits, _ = run(model, large, FEATURES, PRESENT)
        assert np.isfinite(logits).all()
        found = jax.tree.leaves(gradients(model, large, FEATURES, PRESENT))
        assert all(np.isfinite(leaf).all() for leaf in found)


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_scale_and_mean_of_vectors_have_no_effect(fusion):
    model, params = build(fusion)
    expected, _ = run(model, params, FEATURES, PRESENT)
    moved = tuple(x * factor + 5000 for x, factor in zip(FEATURES, (200, 5, 40)))
    np.testing.assert_allclose(run(model, params, moved, PRESENT)[0], expected, atol=5e-3)


@pytest.mark.parametrize("fusion", [LinearSum, LowRankTensorFusion])
def test_the_order_of_encoders_has_no_effect(fusion):
    model, params = build(fusion)
    expected, _ = run(model, params, FEATURES, PRESENT)
    order = (2, 0, 1)
    moved = dict(params)
    for name in params:
        if name != "genres":
            part, number = name[:-1], int(name[-1])
            moved[name] = params[f"{part}{order[number - 1] + 1}"]
    features = tuple(FEATURES[e] for e in order)
    logits, _ = run(model, moved, features, PRESENT[:, order])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_dropout_acts_only_in_training(fusion):
    model, params = build(fusion)
    still, _ = run(model, params, FEATURES, PRESENT)
    first, second = (run_training(model, params, FEATURES, PRESENT, seed) for seed in (1, 2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - still).max() > 1e-3


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_training_changes_every_parameter_and_reduces_the_loss(fusion):
    model = fusion(hidden=16, dropout=0.5, num_genres=GENRES)
    present = np.ones((8, 2), np.float32)
    params, trained, losses = train_briefly(model, FEATURES[:2], present)
    assert losses[-1] < 0.8 * losses[0]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-5, trained, params)
    assert all(jax.tree.leaves(moved)), moved


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_a_single_encoder_is_enough(fusion):
    model, params = build(fusion, encoders=1)
    logits, intermediates = run(model, params, FEATURES[:1], PRESENT[:, :1])
    assert logits.shape == (8, GENRES)
    assert intermediates["embedding"].shape == (8, HIDDEN)
    # Logits differ between movies that have the modality, and are equal for those without it.
    is_present = PRESENT[:, 0] == 1
    assert (np.std(logits[is_present], axis=0) > 1e-3).all()
    np.testing.assert_allclose(
        logits[~is_present], logits[~is_present][:1].repeat(4, axis=0), atol=1e-6
    )


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_weight_decay_acts_on_the_matrices(fusion):
    _, params = build(fusion)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        # The experts' output layers are stacked in one array.
        stacked = fusion is MixtureOfExperts and path[0].key == "genres"
        assert (path[-1].key == "kernel") == (leaf.ndim - stacked == 2), path


@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_a_wrong_number_of_encoders_in_present_is_refused(fusion):
    model, params = build(fusion)
    with pytest.raises(ValueError, match="3 vectors, but `present` has 2 encoders"):
        model.apply({"params": params}, FEATURES, PRESENT[:, :2])
