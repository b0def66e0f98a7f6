"""Plot encoder with TF-IDF features and logistic regression: a strong baseline.

It is not part of the talk. `mmgc_jax.encoders.base.Kind` describes the functions of this module.
"""

import collections
import functools
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, text
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders.base import Encoder, KnownWords, Portable, load_params, plots_of
from mmgc_jax.encoders.checks import Checker
from mmgc_jax.encoders.explanations import Span, WordScores, span_of_tokens
from mmgc_jax.models import PlotBagOfWords
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import checkpoints, loop
from mmgc_jax.training.cross_fit import Recipe
from mmgc_jax.training.logistic import fit_logistic
from mmgc_jax.training.run import ApplyFn, Experiment, encoder_folder, make_apply

MODALITY = "plot"

_WORDS = "bag_of_words.json"
_MODEL_INPUTS = ("tokens", "weights")
_BATCH_SIZE = 64


def default_settings() -> ml_collections.ConfigDict:
    """Makes the config section of an encoder, with default values."""
    settings = ml_collections.ConfigDict()
    # Module of mmgc_jax.encoders that this section belongs to.
    settings.kind = "plot_bag_of_words"
    # How plots are split into words: words (without punctuation), or mmimdb (as in the paper of
    # MM-IMDb, with punctuation marks).
    settings.tokens = "words"
    # Crude stemming: a longer word also counts as its first letters, this many; 0 turns it off.
    settings.stem_length = 5
    # Phrases of up to this many consecutive words count as words, too; 1 for single words only.
    settings.longest_phrase = 1
    # Words that occur in fewer training plots are left out.
    settings.min_plots = 2
    # Inverse regularisation strength of scikit-learn's LogisticRegression, above 0; a larger C fits
    # the training plots more closely.
    settings.C = 3.0
    # Batches are padded to a multiple of this number of words, so that few shapes are compiled.
    settings.pad_to_multiple_of = 64
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    del settings
    return "Plot (bag of words)"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    del settings
    return {}


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    del data
    checker = Checker(settings)
    checker.one_of("tokens", text.TOKENIZERS)
    checker.at_least(0, "stem_length")
    checker.at_least(1, "longest_phrase", "min_plots", "pad_to_multiple_of")
    checker.above(0.0, "C")
    return checker.problems


def training_seconds(
    settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict, movies: int, folds: int
) -> float:
    """Estimates the time from runs with 363 and 36,000 plots of about 100 words."""
    del settings, data
    return 1 + 5e-4 * movies * folds


def prepare(experiment: Experiment, name: str) -> Recipe:
    settings, corpus = experiment.config[name], experiment.corpus
    words = TfIdf.fit(
        map(corpus.plot, corpus.split["train"]),
        settings.tokens,
        settings.stem_length,
        settings.longest_phrase,
        settings.min_plots,
    )
    words.save(encoder_folder(experiment.workdir, name) / _WORDS)
    rows = words(map(corpus.plot, range(len(corpus.ids))))
    examples = pipeline.BagOfWordsExamples(rows, settings.pad_to_multiple_of)
    apply = _apply(words, len(corpus.genres))

    def fit_fold(fit, fold_name, indices):
        del fit  # scikit-learn solves this convex problem, without the training loop
        run = experiment.training_run(fold_name)
        if checkpoints.restore(run.checkpoints / "trained") is None:
            kernel, bias = fit_logistic(rows[indices], corpus.labels[indices], settings.C)
            checkpoints.save(run.checkpoints / "trained", 0, {"kernel": kernel, "bias": bias})
        return loop.restore_trained(run)

    return Recipe(examples, apply, fit_fold, _BATCH_SIZE)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    del kernels  # the model has only a lookup and a sum
    words = TfIdf.load(encoder_folder(workdir, name) / _WORDS)
    params = load_params(config, workdir, name)
    read = functools.partial(_read, words, config[name].pad_to_multiple_of)
    return Encoder(
        read,
        _apply(words, num_genres),
        params,
        known_words=_known_words(words),
        word_scores=functools.partial(_word_scores, words),
        exact=True,
    )


def portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    del workdir
    return Portable(
        text.open_bag_of_words,
        {"pad_to_multiple_of": config[name].pad_to_multiple_of},
        {"tokens": ("batch, words", "int32"), "weights": ("batch, words", "float32")},
        files=(_WORDS,),
    )


def _read(
    words: TfIdf, pad_to_multiple_of: int, movies: Sequence[Movie]
) -> tuple[pipeline.BagOfWordsExamples, np.ndarray]:
    plots, present = plots_of(movies)
    return pipeline.BagOfWordsExamples(words(plots), pad_to_multiple_of), present


def _word_scores(
    words: TfIdf, params, plot: str, spans: Sequence[Span], genres: np.ndarray
) -> WordScores:
    """Computes exact contributions: the logits are their sum and the bias.

    A word of the vocabulary that occurs several times, as a stem perhaps in several forms, divides
    its contribution among them; a phrase divides it among its words.
    """
    plot = text.clean(plot)
    row = words([plot])
    tokens = text.TOKENIZERS[words.tokens](plot)
    owners = span_of_tokens(plot, spans, text.TOKENIZERS[words.tokens])
    parts = collections.defaultdict(list)  # the words of the plot that make each of the vocabulary
    for start in range(len(tokens)):
        for end in range(start + 1, min(start + words.longest_phrase, len(tokens)) + 1):
            parts[" ".join(tokens[start:end])] += owners[start:end].tolist()
        if len(tokens[start]) > words.stem_length > 0:
            parts[f"{tokens[start][: words.stem_length]}*"].append(owners[start])
    scores = np.zeros((len(spans), len(genres)), np.float32)
    for entry, weight in zip(row.indices, row.data):
        contribution = weight * np.asarray(params["kernel"])[entry, genres]
        own = parts[words.words[entry]]
        np.add.at(scores, own, contribution / len(own))
    return WordScores(scores, np.zeros(len(genres), np.float32))


def _known_words(words: TfIdf) -> Callable[[str], KnownWords]:
    """Makes the function `Encoder.known_words`: a word is known if it or its stem has a weight."""
    entries, length = frozenset(words.words), words.stem_length
    vocabulary = sum(" " not in word and not word.endswith("*") for word in entries)

    def is_known(word: str) -> bool:
        return word in entries or (len(word) > length > 0 and f"{word[:length]}*" in entries)

    def count(plot: str) -> KnownWords:
        tokens = text.TOKENIZERS[words.tokens](text.clean(plot))
        return KnownWords(sum(map(is_known, tokens)), len(tokens), vocabulary)

    return count


def _apply(words: TfIdf, num_genres: int) -> ApplyFn:
    return make_apply(PlotBagOfWords(len(words), num_genres), _MODEL_INPUTS)
