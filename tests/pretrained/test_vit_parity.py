"""Compares ViTs and CLIP's text tower, read from files, with those of transformers, in PyTorch.

The weights are random and small, and saved by transformers itself. `pip install -e ".[parity]"`
installs what these tests need.
"""

import jax
import numpy as np
import pytest
import tokenizers
from PIL import Image

from mmgc_jax.pretrained import vit
from mmgc_jax.zero_shot import ZeroShot

REASON = "needs the extra `parity`: torch and transformers"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
DINO_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "patch_size": 14,
    "image_size": 98,
}
GENRES = ["Drama", "film noir", "Sci-Fi"]


def random_network(network):
    """Gives all parameters random values, also those that begin as 0 or 1."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        is_scale = ("norm" in name and name.endswith("weight")) or "lambda" in name
        spread = 0.2 if parameter.ndim else 0.0
        torch.nn.init.normal_(parameter, float(is_scale), spread)
    return network.eval()


def write_tokenizer(file):
    """Trains a tokenizer, whose last two tokens begin and end a text as in CLIP's own."""
    tokenizer = tokenizers.ByteLevelBPETokenizer(lowercase=True)
    tokenizer.train_from_iterator(["a poster of a drama movie", "film noir"], min_frequency=1)
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<|endoftext|>", "<|startoftext|>")]
    tokenizer.post_processor = tokenizers.processors.BertProcessing(*ids)
    tokenizer.save(str(file))
    return tokenizer


def write_clip(folder, activation="quick_gelu", old_config=False):
    """Saves a CLIP with its tokenizer; returns the network and the processor of images."""
    folder.mkdir()
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    vocabulary = tokenizer.get_vocab_size()
    vision = SIZES | {"image_size": 40, "patch_size": 8, "hidden_act": activation}
    text = SIZES | {
        "vocab_size": vocabulary,
        "max_position_embeddings": 24,
        "hidden_act": activation,
        # Configs that were published at first have the number 2, whatever the tokenizer's is.
        "eos_token_id": 2 if old_config else vocabulary - 1,
        "hidden_size": 24,
    }
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    network = random_network(transformers.CLIPModel(config))
    torch.nn.init.constant_(network.logit_scale, 1.5)
    network.save_pretrained(folder)
    return network, save_processor(folder, transformers.CLIPImageProcessorPil, 40)


def save_processor(folder, of_class, size, **more):
    if of_class is not transformers.SiglipImageProcessorPil:
        more = {"size": {"shortest_edge": size}, "crop_size": size} | more
    else:
        more = {"size": {"height": size, "width": size}} | more
    processor = of_class(**more)
    processor.save_pretrained(folder)
    return processor


def write(folder, family):
    """Saves a network; returns its image tower and the processor."""
    if family.startswith("clip"):
        activation = "gelu" if family == "clip gelu" else "quick_gelu"
        network, processor = write_clip(folder, activation)
        if family == "clip tower":
            network.vision_model.save_pretrained(folder)
        return network.vision_model, processor
    folder.mkdir()
    if family.startswith("siglip"):
        vision = transformers.SiglipVisionConfig(**SIZES, image_size=40, patch_size=8)
        network = transformers.SiglipVisionModel(vision)
        if family == "siglip":
            text = SIZES | {"vocab_size": 60}
            config = transformers.SiglipConfig(vision_config=vision.to_dict(), text_config=text)
            network = transformers.SiglipModel(config)
        random_network(network).save_pretrained(folder)
        processor = save_processor(folder, transformers.SiglipImageProcessorPil, 40)
        return getattr(network, "vision_model", network), processor
    if family == "dinov2 with registers":
        config = transformers.Dinov2WithRegistersConfig(**DINO_SIZES, num_register_tokens=3)
        network = transformers.Dinov2WithRegistersModel(config)
    elif family == "dinov2 with head":
        config = transformers.Dinov2Config(**DINO_SIZES)
        network = transformers.Dinov2ForImageClassification(config)
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**DINO_SIZES))
    random_network(network).save_pretrained(folder)
    # The images have a third as many patches as the position embeddings, or as many.
    size = 98 if family == "dinov2" else 62
    processor = save_processor(
        folder, transformers.BitImageProcessorPil, size + 9, crop_size=size, resample=2
    )
    return getattr(network, "dinov2", network), processor


def images():
    """Makes images taller and wider than they are wide and tall, of noise and of a smooth ramp."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 60, 3), dtype=np.uint8)
    ramp = np.asarray(Image.fromarray(noise[:4, :6]).resize((131, 77), Image.Resampling.BICUBIC))
    return [noise, ramp]


FAMILIES = [
    "clip",
    "clip gelu",
    "clip tower",
    "siglip",
    "siglip tower",
    "dinov2",
    "dinov2 interpolated",
    "dinov2 with head",
    "dinov2 with registers",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_state_equals_that_of_transformers(tmp_path, family):
    theirs, their_processor = write(tmp_path / "model", family)
    pixels = their_processor(images(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = theirs(pixel_values=pixels, output_hidden_states=True)
    network = vit.network(tmp_path / "model")
    posters = np.stack([vit.processor(tmp_path / "model")(image) for image in images()])
    params = vit.load(tmp_path / "model", network)
    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(network.apply)({"params": params}, posters)
    assert len(expected.hidden_states) == 4
    for number, states in enumerate(expected.hidden_states):
        ours = outputs[f"layer{number}"]
        np.testing.assert_allclose(ours, states.numpy(), atol=1e-4, rtol=0)
    features = expected.pooler_output.numpy()
    np.testing.assert_allclose(outputs["features"], features, atol=1e-4, rtol=0)
    assert np.abs(features[0] - features[1]).max() > 0.1

    outputs = jax.jit(network.clone(dtype="bfloat16").apply)({"params": params}, posters)
    error = np.linalg.norm(outputs["features"] - features) / np.linalg.norm(features)
    assert 1e-5 < error < 0.03


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2 interpolated"])
def test_preprocessing_equals_that_of_transformers(tmp_path, family):
    _, processor = write(tmp_path / "model", family)
    ours = vit.processor(tmp_path / "model")
    for image in images():
        expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        normalised = (ours(image) - np.array(ours.mean)) / np.array(ours.std)
        np.testing.assert_allclose(normalised, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("size", "new_size"), [(37, 16), (37, 36), (7, 7), (4, 9), (5, 1)])
def test_interpolation_equals_that_of_pytorch(size, new_size, antialias):
    values = np.random.default_rng(0).normal(size=(size, 6)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(values)[None, None],
        size=(new_size, 6),
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )[0, 0]
    ours = vit.interpolation(size, new_size, antialias) @ values
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("old_config", [False, True])
def test_scores_of_texts_equal_those_of_transformers(tmp_path, old_config):
    network, processor = write_clip(tmp_path / "model", old_config=old_config)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "model" / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    posters = [Image.fromarray(image) for image in images()]
    texts = [f"a poster of a {genre} movie." for genre in GENRES]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    pixels = processor(posters, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = network(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=pixels,
        ).logits_per_image.numpy()
    zero_shot = ZeroShot.load(tmp_path / "model")
    with jax.default_matmul_precision("highest"):
        scores = zero_shot(posters, GENRES)
    assert scores.shape == (2, 3) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected, axis=1).min() > 0.1  # the scores of different genres differ
