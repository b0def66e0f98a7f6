"""The single models: plot and poster, each trained on all training movies and out of fold."""

import functools
import logging
import pathlib
import zlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from mmgc_jax import checkpoints, embeddings, evaluate, train
from mmgc_jax.data import activations, pipeline, posters, text
from mmgc_jax.models import VGG16, PlotLSTM, PosterVGG16
from mmgc_jax.pretrained import vgg16

logger = logging.getLogger(__name__)

MODALITY = {"plot": "plot", "poster": "poster", "poster_grey": "poster"}
FIRST_BLOCK = {"block1": 1, "block2": 2, "block3": 3, "block4": 4, "block5": 5, "head": 6}
_HEAD = FIRST_BLOCK["head"]


def present_for(corpus: pipeline.Corpus, stage: str) -> np.ndarray:
    """Which movies have what a stage looks at, <bool>[movies of the corpus]."""
    return corpus.has_plot if MODALITY[stage] == "plot" else corpus.has_poster


def genre_frequencies(corpus: pipeline.Corpus) -> np.ndarray:
    """The share of training movies that have each genre, <float32>[genres]."""
    return corpus.labels[corpus.split["train"]].mean(axis=0)


def initial_bias(corpus: pipeline.Corpus) -> np.ndarray:
    """The genres' log-odds in the training part, <float32>[genres].

    A last layer that begins with this bias knows from the first step how rare each genre is (arXiv
    1708.02002, section 3.3).
    """
    frequencies = np.clip(genre_frequencies(corpus), 1e-3, 1 - 1e-3)
    return np.log(frequencies / (1 - frequencies))


def seed_of(config: ml_collections.ConfigDict, name: str) -> int:
    """A seed of its own for each training of an experiment."""
    return zlib.crc32(f"{config.seed}/{name}".encode()) >> 1


def train_plot(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    corpus: pipeline.Corpus,
    folds: np.ndarray,
    cache: pathlib.Path,
) -> dict[str, np.ndarray]:
    """Trains the plot encoder.

    Args:
      config: of the experiment.
      workdir: gets vocabulary, word vectors and checkpoints.
      corpus: the movies.
      folds: <int64>[movies of the corpus], -1 for those that do not train.
      cache: folder for word vectors trained on the plots.

    Returns:
      As `_train_encoder`.
    """
    settings = config.plot
    vocabulary, table = embeddings.prepare(config, workdir, corpus, cache)
    tokenize = text.TOKENIZERS[settings.tokens]
    plots = (tokenize(corpus.plot(index)) for index in range(len(corpus.ids)))
    examples = pipeline.PlotExamples(
        [vocabulary.encode(plot, settings.max_length) for plot in plots], settings.bucket
    )
    vector_size = None if table is None else table.shape[1]
    model = plot_model(config, len(corpus.genres), len(vocabulary), vector_size)
    params = model.init(
        jax.random.key(seed_of(config, "plot")), np.zeros((1, 8), np.int32), np.ones(1, np.int32)
    )["params"]
    params["genres"]["bias"] = initial_bias(corpus)
    training = settings.training
    if table is not None:
        params["words"]["embedding"] = table
        training = training.copy_and_resolve_references().unlock()
        training.learning_rate_scale.words = settings.vectors.learning_rate_scale
    apply = train.make_apply(model, ("tokens", "lengths"))

    def fit_one(fit, name, indices):
        return fit(name, indices, examples, apply, params, training)

    return _train_encoder(config, workdir, corpus, folds, "plot", fit_one)


def plot_model(
    config: ml_collections.ConfigDict,
    num_genres: int,
    vocabulary_size: int,
    vector_size: int | None,
) -> PlotLSTM:
    """The plot encoder of a config.

    Args:
      config: of the experiment.
      num_genres: number of logits.
      vocabulary_size: number of word ids.
      vector_size: of given word vectors; None if there are none.
    """
    one_hot = config.plot.vectorisation == "one_hot"
    return PlotLSTM(
        vocabulary_size=vocabulary_size,
        embedding_dim=None if one_hot else vector_size or config.plot.vectors.dim,
        num_genres=num_genres,
        **config.plot.model,
    )


