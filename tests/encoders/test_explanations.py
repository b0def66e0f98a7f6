"""Tests of occlusion, integrated gradients, Grad-CAM and the assignment of tokens to words."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmgc_jax.data import text
from mmgc_jax.encoders import explanations

PLOTS = [
    "It's 1984: the 3rd don’t-panic film. Is it?",
    "it ' s  N  :  the  N rd don ' t  -  panic film .",
    "It 's 1984 : the 3rd do n't - panic film .",
    "  a word\n\nand  another , word ",
    "-- , . ok",
]


def test_words_have_a_letter_or_a_digit():
    words = explanations.words_of('"Help!" - cried 2 men , twice .')
    assert [word.text for word in words] == ['"Help!"', "cried", "2", "men", "twice"]
    assert all('"Help!" - cried 2 men , twice .'[w.start : w.end] == w.text for w in words)
    assert explanations.words_of(" . , ") == []


def test_sentences_end_with_a_mark_before_a_blank():
    plot = "A spy returns . Who is she ? She works for U.N.C.L.E. today! \n . The end"
    assert [s.text for s in explanations.sentences_of(plot)] == [
        "A spy returns .",
        "Who is she ?",
        "She works for U.N.C.L.E.",
        "today!",
        "The end",
    ]


def test_an_occluded_plot_lacks_one_word():
    plot = "a ghost and a scream ."
    without = explanations.occluded(plot, explanations.words_of(plot))
    assert [" ".join(rest.split()) for rest in without] == [
        "ghost and a scream .",
        "a and a scream .",
        "a ghost a scream .",
        "a ghost and scream .",
        "a ghost and a .",
    ]


@pytest.mark.parametrize("tokens", ["words", "mmimdb"])
@pytest.mark.parametrize("plot", PLOTS)
def test_every_token_belongs_to_a_word_that_contains_it(plot, tokens):
    tokenize = text.TOKENIZERS[tokens]
    spans = explanations.words_of(plot)
    owners = explanations.span_of_tokens(plot, spans, tokenize)
    found = tokenize(plot)
    assert len(owners) == len(found) and (np.diff(owners) >= 0).all()
    for owner, token in zip(owners, found):
        if token.isalpha() and len(token) > 3:
            assert token in spans[owner].text.lower()


def test_a_token_made_of_several_pieces_belongs_to_one_of_them():
    plot = "they do n ' t panic"  # tokens: they don t panic
    spans = explanations.words_of(plot)
    owners = explanations.span_of_tokens(plot, spans, text.tokenize)
    assert [spans[owner].text for owner in owners] == ["they", "do", "n", "panic"] or [
        spans[owner].text for owner in owners
    ] == ["they", "do", "t", "panic"]


def test_tokens_scores_are_added_by_word():
    found = explanations.sum_by_span(np.float32([[1], [2], [4]]), np.array([2, 0, 2]), 3)
    np.testing.assert_array_equal(found, [[2], [0], [5]])


def test_integrated_gradients_of_a_linear_function_are_exact():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 5)).astype(np.float32)  # length, dim, genres
    vectors, baseline = rng.standard_normal((2, 4, 3)).astype(np.float32)

    def logits_of(v):
        return jnp.einsum("sld,ldg->sg", v, weights) + 7

    scores, gap = explanations.integrated_gradients(
        logits_of, vectors, baseline, jnp.array([4, 1]), steps=3
    )
    expected = ((vectors - baseline)[..., None] * weights).sum(axis=1)
    np.testing.assert_allclose(scores, expected[:, [4, 1]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gap, 0, atol=1e-5)


def test_integrated_gradients_golden():
    """Of x² y from (0, 0) to (2, 3): the integrals of 2 x² y a² and of x² y a² are 8 and 4."""

    def logits_of(v):
        return (v[:, 0, 0] ** 2 * v[:, 1, 0])[:, None]

    vectors = jnp.array([[2.0], [3.0]])
    for steps, expected in ((4, [7.875, 3.9375]), (64, [8, 4])):  # midpoint rule
        scores, gap = explanations.integrated_gradients(
            logits_of, vectors, jnp.zeros((2, 1)), jnp.array([0]), steps
        )
        np.testing.assert_allclose(scores[:, 0], expected, atol=1e-3)
        np.testing.assert_allclose(gap, [12 - scores.sum()], atol=1e-4)


def test_grad_cam_golden():
    """With logits linear in the means of two channels, the weights are the factors over 6."""
    activations = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    factors = np.float32([[6, -12, 0], [0, 6, 60]])  # channels, genres

    def logits_of(a):
        return a.mean(axis=(1, 2)) @ factors

    cam = explanations.grad_cam(logits_of, jnp.asarray(activations), jnp.array([0, 1]))
    first, second = activations[0, ..., 0], activations[0, ..., 1]
    np.testing.assert_allclose(cam[0, 0], first, rtol=1e-5)
    np.testing.assert_allclose(cam[0, 1], -2 * first + second, rtol=1e-5)


def test_a_heat_map_is_scaled_and_has_no_negative_values():
    cam = np.float32([[[-1, 2], [0, 4]], [[-1, -2], [-3, -4]]])
    maps = explanations.heat_map(cam, 64, 32)
    assert maps.shape == (2, 64, 32) and maps.dtype == np.float32
    assert maps[0].max() == 1 and maps.min() == 0 and not maps[1].any()
    assert maps[0, 63, 31] == 1 and maps[0, 0, 31] == pytest.approx(0.5) and maps[0, 0, 0] == 0
