"""Plot encoder of the talk: an LSTM over word vectors, or over one-hot vectors.

`mmgc_jax.encoders.base.Kind` describes the functions of this module.
"""

import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, text, vocabulary_file
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import explanations, word_vectors
from mmgc_jax.encoders.base import (
    Encoder,
    KnownWords,
    Portable,
    load_params,
    plots_of,
    training_settings,
)
from mmgc_jax.encoders.checks import DTYPES, Checker
from mmgc_jax.encoders.explanations import Span, WordScores
from mmgc_jax.models import PlotLSTM
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Phase, Recipe, in_phases
from mmgc_jax.training.run import Experiment, encoder_folder, make_apply, make_embed

MODALITY = "plot"

# The three inputs of the LSTM that the talk compares, and their titles.
_VECTORISATIONS = {
    "word2vec": "LSTM",
    "unique_map": "LSTM, unique map",
    "one_hot": "LSTM, one-hot",
}
_MODEL_INPUTS = ("tokens", "lengths")


def default_settings() -> ml_collections.ConfigDict:
    """Makes the config section of an encoder, with default values."""
    settings = ml_collections.ConfigDict()
    # Module of mmgc_jax.encoders that this section belongs to.
    settings.kind = "plot_lstm"
    # How plots are split into words: words (without punctuation), or mmimdb (as in the paper of
    # MM-IMDb, with punctuation marks).
    settings.tokens = "words"
    # Longer plots are cut to this number of words.
    settings.max_length = 256
    # Batches are padded to a multiple of this number of words, so that few shapes are compiled.
    settings.pad_to_multiple_of = 32
    # Words that occur fewer times in the training plots count as the unknown word.
    settings.min_count = 2
    # Maximum size of the vocabulary, including padding and the unknown word; at least 3.
    settings.max_vocabulary = 20_000
    # How words become vectors: word2vec (pretrained or trained before the LSTM, see vectors),
    # unique_map (an id for each word, with vectors that the LSTM learns from scratch), or one_hot.
    settings.vectorisation = "word2vec"
    # Word vectors, for vectorisation=word2vec.
    settings.vectors = word_vectors.default_settings()
    # Dtype of the factors in the LSTM's matmuls: float32; bfloat16, which is faster on GPU, TPU and
    # CPUs with AMX or AVX512_BF16; or auto, for bfloat16 on these and float32 elsewhere. Sums are
    # always float32.
    settings.dtype = "float32"
    # Number of models for each fold, which differ in their random seeds; they are averaged.
    settings.models_per_fold = 1
    # The network, mmgc_jax.models.PlotLSTM.
    settings.model = ml_collections.ConfigDict()
    # Size of the LSTM's state in each direction; at least 1.
    settings.model.hidden = 128
    # Whether a second LSTM reads the plot backwards.
    settings.model.bidirectional = True
    # How the LSTM's states become one vector: last (the final state), mean or max over all words,
    # or mean_max (both, concatenated).
    settings.model.pooling = "mean_max"
    # Number of weighted means of the states, with attention weights, that are concatenated to the
    # pooled states; 0 for none.
    settings.model.attention_heads = 4
    # Whether to concatenate mean, maximum and minimum of the word vectors to the pooled states, so
    # that a single word can count without passing through the LSTM; must be False with one_hot.
    settings.model.pool_words = False
    # Dropout rate on word vectors and on the pooled states; at least 0, below 1.
    settings.model.dropout = 0.5
    # Share of the words that training replaces by the unknown word; at least 0, below 1.
    settings.model.word_dropout = 0.1
    # Training of the LSTM.
    settings.training = training_settings(epochs=12, batch_size=64, learning_rate=2e-3)
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    return f"Plot ({_VECTORISATIONS[settings.vectorisation]})"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    if settings.vectorisation != "word2vec":
        return {}
    return {
        f"vectors.{field}": places
        for field, places in word_vectors.inputs(settings.vectors).items()
    }


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    del data
    checker = Checker(settings)
    checker.one_of("tokens", text.TOKENIZERS)
    checker.one_of("vectorisation", _VECTORISATIONS)
    checker.one_of("dtype", DTYPES)
    checker.one_of("model.pooling", ("last", "mean", "max", "mean_max"))
    checker.at_least(1, "max_length", "pad_to_multiple_of", "min_count", "model.hidden")
    checker.at_least(3, "max_vocabulary")
    checker.at_least(1, "models_per_fold")
    checker.at_least(0, "model.attention_heads")
    checker.share("model.dropout", "model.word_dropout")
    has_vectors = settings.vectorisation != "one_hot"
    checker.require(
        "model.pool_words",
        lambda pooled: has_vectors or not pooled,
        "it must be False with vectorisation=one_hot, which has no word vectors",
    )
    checker.training("training")
    return checker.problems + word_vectors.problems(
        settings.vectors, used=settings.vectorisation == "word2vec"
    )


