"""Tests late fusion, the plain network over probabilities, and modality dropout."""

import jax
import numpy as np
import pytest

from mmgc_jax.models import LateFusion, ProbabilityMLP
from mmgc_jax.models.fusion import drop_modalities

PROBABILITIES = np.random.default_rng(0).uniform(0.02, 0.98, (5, 2, 24)).astype(np.float32)
PRESENT = np.ones((5, 2), np.float32)


def logit(p):
    return np.log(p) - np.log1p(-p)


MODEL = LateFusion(dropout=0.5)


@jax.jit
def run(params, probabilities, present):
    return MODEL.apply({"params": params}, probabilities, present)


@jax.jit
def run_training(params, probabilities, present, seed):
    rngs = {"dropout": jax.random.key(seed)}
    return MODEL.apply({"params": params}, probabilities, present, train=True, rngs=rngs)[0]


@pytest.fixture(scope="module")
def untrained():
    return jax.jit(MODEL.init)(jax.random.key(0), PROBABILITIES, PRESENT)["params"]


@pytest.fixture
def trained(untrained):
    """Random parameters, so that none has its initial value."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: rng.uniform(-1, 1, p.shape).astype(np.float32), untrained)


def test_before_training_the_fusion_is_the_sum_of_logits(untrained):
    logits, intermediates = run(untrained, PROBABILITIES, PRESENT)
    np.testing.assert_allclose(logits, logit(PROBABILITIES).sum(axis=1), atol=1e-4)
    assert intermediates["embedding"].shape == (5, 64)
    # The network's output is zero because its last layer is, not because its input is.
    assert np.abs(intermediates["embedding"]).max() > 0.1


def test_prior_evidence_and_correction_add_up_to_the_logits(trained):
    present = PRESENT.copy()
    present[1:3, 1] = 0
    logits, terms = run(trained, PROBABILITIES, present)
    assert terms["evidence"].shape == (5, 2, 24) and np.abs(terms["correction"]).max() > 0.1
    assert not np.asarray(terms["evidence"])[1:3, 1].any()
    total = trained["prior"] + terms["evidence"].sum(axis=1) + terms["correction"]
    np.testing.assert_allclose(logits, total, atol=1e-5)


def test_weights_of_encoders_and_genres_scale_their_logits(untrained):
    weights = np.random.default_rng(1).uniform(0, 2, (2, 24)).astype(np.float32)
    logits, _ = run(untrained | {"weights": weights}, PROBABILITIES, PRESENT)
    np.testing.assert_allclose(logits, (weights * logit(PROBABILITIES)).sum(axis=1), atol=1e-4)


def test_exponents_scale_the_evidence_of_encoders_by_hand(untrained):
    # Log-odds 2 and -1, calibrated to 3 and -1.5, with the prior -1: the evidence is 4 and -0.5.
    probabilities = np.broadcast_to(
        1 / (1 + np.exp(-np.float32([2, -1])))[:, None], PROBABILITIES.shape
    )
    params = untrained | {
        "weights": np.full((2, 24), 1.5, np.float32),
        "shifts": np.zeros((2, 24), np.float32),
        "prior": np.full(24, -1, np.float32),
    }
    for exponents, present, expected in (
        ([1, 1], [1, 1], -1 + 4 - 0.5),
        ([0.5, 1], [1, 1], -1 + 2 - 0.5),
        ([0.5, 0.2], [1, 1], -1 + 2 - 0.1),
        ([0.5, 0.2], [0, 1], -1 - 0.1),
        ([0, 0], [1, 1], -1),
    ):
        chosen = params | {"exponents": np.float32(exponents)}
        logits, _ = run(chosen, probabilities, PRESENT * np.float32(present))
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert untrained["exponents"].tolist() == [1, 1]


def test_two_copies_of_an_encoder_with_exponents_of_a_half_are_one_encoder(untrained):
    twice = PROBABILITIES[:, [0, 0]]
    params = untrained | {"exponents": np.float32([0.5, 0.5])}
    logits, _ = run(params, twice, PRESENT)
    np.testing.assert_allclose(logits, logit(PROBABILITIES[:, 0]), atol=1e-4)


def test_exponents_are_trained_and_the_prior_is_not(trained):
    def total(params):
        return (run(params, PROBABILITIES, PRESENT)[0] ** 2).sum()

    gradients = jax.grad(total)(trained)
    assert (np.abs(gradients["exponents"]) > 1e-3).all()
    assert (gradients["prior"] == 0).all()


def test_a_certain_encoder_can_be_contradicted(untrained):
    never, always = np.zeros((5, 24), np.float32), np.ones((5, 24), np.float32)
    logits, _ = run(untrained, np.stack([never, always], axis=1), PRESENT)
    np.testing.assert_allclose(logits, 0, atol=1e-2)
    # Both are certain: log((1 - 2**-23) / 2**-23) = 15.94238; beyond 9.21 the slope is a tenth.
    logits, _ = run(untrained, np.stack([always, always], axis=1), PRESENT)
    np.testing.assert_allclose(logits, 2 * (9.21 + 0.673238), rtol=1e-5)


def test_tiny_probabilities_of_a_rare_genre_stay_different(untrained):
    rare = np.geomspace(1e-6, 1e-3, 5, dtype=np.float32)
    probabilities = np.broadcast_to(rare[:, None, None], PROBABILITIES.shape)
    logits, _ = run(untrained, probabilities, PRESENT)
    assert (np.diff(logits, axis=0) > 0.3).all()


def test_missing_modalities_change_the_logits(trained):
    both, _ = run(trained, PROBABILITIES, PRESENT)
    one, _ = run(trained, PROBABILITIES, PRESENT * np.float32([1, 0]))
    assert (np.abs(both - one).max(axis=1) > 1e-3).all()


def test_dropout_acts_only_in_training(trained):
    still, _ = run(trained, PROBABILITIES, PRESENT)
    first, second = (run_training(trained, PROBABILITIES, PRESENT, seed) for seed in (1, 2))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - still).max() > 1e-3
    without = LateFusion(dropout=0.0).apply({"params": trained}, PROBABILITIES, PRESENT)[0]
    np.testing.assert_allclose(without, still, atol=1e-5)


class TestProbabilityMLP:
    """Tests the talk's fusion: a fully connected network over the encoders' probabilities."""

    MODEL = ProbabilityMLP(hidden=3, num_genres=2, dropout=0.5)
    # Two encoders, two genres.
    INPUT = np.float32([[[0.5, 0.25], [1.0, 0.0]]])
    PARAMS = {  # noqa: RUF012 (not changed)
        "dense": {
            "kernel": np.float32([[2, 0, 1], [0, 4, 0], [1, -3, 0], [7, 7, 7]]),
            "bias": np.float32([-1, 1, -2]),
        },
        "genres": {
            "kernel": np.float32([[1, -1], [2, 2], [5, 5]]),
            "bias": np.float32([0.5, 0.25]),
        },
    }

    def run(self, probabilities, present, **options):
        return self.MODEL.apply({"params": self.PARAMS}, probabilities, present, **options)

    def test_by_hand(self):
        # Hidden: 2 * 0.5 + 1 - 1 = 1; 4 * 0.25 - 3 + 1 = -1, cut to 0; 0.5 - 2 = -1.5, cut to 0.
        logits, intermediates = self.run(self.INPUT, np.ones((1, 2)))
        np.testing.assert_allclose(intermediates["embedding"], [[1, 0, 0]], atol=1e-6)
        np.testing.assert_allclose(logits, [[1.5, -0.75]], atol=1e-6)

    def test_the_parameters_are_those_of_two_layers(self):
        shapes = jax.eval_shape(self.MODEL.init, jax.random.key(0), self.INPUT, np.ones((1, 2)))
        assert jax.tree.map(np.shape, shapes["params"]) == jax.tree.map(np.shape, self.PARAMS)

    def test_it_sees_missing_modalities_by_their_probabilities_alone(self):
        with_both = self.run(self.INPUT, np.ones((1, 2)))[0]
        np.testing.assert_array_equal(self.run(self.INPUT, np.zeros((1, 2)))[0], with_both)
        frequencies = self.INPUT.copy()
        frequencies[:, 1] = 0.1
        assert np.abs(self.run(frequencies, np.ones((1, 2)))[0] - with_both).min() > 0.1

    def test_dropout_acts_only_in_training(self):
        def training(seed):
            rngs = {"dropout": jax.random.key(seed)}
            return self.run(self.INPUT, np.ones((1, 2)), train=True, rngs=rngs)[0].tolist()

        # The only hidden unit that is not 0 is dropped or doubled.
        found = {tuple(training(seed)[0]) for seed in range(20)}
        assert found == {(0.5, 0.25), (2.5, -1.75)}


drop = jax.jit(drop_modalities, static_argnums=2)
SEPARATE = (0, 1, 2)
# Three plot encoders and one poster encoder.
SHARED = ("plot", "plot", "poster", "plot")


def movies():
    """Returns random `present` for 300 movies and three encoders."""
    return np.random.default_rng(1).integers(0, 2, (300, 3)).astype(np.float32)


def movies_with_plot_or_poster():
    """Returns random presence of plot and poster in 300 movies, and `present` for SHARED."""
    has = np.random.default_rng(2).integers(0, 2, (300, 2)).astype(np.float32)
    return has, has[:, [0, 0, 1, 0]]


def test_rate_0_drops_nothing():
    np.testing.assert_array_equal(drop(jax.random.key(0), movies(), SEPARATE, 0.0), movies())


def test_rate_1_drops_exactly_one_of_several_and_never_the_only_one():
    present = movies()
    remaining = drop(jax.random.key(0), present, SEPARATE, 1.0)
    several = present.sum(axis=1) > 1
    lost = present > remaining
    np.testing.assert_array_equal(lost.sum(axis=1), several)
    np.testing.assert_array_equal(remaining[~several], present[~several])
    assert (remaining <= present).all()
    assert lost.any(axis=0).all()  # each modality is dropped in some movies


def test_encoders_of_one_modality_lose_it_together():
    has, present = movies_with_plot_or_poster()
    remaining = np.asarray(drop(jax.random.key(0), present, SHARED, 1.0))
    plot, poster = remaining[:, 0], remaining[:, 2]
    np.testing.assert_array_equal(remaining[:, [1, 3]], plot[:, None].repeat(2, axis=1))
    both = has.all(axis=1)
    np.testing.assert_array_equal(plot[both] + poster[both], 1)
    np.testing.assert_array_equal(remaining[~both], present[~both])


def test_a_modality_is_not_lost_more_often_for_having_more_encoders():
    remaining = drop(jax.random.key(0), np.ones((4000, 4), np.float32), SHARED, 1.0)
    # Three standard deviations of the fraction are 0.024 for p = 0.5 and n = 4,000.
    assert np.mean(1 - remaining, axis=0) == pytest.approx([0.5] * 4, abs=0.025)


def test_encoders_of_one_modality_alone_lose_nothing():
    present = np.ones((100, 3), np.float32)
    remaining = drop(jax.random.key(0), present, ("plot", "plot", "plot"), 1.0)
    np.testing.assert_array_equal(remaining, present)


def test_each_modality_is_dropped_equally_often():
    present = np.ones((4000, 2), np.float32)
    remaining = drop(jax.random.key(0), present, (0, 1), 0.2)
    # Three standard deviations of the fraction are 0.014 for p = 0.1 and n = 4,000.
    assert (present > remaining).mean(axis=0) == pytest.approx([0.1, 0.1], abs=0.015)


def test_results_depend_on_the_key():
    def draw(key):
        return np.asarray(drop(jax.random.key(key), movies(), SEPARATE, 0.5))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()
