"""What can be known to be wrong before an experiment begins: its config, files and directory."""

import hashlib
import json
import operator
import pathlib

import jax
import ml_collections

from mmgc_jax.data import movies, text
from mmgc_jax.encoders.fusion import JOINT
from mmgc_jax.encoders.plot_transformer import HEAD
from mmgc_jax.encoders.poster_vgg16 import FIRST_BLOCK
from mmgc_jax.encoders.registry import ENCODERS
from mmgc_jax.models import FUSIONS, VGG16
from mmgc_jax.pretrained import minilm, vector_file, vgg16
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json, write_text

_FUSION_KINDS = (*FUSIONS, JOINT)
_CHOICES = {
    "plot.tokens": tuple(text.TOKENIZERS),
    "plot.vectorisation": ("word2vec", "unique_map", "one_hot"),
    "plot.dtype": ("float32", "bfloat16"),
    "plot.model.lstm": ("scan", "cudnn"),
    "plot.model.pooling": ("last", "mean", "max", "mean_max"),
    "poster.model.pooling": ("flatten", "mean", "max", "mean_max"),
    "poster.finetune_from": tuple(FIRST_BLOCK),
    "poster.dtype": ("float32", "bfloat16"),
    "bag_of_words.tokens": tuple(text.TOKENIZERS),
    "transformer.dtype": ("float32", "bfloat16"),
    "fusion.kind": _FUSION_KINDS,
}
# Fields that change nothing that is in a working directory already.
MAY_CHANGE = {"data.workers", "fusion.compare", "split_parameters"}
_DROPOUTS = (
    "plot.model.dropout",
    "plot.model.word_dropout",
    "poster.model.dropout",
    "transformer.model.dropout",
    "transformer.model.head_dropout",
    "fusion.model.dropout",
)
_TRAININGS = (
    "plot.training",
    "transformer.head_training",
    "transformer.training",
    "poster.head_training",
    "poster.training",
    "fusion.training",
    "fusion.vector_training",
    "fusion.joint_training",
)


def config_is_possible(config: ml_collections.ConfigDict) -> None:
    """Finds mistakes in a config before anything is computed.

    Raises:
      InputError: if a value is not one of those possible, or a file that it names is not usable.
    """

    def require(is_right, name, wanted):
        value = operator.attrgetter(name)(config)
        if not is_right(value):
            raise InputError(f"config.{name} is {value!r}; {wanted}.")

    def require_some_of(name, choices):
        wanted = f"name at least one of {', '.join(choices)}"
        require(lambda names: names and set(names) <= set(choices), name, wanted)

    require_some_of("encoders", tuple(ENCODERS))
    require_some_of("fusion.encoders", config.encoders)
    compared = f"possible: {', '.join(_FUSION_KINDS)}"
    require(lambda kinds: set(kinds) <= set(_FUSION_KINDS), "fusion.compare", compared)
    for name, choices in _CHOICES.items():
        require(choices.__contains__, name, f"possible: {', '.join(choices)}")
    require(lambda share: 0 < share < 1, "data.validation_fraction", "above 0 and below 1")
    for name in _DROPOUTS:
        require(lambda rate: 0 <= rate < 1, name, "it must be at least 0 and below 1")
    require(lambda folds: folds >= 2, "folds", "at least 2 are needed")
    for name in ("data.poster_height", "data.poster_width"):
        require(lambda size: size > 0 and size % 32 == 0, name, "a multiple of 32 is needed")
    # Blocks further down are not kept where training begins with what a later one puts out.
    first = FIRST_BLOCK[config.poster.finetune_from]
    lowest = 1 if first > 5 else max(1, first - 1)
    require(
        lambda blocks: blocks and set(blocks) <= set(range(lowest, 6)),
        "poster.model.head_blocks",
        f"with finetune_from={config.poster.finetune_from!r} it may name blocks {lowest} to 5",
    )
    for name in ("poster.model.widths", "poster.model.depths"):
        require(lambda sizes: len(sizes) == 5 and min(sizes) > 0, name, "each block needs a number")
    devices = jax.device_count()
    for training in _TRAININGS:
        require(lambda share: 0 <= share < 1, f"{training}.warmup", "at least 0 and below 1")
        for field in ("epochs", "batch_size", "patience", "log_every", "checkpoint_every"):
            require(lambda number: number >= 1, f"{training}.{field}", "it must be at least 1")
        require(
            lambda size: size % devices == 0,
            f"{training}.batch_size",
            f"it must be a multiple of the number of devices, {devices}",
        )
    for name in ("longest_phrase", "min_plots", "bucket"):
        require(lambda number: number >= 1, f"bag_of_words.{name}", "it must be at least 1")
    require(lambda strength: strength > 0, "bag_of_words.strength", "it must be above 0")
    pooled = "plot.model.pool_words"
    vectors_there = config.plot.vectorisation != "one_hot"
    require(lambda wanted: vectors_there or not wanted, pooled, "one_hot has no vectors to pool")
    uses_scan, on_gpu = config.plot.model.lstm == "scan", jax.default_backend() == "gpu"
    require(
        lambda _: uses_scan or (vectors_there and on_gpu),
        "plot.model.lstm",
        "cudnn needs an NVIDIA GPU, and vectors, which one_hot has not",
    )
    require(lambda dtype: uses_scan or dtype == "float32", "plot.dtype", "cudnn has float32 alone")
    for name in ("dim", "window", "min_count", "negative", "epochs"):
        require(lambda number: number >= 1, f"plot.vectors.{name}", "it must be at least 1")
    require(lambda size: size >= 3, "plot.max_vocabulary", "two ids are padding and unknown")
    if any(stage.startswith("poster") for stage in config.encoders):
        _check_weights(config.poster)
    if "plot_transformer" in config.encoders:
        _check_transformer(config.transformer)
    if "plot" in config.encoders and config.plot.vectorisation == "word2vec":
        _check_vectors(config.plot.vectors)