def notes(workdir: Path, name: str) -> list[str]:
    """Returns sentences on the coverage of word vectors, to print below the tables of results."""
    return word_vectors.coverage_lines(encoder_folder(workdir, name))


def training_seconds(
    settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict, movies: int, folds: int
) -> float:
    """Estimates the time from runs on the talk's plots with states of 64 and of 128."""
    del data
    seconds_per_plot = (64 + settings.model.hidden) / 64 / 360
    models = folds * settings.models_per_fold
    return models * (8 + (1 - 1 / folds) * movies * settings.training.epochs * seconds_per_plot)


def prepare(experiment: Experiment, name: str) -> Recipe:
    settings, corpus = experiment.config[name], experiment.corpus
    with parallel.first_process_first():
        vocabulary, table = word_vectors.prepare(experiment, name)
    examples = _examples(settings, vocabulary, map(corpus.plot, range(len(corpus.ids))))
    vector_size = None if table is None else table.shape[1]
    model = _model(settings, len(corpus.genres), len(vocabulary), vector_size, experiment.kernels)

    def init(key):
        params = model.init(key, np.zeros((1, 8), np.int32), np.ones(1, np.int32))["params"]
        params["genres"]["bias"] = experiment.initial_bias
        if table is not None:
            params["words"]["embedding"] = table
        return params

    scales = {} if table is None else {"words": settings.vectors.learning_rate_scale}
    phase = Phase(examples, make_apply(model, _MODEL_INPUTS), init, scales=scales)
    return in_phases([phase], settings.training.batch_size)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    settings = config[name]
    file = encoder_folder(workdir, name) / "vocabulary.json"
    vocabulary = vocabulary_file.load(file, settings.tokens)
    params = load_params(config, workdir, name)
    words = params[0].get("words")
    vector_size = None
    if words is not None:
        known, vector_size = words["embedding"].shape
        if known != len(vocabulary):
            raise InputError(
                f"{file} has {len(vocabulary)} words, but the parameters of {name} have {known}: "
                "they are of different experiments. Run the experiment again in a new --workdir."
            )
    model = _model(settings, num_genres, len(vocabulary), vector_size, kernels)
    read = functools.partial(_read, settings, vocabulary)
    known_words = functools.partial(_known_words, settings, vocabulary)
    return Encoder(
        read,
        make_apply(model, _MODEL_INPUTS),
        params,
        known_words=known_words,
        embed=make_embed(model, _MODEL_INPUTS),
        word_scores=None if words is None else _word_scores(settings, vocabulary, model),
    )


def portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    del workdir
    settings = config[name]
    length = settings.max_length
    return Portable(
        text.open_vocabulary,
        {"tokens": settings.tokens, "max_length": length},
        {"tokens": (f"batch, {length}", "int32"), "lengths": ("batch", "int32")},
        files=("vocabulary.json",),
        licences=_licences(settings),
    )


