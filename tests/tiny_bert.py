"""Writes a folder like all-MiniLM-L6-v2's, with a tiny random BERT."""

import json
import pathlib

import numpy as np
import safetensors.numpy
import tokenizers

CONFIG = {
    "model_type": "bert",
    "vocab_size": 14,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 10,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "hero", "rides", "##r", "a",
              "hors", "##e", ".", "cafe"]  # fmt: skip


def random_arrays(positions: int = 10):
    """Returns random weights of a BERT by PyTorch's names and in its layout, [out, in]."""
    norm = {"LayerNorm.weight": (8,), "LayerNorm.bias": (8,)}
    shapes = {
        f"embeddings.{name}": shape
        for name, shape in {
            "word_embeddings.weight": (14, 8),
            "position_embeddings.weight": (positions, 8),
            "token_type_embeddings.weight": (2, 8),
            **norm,
        }.items()
    }
    for number in range(2):
        for module, size in {
            "attention.self.query": (8, 8),
            "attention.self.key": (8, 8),
            "attention.self.value": (8, 8),
            "attention.output.dense": (8, 8),
            "intermediate.dense": (16, 8),
            "output.dense": (8, 16),
        }.items():
            shapes[f"encoder.layer.{number}.{module}.weight"] = size
            shapes[f"encoder.layer.{number}.{module}.bias"] = size[:1]
        for module in ("attention.output", "output"):
            shapes |= {f"encoder.layer.{number}.{module}.{n}": s for n, s in norm.items()}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: pathlib.Path, positions: int = 10) -> pathlib.Path:
    """Writes weights, config and tokenizer for up to `positions` tokens; returns the folder."""
    folder.mkdir()
    config = CONFIG | {"max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.numpy.save_file(random_arrays(positions), folder / "model.safetensors")
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.enable_padding(length=10)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
