"""Tests readers of ViTs and CLIPs on small files; test_vit_parity.py compares the networks."""

import json
import pickle

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

from mmgc_jax.pretrained import clip, vit
from mmgc_jax.runtime.errors import InputError
from tests import tiny_vit

EACH_FAMILY = pytest.mark.parametrize("family", tiny_vit.CONFIGS)
QUERY = "vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path):
    """A folder with a small CLIP."""
    return tiny_vit.write(tmp_path / "model")


def change(file, **fields):
    """Sets fields of a JSON file, or of a section in it: `vision_config__hidden_act="gelu"`."""
    content = json.loads(file.read_text())
    for name, value in fields.items():
        *sections, field = name.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[field] = value
    file.write_text(json.dumps(content))


def refusal(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


@EACH_FAMILY
def test_every_array_is_read_once(tmp_path, family):
    folder = tiny_vit.write(tmp_path / "model", family)
    network = vit.network(folder)
    params = vit.load(folder, network)
    mean, std = params.pop("preprocessing").values()
    np.testing.assert_allclose(mean, 255 * np.array([0.4, 0.5, 0.6]), rtol=1e-6)
    np.testing.assert_allclose(std, 255 * np.array([0.2, 0.25, 0.3]), rtol=1e-6)
    read = flax.traverse_util.flatten_dict(params, sep="/")
    assert {array.dtype for array in read.values()} == {np.dtype("float32")}
    # Sums of the arrays, which do not depend on their layout; positions are interpolated.
    expected = {
        name: array
        for name, array in tiny_vit.random_arrays(family).items()
        if not name.startswith(("text_", "logit_scale", "visual_")) and "mask_token" not in name
    }
    if family == "dinov2":
        del expected["embeddings.position_embeddings"], read["embeddings/positions"]
    sums = [float(array.sum(dtype=np.float64)) for array in expected.values()]
    stacked = [array for name, array in expected.items() if "in_proj" in name]
    for array in stacked:
        sums.remove(float(array.sum(dtype=np.float64)))
        sums += [float(part.sum(dtype=np.float64)) for part in np.split(array, 3)]
    found = [float(array.sum(dtype=np.float64)) for array in read.values()]
    np.testing.assert_allclose(sorted(found), sorted(sums), atol=1e-5)
    query = next(array for name, array in expected.items() if "layers.1.self_attn.q_proj.w" in name
                 or "layer.1.attention.attention.query.w" in name)  # fmt: skip
    np.testing.assert_array_equal(params["layer2"]["query"]["kernel"], query.T)


@EACH_FAMILY
def test_networks_run(tmp_path, family):
    folder = tiny_vit.write(tmp_path / "model", family)
    network = vit.network(folder)
    assert network.image_size == (16, 16) and network.grid == (2, 2)
    images = np.zeros((1, 16, 16, 3), np.uint8)
    params = vit.load(folder, network)
    features = jax.jit(network.apply)({"params": params}, images)["features"]
    assert features.shape == (1, 8) and np.isfinite(features).all()


def test_patches_keep_their_layout(folder):
    weights = tiny_vit.random_arrays("clip")["vision_model.embeddings.patch_embedding.weight"]
    kernel = vit.load(folder, vit.network(folder))["embeddings"]["patches"]["kernel"]
    np.testing.assert_array_equal(kernel.reshape(8, 8, 3, 8)[2, 5, 1], weights[:, 1, 2, 5])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_section_that_is_left_out_has_the_published_sizes(tmp_path, kind):
    tiny_vit.write_json(tmp_path / "config.json", {"model_type": kind})
    size = {"height": 224, "width": 224}
    processor = tiny_vit.PROCESSORS[kind] | {"size": size, "crop_size": size}
    tiny_vit.write_json(tmp_path / "preprocessor_config.json", processor)
    network = vit.network(tmp_path)
    assert (network.hidden, network.layers, network.intermediate) == (768, 12, 3072)
    assert network.patch_size == (32 if kind == "clip" else 16)


# Errors name the file and the field.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "vit"}, "model_type is 'vit', not one of clip, clip_vision_model, siglip,"),
        ({"model_type": ["clip"]}, "model_type is ['clip'], not one of clip"),
        ({"model_type": "siglip2"}, "a SigLIP 2 for images of any size, which is not supported"),
        ({"vision_config": 3}, "vision_config is not a JSON object"),
        ({"vision_config__hidden_size": "8"}, "vision_config: hidden_size is '8', not a whole"),
        ({"vision_config__num_hidden_layers": 999}, "num_hidden_layers is 999, not a whole number"),
        ({"vision_config__num_attention_heads": 3}, "not a multiple of num_attention_heads"),
        ({"vision_config__num_channels": 4}, "num_channels is 4; only 3 is supported"),
        ({"vision_config__hidden_act": "relu"}, "hidden_act is 'relu', not one of quick_gelu, gel"),
        ({"vision_config__layer_norm_eps": 2}, "layer_norm_eps is 2, not between 0 and 1"),
        ({"vision_config__image_size": 4}, "image_size is below patch_size"),
    ],
)
def test_wrong_configs(folder, fields, message):
    change(folder / "config.json", **fields)
    answer = refusal(vit.network, folder)
    assert message in answer and answer.startswith(str(folder / "config.json"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_resize": False}, "do_resize is False; only True is supported"),
        ({"do_center_crop": 1}, "do_center_crop is 1, not true or false"),
        ({"do_center_crop": False}, "size is the shorter side alone"),
        ({"resample": 9}, "resample is 9, not a whole number from 0 to 5"),
        ({"size": {"longest_edge": 18}}, "size is {'longest_edge': 18}, not a height and width or"),
        ({"size": {"shortest_edge": 0}}, "size: shortest_edge is 0, not a whole number from 1"),
        ({"crop_size": None}, "crop_size is None, not a height and width"),
        ({"crop_size": 20}, "crop_size (20, 20) is larger than size (18, 18)"),
        ({"crop_size": 12}, "images become 12 x 12 pixels, but image_size in config.json is 16"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5], not a number for each of R, G"),
        ({"image_std": [0.5, 0, 1]}, "image_std is [0.5, 0, 1], not positive"),
        ({"rescale_factor": 0}, "rescale_factor is 0, not a positive number"),
    ],
)
def test_wrong_preprocessing(folder, fields, message):
    change(folder / "preprocessor_config.json", **fields)
    answer = refusal(vit.network, folder)
    assert message in answer and answer.startswith(str(folder / "preprocessor_config.json"))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_is_missing(folder, name):
    (folder / name).unlink()
    answer = refusal(vit.find, str(folder))
    assert f"{folder / name}: no such file. Download config.json" in answer


