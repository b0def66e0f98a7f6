"""Loads the image tower of a CLIP, SigLIP, SigLIP 2 or DINOv2, with its preprocessing.

A folder has config.json, preprocessor_config.json and model.safetensors, as models on
https://huggingface.co have them, such as openai/clip-vit-base-patch32 (CLIP, arXiv 2103.00020),
google/siglip-base-patch16-224 (SigLIP, arXiv 2303.15343) or facebook/dinov2-base (arXiv
2304.07193). A text tower in the same file is not read. Pickles are never read.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmgc_jax.models.vit import ViT
from mmgc_jax.pretrained import hub, image_processor, port
from mmgc_jax.pretrained.image_processor import ImageProcessor
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path

_DESCRIPTION = (hub.CONFIG, image_processor.FILE)
ADVICE = (
    f"Download {hub.CONFIG}, {image_processor.FILE} and {hub.WEIGHTS} of a CLIP, SigLIP or DINOv2 "
    "such as https://huggingface.co/openai/clip-vit-base-patch32; docs/inputs.md says how."
)
# Modules of a layer of CLIP's towers, text and image, and of SigLIP's.
TOWER_LAYER = {
    "layer/query": "self_attn.q_proj",
    "layer/key": "self_attn.k_proj",
    "layer/value": "self_attn.v_proj",
    "layer/attention_output": "self_attn.out_proj",
    "layer/attention_norm": "layer_norm1",
    "layer/intermediate": "mlp.fc1",
    "layer/output": "mlp.fc2",
    "layer/intermediate_norm": "layer_norm2",
}


@dataclasses.dataclass(frozen=True)
class _Family:
    """A family of networks: names in its files, and attributes of `ViT`.

    Attributes:
      prefix: prefix of the tower's arrays, if it was saved along with another or with a head.
      names: the names of the arrays.
      defaults: fields of config.json -> the value of a field that is left out.
      supported: fields of config.json -> the only value that `ViT` supports, and the default.
      attributes: attributes of `ViT` that all networks of the family share.
      crops: see `image_processor.read`.
      interpolates: whether position embeddings are interpolated for images of another size.
      antialias: whether the interpolation smooths before it makes a grid smaller.
    """

    prefix: str
    names: hub.Names
    defaults: Mapping[str, Any]
    supported: Mapping[str, Any]
    attributes: Mapping[str, Any]
    crops: bool = True
    interpolates: bool = False
    antialias: bool = False


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
_TOWER_MODULES = TOWER_LAYER | {
    "embeddings/patches": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_TOWER_ARRAYS = {"embeddings/positions": "embeddings.position_embedding.weight"}
_CLIP = _Family(
    prefix="vision_model.",
    names=hub.Names(
        "encoder.layers.",
        # The misspelling is the files'.
        _TOWER_MODULES | {"embedding_norm": "pre_layrnorm"},
        _TOWER_ARRAYS | {"embeddings/class_token": "embeddings.class_embedding"},
    ),
    defaults=_BASE
    | {
        "intermediate_size": 3072,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    supported={"num_channels": 3},
    attributes={"patch_bias": False, "embedding_norm": True},
)
_SIGLIP = _Family(
    prefix="vision_model.",
    names=hub.Names(
        "encoder.layers.",
        _TOWER_MODULES
        | {
            "pooling/attention_output": "head.attention.out_proj",
            "pooling/intermediate_norm": "head.layernorm",
            "pooling/intermediate": "head.mlp.fc1",
            "pooling/output": "head.mlp.fc2",
        },
        _TOWER_ARRAYS | {"pooling/probe": "head.probe"},
    ),
    defaults=_BASE
    | {
        "intermediate_size": 3072,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
    supported={"num_channels": 3, "vision_use_head": True},
    attributes={"class_token": False, "attention_pooling": True},
    crops=False,
)
_DINOV2 = _Family(
    prefix="dinov2.",
    names=hub.Names(
        "encoder.layer.",
        {
            "embeddings/patches": "embeddings.patch_embeddings.projection",
            "layer/query": "attention.attention.query",
            "layer/key": "attention.attention.key",
            "layer/value": "attention.attention.value",
            "layer/attention_output": "attention.output.dense",
            "layer/attention_norm": "norm1",
            "layer/intermediate": "mlp.fc1",
            "layer/output": "mlp.fc2",
            "layer/intermediate_norm": "norm2",
            "norm": "layernorm",
        },
        {
            "embeddings/class_token": "embeddings.cls_token",
            "embeddings/positions": "embeddings.position_embeddings",
            "embeddings/registers": "embeddings.register_tokens",
            "layer/attention_scale": "layer_scale1.lambda1",
            "layer/output_scale": "layer_scale2.lambda1",
        },
    ),
    defaults=_BASE
    | {"mlp_ratio": 4, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    supported={"num_channels": 3, "qkv_bias": True, "use_swiglu_ffn": False},
    attributes={"layer_scale": True},
    interpolates=True,
)
_DINOV2_WITH_REGISTERS = dataclasses.replace(
    _DINOV2,
    prefix="dinov2_with_registers.",
    defaults=_DINOV2.defaults | {"patch_size": 16, "num_register_tokens": 4},
    antialias=True,
)
# By the field model_type of config.json: the family, and the section of the image tower.
_FAMILIES = {
    "clip": (_CLIP, "vision_config"),
    "clip_vision_model": (_CLIP, ""),
    "siglip": (_SIGLIP, "vision_config"),
    "siglip_vision_model": (_SIGLIP, ""),
    "dinov2": (_DINOV2, ""),
    "dinov2_with_registers": (_DINOV2_WITH_REGISTERS, ""),
}
# Arrays that are not used: positions, which simply count, and DINOv2's token for hidden patches.
_LEFT_OUT = {"embeddings.position_ids", "embeddings.mask_token"}
# The projection of CLIP's image tower is not in the tower, and has no prefix.
_PROJECTION = "visual_projection.weight"
# SigLIP's pooling has query, key and value in one array.
_STACKED = {"pooling/query": 0, "pooling/key": 1, "pooling/value": 2}


def find(folder: str) -> pathlib.Path:
    """Returns the path of a folder, and checks that it has the three files.

    Raises:
      InputError: if the folder or a file does not exist.
    """
    found = pathlib.Path(folder)
    if not folder or not found.is_dir():
        raise InputError(f"{folder or 'the path is empty'}: no such folder. {ADVICE}")
    for name in (*_DESCRIPTION, hub.WEIGHTS):
        hub.existing(found, name, ADVICE)
    return found


def description_files(folder: Path) -> dict[str, bytes]:
    """Reads the files that `network` and `processor` need, by their names.

    Raises:
      InputError: if a file is missing.
    """
    return {name: hub.existing(folder, name, ADVICE).read_bytes() for name in _DESCRIPTION}


@dataclasses.dataclass(frozen=True)
class _Config:
    """A checked config.json.

    Attributes:
      family: the family of the network.
      values: the fields of the image tower, with defaults.
    """

    family: _Family
    values: Mapping[str, Any]


def _read_config(folder: Path) -> _Config:
    file = hub.existing(folder, hub.CONFIG, ADVICE)
    content = hub.read_object(file, ADVICE)
    kind = content.get("model_type")
    if kind == "siglip2":
        raise InputError(
            f"{file}: model_type is 'siglip2', a SigLIP 2 for images of any size, which is not "
            "supported. Take one with a fixed size, such as google/siglip2-base-patch16-224."
        )
    if kind not in list(_FAMILIES):
        raise InputError(f"{file}: model_type is {kind!r}, not one of {', '.join(_FAMILIES)}.")
    family, section = _FAMILIES[kind]
    place, values = f"{file}: {section}" if section else str(file), content
    if section:
        values = content.get(section, {})
        if not isinstance(values, dict):
            raise InputError(f"{place} is not a JSON object.")
    values = {**family.supported, **family.defaults, **values}
    hub.check_supported(place, values, family.supported)
    hub.check_transformer(place, values, family.defaults)
    if values["image_size"] < values["patch_size"]:
        raise InputError(f"{place}: image_size is below patch_size.")
    return _Config(family, values)


def processor(folder: Path) -> ImageProcessor:
    """Reads the preprocessing of the folder's network.

    Args:
      folder: a folder that has config.json and preprocessor_config.json.

    Raises:
      InputError: if a file is missing or malformed, or its values are not supported or do not fit
        the network.
    """
    config = _read_config(folder)
    found = image_processor.read(folder, config.family.crops, ADVICE)
    side, (height, width) = config.values["image_size"], found.image_size
    file = folder / image_processor.FILE
    if not config.family.interpolates and (height, width) != (side, side):
        raise InputError(
            f"{file}: images become {height} x {width} pixels, but image_size in {hub.CONFIG} is "
            f"{side}."
        )
    if min(height, width) < config.values["patch_size"]:
        raise InputError(f"{file}: images become smaller than patch_size in {hub.CONFIG}.")
    return found


def network(folder: Path) -> ViT:
    """Builds the network that the folder's files describe, without reading parameters.

    CLIP's projection to the space that images share with texts is left out:
    `network(folder).clone(projection=SIZE)` has it.

    Args:
      folder: a folder that has config.json and preprocessor_config.json.

    Raises:
      InputError: as `processor` raises.
    """
    config = _read_config(folder)
    values = config.values
    return ViT(
        image_size=processor(folder).image_size,
        patch_size=values["patch_size"],
        hidden=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        intermediate=values.get("mlp_ratio", 0) * values["hidden_size"]
        or values["intermediate_size"],
        registers=values.get("num_register_tokens", 0),
        activation=hub.ACTIVATIONS[values["hidden_act"]],
        norm_epsilon=values["layer_norm_eps"],
        **config.family.attributes,
    )


def load(folder: Path, network: ViT) -> dict:
    """Reads the parameters of the network that `network` returned, and of its preprocessing.

    Position embeddings are interpolated if the images have another size than in the network's own
    training (DINOv2 alone).

    Returns:
      The parameters as a nested dictionary of numpy arrays, <float32>.

    Raises:
      InputError: if the file is missing or damaged, an array is missing, unknown or of the wrong
        shape, or a value is not a finite float.
    """
    config, pixels = _read_config(folder), processor(folder)
    image = np.zeros((1, *network.image_size, 3), np.uint8)
    sources = {
        name: _source(name, shape, network, config)
        for name, shape in port.parameter_shapes(network, image).items()
        if not name.startswith("preprocessing/")
    }

    def names(stored):
        found = hub.without_prefix(stored, config.family.prefix)
        # Saved alone, a tower may or may not have its projection.
        found.pop(_PROJECTION, None)
        return found | {name: name for name in stored if name == _PROJECTION}

    left_out = _LEFT_OUT | ({_PROJECTION} if network.projection is None else set())
    params = hub.read_params(hub.existing(folder, hub.WEIGHTS, ADVICE), sources, names, left_out)
    preprocessing = {"mean": np.float32(pixels.mean), "std": np.float32(pixels.std)}
    return params | {"preprocessing": preprocessing}


def _source(name: str, shape: tuple[int, ...], network: ViT, config: _Config) -> port.Source:
    """Returns the source of a parameter, such as encoder.layers.0... for `layer1/query/kernel`."""
    module, _, part = name.rpartition("/")
    if name == "projection/kernel":
        return port.Source(_PROJECTION, shape[::-1], np.transpose)
    if module in _STACKED:
        of_part = functools.partial(_third, number=_STACKED[module])
        stored = f"head.attention.in_proj_{'weight' if part == 'kernel' else 'bias'}"
        return port.Source(stored, (3 * shape[-1], *shape[:-1]), of_part)
    stored = config.family.names(name)
    if name == "embeddings/patches/kernel":
        side, hidden = network.patch_size, shape[-1]
        return port.Source(
            stored,
            (hidden, 3, side, side),
            lambda array: array.transpose(2, 3, 1, 0).reshape(shape),
        )
    if name == "embeddings/positions":
        return _source_of_positions(stored, shape, network, config)
    if part == "kernel":  # PyTorch's kernels are [out, in]
        return port.Source(stored, shape[::-1], np.transpose)
    # Learned tokens have axes of length 1 for the batch and, of one token, for the length.
    lead = {"pooling/probe": (1, 1), "embeddings/registers": (1,)}.get(name, ())
    if stored == "embeddings.cls_token":
        lead = (1, 1)
    return port.Source(stored, (*lead, *shape), lambda array: array.reshape(shape))


def _third(array: np.ndarray, number: int) -> np.ndarray:
    return np.split(array, 3)[number].T


def _source_of_positions(stored, shape, network: ViT, config: _Config) -> port.Source:
    side = config.values["image_size"] // config.values["patch_size"]
    tokens = side**2 + network.class_token
    if not config.family.interpolates:
        return port.Source(stored, (tokens, shape[-1]))

    def interpolate(array: np.ndarray) -> np.ndarray:
        before, grid = array[0, :1], array[0, 1:].reshape(side, side, -1)
        if network.grid != (side, side):
            rows, columns = (
                interpolation(side, size, config.family.antialias) for size in network.grid
            )
            grid = np.einsum("rh,hwd,cw->rcd", rows, grid, columns)
        return np.concatenate([before, grid.reshape(-1, grid.shape[-1])])

    return port.Source(stored, (1, tokens, shape[-1]), interpolate)


def interpolation(size: int, new_size: int, antialias: bool) -> np.ndarray:
    """Returns the matrix of a bicubic interpolation (Keys 1981) along one axis.

    It is that of PyTorch's `interpolate` with `align_corners=False`: positions are the middles of
    pixels. Without antialiasing the cubic has the parameter -0.75, and pixels at the edge are
    repeated. With it, the cubic has the parameter -0.5 and is stretched if the new size is smaller,
    and weights outside of the image are left out.

    Args:
      size: number of pixels.
      new_size: number of pixels of the result.
      antialias: whether to smooth.

    Returns:
      <float64>[new_size, size]; each row has the sum 1.
    """
    scale = size / new_size
    stretch = max(scale, 1.0) if antialias else 1.0
    middles = (np.arange(new_size) + 0.5) * scale - 0.5
    margin = math.ceil(2 * stretch) + 1
    pixels = np.arange(-margin, size + margin)
    weights = _cubic((pixels - middles[:, None]) / stretch, -0.5 if antialias else -0.75)
    if antialias:
        matrix = weights[:, margin:-margin]
        return matrix / matrix.sum(axis=1, keepdims=True)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix.T, np.clip(pixels, 0, size - 1), weights.T)
    return matrix


def _cubic(distances: np.ndarray, a: float) -> np.ndarray:
    """Evaluates Keys's cubic convolution kernel with the parameter `a`."""
    x = np.abs(distances)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