def train_poster(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    corpus: pipeline.Corpus,
    folds: np.ndarray,
    stage: str,
    cache: pathlib.Path,
) -> dict[str, np.ndarray]:
    """Trains a poster encoder: with ImageNet weights the head first, then from a block on.

    A head that starts at random would spoil the pretrained blocks below it before it has learned
    anything (arXiv 2202.10054).

    Args:
      config: of the experiment.
      workdir: gets the checkpoints.
      corpus: the movies.
      folds: <int64>[movies of the corpus], -1 for those that do not train.
      stage: `poster` or `poster_grey`.
      cache: folder for frozen activations.

    Returns:
      As `_train_encoder`.
    """
    settings, grey = config.poster, stage == "poster_grey"
    first_block = FIRST_BLOCK[settings.finetune_from]
    size = (config.data.poster_height, config.data.poster_width)
    num_genres = len(corpus.genres)
    params = poster_model(config, num_genres, grey).init(
        jax.random.key(seed_of(config, stage)), np.zeros((1, *size, 3), np.uint8)
    )["params"]
    params["head"]["genres"]["bias"] = initial_bias(corpus)
    examples = pipeline.PosterExamples(corpus.records, *size)
    outputs = None
    if settings.weights:
        blocks = VGG16(grey=grey, widths=settings.model.widths, depths=settings.model.depths)
        network = params["vgg16"] = vgg16.load(settings.weights, blocks)
        frozen = {name: layer for name, layer in network.items() if block_of(name) < first_block}
        freeze = functools.partial(_frozen_activations, config, corpus, cache, grey, network)
        if frozen:
            checkpoints.save(workdir / "checkpoints" / stage / "frozen", 0, {"vgg16": frozen}, {})
            params["vgg16"] = {name: network[name] for name in network if name not in frozen}
            examples = freeze(examples, 1, first_block - 1)
        outputs = examples if first_block == _HEAD else freeze(examples, first_block, 5)
    if first_block == _HEAD:
        del params["vgg16"]

    def augment(key, batch):
        images = posters.augment(
            key,
            batch["images"],
            flip=settings.flip,
            crop=settings.crop,
            colour=settings.colour if first_block == 1 else 0.0,
        )
        return batch | {"images": images}

    apply = train.make_apply(
        poster_model(config, num_genres, grey, first_block), ("images",), augment
    )
    apply_head = train.make_apply(poster_model(config, num_genres, grey, _HEAD), ("images",))

    def fit_one(fit, name, indices):
        start = params
        if outputs is not None:
            head = {"head": params["head"]}
            trained = fit(
                f"{name}/head", indices, outputs, apply_head, head, settings.head_training
            )
            if first_block == _HEAD:
                return trained
            start = params | trained[2]
        return fit(name, indices, examples, apply, start, settings.training)

    return _train_encoder(config, workdir, corpus, folds, stage, fit_one)


def block_of(layer: str) -> int:
    """The number of the block that a layer of VGG16 belongs to; block 1 begins with the pixels."""
    return 1 if layer == "preprocessing" else FIRST_BLOCK[layer.split("_")[0]]


def poster_model(
    config: ml_collections.ConfigDict, num_genres: int, grey: bool, first_block: int = 1
) -> PosterVGG16:
    """A poster encoder of a config, whole or from a block on."""
    return PosterVGG16(
        first_block=first_block,
        grey=grey,
        num_genres=num_genres,
        dtype=config.poster.dtype,
        **config.poster.model,
    )