def test_other_places_are_refused(folder):
    assert "no such folder" in refusal(vit.find, str(folder / "nothing"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    assert "pytorch_model.bin is a pickle" in refusal(vit.find, str(folder))
    (folder / "config.json").write_text("[]")
    assert "is not a JSON object" in refusal(vit.network, folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (QUERY, np.ones((8, 7), np.float32), "q_proj.weight has the shape (8, 7), not (8, 8)"),
        (QUERY, np.full((8, 8), np.nan, np.float32), "holds values that are not finite"),
        (QUERY, None, "lacks 1 of the 39 arrays, such as encoder.layers.1.self_attn.q_proj.weight"),
        (
            "vision_model.encoder.layers.2.mlp.fc1.bias",
            np.ones(16, np.float32),
            "arrays that do not belong to the encoder, such as encoder.layers.2.mlp.fc1.bias",
        ),
    ],
)
def test_weights_of_another_network_are_refused(folder, name, array, message):
    arrays = tiny_vit.random_arrays("clip") | {name: array}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    answer = refusal(vit.load, folder, vit.network(folder))
    assert message in answer and str(folder / "model.safetensors") in answer


def test_names_without_the_prefix(folder):
    """Recent versions of transformers save an image tower alone without it."""
    expected = vit.load(folder, vit.network(folder))
    arrays = {
        name.removeprefix("vision_model."): array
        for name, array in tiny_vit.random_arrays("clip").items()
        if name.startswith("vision_model.")
    }
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    found = vit.load(folder, vit.network(folder))
    for leaf, other in zip(*map(flax.traverse_util.flatten_dict, (found, expected))):
        np.testing.assert_array_equal(leaf, other)


# Preprocessing.


def test_old_files_have_numbers_as_sizes(folder):
    """The shorter side for CLIP, as its first files have it, and both sides of the crop."""
    expected = vit.processor(folder)
    change(folder / "preprocessor_config.json", size=18, crop_size=16)
    assert vit.processor(folder) == expected


def test_the_middle_of_a_poster_is_kept(folder):
    ramp = np.repeat(np.arange(90, dtype=np.uint8)[:, None], 30, axis=1)
    image = vit.processor(folder)(np.stack([ramp] * 3, axis=-1))
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    # 54 rows after resizing, of which rows 19 to 34 are kept.
    np.testing.assert_allclose(image[[0, 15], 8, 0], [19.5 * 90 / 54, 34.5 * 90 / 54], atol=1)


def test_values_without_rescaling_and_normalising(folder):
    change(folder / "preprocessor_config.json", do_rescale=False, do_normalize=False)
    processor = vit.processor(folder)
    assert (processor.mean, processor.std) == ((0, 0, 0), (1, 1, 1))


def test_positions_of_a_larger_grid_are_interpolated(tmp_path):
    folder = tiny_vit.write(tmp_path / "model", "dinov2")
    positions = vit.load(folder, vit.network(folder))["embeddings"]["positions"]
    stored = tiny_vit.random_arrays("dinov2")["embeddings.position_embeddings"][0]
    assert positions.shape == (5, 8)
    np.testing.assert_array_equal(positions[0], stored[0])
    # At half the size, without antialiasing, Keys's cubic has these weights.
    taps = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
    rows = np.array([[0, 0, 1, 2], [1, 2, 3, 3]])
    grid = stored[1:].reshape(4, 4, 8)
    expected = np.einsum("rhcwd,h,w->rcd", grid[rows][:, :, rows], taps, taps)
    np.testing.assert_allclose(positions[1:].reshape(2, 2, 8), expected, atol=1e-6)


@pytest.mark.parametrize("antialias", [False, True])
def test_interpolation_keeps_constants_and_the_identity(antialias):
    np.testing.assert_allclose(vit.interpolation(37, 16, antialias).sum(axis=1), 1)
    np.testing.assert_allclose(vit.interpolation(5, 5, antialias), np.eye(5), atol=1e-12)


# Both towers.


def test_both_towers_of_a_clip(folder):
    network = clip.load(str(folder))
    arrays = tiny_vit.random_arrays("clip")
    assert network.scale == pytest.approx(np.exp(arrays["logit_scale"]))
    kernel = network.image_params["projection"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["visual_projection.weight"].T)
    kernel = network.text_params["projection"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["text_projection.weight"].T)
    assert network.text_params.keys() == {"words", "positions", "layer1", "norm", "projection"}


@pytest.mark.parametrize("family", sorted(tiny_vit.CONFIGS.keys() - {"clip"}))
def test_scores_need_a_clip(tmp_path, family):
    folder = tiny_vit.write(tmp_path / "model", family)
    assert f"model_type is '{family}'; scores of texts need 'clip'" in refusal(
        clip.load, str(folder)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projection_dim": 0}, "config.json: projection_dim is 0, not a whole number"),
        ({"text_config__vocab_size": -1}, "text_config: vocab_size is -1, not a whole number"),
        ({"text_config__vocab_size": 9}, "vocab_size in config.json is 9"),
        ({"text_config": "x"}, "text_config is not a JSON object"),
        ({"text_config__max_position_embeddings": 2}, "leaves no room for a token"),
    ],
)
def test_wrong_configs_of_the_text_tower(folder, fields, message):
    change(folder / "config.json", **fields)
    if fields.get("text_config__vocab_size") == 9:
        arrays = tiny_vit.random_arrays("clip")
        words = "text_model.embeddings.token_embedding.weight"
        safetensors.numpy.save_file(
            arrays | {words: np.ascontiguousarray(arrays[words][:9])}, folder / "model.safetensors"
        )
    assert message in refusal(clip.load, str(folder))


def test_a_clip_without_its_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file. Download tokenizer.json" in refusal(
        clip.load, str(folder)
    )


def test_the_filter_of_the_file_is_used(folder):
    """Nearest neighbours make no new values."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[::2] = 255
    for number, is_sharp in ((0, True), (3, False)):
        change(folder / "preprocessor_config.json", resample=number)
        values = set(np.unique(vit.processor(folder)(pixels)))
        assert (values <= {0, 255}) == is_sharp
