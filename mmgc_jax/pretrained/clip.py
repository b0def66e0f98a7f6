"""Loads both towers of a CLIP, which map images and texts to one space (arXiv 2103.00020).

A folder has the files of `mmgc_jax.pretrained.vit`, and tokenizer.json.
"""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from mmgc_jax.models.clip_text import CLIPText
from mmgc_jax.models.vit import ViT
from mmgc_jax.pretrained import hub, port, vit
from mmgc_jax.pretrained.image_processor import ImageProcessor
from mmgc_jax.runtime.errors import InputError

_ADVICE = (
    f"Download {hub.TOKENIZER} beside the other files of a CLIP such as "
    "https://huggingface.co/openai/clip-vit-base-patch32; docs/inputs.md says how."
)
_NAMES = hub.Names(
    "text_model.encoder.layers.",
    vit.TOWER_LAYER
    | {
        "words": "text_model.embeddings.token_embedding",
        "norm": "text_model.final_layer_norm",
        "projection": "text_projection",
    },
    {"positions": "text_model.embeddings.position_embedding.weight"},
)
# Sizes of ViT-B/32's text tower, which a config may leave out.
_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_LEFT_OUT = {"text_model.embeddings.position_ids"}


@dataclasses.dataclass(frozen=True)
class CLIP:
    """A CLIP with its parameters.

    Attributes:
      image: the image tower, with its projection.
      image_params: its parameters.
      text: the text tower.
      text_params: its parameters.
      scale: factor of the cosine similarity of an image and a text.
      processor: the preprocessing of images.
      tokenizer: of texts; it puts each between the special tokens.
    """

    image: ViT
    image_params: Any
    text: CLIPText
    text_params: Any
    scale: float
    processor: ImageProcessor
    tokenizer: hub.Tokenizer


def load(folder: str) -> CLIP:
    """Reads a folder.

    Args:
      folder: its path.

    Raises:
      InputError: if the folder or a file is missing, damaged or of another network than a CLIP with
        both towers.
    """
    found = vit.find(folder)
    file = found / hub.CONFIG
    config = hub.read_object(file, _ADVICE)
    if (kind := config.get("model_type")) != "clip":
        raise InputError(
            f"{file}: model_type is {kind!r}; scores of texts need 'clip', a CLIP with both towers."
        )
    size = {"projection_dim": 512, **config}
    hub.check_whole_number(file, size, "projection_dim", 1, hub.LARGEST)
    text = _text_network(file, config, size["projection_dim"])
    image = vit.network(found).clone(projection=size["projection_dim"])
    ids, lengths = np.zeros((1, 1), np.int32), np.ones(1, np.int32)
    sources = {
        name: _source(name, shape)
        for name, shape in port.parameter_shapes(text, ids, lengths).items()
    }
    sources["scale"] = port.Source("logit_scale", ())
    params = hub.read_params(found / hub.WEIGHTS, sources, _names, _LEFT_OUT)
    return CLIP(
        image,
        vit.load(found, image),
        text,
        params,
        math.exp(params.pop("scale").item()),
        vit.processor(found),
        hub.Tokenizer(hub.existing(found, hub.TOKENIZER, _ADVICE), text.vocabulary_size),
    )


def _text_network(file: pathlib.Path, config: dict, projection: int) -> CLIPText:
    place, section = f"{file}: text_config", config.get("text_config", {})
    if not isinstance(section, dict):
        raise InputError(f"{place} is not a JSON object.")
    values = {**_DEFAULTS, **section}
    hub.check_transformer(place, values, _DEFAULTS)
    if values["max_position_embeddings"] < 3:
        raise InputError(f"{place}: max_position_embeddings leaves no room for a token.")
    return CLIPText(
        vocabulary_size=values["vocab_size"],
        hidden=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        intermediate=values["intermediate_size"],
        max_length=values["max_position_embeddings"],
        activation=hub.ACTIVATIONS[values["hidden_act"]],
        norm_epsilon=values["layer_norm_eps"],
        projection=projection,
    )


def _source(name: str, shape: tuple[int, ...]) -> port.Source:
    if name.endswith("/kernel"):  # PyTorch's kernels are [out, in]
        return port.Source(_NAMES(name), shape[::-1], np.transpose)
    return port.Source(_NAMES(name), shape)


def _names(stored) -> dict[str, str]:
    """Returns the names of the text tower's arrays; those of the image tower are left out."""
    wanted = ("text_model.", "text_projection.", "logit_scale")
    return {name: name for name in stored if name.startswith(wanted)}
