"""Explains the answer of a model for one movie.

>>> from mmgc_jax import Movie, Predictor, explanations
>>> predictor = Predictor.load("runs/demo")
>>> movie = Movie(plot="two brothers find a spaceship and a robot near the border .")
>>> explanation = explanations.explain(predictor, movie, genres=["Sci-Fi"])
>>> sorted(explanation.strongest("Sci-Fi", 2))
['robot', 'spaceship']

Everything is measured on the trained models, and averaged over those of the folds:

- A *word* or a *sentence* scores the logits by which the answer falls when it is taken out of the
  plot (occlusion). Contributions to single encoders are exact for a bag of words; integrated
  gradients (arXiv 1703.01365) are computed on demand.
- A *heat map* is Grad-CAM (arXiv 1610.02391) of a poster encoder.
- The *evidence* is the sum, in logits, that late fusion makes of its encoders.
- *Without* a modality, the model answers as if the movie lacked it.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import logit

from mmgc_jax.data import given_movies, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.data.text import clean
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.base import MODALITIES, Encoder, probabilities_of
from mmgc_jax.encoders.explanations import (
    Span,
    WordScores,
    heat_map,
    occluded,
    sentences_of,
    words_of,
)
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError, did_you_mean

# Words and sentences after these are not explained; each needs an answer of its own.
_MOST_WORDS, _MOST_SENTENCES = 400, 60
# Terms of the evidence that no encoder has.
PRIOR, CORRECTION, CALIBRATION = "prior", "correction", "calibration"
_MARGIN = 1e-7  # of probabilities, before the logit


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a model gives a movie its genres.

    Attributes:
      movie: the movie, with the bytes of its poster.
      model: name of the model, such as `fusion`.
      genres: names of all genres, the columns of `probabilities`.
      probabilities: <float32>[genres].
      thresholds: from which a genre is predicted, <float64>[genres].
      chosen: the genres that are explained.
      titles: of the model's encoders, by their names.
      plot: the text that the words are of; empty if the movie has no plot.
      words: the words of the plot.
      known: whether an encoder has the word in its vocabulary, <bool>[words].
      word_scores: <float32>[words, chosen], in logits of the answer; positive if the word speaks
        for the genre.
      sentences: the sentences of the plot.
      sentence_scores: <float32>[sentences, chosen], as `word_scores`.
      encoder_words: contributions to the logits of single encoders, by their names.
      heat_maps: <float32>[chosen, height, width], in 0..1, by the names of the poster encoders.
      evidence: terms in logits, <float32>[genres], by name: `prior`, the encoders, `correction`,
        and `calibration`. Their sum is the logit of the answer. Empty if the model adds no
        evidence.
      without: probabilities without a modality, <float32>[genres], by its name; empty if the model
        looks at only one, or the movie lacks one.
      notes: sentences on why the answer may be poor.
    """

    movie: Movie
    model: str
    genres: tuple[str, ...]
    probabilities: np.ndarray
    thresholds: np.ndarray
    chosen: tuple[str, ...]
    titles: Mapping[str, str]
    plot: str
    words: tuple[Span, ...]
    known: np.ndarray
    word_scores: np.ndarray
    sentences: tuple[Span, ...]
    sentence_scores: np.ndarray
    encoder_words: Mapping[str, WordScores]
    heat_maps: Mapping[str, np.ndarray]
    evidence: Mapping[str, np.ndarray]
    without: Mapping[str, np.ndarray]
    notes: list[str]

    @property
    def predicted(self) -> np.ndarray:
        """Whether each genre reaches its threshold, <bool>[genres]."""
        return self.probabilities >= self.thresholds

    def strongest(self, genre: str, count: int = 5) -> list[str]:
        """Returns the words that speak most for a chosen genre, the strongest first."""
        scores = self.word_scores[:, self.chosen.index(genre)]
        order = np.argsort(-scores, kind="stable")[:count]
        return [self.words[number].text for number in order if scores[number] > 0]

    def to_json(self) -> dict:
        """Returns the explanation for JSON; heat maps have one value for 8 x 8 pixels."""
        index = [self.genres.index(genre) for genre in self.chosen]

        def of_chosen(values) -> dict[str, float]:
            return {g: round(float(v), 4) for g, v in zip(self.chosen, values)}

        def of_spans(spans, scores) -> list[dict]:
            return [
                {"text": span.text, "start": span.start, "end": span.end, "scores": of_chosen(row)}
                for span, row in zip(spans, scores)
            ]

        genres = zip(self.genres, self.probabilities, self.thresholds, self.predicted)
        return {
            "id": self.movie.id,
            "title": self.movie.title,
            "model": self.model,
            "genres": {
                name: {
                    "probability": round(float(probability), 6),
                    "threshold": round(float(threshold), 6),
                    "predicted": bool(predicted),
                }
                for name, probability, threshold, predicted in genres
            },
            "explained": list(self.chosen),
            "words": of_spans(self.words, self.word_scores),
            "sentences": of_spans(self.sentences, self.sentence_scores),
            "encoder_words": {
                name: {"words": of_spans(self.words, found.scores), "gap": of_chosen(found.gap)}
                for name, found in self.encoder_words.items()
            },
            "heat_maps": {
                name: dict(zip(self.chosen, np.round(maps[:, 4::8, 4::8], 3).tolist()))
                for name, maps in self.heat_maps.items()
            },
            "evidence": {name: of_chosen(terms[index]) for name, terms in self.evidence.items()},
            "without": {name: of_chosen(found[index]) for name, found in self.without.items()},
            "notes": self.notes,
        }


