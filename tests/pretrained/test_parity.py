"""Compares networks and tokenizers read from files with those of transformers, in PyTorch.

The weights are random and small, and saved by transformers itself. `pip install -e ".[parity]"`
installs what these tests need.
"""

import json
import math

import jax
import numpy as np
import pytest
import tokenizers

from mmgc_jax.models import PlotTransformer
from mmgc_jax.models.bert import relative_buckets
from mmgc_jax.pretrained import bert

REASON = "needs the extra `parity`: torch and transformers"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

TEXTS = [
    "A shy accountant discovers that the city council is run by vampires.",
    "",
    "the hero " * 80,  # longer than the 128 tokens that MPNet's buckets tell apart
    "Naïve señor, 1984!",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 514,
}
DISTIL_SIZES = {
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 514,
}
# The values of the published models: roberta-base, xlm-roberta-base, all-mpnet-base-v2 and so on.
FAMILIES = {
    "bert": SIZES | {"layer_norm_eps": 1e-12, "pad_token_id": 0},
    "roberta": SIZES | {"layer_norm_eps": 1e-5, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": SIZES | {"layer_norm_eps": 1e-5, "type_vocab_size": 1, "pad_token_id": 1},
    "mpnet": SIZES | {"layer_norm_eps": 1e-5, "pad_token_id": 1},
    "distilbert": DISTIL_SIZES | {"pad_token_id": 0},
}
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def write_tokenizer(folder, family):
    """Trains a tokenizer of the family's type on the texts; returns it as transformers' own."""
    if family in ("bert", "distilbert"):
        start, pad, end, unknown, mask = special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
        order = [pad, unknown, start, end, mask]
        tokenizer = tokenizers.BertWordPieceTokenizer()
        tokenizer.train_from_iterator(TEXTS, vocab_size=90, min_frequency=1, special_tokens=order)
    else:
        start, pad, end, unknown, mask = special = SPECIAL
        if family == "roberta":
            tokenizer = tokenizers.ByteLevelBPETokenizer()
        elif family == "mpnet":
            tokenizer = tokenizers.BertWordPieceTokenizer(
                unk_token=unknown, sep_token=end, cls_token=start, pad_token=pad, mask_token=mask
            )
        else:
            tokenizer = tokenizers.SentencePieceUnigramTokenizer()
        arguments = {"unk_token": unknown} if family == "xlm-roberta" else {"min_frequency": 1}
        tokenizer.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special, **arguments)
    ids = [(token, tokenizer.token_to_id(token)) for token in (end, start)]
    tokenizer.post_processor = tokenizers.processors.BertProcessing(*ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special)),
    )


def write(folder, family, pooling="mean", with_head=False):
    """Saves a random network by transformers, with a pooling; returns the network and tokenizer."""
    folder.mkdir()
    tokenizer = write_tokenizer(folder, family)
    config = transformers.AutoConfig.for_model(
        family, **FAMILIES[family], vocab_size=len(tokenizer), initializer_range=0.2
    )
    torch.manual_seed(0)
    of_config = transformers.AutoModelForMaskedLM if with_head else transformers.AutoModel
    network = of_config.from_config(config).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or "norm" in name.lower():  # not 0 and 1, as they begin
            torch.nn.init.normal_(parameter, float(name.endswith("weight")), 0.2)
    network.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    flags = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens")}
    flags[f"pooling_mode_{pooling}_token{'' if pooling == 'cls' else 's'}"] = True
    content = {"word_embedding_dimension": 32, **flags}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
    return (network.base_model if with_head else network), tokenizer


def torch_states(network, tokenizer):
    """Returns ids, lengths and the states after each layer, by transformers."""
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        output = network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return ids.numpy(), mask, output.hidden_states


def pooled_by_torch(states, mask, pooling):
    mask = mask[..., None].bool()
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return states.masked_fill(~mask, -math.inf).amax(1)
    return (states * mask).sum(1) / mask.sum(1)


def run(folder, dtype="float32"):
    """Returns ids, lengths and the intermediates of our network."""
    network = bert.network(folder).clone(dtype=dtype)
    rows = bert.Tokenizer(folder).encode(TEXTS, network.max_length)
    lengths = np.array([len(row) for row in rows], np.int32)
    # Padding is longer than needed, and its ids do not matter.
    padding = lengths.max() + 9 - lengths
    ids = np.stack([np.pad(row, (0, n), constant_values=7) for row, n in zip(rows, padding)])
    model = PlotTransformer(network)
    params = {"bert": bert.load(folder, network)}
    params["head"] = {"genres": {"kernel": np.zeros((32, 24)), "bias": np.zeros(24)}}
    with jax.default_matmul_precision("highest"):
        _, intermediates = jax.jit(model.apply)({"params": params}, ids, lengths)
    return rows, lengths, intermediates


@EACH_FAMILY
@pytest.mark.parametrize("with_head", [False, True])
def test_every_state_equals_that_of_transformers(tmp_path, family, with_head):
    network, tokenizer = write(tmp_path / "model", family, with_head=with_head)
    their_ids, mask, expected = torch_states(network, tokenizer)
    rows, lengths, intermediates = run(tmp_path / "model")
    assert lengths.tolist() == mask.sum(1).tolist() and lengths.max() > 130
    for row, theirs in zip(rows, their_ids):
        np.testing.assert_array_equal(row, theirs[: len(row)])
    assert len(expected) == 4
    for number, states in enumerate(expected):
        ours = np.array(intermediates[f"layer{number}"])[:, : mask.shape[1]]
        is_token = mask.bool().numpy()
        np.testing.assert_allclose(ours[is_token], states.numpy()[is_token], atol=1e-4, rtol=0)


@EACH_FAMILY
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_sentence_vector_equals_that_of_sentence_transformers(tmp_path, family, pooling):
    network, tokenizer = write(tmp_path / "model", family, pooling)
    _, mask, states = torch_states(network, tokenizer)
    expected = pooled_by_torch(states[-1], mask, pooling)
    _, _, intermediates = run(tmp_path / "model")
    np.testing.assert_allclose(intermediates["sentence"], expected, atol=1e-4, rtol=0)
    normalized = torch.nn.functional.normalize(expected)
    np.testing.assert_allclose(
        intermediates["embedding"] / math.sqrt(32), normalized, atol=1e-4, rtol=0
    )


@EACH_FAMILY
def test_bfloat16_is_close_to_transformers(tmp_path, family):
    network, tokenizer = write(tmp_path / "model", family)
    _, mask, states = torch_states(network, tokenizer)
    expected = pooled_by_torch(states[-1], mask, "mean").numpy()
    _, _, intermediates = run(tmp_path / "model", "bfloat16")
    error = np.linalg.norm(intermediates["sentence"] - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.03


def test_buckets_of_distances_equal_those_of_mpnet():
    modeling = transformers.models.mpnet.modeling_mpnet
    positions = torch.arange(512)
    differences = positions[None] - positions[:, None]
    expected = modeling.MPNetEncoder.relative_position_bucket(differences)
    np.testing.assert_array_equal(relative_buckets(512, 32), expected)
