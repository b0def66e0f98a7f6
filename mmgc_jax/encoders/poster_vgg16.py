"""Poster encoder of the talk: VGG16 with ImageNet weights, fine-tuned, and a head.

`mmgc_jax.encoders.base.Kind` describes the functions of this module.
"""

import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, posters
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
from mmgc_jax.models import VGG16, GenreHead, PosterVGG16, apply_blocks, pool_blocks
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pretrained import vgg16
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.cross_fit import Phase, Recipe, in_phases
from mmgc_jax.training.run import ApplyFn, Experiment, make_apply, make_embed

MODALITY = "poster"

_FIRST_BLOCK = {"block1": 1, "block2": 2, "block3": 3, "block4": 4, "block5": 5, "head": 6}
_LAST_BLOCK, _HEAD = 5, 6
# The default block of heat maps is the last one with at least this many positions: block 5 for
# posters of 256 x 160 pixels, with 8 x 5.
_LEAST_POSITIONS = 32
_MODEL_INPUTS = ("images",)


def default_settings() -> ml_collections.ConfigDict:
    """Makes the config section of an encoder, with default values."""
    settings = ml_collections.ConfigDict()
    # Module of mmgc_jax.encoders that this section belongs to.
    settings.kind = "poster_vgg16"
    # Whether posters are converted to greyscale first.
    settings.grey = False
    # File of VGG16's ImageNet weights: .npz from mmgc_jax.pretrained.vgg16, Keras's .h5, or
    # .safetensors with PyTorch's names. Empty to train all blocks from scratch, which needs
    # finetune_from=block1.
    settings.weights = ""
    # First trained block: block1 to block5, or head. Blocks below are frozen, and computed only
    # once for each poster.
    settings.finetune_from = "block5"
    # Dtype of the convolutions: float32; bfloat16, which is faster on GPU, TPU and CPUs with AMX
    # or, with Python 3.12 and later, AVX512_BF16; or auto, for bfloat16 on these and float32
    # elsewhere.
    settings.dtype = "float32"
    # Augmentation: whether posters are mirrored at random. If block1 is frozen, activations are
    # mirrored instead.
    settings.flip = True
    # Augmentation: largest random shift, as a share of height and width; at least 0, below 1. If
    # block1 is frozen, activations are shifted instead.
    settings.crop = 0.1
    # Augmentation: largest relative change of brightness, contrast and colours; at least 0, below
    # 1. It has no effect if block1 is frozen.
    settings.colour = 0.1
    # The network, mmgc_jax.models.PosterVGG16.
    settings.model = ml_collections.ConfigDict()
    # Number of channels of each of the five blocks; pretrained weights need the default.
    settings.model.widths = (64, 128, 256, 512, 512)
    # Number of convolutions in each of the five blocks; pretrained weights need the default.
    settings.model.depths = (2, 2, 3, 3, 3)
    # Blocks whose pooled activations the head reads, from the one before finetune_from to 5.
    settings.model.head_blocks = (4, 5)
    # Sizes of the head's hidden layers; empty for a linear head.
    settings.model.hidden = ()
    # How activations become a vector: mean or max over all positions, mean_max (both,
    # concatenated), or flatten (all positions, as in VGG16).
    settings.model.pooling = "mean_max"
    # Dropout rate before each layer of the head; at least 0, below 1.
    settings.model.dropout = 0.5
    # First phase of training, with pretrained weights only: the head alone, on activations of the
    # frozen network.
    settings.head_training = training_settings(epochs=30, batch_size=32, learning_rate=3e-3)
    # Weight decay of AdamW, for weight matrices only; at least 0.
    settings.head_training.weight_decay = 0.3
    # Second phase of training: the head and the blocks from finetune_from on. There is no second
    # phase with finetune_from=head.
    settings.training = training_settings(
        epochs=1, batch_size=32, learning_rate=3e-4, scales={"vgg16": 0.2}
    )
    return settings