def explain(
    predictor: Predictor,
    movie: Movie,
    model: str = fusion.FUSION,
    genres: Sequence[str] | None = None,
    *,
    block: int | None = None,
    gradients: bool = False,
    quick: bool = False,
) -> Explanation:
    """Explains the answer of a model for one movie.

    Args:
      predictor: the experiment.
      movie: the movie.
      model: `fusion`, or an encoder of the experiment.
      genres: names of the genres to explain; None for the predicted ones, the likeliest first, or
        the likeliest one if none is predicted.
      block: number of the block of the poster encoders for heat maps; None for their choice.
      gradients: whether to compute integrated gradients for encoders that have no exact
        contributions.
      quick: whether to leave out words, sentences and heat maps, which take most of the time.

    Raises:
      TypeError: if an argument has the wrong type.
      InputError: if a genre, the model or the block does not exist; as `Predictor` raises.
    """
    given_movies.check(movie, "movie")
    (movie,) = given_movies.read([movie])
    chosen = None if genres is None else _checked_genres(predictor, genres)
    encoders = predictor.parts(model)
    modality = {name: registry.modality(predictor.config, name) for name in encoders}
    plot = clean(movie.plot or "")
    words, sentences = ([], []) if quick else (words_of(plot), sentences_of(plot))
    explained = words[:_MOST_WORDS], sentences[:_MOST_SENTENCES]
    variants = [plot, *(text for spans in explained for text in occluded(plot, spans))]

    # Plot encoders read the plot and all its variants; poster encoders read the poster once.
    found, present, inputs = {}, {}, {}
    for name, encoder in encoders.items():
        if modality[name] == "plot":
            found[name], present[name] = _answers(
                predictor, encoder, [Movie(plot=text) for text in variants]
            )
        else:
            inputs[name] = encoder.model_inputs([movie])
            answers = _of_folds(predictor, encoder, *inputs[name])
            found[name] = np.repeat(answers, len(variants), axis=1)
            present[name] = np.repeat(inputs[name][1], len(variants))
    # The last rows are the movie without its plot and without its poster.
    for name in encoders:
        first, is_present = found[name][:, :1], present[name][:1]
        found[name] = np.concatenate([found[name], *[first] * len(MODALITIES)], axis=1)
        left = [is_present & (modality[name] != lost) for lost in MODALITIES]
        present[name] = np.concatenate([present[name], *left])
    combined = predictor.combine(model, found, present)
    answers, without = np.split(combined.probabilities, [len(variants)])
    probabilities = answers[0]
    thresholds = predictor.thresholds(model)
    if chosen is None:
        chosen = _predicted(predictor, probabilities, thresholds)
    if not chosen:
        raise InputError("genres is empty: name a genre, or None for the predicted ones.")
    index = np.array([predictor.genres.index(genre) for genre in chosen], np.int32)

    logits = _logit(answers[:, index])
    falls = logits[0] - logits[1:]
    has = {modality[name] for name in encoders if present[name][0]}
    if "plot" not in has:
        plot, words, sentences, explained, falls = "", [], [], ([], []), falls[:0]
    return Explanation(
        movie=movie,
        model=model,
        genres=predictor.genres,
        probabilities=probabilities,
        thresholds=thresholds,
        chosen=tuple(chosen),
        titles={name: registry.titles(predictor.config)[name] for name in encoders},
        plot=plot,
        words=tuple(words),
        known=_known(encoders, words),
        word_scores=_padded(falls[: len(explained[0])], len(words)),
        sentences=tuple(sentences),
        sentence_scores=_padded(falls[len(explained[0]) :], len(sentences)),
        encoder_words=_encoder_words(encoders, plot, words, index, gradients) if words else {},
        heat_maps={} if quick else _heat_maps(predictor, encoders, inputs, index, block),
        evidence=_evidence(predictor, combined, probabilities),
        without=dict(zip(MODALITIES, without)) if has == set(MODALITIES) else {},
        notes=predictor.notes(movie, model),
    )


