"""The poster encoder of the talk: VGG16 with ImageNet weights, fine-tuned, and a head."""

import functools
import logging
from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np

from mmgc_jax.data import pipeline, posters
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import frozen
from mmgc_jax.encoders.base import Encoder, load_params
from mmgc_jax.models import VGG16, PosterVGG16, apply_blocks, pool_blocks
from mmgc_jax.pretrained import vgg16
from mmgc_jax.runtime.files import Path
from mmgc_jax.training import checkpoints, loop
from mmgc_jax.training.cross_fit import Experiment, Recipe, fold_names

logger = logging.getLogger(__name__)

FIRST_BLOCK = {"block1": 1, "block2": 2, "block3": 3, "block4": 4, "block5": 5, "head": 6}
_HEAD = FIRST_BLOCK["head"]


def prepare(experiment: Experiment, stage: str) -> Recipe:
    """Makes ready what the encoder's training needs.

    With ImageNet weights the head is trained first, then all from a block on. A head that starts at
    random would spoil the pretrained blocks below it before it has learned anything (arXiv
    2202.10054).

    Args:
      experiment: the experiment.
      stage: `poster` or `poster_grey`.
    """
    config, corpus = experiment.config, experiment.corpus
    settings, grey = config.poster, stage == "poster_grey"
    first_block = FIRST_BLOCK[settings.finetune_from]
    size = (config.data.poster_height, config.data.poster_width)
    num_genres = len(corpus.genres)
    params = _model(config, num_genres, grey).init(
        jax.random.key(experiment.seed_of(stage)), np.zeros((1, *size, 3), np.uint8)
    )["params"]
    params["head"]["genres"]["bias"] = experiment.initial_bias
    examples = pipeline.PosterExamples(corpus.records, *size)
    features = None
    if settings.weights:
        blocks = VGG16(grey=grey, widths=settings.model.widths, depths=settings.model.depths)
        network = params["vgg16"] = vgg16.load(settings.weights, blocks)
        frozen = {name: layer for name, layer in network.items() if block_of(name) < first_block}
        cached = functools.partial(_cached, experiment, grey, network)
        if frozen:
            directory = experiment.workdir / "checkpoints" / stage / "frozen"
            checkpoints.save(directory, 0, {"vgg16": frozen}, {})
        if 1 < first_block < _HEAD:
            examples = cached(examples, 1, f"block{first_block - 1}_pool")
            features = cached(examples, first_block, "features")
        else:
            features = cached(examples, 1, "features")
        params = params | {"vgg16": {n: v for n, v in network.items() if n not in frozen}}
    if first_block == _HEAD:
        del params["vgg16"]

    apply = _apply(config, num_genres, grey, first_block)
    apply_head = _apply(config, num_genres, grey, _HEAD)

    def fit_fold(fit, name, indices):
        if features is None:
            return fit(name, indices, examples, apply, params, settings.training)
        head = {"head": params["head"]}
        fitted = fit(f"{name}/head", indices, features, apply_head, head, settings.head_training)
        if first_block == _HEAD:
            return fitted
        start = params | fitted.params
        return fit(name, indices, examples, apply, start, settings.training)

    if first_block == _HEAD:
        examples, apply = features, apply_head
    return Recipe(examples, apply, fit_fold, settings.training.batch_size)


def trainings(config: ml_collections.ConfigDict, stage: str) -> list[str]:
    """The trainings whose parameters predict, one for each fold."""
    head = "/head" if FIRST_BLOCK[config.poster.finetune_from] == _HEAD else ""
    return [name + head for name in fold_names(config, stage)]


def load(config: ml_collections.ConfigDict, workdir: Path, stage: str, num_genres: int) -> Encoder:
    """Reads what training left behind."""
    grey = stage == "poster_grey"
    first_block = FIRST_BLOCK[config.poster.finetune_from]
    params = load_params(workdir, trainings(config, stage))
    restored = checkpoints.restore(workdir / "checkpoints" / stage / "frozen")
    frozen = None
    if restored is not None:
        output = "features" if first_block == _HEAD else f"block{first_block - 1}_pool"
        frozen = _frozen(config, grey, restored[0]["vgg16"], 1, output)
    read = functools.partial(_read, (config.data.poster_height, config.data.poster_width))
    return Encoder(read, _apply(config, num_genres, grey, first_block), params, frozen)


