"""Reads folders of transformers as models on https://huggingface.co have them.

The readers of BERT, ViT and CLIP share this module: files and fields that must exist, names of
arrays in model.safetensors, and tokenizer.json. Pickles are never read.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import tokenizers

from mmgc_jax.pretrained import port
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
# Larger values mean a damaged file and could exhaust memory.
LARGEST, MOST_LAYERS = 1 << 24, 200
# Values of hidden_act in config.json -> `mmgc_jax.models.transformer.ACTIVATIONS`.
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_PARTS = {"kernel": "weight", "scale": "weight", "bias": "bias", "embedding": "weight"}


def existing(folder: Path, name: str, advice: str) -> Path:
    """Returns the path of a file in a folder.

    Args:
      folder: the folder.
      name: the file's path in it.
      advice: how to get such a folder; the last sentence of the error.

    Raises:
      InputError: if the file does not exist.
    """
    file = folder / name
    if file.is_file():
        return file
    if name == WEIGHTS and (pickled := file.with_name("pytorch_model.bin")).is_file():
        raise InputError(
            f"{pickled} is a pickle, which is not read because it could run any code; {name}, "
            f"which has the same weights, is missing. {advice}"
        )
    raise InputError(f"{file}: no such file. {advice}")


def read_object(file: Path, advice: str) -> dict:
    """Reads a JSON object; raises `InputError` for other files."""
    content = read_json(file, advice)
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object.")
    return content


def check_whole_number(
    place: os.PathLike | str, values: Mapping[str, Any], name: str, least: int, largest: int
) -> None:
    """Raises `InputError` unless a field is a whole number of a range.

    Args:
      place: the file and, if the field is in a section of it, that section; for the error.
      values: the fields.
      name: name of the field.
      least: least value.
      largest: largest value.
    """
    value = values.get(name)
    if type(value) is not int or not least <= value <= largest:
        raise InputError(
            f"{place}: {name} is {value!r}, not a whole number from {least} to {largest}."
        )


def check_epsilon(place: os.PathLike | str, values: Mapping[str, Any]) -> None:
    """Raises `InputError` unless the field layer_norm_eps is between 0 and 1."""
    epsilon = values["layer_norm_eps"]
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise InputError(f"{place}: layer_norm_eps is {epsilon!r}, not between 0 and 1.")


def check_supported(
    place: os.PathLike | str, values: Mapping[str, Any], supported: Mapping[str, Any]
) -> None:
    """Raises `InputError` unless fields have the only values that are supported."""
    for name, wanted in supported.items():
        if (value := values[name]) != wanted:
            raise InputError(f"{place}: {name} is {value!r}; only {wanted!r} is supported.")


def check_transformer(
    place: os.PathLike | str, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    """Raises `InputError` unless the fields of a transformer's config have valid values.

    Args:
      place: the file and, if the fields are in a section of it, that section; for the error.
      values: the fields, with defaults.
      defaults: the defaults; a field whose default is a whole number must be one of at least 1.
    """
    for name, default in defaults.items():
        if type(default) is int:
            largest = MOST_LAYERS if name == "num_hidden_layers" else LARGEST
            check_whole_number(place, values, name, 1, largest)
    if values["hidden_size"] % values["num_attention_heads"]:
        raise InputError(f"{place}: hidden_size is not a multiple of num_attention_heads.")
    if values["hidden_act"] not in list(ACTIVATIONS):
        possible = ", ".join(ACTIVATIONS)
        raise InputError(f"{place}: hidden_act is {values['hidden_act']!r}, not one of {possible}.")
    check_epsilon(place, values)


def read_params(
    file: Path,
    sources: Mapping[str, port.Source],
    names: Callable[[Iterable[str]], Mapping[str, str]],
    left_out: Collection[str] = (),
    wanted: Callable[[str], bool] = lambda name: True,
) -> dict:
    """Reads parameters from model.safetensors.

    Args:
      file: the file.
      sources: the array that each parameter is made from, by the parameter's name.
      names: maps the names of all arrays in the file to the names that `sources` has for those of
        the network -> the names in the file.
      left_out: arrays of the network that are not used, as `sources` would name them.
      wanted: whether to read a parameter, by its name; all must exist.

    Returns:
      The parameters as a nested dictionary of numpy arrays, <float32>.

    Raises:
      InputError: if the file is damaged, an array is missing, unknown or of the wrong shape, or a
        value is not a finite float.
    """
    with port.library_errors(file), safetensors.safe_open(file, framework="numpy") as stored:
        stored_as = names(stored.keys())
        needed = {source.name for source in sources.values()}
        if missing := needed - stored_as.keys():
            raise InputError(
                f"{file} lacks {len(missing)} of the {len(needed)} arrays, such as {min(missing)}."
            )
        if unknown := stored_as.keys() - needed - set(left_out):
            raise InputError(
                f"{file} has {len(unknown)} arrays that do not belong to the encoder, such as "
                f"{min(unknown)}: {CONFIG} describes a different network."
            )
        params = {
            name: port.read_param(file, source, lambda name: stored.get_tensor(stored_as[name]))
            for name, source in sources.items()
            if wanted(name)
        }
    return flax.traverse_util.unflatten_dict(params, sep="/")


def without_prefix(stored: Iterable[str], prefix: str) -> dict[str, str]:
    """Maps names of a network's arrays to those in its file.

    A network that was saved along with others has the prefix, and the others do not. One that was
    saved alone has no prefix.
    """
    prefixed = [name for name in stored if name.startswith(prefix)]
    return {name.removeprefix(prefix): name for name in prefixed or stored}


@dataclasses.dataclass(frozen=True)
class Names:
    """The names in a file of a transformer's arrays.

    Attributes:
      layers: prefix of the arrays of layers; the layer's number from 0 follows.
      modules: modules of the network -> modules in the file. Those of a layer, such as
        `layer3/query`, are called `layer/query`, and follow the prefix and the number.
      arrays: parameters whose names in the file do not end with weight or bias, in the same way.
    """

    layers: str
    modules: Mapping[str, str]
    arrays: Mapping[str, str]

    def __call__(self, parameter: str) -> str:
        """Returns the name in the file of a parameter such as `layer3/query/kernel`."""
        first, _, rest = parameter.partition("/")
        prefix = ""
        if first.startswith("layer"):
            prefix = f"{self.layers}{int(first.removeprefix('layer')) - 1}."
            parameter = f"layer/{rest}"
        if parameter in self.arrays:
            return prefix + self.arrays[parameter]
        module, _, part = parameter.rpartition("/")
        return f"{prefix}{self.modules[module]}.{_PARTS[part]}"


class Tokenizer:
    """Converts texts to token ids by a tokenizer.json, such as BERT's WordPiece."""

    def __init__(self, file: Path, vocabulary_size: int):
        """Reads the file.

        Args:
          file: a file that exists.
          vocabulary_size: the network's number of token ids.

        Raises:
          InputError: if the file is malformed, or has ids outside of the network's vocabulary.
        """
        with port.library_errors(file):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(file.read_bytes())
        highest = max(self._tokenizer.get_vocab().values(), default=0)
        if highest >= vocabulary_size:
            raise InputError(
                f"{file} has the id {highest}, but vocab_size in {CONFIG} is {vocabulary_size}."
            )
        # The file's own settings would pad every text to the same length.
        self._tokenizer.no_padding()

    def encode(self, texts: Iterable[str], max_length: int) -> list[np.ndarray]:
        """Encodes texts, each between the tokenizer's special tokens, such as [CLS] and [SEP].

        Args:
          texts: raw texts; the tokenizer itself lowercases them and removes accents, if it is meant
            to.
          max_length: maximum number of ids, special tokens included; longer texts are truncated. At
            least 3.

        Returns:
          For each text, <int32>[length] with a length from 2 to max_length, without padding.

        Raises:
          ValueError: if `max_length` is less than 3.
        """
        # One text at a time: encoding a list would start threads, which are unsafe with forks.
        return [np.array(found.ids, np.int32) for found in self._encode(texts, max_length)]

    def places(self, text: str, max_length: int) -> np.ndarray:
        """Returns where in a text its tokens are.

        Args:
          text: the text.
          max_length: see `encode`.

        Returns:
          The index of the first character of each token, and that after its last one, <int64>[ids,
          2]; the same number twice for a special token.

        Raises:
          ValueError: if `max_length` is less than 3.
        """
        (found,) = self._encode([text], max_length)
        return np.array(found.offsets, np.int64)

    def _encode(self, texts: Iterable[str], max_length: int) -> Iterator[tokenizers.Encoding]:
        if max_length < 3:
            raise ValueError(f"max_length={max_length} leaves no room for a token")
        self._tokenizer.enable_truncation(max_length)
        return map(self._tokenizer.encode, texts)
