"""Building blocks of explanations: occlusion, integrated gradients and Grad-CAM.

Scores of words are in logits: a word with the score 1.5 raises the logit of a genre by 1.5. Heat
maps say which positions of a poster raise the logit.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_WORD = re.compile(r"\S*\w\S*")
_SENTENCE = re.compile(r"[^\s.!?…。！？].*?(?:[.!?…。！？]+['\"”’)]*(?=\s|$)|$)", re.DOTALL)
# The rules of `text.tokenize` join at most this many pieces between blanks: `do n ' t`.
_JOINED = 4


class Span(NamedTuple):
    """A word or a sentence of a plot.

    Attributes:
      text: `plot[start:end]`.
      start: index of its first character.
      end: index after its last character.
    """

    text: str
    start: int
    end: int


class WordScores(NamedTuple):
    """Contributions of words to the logits of some genres, by one model.

    Attributes:
      scores: <float32>[words, genres], in logits.
      gap: <float32>[genres], the part of the difference to the logits of a baseline that the scores
        do not add up to.
    """

    scores: np.ndarray
    gap: np.ndarray


def words_of(plot: str) -> list[Span]:
    """Splits a plot at blanks; pieces without a letter or digit are left out."""
    return _spans(_WORD, plot)


def sentences_of(plot: str) -> list[Span]:
    """Splits a plot after full stops, question and exclamation marks before a blank."""
    return [span for span in _spans(_SENTENCE, plot) if _WORD.search(span.text)]


def _spans(pattern: re.Pattern, plot: str) -> list[Span]:
    return [Span(found[0], *found.span()) for found in pattern.finditer(plot)]


def occluded(plot: str, spans: Sequence[Span]) -> list[str]:
    """Returns the plot without each of some words or sentences."""
    return [plot[: span.start] + plot[span.end :] for span in spans]


def span_of_tokens(
    plot: str, spans: Sequence[Span], tokenize: Callable[[str], list[str]]
) -> np.ndarray:
    """Assigns the tokens of a plot to its words.

    Args:
      plot: the plot.
      spans: its words.
      tokenize: splits a plot into tokens.

    Returns:
      The index of the word that each token is part of, <int64>[tokens].
    """
    pieces = [Span(found[0], *found.span()) for found in re.finditer(r"\S+", plot)]
    index_of = {span.start: number for number, span in enumerate(spans)}
    total, owners, last = len(tokenize(plot)), [], 0
    for number, piece in enumerate(pieces):
        # The tokens that the plot gains by this piece, in the context of the pieces before it.
        before = plot[pieces[max(0, number - _JOINED)].start : piece.start]
        gained = len(tokenize(before + piece.text)) - len(tokenize(before))
        last = index_of.get(piece.start, last)
        owners += [last] * max(gained, 0)
    # Rules across pieces can lose a token; it then belongs to the last word.
    owners += [last] * (total - len(owners))
    return np.array(owners[:total], np.int64)


def sum_by_span(of_tokens: np.ndarray, owners: np.ndarray, num_spans: int) -> np.ndarray:
    """Adds the scores of each word's tokens.

    Args:
      of_tokens: <float32>[tokens, genres].
      owners: the word of each token, <int64>[tokens].
      num_spans: number of words.

    Returns:
      <float32>[num_spans, genres].
    """
    scores = np.zeros((num_spans, of_tokens.shape[1]), np.float32)
    np.add.at(scores, owners, of_tokens)
    return scores


def integrated_gradients(
    logits_of: Callable[[jax.Array], jax.Array],
    vectors: jax.Array,
    baseline: jax.Array,
    genres: jax.Array,
    steps: int = 32,
    at_once: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes integrated gradients (arXiv 1703.01365) along the straight line from a baseline.

    Args:
      logits_of: function from word vectors <float32>[points, length, dim] to logits
        <float32>[points, genres of the model].
      vectors: <float32>[length, dim].
      baseline: <float32>[length, dim], vectors of a text that says nothing.
      genres: indices of the genres to explain, <int32>[genres].
      steps: number of points on the line, by the midpoint rule.
      at_once: number of points in a call of `logits_of`, a divisor of `steps`; fewer take less
        memory. None: all.

    Returns:
      Scores <float32>[length, genres]; and the completeness gap <float32>[genres]: the difference
      between the logits of both ends, minus the sum of the scores. It shrinks with more steps.
    """
    shares = ((jnp.arange(steps) + 0.5) / steps).reshape(-1, at_once or steps)

    def of_points(shares):
        points = baseline + shares[:, None, None] * (vectors - baseline)
        logits, pull = jax.vjp(logits_of, points)

        def of_genre(genre):
            (gradients,) = pull(jnp.zeros_like(logits).at[:, genre].set(1.0))
            return jnp.sum(gradients.mean(axis=0) * (vectors - baseline), axis=-1)

        return jax.lax.map(of_genre, genres)

    scores = jax.lax.map(of_points, shares).mean(axis=0).T
    ends = logits_of(jnp.stack([vectors, baseline]))[:, genres]
    return scores, ends[0] - ends[1] - scores.sum(axis=0)


def grad_cam(
    logits_of: Callable[[jax.Array], jax.Array], activations: jax.Array, genres: jax.Array
) -> jax.Array:
    """Computes Grad-CAM (arXiv 1610.02391), before its ReLU, for several genres.

    Args:
      logits_of: the network above the activations, which returns logits <float32>[batch, genres of
        the model].
      activations: <float>[batch, rows, columns, channels].
      genres: indices of the genres to explain, <int32>[genres].

    Returns:
      <float32>[batch, genres, rows, columns]; the activations, weighted by the genre's gradient,
      which is averaged over the positions.
    """
    logits, pull = jax.vjp(logits_of, activations)

    def of_genre(genre):
        (gradients,) = pull(jnp.zeros_like(logits).at[:, genre].set(1.0))
        weights = gradients.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        return jnp.sum(weights * activations.astype(jnp.float32), axis=-1)

    # One genre after the other: not all kernels can be batched by vmap.
    return jnp.moveaxis(jax.lax.map(of_genre, genres), 0, 1)


def heat_map(cam: np.ndarray, height: int, width: int) -> np.ndarray:
    """Makes heat maps for people: ReLU, upsampling, and scaling to a maximum of 1.

    Args:
      cam: <float32>[maps, rows, columns], the mean over the folds' models.
      height: height of the result in pixels.
      width: width of the result in pixels.

    Returns:
      <float32>[maps, height, width], in 0..1; zeros if nothing speaks for the genre.
    """
    from PIL import Image

    maps = []
    for of_genre in np.maximum(cam, 0).astype(np.float32):
        image = Image.fromarray(of_genre).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        maps.append(pixels / max(float(pixels.max()), 1e-12))
    return np.stack(maps) if maps else np.zeros((0, height, width), np.float32)