def title(settings: ml_collections.ConfigDict) -> str:
    sizes = tuple(settings.model.widths), tuple(settings.model.depths)
    network = "VGG16" if sizes == (VGG16.widths, VGG16.depths) else "small VGG"
    return f"Poster ({network}, {_colour(settings)})"


def inputs(settings: ml_collections.ConfigDict) -> dict[str, str | tuple[str, ...]]:
    return {"weights": settings.weights} if settings.weights else {}


def problems(settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> list[str]:
    del data
    checker = Checker(settings)
    checker.one_of("finetune_from", _FIRST_BLOCK)
    checker.one_of("dtype", DTYPES)
    checker.one_of("model.pooling", ("flatten", "mean", "max", "mean_max"))
    checker.share("crop", "colour", "model.dropout")
    checker.sizes("model.widths", "model.depths", count=_LAST_BLOCK)
    checker.sizes("model.hidden")
    checker.training("head_training", "training")
    if settings.finetune_from in _FIRST_BLOCK:
        # If training starts from cached activations, those of lower blocks are not available.
        first = _FIRST_BLOCK[settings.finetune_from]
        lowest = 1 if first == _HEAD else max(1, first - 1)
        checker.require(
            "model.head_blocks",
            lambda blocks: blocks and set(blocks) <= set(range(lowest, _LAST_BLOCK + 1)),
            f"blocks from {lowest} to 5 are possible with finetune_from={settings.finetune_from!r}",
        )
        if not settings.weights and first != 1:
            checker.problems.append(
                f"weights is empty, and finetune_from is {settings.finetune_from!r}: the blocks "
                "below would keep their random weights. Set weights to VGG16's file (to get it, "
                f"run: {vgg16.COMMAND}), or finetune_from to block1"
            )
    if settings.weights and not checker.problems:
        try:
            vgg16.load(
                settings.weights,
                VGG16(widths=settings.model.widths, depths=settings.model.depths),
            )
        except InputError as error:
            checker.problems.append(f"weights: {error}")
    return checker.problems


def training_seconds(
    settings: ml_collections.ConfigDict, data: ml_collections.ConfigDict, movies: int, folds: int
) -> float:
    """Estimates the time from runs with 352 posters (narrow network) and 3,571 ones (VGG16)."""
    first, channels, frozen, trained = _FIRST_BLOCK[settings.finetune_from], 3, 0.0, 0.0
    for block, (width, depth) in enumerate(zip(settings.model.widths, settings.model.depths), 1):
        pixels = data.poster_height * data.poster_width / 4 ** (block - 1)
        flops = 18 * pixels * width * (channels + (depth - 1) * width)
        seconds = flops / (2e11 if width > 64 or depth > 1 else 3.6e10)
        channels = width
        frozen, trained = (
            (frozen + seconds, trained) if block < first else (frozen, trained + seconds)
        )
    # The gradient takes twice as long as the forward pass.
    passes = 3 * (folds - 1) * settings.training.epochs
    return folds * 10 + movies * (frozen + trained * passes)


def prepare(experiment: Experiment, name: str) -> Recipe:
    """Prepares one phase of training from scratch, or two phases with pretrained weights.

    With pretrained weights the head is trained alone first: the gradients of a randomly initialised
    head would distort the pretrained features (arXiv 2202.10054).
    """
    config, corpus = experiment.config, experiment.corpus
    settings, num_genres, kernels = config[name], len(corpus.genres), experiment.kernels
    first_block = _FIRST_BLOCK[settings.finetune_from]
    size = (config.data.poster_height, config.data.poster_width)
    model = _model(settings, num_genres, kernels)

    @jax.jit
    def init(key):
        params = model.init(key, np.zeros((1, *size, 3), np.uint8))["params"]
        params["head"]["genres"]["bias"] = experiment.initial_bias
        return params

    examples = pipeline.PosterExamples(corpus.records, *size)
    apply = _apply(settings, num_genres, first_block, kernels)
    if not settings.weights:
        return in_phases([Phase(examples, apply, init)], settings.training.batch_size)

    backbone = _backbone(settings, vgg16.load(settings.weights, _network(settings)), kernels)
    backbone.save_frozen(experiment.workdir, name)
    activations = Activations(
        experiment,
        name,
        backbone,
        corpus.has_poster,
        "images",
        {"size": size, "grey": settings.grey},
        {field: settings.model[field] for field in ("pooling", "head_blocks")},
    )
    examples = activations.below_trained(examples)
    apply_head = _apply(settings, num_genres, _HEAD, kernels)

    @jax.jit
    def init_head(key):
        return {"head": init(key)["head"]}

    phases = [Phase(activations.features(examples), apply_head, init_head, "head")]
    if not backbone.only_head_trains:
        phases.append(Phase(examples, apply, lambda key: {"vgg16": backbone.trained_params}))
    return in_phases(phases, settings.training.batch_size)


def load(
    config: ml_collections.ConfigDict, workdir: Path, name: str, num_genres: int, kernels: Kernels
) -> Encoder:
    settings, fastest = config[name], kernels.for_inference()
    first_block = _FIRST_BLOCK[settings.finetune_from]
    phase = "head" if first_block == _HEAD else ""
    params = load_params(config, workdir, name, phase)
    frozen_part = None
    if first_block > 1:
        network = frozen.restore(workdir, name)
        frozen_part = _backbone(settings, network, kernels).frozen_part()
    size = (config.data.poster_height, config.data.poster_width)
    blocks = _blocks(settings)
    # Blocks that are not the last have a map of more positions, of features that mean less.
    fine_enough = [b for b in blocks if (size[0] >> b) * (size[1] >> b) >= _LEAST_POSITIONS]
    heat_maps = _heat_maps(settings, num_genres, kernels, max(fine_enough, default=blocks[0]))
    return Encoder(
        functools.partial(posters_of, height=size[0], width=size[1]),
        _apply(settings, num_genres, first_block, fastest),
        params,
        frozen_part,
        embed=make_embed(
            _model(settings, num_genres, fastest, first_block),
            _MODEL_INPUTS,
            fastest.compiler_options(settings.dtype),
        ),
        heat_maps=heat_maps,
        blocks=blocks,
    )


def portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    del workdir
    settings, height, width = config[name], config.data.poster_height, config.data.poster_width
    licences = []
    if settings.weights:
        file = pathlib.PurePath(settings.weights).name
        licences = [
            f"VGG16: the licence of {file}, from which its layers were taken; the weights of the "
            "Oxford Visual Geometry Group, which Keras publishes, are under CC BY 4.0"
        ]
    return Portable(
        posters.open_posters,
        {"height": height, "width": width},
        {"images": (f"batch, {height}, {width}, 3", "uint8")},
        packages=("pillow",),
        licences=licences,
    )


def _colour(settings: ml_collections.ConfigDict) -> str:
    return "grey" if settings.grey else "colour"


def _block_of(layer: str) -> int:
    """Returns the block that a layer of VGG16 belongs to; block 1 includes the preprocessing."""
    return 1 if layer == "preprocessing" else _FIRST_BLOCK[layer.split("_")[0]]


def _model(
    settings: ml_collections.ConfigDict, num_genres: int, kernels: Kernels, first_block: int = 1
) -> PosterVGG16:
    """Makes the network from `first_block` on, with the head; 6 is the head alone."""
    return PosterVGG16(
        first_block=first_block,
        grey=settings.grey,
        num_genres=num_genres,
        dtype=settings.dtype,
        kernels=kernels,
        **settings.model,
    )


def _apply(settings, num_genres: int, first_block: int, kernels: Kernels) -> ApplyFn:
    def augment(key, batch):
        images = posters.augment(
            key,
            batch["images"],
            flip=settings.flip,
            crop=settings.crop,
            colour=settings.colour if first_block == 1 else 0.0,
        )
        return batch | {"images": images}

    model = _model(settings, num_genres, kernels, first_block)
    if first_block == _HEAD:  # it reads pooled activations, which cannot be augmented
        return make_apply(model, _MODEL_INPUTS)
    return make_apply(model, _MODEL_INPUTS, augment, kernels.compiler_options(settings.dtype))


def _network(settings: ml_collections.ConfigDict, **blocks) -> VGG16:
    model = settings.model
    return VGG16(
        grey=settings.grey,
        widths=model.widths,
        depths=model.depths,
        dtype=settings.dtype,
        **blocks,
    )


def _backbone(settings: ml_collections.ConfigDict, params, kernels: Kernels) -> Backbone:
    """Makes VGG16 without its head, with the kernels of inference.

    The array `images` of a batch has pixels before block 1, and activations after each block.
    """
    kernels = kernels.for_inference()

    def run(first, last, params, batch):
        blocks = _network(settings, first_block=first, last_block=last, kernels=kernels)
        maps = {f"block{first - 1}_pool": batch["images"]}
        maps |= apply_blocks(blocks, params, batch["images"])
        if last == _LAST_BLOCK:
            blocks, pooling = settings.model.head_blocks, settings.model.pooling
            vectors = {f"block{b}_vector": pool_blocks(maps, [b], pooling) for b in blocks}
            pooled = jnp.concatenate(list(vectors.values()), axis=-1)
            # The vectors and the map are for heat maps.
            top_map = maps[f"block{_blocks(settings)[-1]}_pool"]
            return {"images": pooled, "top_map": top_map, **vectors}
        return {"images": maps[f"block{last}_pool"]}

    first_trained = _FIRST_BLOCK[settings.finetune_from]
    options = kernels.compiler_options(settings.dtype)
    return Backbone(params, _LAST_BLOCK, first_trained, _block_of, run, options)


def _blocks(settings: ml_collections.ConfigDict) -> Sequence[int]:
    """Returns the blocks whose maps `Encoder.heat_maps` can use: those that reach the head."""
    first, last = _FIRST_BLOCK[settings.finetune_from], max(settings.model.head_blocks)
    return range(last, last + 1) if first == _HEAD else range(max(1, first - 1), last + 1)


def _heat_maps(settings: ml_collections.ConfigDict, num_genres: int, kernels: Kernels, default):
    """Makes the function `Encoder.heat_maps`; `default` is the block that it uses by itself."""
    model = settings.model
    head = GenreHead(model.hidden, model.pooling, model.dropout, num_genres)
    first = _FIRST_BLOCK[settings.finetune_from]

    def run(params, first, last, images) -> dict[str, jax.Array]:
        if first > last:
            return {}
        blocks = _network(settings, first_block=first, last_block=last, kernels=kernels)
        return blocks.apply({"params": params["vgg16"]}, images)

    def of_block(params, batch, genres, block):
        if first == _HEAD:
            seen = {f"block{block}_pool": batch["top_map"]}
        else:
            seen = {f"block{first - 1}_pool": batch["images"]}
            seen |= run(params, first, block, batch["images"])

        def logits_of(activations):
            above = seen | {f"block{block}_pool": activations}
            above |= run(params, block + 1, max(model.head_blocks), activations)
            # Of frozen blocks there may be the vectors alone.
            parts = [
                pool_blocks(above, [number], model.pooling)
                if f"block{number}_pool" in above
                else batch[f"block{number}_vector"]
                for number in model.head_blocks
            ]
            features = jnp.concatenate(parts, axis=-1)
            return head.apply({"params": params["head"]}, features)[0]

        return explanations.grad_cam(logits_of, seen[f"block{block}_pool"], genres)

    options = kernels.compiler_options(settings.dtype)
    jitted = jax.jit(of_block, static_argnums=3, compiler_options=options)

    def heat_maps(params, batch, genres, block=None):
        return jitted(params, batch, genres, default if block is None else block)

    return heat_maps
