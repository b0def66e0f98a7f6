"""Writes folders like those of published CLIPs, SigLIPs and DINOv2s, with tiny random weights."""

import json
import pathlib

import numpy as np
import safetensors.numpy
import tokenizers

HIDDEN, LAYERS = 8, 2
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}
_TEXT = {
    "vocab_size": 259,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 40,
}
_DINOV2 = {name: value for name, value in _SIZES.items() if name != "intermediate_size"}
CONFIGS = {
    "clip": {
        "model_type": "clip",
        "projection_dim": 6,
        "vision_config": _SIZES,
        "text_config": _TEXT,
    },
    "clip_vision_model": _SIZES | {"model_type": "clip_vision_model"},
    "siglip": {"model_type": "siglip", "vision_config": _SIZES, "text_config": {}},
    "siglip_vision_model": _SIZES | {"model_type": "siglip_vision_model"},
    # Images have another size than that of the position embeddings.
    "dinov2": _DINOV2 | {"model_type": "dinov2", "mlp_ratio": 2, "image_size": 32},
    "dinov2_with_registers": _DINOV2
    | {"model_type": "dinov2_with_registers", "mlp_ratio": 2, "num_register_tokens": 3},
}
_COLOURS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
PROCESSORS = dict.fromkeys(
    CONFIGS, _COLOURS | {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}
) | dict.fromkeys(
    ("siglip", "siglip_vision_model"),
    _COLOURS | {"size": {"height": 16, "width": 16}, "resample": 2},
)
_LAYER = {
    "self_attn.q_proj": (8, 8),
    "self_attn.k_proj": (8, 8),
    "self_attn.v_proj": (8, 8),
    "self_attn.out_proj": (8, 8),
    "layer_norm1": (8,),
    "mlp.fc1": (16, 8),
    "mlp.fc2": (8, 16),
    "layer_norm2": (8,),
}
_DINOV2_LAYER = {
    "attention.attention.query": (8, 8),
    "attention.attention.key": (8, 8),
    "attention.attention.value": (8, 8),
    "attention.output.dense": (8, 8),
    "norm1": (8,),
    "mlp.fc1": (16, 8),
    "mlp.fc2": (8, 16),
    "norm2": (8,),
}


def random_arrays(family: str) -> dict[str, np.ndarray]:
    """Returns random weights by PyTorch's names and in its layout."""
    shapes = {}

    def add(module: str, shape: tuple[int, ...], bias: bool = True) -> None:
        shapes[f"{module}.weight"] = shape
        if bias:
            shapes[f"{module}.bias"] = shape[:1]

    if family.startswith("dinov2"):
        side = CONFIGS[family]["image_size"] // 8
        shapes["embeddings.cls_token"] = (1, 1, 8)
        shapes["embeddings.mask_token"] = (1, 8)
        shapes["embeddings.position_embeddings"] = (1, side**2 + 1, 8)
        if "registers" in family:
            shapes["embeddings.register_tokens"] = (1, 3, 8)
        add("embeddings.patch_embeddings.projection", (8, 3, 8, 8))
        for number in range(LAYERS):
            for module, shape in _DINOV2_LAYER.items():
                add(f"encoder.layer.{number}.{module}", shape)
            for scale in (1, 2):
                shapes[f"encoder.layer.{number}.layer_scale{scale}.lambda1"] = (8,)
        add("layernorm", (8,))
    else:
        is_clip = family.startswith("clip")
        if is_clip:
            shapes["vision_model.embeddings.class_embedding"] = (8,)
            add("vision_model.pre_layrnorm", (8,))
        add("vision_model.embeddings.patch_embedding", (8, 3, 8, 8), bias=not is_clip)
        shapes["vision_model.embeddings.position_embedding.weight"] = (4 + is_clip, 8)
        for number in range(LAYERS):
            for module, shape in _LAYER.items():
                add(f"vision_model.encoder.layers.{number}.{module}", shape)
        add("vision_model.post_layernorm", (8,))
        if not is_clip:
            head = "vision_model.head"
            shapes[f"{head}.probe"] = (1, 1, 8)
            shapes[f"{head}.attention.in_proj_weight"] = (24, 8)
            shapes[f"{head}.attention.in_proj_bias"] = (24,)
            add(f"{head}.attention.out_proj", (8, 8))
            add(f"{head}.layernorm", (8,))
            add(f"{head}.mlp.fc1", (16, 8))
            add(f"{head}.mlp.fc2", (8, 16))
    if family == "clip":
        shapes["visual_projection.weight"] = (6, 8)
        shapes["text_projection.weight"] = (6, 4)
        shapes["text_model.embeddings.token_embedding.weight"] = (259, 4)
        shapes["text_model.embeddings.position_embedding.weight"] = (40, 4)
        for module, shape in _LAYER.items():
            half = tuple(size // 2 for size in shape)
            add(f"text_model.encoder.layers.0.{module}", half)
        add("text_model.final_layer_norm", (4,))
        shapes["logit_scale"] = ()
    rng = np.random.default_rng(0)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}


def write(folder: pathlib.Path, family: str = "clip") -> pathlib.Path:
    """Writes weights, config, preprocessing and, for a CLIP, the tokenizer; returns the folder."""
    folder.mkdir()
    write_json(folder / "config.json", CONFIGS[family])
    write_json(folder / "preprocessor_config.json", PROCESSORS[family])
    safetensors.numpy.save_file(random_arrays(family), folder / "model.safetensors")
    if family == "clip":
        tokenizer = tokenizers.ByteLevelBPETokenizer(lowercase=True)
        tokenizer.train_from_iterator([], vocab_size=256)  # bytes alone
        tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
        ids = [(name, tokenizer.token_to_id(name)) for name in ("<|endoftext|>", "<|startoftext|>")]
        tokenizer.post_processor = tokenizers.processors.BertProcessing(*ids)
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_json(file: pathlib.Path, content) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