def _check_transformer(settings: ml_collections.ConfigDict) -> None:
    try:
        network = minilm.network(minilm.find(settings.folder))
    except InputError as error:
        raise InputError(f"config.transformer.folder: {error}") from error
    layers = [*(f"layer{number}" for number in range(1, network.layers + 1)), HEAD]
    if settings.finetune_from not in layers:
        raise InputError(
            f"config.transformer.finetune_from is {settings.finetune_from!r}; possible: "
            f"{', '.join(layers)}."
        )
    if settings.max_length % settings.bucket or settings.max_length > network.max_length:
        raise InputError(
            f"config.transformer.max_length is {settings.max_length}; a multiple of bucket, "
            f"{settings.bucket}, up to {network.max_length} is needed."
        )


def _check_weights(poster: ml_collections.ConfigDict) -> None:
    if poster.weights:
        try:
            blocks = VGG16(widths=poster.model.widths, depths=poster.model.depths)
            vgg16.load(poster.weights, blocks)
        except InputError as error:
            raise InputError(f"config.poster.weights: {error}") from error
    elif poster.finetune_from != "block1":
        raise InputError(
            "config.poster.weights is empty, and config.poster.finetune_from is "
            f"{poster.finetune_from!r}: blocks below it would stay random. Give "
            "--config.poster.weights=FILE, or --config.poster.finetune_from=block1."
        )


def _check_vectors(vectors: ml_collections.ConfigDict) -> None:
    if not vectors.file and not vectors.train:
        raise InputError("config.plot.vectors has no file and train=False: no word vectors.")
    if vectors.file:
        vector_file.dimension(vectors.file)
    for table in vectors.unlabelled:
        movies.read_csv(table)


def claim(workdir: Path, config: dict, movies_name: str, weights: str) -> None:
    """Writes what decides the results into the working directory, or checks that it is there.

    This comes after the data is read, so that a first try that fails binds nobody.

    Args:
      workdir: of the experiment.
      config: of the experiment, as of `as_json`.
      movies_name: a name that changes with the content of the data.
      weights: the file of VGG16's weights on this machine; empty for none.

    Raises:
      InputError: if the folder was made with other movies or weights.
    """
    inputs = {"movies": movies_name}
    if weights:
        with pathlib.Path(weights).open("rb") as file:
            inputs["poster.weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    same_as_before(workdir / "inputs.json", inputs)
    write_text(workdir / "inputs.json", json.dumps(inputs, indent=2))
    write_text(workdir / "config.json", json.dumps(config, indent=2))


def as_json(config: ml_collections.ConfigDict) -> dict:
    """A config as JSON holds it."""
    return json.loads(config.to_json())


def same_as_before(file: Path, wanted: dict) -> None:
    """Checks that a working directory was made from the same as what is wanted now.

    Args:
      file: JSON; nothing is refused where there is none.
      wanted: its content, but for what changes nothing that is there already: see `MAY_CHANGE`.

    Raises:
      InputError: if the file says something else.
    """
    if not file.exists():
        return
    found = read_json(file, "Choose another --workdir.")
    differing = [
        f"{file.stem}.{name}: {there!r} there, {now!r} now"
        for name, (there, now) in differences(found, wanted).items()
        if name not in MAY_CHANGE
    ]
    if differing:
        raise InputError(
            f"{file.parent} was made from something else. Choose another --workdir, or undo:\n  "
            + "\n  ".join(differing)
        )


def differences(one: dict, other: dict) -> dict[str, tuple]:
    """Where two trees differ: the full name of each field, in order, and its two values."""
    one, other = _flat(one), _flat(other)
    return {
        name: (one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
