"""A plot encoder beyond the talk: a pretrained transformer, frozen or fine-tuned, and a head."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import frozen
from mmgc_jax.encoders.base import Encoder, load_params, plots_of
from mmgc_jax.models import BertEncoder, PlotTransformer, mean_of_tokens
from mmgc_jax.pretrained import minilm
from mmgc_jax.runtime.files import Path, write_atomically
from mmgc_jax.training import checkpoints, loop
from mmgc_jax.training.cross_fit import Experiment, Recipe, fold_names

HEAD = "head"


def prepare(experiment: Experiment, stage: str) -> Recipe:
    """Makes ready what the training of the head, then of all from a layer on, needs."""
    config, corpus = experiment.config, experiment.corpus
    settings = config.transformer
    folder = minilm.find(settings.folder)
    network = minilm.network(folder)
    pretrained = minilm.load(folder, network)
    first_layer = _first_layer(config, network)
    directory = experiment.workdir / "checkpoints" / stage
    frozen = {name: part for name, part in pretrained.items() if _layer_of(name) < first_layer}
    trained = {name: part for name, part in pretrained.items() if name not in frozen}
    checkpoints.save(directory / "frozen", 0, {"bert": frozen}, {})
    for file in minilm.TOKENIZER_FILES:
        content = (folder / file).read_bytes()
        write_atomically(directory / file, lambda stream, content=content: stream.write(content))

    tokenizer = minilm.Tokenizer(folder)
    examples = _tokens(config, tokenizer, map(corpus.plot, range(len(corpus.ids))))
    cached = functools.partial(_cached, experiment, network, pretrained)
    lengths = examples.lengths
    if 1 < first_layer <= network.layers:
        states = cached(examples, 1, f"layer{first_layer - 1}")
        examples = _StateExamples(states, lengths, settings.bucket)
        sentences = cached(examples, first_layer, "sentence")
    else:
        sentences = cached(examples, 1, "sentence")

    num_genres = len(corpus.genres)
    model = _model(config, network, num_genres, network.layers + 1)
    head = model.init(
        jax.random.key(experiment.seed_of(stage)), np.zeros((1, network.hidden)), np.ones(1)
    )["params"]
    head["head"]["genres"]["bias"] = experiment.initial_bias
    apply_head = _apply(config, network, num_genres, network.layers + 1)
    apply = _apply(config, network, num_genres, first_layer)

    def fit_fold(fit, name, indices):
        fitted = fit(f"{name}/head", indices, sentences, apply_head, head, settings.head_training)
        if first_layer > network.layers:
            return fitted
        start = {"bert": trained} | fitted.params
        return fit(name, indices, examples, apply, start, settings.training)

    if first_layer > network.layers:
        examples, apply = sentences, apply_head
    return Recipe(examples, apply, fit_fold, settings.training.batch_size)


def trainings(config: ml_collections.ConfigDict, stage: str) -> list[str]:
    """The trainings whose parameters predict, one for each fold."""
    head = "/head" if config.transformer.finetune_from == HEAD else ""
    return [name + head for name in fold_names(config, stage)]


def load(config: ml_collections.ConfigDict, workdir: Path, stage: str, num_genres: int) -> Encoder:
    """Reads what training left behind."""
    directory = workdir / "checkpoints" / stage
    [frozen, _] = checkpoints.restore(directory / "frozen")
    network = minilm.network(directory)
    first_layer = _first_layer(config, network)
    output = "sentence" if first_layer > network.layers else f"layer{first_layer - 1}"
    return Encoder(
        functools.partial(_read, config, minilm.Tokenizer(directory)),
        _apply(config, network, num_genres, first_layer),
        load_params(workdir, trainings(config, stage)),
        _frozen(config, network, frozen["bert"], 1, output) if first_layer > 1 else None,
    )


@dataclasses.dataclass(frozen=True)
class _StateExamples:
    """Batches of cached states, no longer than their longest plot needs.

    `inputs` <dtype>[batch, length, hidden] and `lengths` <int32>[batch].
    """

    states: frozen.ActivationExamples
    lengths: np.ndarray
    bucket: int

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        longest = int(self.lengths[indices if batch is None else batch].max())
        padded = -(-longest // self.bucket) * self.bucket
        states = self.states(indices)["inputs"][:, :padded]
        return {"inputs": states, "lengths": self.lengths[indices]}


def _first_layer(config: ml_collections.ConfigDict, network: BertEncoder) -> int:
    """The first layer that trains; the one after the last if the head alone does."""
    name = config.transformer.finetune_from
    return network.layers + 1 if name == HEAD else int(name.removeprefix("layer"))


def _layer_of(part: str) -> int:
    """The number of the layer that a part of the parameters belongs to; 1 has the embeddings."""
    return 1 if part == "embeddings" else int(part.removeprefix("layer"))


def _model(config, network, num_genres, first_layer) -> PlotTransformer:
    settings = config.transformer
    bert = network.clone(
        first_layer=first_layer, dropout=settings.model.dropout, dtype=settings.dtype
    )
    return PlotTransformer(bert, settings.model.head_dropout, num_genres)


def _apply(config, network, num_genres, first_layer) -> loop.ApplyFn:
    model = _model(config, network, num_genres, first_layer)
    return loop.make_apply(model, ("inputs", "lengths"))


def _frozen(
    config: ml_collections.ConfigDict, network: BertEncoder, params, first_layer: int, output: str
) -> Callable[[dict], dict[str, jax.Array]]:
    """The jitted network: batch -> {"inputs": output, "lengths": those of the batch}.

    Args:
      config: of the experiment.
      network: the whole.
      params: of at least the layers that run.
      first_layer: where the batch's `inputs` enter.
      output: `sentence`, all that the head sees, or `layer<n>`, padded to the longest plot allowed.
    """
    settings = config.transformer
    last_layer = network.layers if output == "sentence" else _layer_of(output)
    layers = network.clone(first_layer=first_layer, last_layer=last_layer, dtype=settings.dtype)
    needed = {name: part for name, part in params.items() if first_layer <= _layer_of(name)}

    @jax.jit
    def run(inputs, lengths):
        states = layers.apply({"params": needed}, inputs, lengths)[f"layer{last_layer}"]
        if output == "sentence":
            return mean_of_tokens(states, lengths)
        missing = settings.max_length - states.shape[1]
        return jnp.pad(states, ((0, 0), (0, missing), (0, 0))).astype(settings.dtype)

    return lambda batch: {
        "inputs": run(batch["inputs"], batch["lengths"]),
        "lengths": batch["lengths"],
    }


def _cached(experiment: Experiment, network: BertEncoder, params, examples, first_layer, output):
    """What the network makes of each plot, from the disk; computed if it is not there.

    The arguments are those of `_frozen`; `examples` bring its batches.
    """
    config, corpus = experiment.config, experiment.corpus
    settings = config.transformer
    key = frozen.key_of(params, max_length=settings.max_length, dtype=settings.dtype, output=output)
    frozen = _frozen(config, network, params, first_layer, output)
    batches = pipeline.Batches(
        examples, corpus.labels, np.flatnonzero(corpus.has_plot), settings.training.batch_size
    )
    dtype = "float32" if output == "sentence" else settings.dtype
    file = experiment.cache / "activations" / f"transformer-{output}-{key}.npy"
    outputs = frozen.cache(file, lambda batch: frozen(batch)["inputs"], batches, 0, dtype, "inputs")
    if output != "sentence":
        return outputs
    # Few enough for the memory; the head looks at no length.
    rows = np.arange(len(corpus.ids))
    return pipeline.ArrayExamples(outputs(rows) | {"lengths": np.ones(len(rows), np.int32)})


def _read(config, tokenizer, movies: Sequence[Movie]) -> tuple[pipeline.PlotExamples, np.ndarray]:
    plots, present = plots_of(movies)
    return _tokens(config, tokenizer, plots), present


def _tokens(config, tokenizer, plots) -> pipeline.PlotExamples:
    settings = config.transformer
    return pipeline.PlotExamples(
        tokenizer.encode(plots, settings.max_length), settings.bucket, "inputs"
    )
