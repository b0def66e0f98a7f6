"""Writes a folder like those of published BERTs and their relatives, with tiny random weights."""

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
_ROBERTA = {"layer_norm_eps": 1e-5, "type_vocab_size": 1, "pad_token_id": 1}
CONFIGS = {
    "bert": CONFIG,
    "roberta": CONFIG | _ROBERTA | {"model_type": "roberta"},
    "xlm-roberta": CONFIG | _ROBERTA | {"model_type": "xlm-roberta"},
    "mpnet": {name: value for name, value in CONFIG.items() if name != "type_vocab_size"}
    | {"model_type": "mpnet", "layer_norm_eps": 1e-5, "relative_attention_num_buckets": 32},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 14,
        "dim": 8,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 16,
        "max_position_embeddings": 10,
        "activation": "gelu",
    },
}
# Rows of position embeddings before that of the first token.
FIRST_POSITIONS = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "mpnet": 2, "distilbert": 0}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "hero", "rides", "##r", "a",
              "hors", "##e", ".", "cafe"]  # fmt: skip
# A layer's modules, in the same order for all families: query, key, value, attention output and its
# norm, the two dense layers and the last norm.
_SHAPES = [(8, 8), (8, 8), (8, 8), (8, 8), (8,), (16, 8), (8, 16), (8,)]
_BERT_MODULES = ["attention.self.query", "attention.self.key", "attention.self.value",
                 "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense",
                 "output.dense", "output.LayerNorm"]  # fmt: skip
MODULES = dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT_MODULES) | {
    "mpnet": ["attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o",
              "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"],
    "distilbert": ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
                   "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"],
}  # fmt: skip


def random_arrays(positions: int = 10, family: str = "bert"):
    """Returns random weights for `positions` tokens by PyTorch's names and in its layout."""
    shapes = {
        "embeddings.word_embeddings.weight": (14, 8),
        "embeddings.position_embeddings.weight": (positions + FIRST_POSITIONS[family], 8),
        "embeddings.LayerNorm.weight": (8,),
        "embeddings.LayerNorm.bias": (8,),
    }
    if segments := CONFIGS[family].get("type_vocab_size"):
        shapes["embeddings.token_type_embeddings.weight"] = (segments, 8)
    if family == "mpnet":
        shapes["encoder.relative_attention_bias.weight"] = (32, 2)
    layers = "transformer.layer" if family == "distilbert" else "encoder.layer"
    for number in range(2):
        for module, shape in zip(MODULES[family], _SHAPES):
            shapes[f"{layers}.{number}.{module}.weight"] = shape
            shapes[f"{layers}.{number}.{module}.bias"] = shape[:1]
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(
    folder: pathlib.Path, positions: int = 10, family: str = "bert", pooling: str | None = None
) -> pathlib.Path:
    """Writes weights, config, tokenizer for up to `positions` tokens and, if given, the pooling."""
    folder.mkdir()
    rows = positions + FIRST_POSITIONS[family]
    write_json(folder / "config.json", CONFIGS[family] | {"max_position_embeddings": rows})
    safetensors.numpy.save_file(random_arrays(positions, family), folder / "model.safetensors")
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.enable_padding(length=10)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    if pooling:
        write_pooling(folder, {"pooling_mode": pooling, "embedding_dimension": 8})
    return folder


def write_pooling(folder: pathlib.Path, content) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", content)


def write_json(file: pathlib.Path, content) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