def _frozen_activations(
    config, corpus, cache, grey, network, examples, first_block, last_block
) -> activations.ActivationExamples:
    """What frozen blocks make of each poster, from the disk; computed if it is not there."""
    dtype, settings = config.poster.dtype, config.poster.model
    key = activations.key_of(
        {name: layer for name, layer in network.items() if block_of(name) <= last_block},
        size=[config.data.poster_height, config.data.poster_width],
        grey=grey,
        dtype=dtype,
    )
    file = cache / f"block{last_block}-{'grey' if grey else 'colour'}-{key}.npy"
    blocks = VGG16(first_block, last_block, grey, settings.widths, settings.depths, dtype=dtype)
    params = {n: layer for n, layer in network.items() if first_block <= block_of(n) <= last_block}

    @jax.jit
    def run_frozen(images):
        return blocks.apply({"params": params}, images)[f"block{last_block}_pool"]

    with_poster = np.flatnonzero(corpus.has_poster)
    batches = pipeline.Batches(
        examples, corpus.labels, with_poster, config.poster.training.batch_size
    )
    activations.cache(file, lambda batch: run_frozen(batch["images"]), batches, config.data.workers)
    row_of = np.zeros(len(corpus.ids), np.int64)
    row_of[with_poster] = np.arange(len(with_poster))
    return activations.ActivationExamples(file, row_of, dtype)


def _train_encoder(
    config, workdir, corpus, folds, stage, fit_one: Callable[..., tuple]
) -> dict[str, np.ndarray]:
    """Trains on all training movies, then once for each fold if the stage is fused.

    Args:
      config: of the experiment.
      workdir: of the experiment.
      corpus: the movies.
      folds: <int64>[movies of the corpus], -1 for those that do not train.
      stage: the encoder.
      fit_one: (fit, name, indices) -> what the last `fit` returned; it calls `fit(name, indices,
        examples, apply, params, training)` once or more.

    Returns:
      `probabilities` <float32>[movies, genres] of the encoder trained on all training movies, and
      for a fused stage `out_of_fold` likewise; rows of movies without the modality hold the
      frequencies of the genres.
    """
    present = present_for(corpus, stage)
    take_part = np.where(present, folds, -1)
    validation = corpus.split["validation"]
    validation = validation[present[validation]]

    def predict(examples, apply, params, indices, batch_size, name=""):
        batches = pipeline.Batches(examples, corpus.labels, indices, batch_size)
        return evaluate.probabilities(apply, params, batches, config.data.workers, name)

    def fit(name, indices, examples, apply, params, training):
        run = train.Run(name, workdir, seed_of(config, name), config.data.workers)
        size = training.batch_size
        batches = pipeline.Batches(
            examples, corpus.labels, indices, size, shuffle_seed=run.seed, epochs=training.epochs
        )

        def validate(p):
            scores = predict(examples, apply, p, validation, size)
            return evaluate.headline(corpus.labels[validation], scores[validation])

        weights = train.positive_weights(corpus.labels[indices], training.class_weight)
        return examples, apply, train.fit(run, apply, params, batches, validate, training, weights)

    def predict_fold(fold: int, others: np.ndarray, members: np.ndarray) -> np.ndarray:
        trained = fit_one(fit, f"{stage}/fold_{fold}", others)
        return predict(*trained, members, config[MODALITY[stage]].training.batch_size)

    frequencies = genre_frequencies(corpus)
    trained = fit_one(fit, stage, np.flatnonzero(take_part >= 0))
    size = config[MODALITY[stage]].training.batch_size
    scores = predict(*trained, np.flatnonzero(present), size, f"{stage}: all movies")
    arrays = {"probabilities": evaluate.fill_absent(scores, present, frequencies)}
    if stage in config.fusion.encoders:
        held_out = evaluate.out_of_fold(take_part, predict_fold, len(corpus.genres))
        arrays["out_of_fold"] = evaluate.fill_absent(held_out, take_part >= 0, frequencies)
    return arrays
