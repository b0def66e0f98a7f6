"""Poster encoder with a pretrained vision transformer, frozen or fine-tuned, and a head.

It is not part of the talk. `mmgc_jax.encoders.base.Kind` describes the functions of this module.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import explanations, frozen
from mmgc_jax.encoders.backbone import Activations, Backbone
from mmgc_jax.encoders.base import (
    Encoder,
    Portable,
    load_params,
    posters_of,
    training_settings,
)
from mmgc_jax.encoders.checks import DTYPES, Checker
from mmgc_jax.models import PosterViT, ViT
from mmgc_jax.models.vit import block_of
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pretrained import vit
from mmgc_jax.pretrained.image_processor import ImageProcessor
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, write_atomically
from mmgc_jax.training.cross_fit import Phase, Recipe, in_phases
from mmgc_jax.training.run import ApplyFn, Experiment, encoder_folder, make_apply, make_embed

MODALITY = "poster"

_HEAD = "head"
_MODEL_INPUTS = ("images",)


def default_settings() -> ml_collections.ConfigDict:
    """Makes the config section of an encoder, with default values."""
    settings = ml_collections.ConfigDict()
    # Module of mmgc_jax.encoders that this section belongs to.
    settings.kind = "poster_vit"
    # Folder with config.json, preprocessor_config.json and model.safetensors of a CLIP, SigLIP,
    # SigLIP 2 of a fixed size, or DINOv2.
    settings.folder = ""
    # First trained layer: layer1 (with the embeddings) to the last layer, or head. Layers below are
    # frozen, and computed only once for each poster.
    settings.finetune_from = "head"
    # Dtype of the factors in matmuls: float32, bfloat16, or auto, for bfloat16 on GPU, TPU and CPUs
    # with AMX or AVX512_BF16 and float32 elsewhere.
    settings.dtype = "bfloat16"
    # Augmentation: whether posters are mirrored at random. It has no effect unless layer1 is
    # trained.
    settings.flip = True
    # The network, mmgc_jax.models.PosterViT.
    settings.model = ml_collections.ConfigDict()
    # Dropout rate in the trained layers of the transformer; at least 0, below 1.
    settings.model.dropout = 0.0
    # Dropout rate before each layer of the head; at least 0, below 1.
    settings.model.head_dropout = 0.3
    # Sizes of the head's hidden layers; empty for a linear head.
    settings.model.hidden = ()
    # First phase of training: the head alone, on features of the frozen network.
    settings.head_training = training_settings(epochs=30, batch_size=32, learning_rate=3e-3)
    # Second phase of training: the head and the layers from finetune_from on. There is no second
    # phase with finetune_from=head.
    settings.training = training_settings(
        epochs=1, batch_size=32, learning_rate=1e-4, scales={"vit": 0.2}
    )
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    del settings
    return "Poster (ViT)"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    return {"folder": settings.folder} if settings.folder else {}


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    del data
    checker = Checker(settings)
    checker.one_of("dtype", DTYPES)
    checker.share("model.dropout", "model.head_dropout")
    checker.sizes("model.hidden")
    checker.training("head_training", "training")
    if not settings.folder:
        return [*checker.problems, f"folder is empty. {vit.ADVICE}"]
    try:
        folder = vit.find(settings.folder)
        network = vit.network(folder)
        vit.load(folder, network)
    except InputError as error:
        return [*checker.problems, f"folder: {error}"]
    layers = [*(f"layer{number}" for number in range(1, network.layers + 1)), _HEAD]
    checker.one_of("finetune_from", layers)
    return checker.problems


def training_seconds(
    settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict, movies: int, folds: int
) -> float:
    """Estimates the time from the number of multiplications.

    In float32, ViT-B/16 had about half of the FLOP/s of VGG16, whose rate `poster_vgg16` has.
    """
    del data
    network = vit.network(vit.find(settings.folder))
    first = _first_layer(settings, network)
    tokens = network.grid[0] * network.grid[1] + network.registers + network.class_token
    dense = 2 * tokens * network.hidden * (4 * network.hidden + 2 * network.intermediate)
    seconds = (dense + 4 * tokens**2 * network.hidden) / 1e11
    trained = network.layers + 1 - first
    # The gradient takes twice as long as the forward pass.
    passes = first - 1 + trained * 3 * (folds - 1) * settings.training.epochs
    return folds * 20 + movies * seconds * passes


def prepare(experiment: Experiment, name: str) -> Recipe:
    """Prepares two phases of training: the head alone, then the head with the trained layers."""
    config, corpus, kernels = experiment.config, experiment.corpus, experiment.kernels
    settings, num_genres = config[name], len(corpus.genres)
    folder = vit.find(settings.folder)
    network, processor = vit.network(folder), vit.processor(folder)
    backbone = _backbone(settings, network, vit.load(folder, network), kernels)
    backbone.save_frozen(experiment.workdir, name)
    _save_description(folder, encoder_folder(experiment.workdir, name))
    size = (config.data.poster_height, config.data.poster_width)
    stored = pipeline.PosterExamples(corpus.records, *size)
    activations = Activations(
        experiment,
        name,
        backbone,
        corpus.has_poster,
        "images",
        {
            "size": size,
            "processor": dataclasses.asdict(processor),
            "heads": network.heads,
            "activation": network.activation,
            "norm_epsilon": network.norm_epsilon,
        },
        {},
    )
    examples = activations.below_trained(_Processed(stored, processor))

    head = _model(settings, network, num_genres, network.layers + 1, kernels)

    def init_head(key):
        params = head.init(key, np.zeros((1, network.hidden)))["params"]
        params["head"]["genres"]["bias"] = experiment.initial_bias
        return params

    apply_head = _apply(settings, network, num_genres, network.layers + 1, kernels)
    phases = [Phase(activations.features(examples), apply_head, init_head, _HEAD)]
    if not backbone.only_head_trains:
        apply = _apply(settings, network, num_genres, backbone.first_trained, kernels)
        phases.append(Phase(examples, apply, lambda key: {"vit": backbone.trained_params}))
    return in_phases(phases, settings.training.batch_size)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    settings, folder = config[name], encoder_folder(workdir, name)
    network = vit.network(folder)
    first_layer = _first_layer(settings, network)
    frozen_part = None
    if first_layer > 1:
        params = frozen.restore(workdir, name)
        frozen_part = _backbone(settings, network, params, kernels).frozen_part()
    size, processor = (config.data.poster_height, config.data.poster_width), vit.processor(folder)
    model = _model(settings, network, num_genres, first_layer, kernels)
    blocks = range(max(1, min(first_layer, network.layers) - 1), network.layers)
    return Encoder(
        functools.partial(_read, size, processor),
        _apply(settings, network, num_genres, first_layer, kernels),
        load_params(config, workdir, name, _HEAD if first_layer > network.layers else ""),
        frozen_part,
        embed=make_embed(model, _MODEL_INPUTS),
        heat_maps=_heat_maps(
            model,
            frozen_part.params if first_layer > network.layers else {},
            _margins(size, processor, network.patch_size),
        )
        if blocks
        else None,
        blocks=blocks,
    )


def portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    folder, data = encoder_folder(workdir, name), config.data
    processor = vit.processor(folder)
    height, width = processor.image_size
    return Portable(
        posters.open_posters,
        {
            "height": data.poster_height,
            "width": data.poster_width,
            "processing": {
                "size": processor.size,
                "crop": processor.crop,
                "resample": processor.resample,
            },
        },
        {"images": (f"batch, {height}, {width}, 3", "uint8")},
        files=tuple(vit.description_files(folder)),
        packages=("pillow",),
        licences=[
            f"ViT: the licence of {pathlib.PurePath(config[name].folder).name}, from which its "
            "layers were taken"
        ],
    )


def _save_description(source: Path, target: Path) -> None:
    """Copies the config and the preprocessing into the folder of the encoder."""
    for file, content in vit.description_files(source).items():
        write_atomically(target / file, lambda stream, content=content: stream.write(content))


@dataclasses.dataclass(frozen=True)
class _Processed:
    """Makes batches of posters in the network's size: RGB `images` <uint8>[batch, *size, 3].

    Attributes:
      stored: makes batches of posters in the experiment's size.
      processor: resizes and crops them.
    """

    stored: Callable[..., dict[str, np.ndarray]]
    processor: ImageProcessor

    def __call__(self, indices: np.ndarray, batch: np.ndarray | None = None):
        images = self.stored(indices, batch)["images"]
        return {"images": np.stack([self.processor(image) for image in images])}


def _first_layer(settings: ml_collections.ConfigDict, network: ViT) -> int:
    """Returns the number of the first trained layer; `layers + 1` if only the head is trained."""
    name = settings.finetune_from
    return network.layers + 1 if name == _HEAD else int(name.removeprefix("layer"))


def _model(settings, network: ViT, num_genres, first_layer, kernels) -> PosterViT:
    layers = network.clone(
        first_layer=first_layer,
        dropout=settings.model.dropout,
        dtype=settings.dtype,
        kernels=kernels,
    )
    model = settings.model
    return PosterViT(layers, tuple(model.hidden), model.head_dropout, num_genres)


def _apply(settings, network: ViT, num_genres, first_layer, kernels) -> ApplyFn:
    def augment(key, batch):
        images = posters.augment(key, batch["images"], flip=settings.flip, crop=0.0, colour=0.0)
        return batch | {"images": images}

    model = _model(settings, network, num_genres, first_layer, kernels)
    # States cannot be mirrored: they have the patches' positions in them.
    return make_apply(model, _MODEL_INPUTS, augment if first_layer == 1 else None)


def _heat_maps(
    model: PosterViT, frozen_params: Mapping[str, Any], margins: tuple[tuple[int, int], ...]
):
    """Makes the function `Encoder.heat_maps`: Grad-CAM on the states of the patches.

    After the last layer, only the class token reaches the head, so its input is the last choice.

    Args:
      model: the network from its first trained layer on.
      frozen_params: parameters of the frozen layers, if all are frozen.
      margins: see `_margins`.
    """
    network = model.vit
    rows, columns = network.grid

    def of_block(params, frozen_params, batch, genres, block):
        layers = params.get("vit", frozen_params)
        if network.first_layer > network.layers:
            states = batch["states"]
        elif block < network.first_layer:
            states = batch["images"]
        else:
            below = network.clone(last_layer=block).apply({"params": layers}, batch["images"])
            states = below[f"layer{block}"]
        others = states.shape[1] - rows * columns
        above = model.clone(vit=network.clone(first_layer=block + 1))

        def logits_of(patches):
            tokens = [states[:, :others], patches.reshape(len(states), rows * columns, -1)]
            inputs = jnp.concatenate(tokens, axis=1)
            return above.apply({"params": params | {"vit": layers}}, inputs)[0]

        patches = states[:, others:].reshape(len(states), rows, columns, -1)
        cam = explanations.grad_cam(logits_of, patches, genres)
        return jnp.pad(cam, ((0, 0), (0, 0), *margins))

    jitted = jax.jit(of_block, static_argnums=4)

    def heat_maps(params, batch, genres, block=None):
        default = network.layers - 1
        return jitted(params, frozen_params, batch, genres, default if block is None else block)

    return heat_maps


def _margins(
    size: tuple[int, int], processor: ImageProcessor, patch_size: int
) -> tuple[tuple[int, int], ...]:
    """Returns the numbers of patches above, below, left and right of the part that is cropped."""
    whole = posters.resized(*size, processor.size)
    sides = [
        round((of_whole - of_crop) / 2 / patch_size)
        for of_whole, of_crop in zip(whole, processor.image_size)
    ]
    return tuple((side, side) for side in sides)


def _backbone(settings, network: ViT, params, kernels: Kernels) -> Backbone:
    """Makes the network without its head.

    The array `images` of a batch has pixels before block 1, and states after each block.
    """

    def run(first, last, params, batch):
        layers = network.clone(
            first_layer=first, last_layer=last, dtype=settings.dtype, kernels=kernels
        )
        outputs = layers.apply({"params": params}, batch["images"])
        if last == network.layers:
            states = {f"layer{first - 1}": batch["images"]} | outputs
            # The last layer's input is for heat maps.
            return {"images": outputs["features"], "states": states[f"layer{last - 1}"]}
        return {"images": outputs[f"layer{last}"].astype(settings.dtype)}

    block = functools.partial(block_of, layers=network.layers)
    return Backbone(params, network.layers, _first_layer(settings, network), block, run)


def _read(
    size: tuple[int, int], processor: ImageProcessor, movies: Sequence[Movie]
) -> tuple[_Processed, np.ndarray]:
    stored, present = posters_of(movies, *size)
    return _Processed(stored, processor), present