def block_of(layer: str) -> int:
    """The number of the block that a layer of VGG16 belongs to; block 1 begins with the pixels."""
    return 1 if layer == "preprocessing" else FIRST_BLOCK[layer.split("_")[0]]


def _model(
    config: ml_collections.ConfigDict, num_genres: int, grey: bool, first_block: int = 1
) -> PosterVGG16:
    """The encoder, whole or from a block on."""
    return PosterVGG16(
        first_block=first_block,
        grey=grey,
        num_genres=num_genres,
        dtype=config.poster.dtype,
        **config.poster.model,
    )


def _apply(config, num_genres, grey, first_block) -> loop.ApplyFn:
    settings = config.poster

    def augment(key, batch):
        images = posters.augment(
            key,
            batch["images"],
            flip=settings.flip,
            crop=settings.crop,
            colour=settings.colour if first_block == 1 else 0.0,
        )
        return batch | {"images": images}

    model = _model(config, num_genres, grey, first_block)
    # The head alone sees no image.
    return loop.make_apply(model, ("images",), None if first_block == _HEAD else augment)


def _frozen(
    config: ml_collections.ConfigDict, grey: bool, network, first_block: int, output: str
) -> Callable[[dict], dict[str, jax.Array]]:
    """The network without its head: batch -> {"images": output}.

    Args:
      config: of the experiment.
      grey: as of `VGG16`.
      network: parameters of at least the blocks that run.
      first_block: where the batch's `images` enter.
      output: `features`, all that the head sees, or `block<n>_pool`.
    """
    settings, last_block = config.poster.model, _last_block(output)
    blocks = VGG16(
        first_block, last_block, grey, settings.widths, settings.depths, dtype=config.poster.dtype
    )
    layers = {n: layer for n, layer in network.items() if first_block <= block_of(n) <= last_block}

    def of_images(images):
        maps = {f"block{first_block - 1}_pool": images}
        maps |= apply_blocks(blocks, layers, images)
        if output == "features":
            return pool_blocks(maps, settings.head_blocks, settings.pooling)
        return maps[output]

    run = jax.jit(of_images)
    return lambda batch: {"images": run(batch["images"])}


def _cached(
    experiment: Experiment, grey: bool, network, examples, first_block: int, output: str
) -> frozen.ActivationExamples:
    """What the network makes of each poster, from the disk; computed if it is not there.

    The arguments are those of `_frozen`; `examples` bring its batches.
    """
    config, corpus = experiment.config, experiment.corpus
    frozen = _frozen(config, grey, network, first_block, output)
    head = config.poster.model if output == "features" else {}
    key = frozen.key_of(
        {name: layer for name, layer in network.items() if block_of(name) <= _last_block(output)},
        size=[config.data.poster_height, config.data.poster_width],
        grey=grey,
        dtype=config.poster.dtype,
        **{name: head[name] for name in ("pooling", "head_blocks") if name in head},
    )
    colour = "grey" if grey else "colour"
    file = experiment.cache / "activations" / f"{output}-{colour}-{key}.npy"
    batches = pipeline.Batches(
        examples,
        corpus.labels,
        np.flatnonzero(corpus.has_poster),
        config.poster.training.batch_size,
    )
    dtype = "float32" if output == "features" else config.poster.dtype
    return frozen.cache(
        file, lambda batch: frozen(batch)["images"], batches, config.data.workers, dtype
    )


def _last_block(output: str) -> int:
    return 5 if output == "features" else block_of(output)


def _read(
    size: tuple[int, int], movies: Sequence[Movie]
) -> tuple[pipeline.ArrayExamples, np.ndarray]:
    """The movies' posters, and which of them have one that can be read."""
    images = [_decode(movie, *size) for movie in movies]
    missing = np.zeros((*size, 3), np.uint8)
    pixels = np.stack([missing if image is None else image for image in images])
    present = np.array([image is not None for image in images])
    return pipeline.ArrayExamples({"images": pixels}), present


def _decode(movie: Movie, height: int, width: int) -> np.ndarray | None:
    if movie.poster is None:
        return None
    try:
        # Through JPEG, as the posters that the encoder was trained on.
        pixels = posters.decode(movie.poster, height, width)
        return posters.decode(posters.encode_jpeg(pixels), height, width)
    except posters.PosterError as error:
        logger.warning("Unreadable poster, treated as missing: %s: %s", movie.id, error)
        return None