def _licences(settings) -> list[str]:
    if settings.vectorisation != "word2vec" or not settings.vectors.file:
        return []
    file = pathlib.PurePath(settings.vectors.file).name
    return [f"word vectors: the licence of {file}, from which they were taken"]


def _read(
    settings, vocabulary, movies: Sequence[Movie]
) -> tuple[pipeline.PlotExamples, np.ndarray]:
    plots, present = plots_of(movies)
    return _examples(settings, vocabulary, plots), present


def _known_words(settings, vocabulary: text.Vocabulary, plot: str) -> KnownWords:
    """Counts words and phrases, up to the length at which plots are cut."""
    ids = vocabulary.encode(text.TOKENIZERS[settings.tokens](text.clean(plot)), settings.max_length)
    return KnownWords(int((ids != text.UNKNOWN_ID).sum()), len(ids), len(vocabulary.words))


def _word_scores(settings, vocabulary: text.Vocabulary, model: PlotLSTM):
    """Makes the function `Encoder.word_scores`, by integrated gradients over the word vectors.

    The baseline is a plot of unknown words of the same length.
    """
    tokenize = text.TOKENIZERS[settings.tokens]

    @jax.jit
    def gradients(params, tokens, length, genres):
        table = params["words"]["embedding"]

        def logits_of(vectors):
            # Each position looks up a vector of its own, in place of the word's.
            steps, padded, size = vectors.shape
            network = model.clone(vocabulary_size=steps * padded)
            own = params | {"words": {"embedding": vectors.reshape(-1, size)}}
            positions = jnp.arange(steps * padded, dtype=jnp.int32).reshape(steps, padded)
            lengths = jnp.broadcast_to(length, (steps,))
            return network.apply({"params": own}, positions, lengths)[0]

        baseline = jnp.broadcast_to(table[text.UNKNOWN_ID], (len(tokens), table.shape[1]))
        return explanations.integrated_gradients(logits_of, table[tokens], baseline, genres)

    def word_scores(params, plot: str, spans: Sequence[Span], genres: np.ndarray) -> WordScores:
        plot = text.clean(plot)
        batch = _examples(settings, vocabulary, [plot])(np.arange(1))
        scores, gap = gradients(params, batch["tokens"][0], batch["lengths"][0], genres)
        owners = iter(explanations.span_of_tokens(plot, spans, tokenize))
        shares, of_tokens = [], []
        words = text.join_phrases(tokenize(plot), vocabulary.phrases)[: settings.max_length]
        for word, of_word in zip(words, np.asarray(scores)):
            parts = word.count("_") + 1  # of a phrase
            shares += [of_word / parts] * parts
            of_tokens += [next(owners) for _ in range(parts)]
        shares = np.reshape(shares, (-1, len(genres)))
        return WordScores(
            explanations.sum_by_span(shares, np.array(of_tokens, int), len(spans)), np.asarray(gap)
        )

    return word_scores


def _examples(settings, vocabulary, plots) -> pipeline.PlotExamples:
    tokenize = text.TOKENIZERS[settings.tokens]
    return pipeline.PlotExamples(
        [vocabulary.encode(tokenize(plot), settings.max_length) for plot in plots],
        settings.pad_to_multiple_of,
    )


def _model(settings, num_genres, vocabulary_size, vector_size, kernels) -> PlotLSTM:
    """Makes the network.

    Args:
      settings: the config section of the encoder.
      num_genres: number of genres of the experiment.
      vocabulary_size: number of word ids.
      vector_size: size of the word vectors; None for `settings.vectors.dim`.
      kernels: which implementation of each operation to use.
    """
    one_hot = settings.vectorisation == "one_hot"
    return PlotLSTM(
        vocabulary_size=vocabulary_size,
        embedding_dim=None if one_hot else vector_size or settings.vectors.dim,
        num_genres=num_genres,
        dtype=settings.dtype,
        kernels=kernels,
        **settings.model,
    )