def _checked_genres(predictor: Predictor, genres: Iterable[str]) -> list[str]:
    if isinstance(genres, str):
        raise TypeError(f"genres is a str; a list is needed, such as [{genres!r}].")
    genres = list(genres)
    for genre in genres:
        if genre not in predictor.genres:
            hint = did_you_mean(str(genre), predictor.genres)
            hint = hint or f"It has {', '.join(predictor.genres)}."
            raise InputError(f"genres: this experiment has no genre {genre!r}. {hint}")
    return list(dict.fromkeys(genres))


def _predicted(predictor: Predictor, probabilities, thresholds) -> list[str]:
    order = np.argsort(-probabilities, kind="stable")
    predicted = [number for number in order if probabilities[number] >= thresholds[number]]
    return [predictor.genres[number] for number in predicted or order[:1]]


def _answers(
    predictor: Predictor, encoder: Encoder, movies: Sequence[Movie]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities of each fold, <float32>[folds, movies, genres], and presence."""
    examples, present = encoder.model_inputs(movies)
    return _of_folds(predictor, encoder, examples, present), present


def _of_folds(predictor: Predictor, encoder: Encoder, examples, present: np.ndarray) -> np.ndarray:
    """Returns the probabilities of each fold, <float32>[folds, movies, genres].

    A fold with several models has the mean of theirs.
    """
    num_genres = len(predictor.genres)
    of_models = probabilities_of(encoder.apply, encoder.params, examples, present, num_genres)
    return of_models.reshape(predictor.config.folds, -1, *of_models.shape[1:]).mean(axis=1)


def _logit(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities.astype(np.float64), _MARGIN, 1 - _MARGIN)
    return logit(clipped).astype(np.float32)


def _padded(scores: np.ndarray, count: int) -> np.ndarray:
    """Gives words or sentences that are not explained the score 0."""
    return np.pad(scores, ((0, count - len(scores)), (0, 0)))


def _known(encoders: Mapping[str, Encoder], words: Sequence[Span]) -> np.ndarray:
    """Returns whether an encoder knows each word; True if none has a vocabulary."""
    counters = [encoder.known_words for encoder in encoders.values() if encoder.known_words]
    if not counters:
        return np.ones(len(words), bool)
    counts = [[count(word.text) for count in counters] for word in words]
    return np.array([any(c.known == c.total for c in of_word) for of_word in counts], bool)


def _rounded_up(index: np.ndarray) -> np.ndarray:
    """Repeats the last genre up to a multiple of eight, so that few programs are compiled."""
    return np.pad(index, (0, -len(index) % 8), mode="edge")


def _encoder_words(encoders, plot, words, index, gradients: bool) -> dict[str, WordScores]:
    found, padded = {}, _rounded_up(index)
    for name, encoder in encoders.items():
        if encoder.word_scores is not None and (gradients or encoder.exact):
            folds = [encoder.word_scores(params, plot, words, padded) for params in encoder.params]
            scores, gap = (np.mean(parts, axis=0) for parts in zip(*folds))
            found[name] = WordScores(scores[:, : len(index)], gap[: len(index)])
    return found


def _heat_maps(predictor, encoders, inputs, index, block: int | None) -> dict[str, np.ndarray]:
    found, data, padded = {}, predictor.config.data, _rounded_up(index)
    for name, (examples, present) in inputs.items():
        encoder = encoders[name]
        if encoder.heat_maps is None or not present[0]:
            continue
        if block is not None and block not in encoder.blocks:
            raise InputError(
                f"block is {block}; {name} has heat maps of: {', '.join(map(str, encoder.blocks))}."
            )
        batch = examples(np.arange(1))
        folds = [
            np.asarray(encoder.heat_maps(params, batch, padded, block))[0, : len(index)]
            for params in encoder.params
        ]
        found[name] = heat_map(np.mean(folds, axis=0), data.poster_height, data.poster_width)
    return found


def _evidence(predictor: Predictor, combined, probabilities) -> dict[str, np.ndarray]:
    """Returns the terms of late fusion; the last makes their sum the logit of the answer."""
    if combined.terms is None:
        return {}
    terms = {PRIOR: combined.terms.prior}
    terms |= dict(zip(predictor.config.fusion.encoders, combined.terms.evidence[0]))
    terms[CORRECTION] = combined.terms.correction[0]
    terms[CALIBRATION] = _logit(probabilities) - sum(terms.values())
    return terms


def poster_pixels(explanation: Explanation, height: int) -> np.ndarray | None:
    """Decodes the poster for showing; None if the movie has none that can be decoded.

    Args:
      explanation: of the movie.
      height: height of the result in pixels; the width follows the shape of the image.

    Returns:
      RGB <uint8>[height, width, 3].
    """
    import io

    from PIL import Image

    poster = explanation.movie.poster
    if poster is None:
        return None
    try:
        with Image.open(io.BytesIO(poster)) as image:
            columns, rows = image.size
        return posters.decode(poster, height, max(1, round(height * columns / rows)))
    except (OSError, ValueError):
        return None
