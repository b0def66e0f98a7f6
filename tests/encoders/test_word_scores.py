"""Tests of the explanations of kinds of encoders: contributions of words, and heat maps."""

import jax
import numpy as np
import pytest

from mmgc_jax.data import bag_of_words, text
from mmgc_jax.encoders import (
    explanations,
    plot_bag_of_words,
    plot_lstm,
    plot_transformer,
    poster_vgg16,
    poster_vit,
)
from mmgc_jax.models import PlotLSTM, PosterVGG16, PosterViT
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pretrained import bert, vit
from mmgc_jax.pretrained.image_processor import ImageProcessor
from tests import tiny_bert, tiny_vit

PLOT = "The spies, the spying spies of New York! A spy does n't panic in new york ."


@pytest.mark.parametrize("stem_length", [0, 3])
@pytest.mark.parametrize("longest_phrase", [1, 2])
@pytest.mark.parametrize("tokens", ["words", "mmimdb"])
def test_contributions_of_a_bag_of_words_add_up_to_the_logits(stem_length, longest_phrase, tokens):
    plots = [PLOT, "a spy in york", "spies panic , of course"]
    words = bag_of_words.TfIdf.fit(plots, tokens, stem_length, longest_phrase, 1)
    rng = np.random.default_rng(0)
    params = {
        "kernel": rng.standard_normal((len(words), 4)).astype(np.float32),
        "bias": rng.standard_normal(4).astype(np.float32),
    }
    examples, present = plot_bag_of_words._read(words, 8, [plot_bag_of_words.Movie(plot=PLOT)])
    batch = examples(np.arange(1))
    logits = plot_bag_of_words._apply(words, 4)(params, batch, None)[0]
    spans = explanations.words_of(PLOT)
    genres = np.array([2, 0])
    scores, gap = plot_bag_of_words._word_scores(words, params, PLOT, spans, genres)
    assert scores.shape == (len(spans), 2) and present.all()
    np.testing.assert_allclose(scores.sum(axis=0) + params["bias"][genres], logits[genres], 1e-4)
    np.testing.assert_array_equal(gap, 0)
    first, second = (n for n, span in enumerate(spans) if span.text.lower() in ("york!", "york"))
    if longest_phrase == 1 and tokens == "words":  # occurrences of a word share its contribution
        np.testing.assert_allclose(scores[first], scores[second], rtol=1e-5)


@pytest.mark.slow
def test_integrated_gradients_of_an_lstm_are_nearly_complete():
    settings = plot_lstm.default_settings()
    settings.max_length, settings.pad_to_multiple_of = 12, 8
    vocabulary = text.Vocabulary(["the", "new_york", "spy", "panic", "in"])
    model = PlotLSTM(len(vocabulary), 6, hidden=5, num_genres=4, pool_words=True)
    params = model.init(jax.random.key(0), np.zeros((1, 8), np.int32), np.ones(1, np.int32))
    params = jax.tree.map(lambda x: 2 * x, params["params"])
    word_scores = plot_lstm._word_scores(settings, vocabulary, model)
    spans = explanations.words_of(PLOT)
    genres = np.array([3, 1], np.int32)
    scores, gap = word_scores(params, PLOT, spans, genres)

    ids = vocabulary.encode(text.tokenize(PLOT), settings.max_length)
    tokens = np.stack([ids, np.full_like(ids, text.UNKNOWN_ID)])
    ends, _ = model.apply({"params": params}, tokens, np.array([len(ids)] * 2))
    difference = np.asarray(ends[0] - ends[1])[genres]
    np.testing.assert_allclose(scores.sum(axis=0) + gap, difference, atol=1e-4)
    assert (np.abs(gap) < 0.1 * np.abs(scores).sum(axis=0)).all()
    by_text = dict(zip([span.text for span in spans], scores))
    assert np.abs(by_text["spy"]).min() > 1e-3
    assert not by_text["does"].any()  # unknown, as in the baseline
    np.testing.assert_allclose(by_text["New"], by_text["York!"], rtol=1e-5)  # a phrase
    assert not scores[-2:].any()  # beyond max_length


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean_max", "flatten"])
def test_heat_maps_do_not_depend_on_which_blocks_are_frozen(pooling):
    settings = poster_vgg16.default_settings()
    settings.model.widths, settings.model.depths = (4, 4, 8, 8, 8), (1, 1, 1, 1, 1)
    settings.model.pooling = pooling
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), dtype=np.uint8)
    model = PosterVGG16(num_genres=3, **settings.model)
    params = model.init(jax.random.key(0), images)["params"]
    genres = np.array([2, 0], np.int32)
    maps = {}
    for finetune_from in ("block1", "block5", "head"):
        settings.finetune_from = finetune_from
        backbone = poster_vgg16._backbone(settings, params["vgg16"], Kernels())
        frozen_part = backbone.frozen_part()
        batch = {"images": images}
        if frozen_part is not None:
            batch = frozen_part(batch)
        heat_maps = poster_vgg16._heat_maps(settings, 3, Kernels(), 5)
        of_fold = {"head": params["head"]} | (
            {} if backbone.only_head_trains else {"vgg16": backbone.trained_params}
        )
        maps[finetune_from] = heat_maps(of_fold, batch, genres)
        if finetune_from == "block1":
            finer = heat_maps(of_fold, batch, genres, 3)
    assert maps["block1"].shape == (2, 2, 2, 1) and finer.shape == (2, 2, 8, 4)
    assert np.abs(maps["block1"]).max() > 0
    for found in maps.values():
        np.testing.assert_allclose(found, maps["block1"], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_integrated_gradients_of_a_transformer(tmp_path, family):
    """They do not depend on which layers are frozen."""
    folder = tiny_bert.write(tmp_path / "bert", family=family)
    network = bert.network(folder)
    layers = bert.load(folder, network)
    settings = plot_transformer.default_settings()
    settings.max_length, settings.pad_to_multiple_of = 8, 4
    settings.finetune_from = f"layer{network.layers}"
    tokenizer = bert.Tokenizer(folder)
    model = plot_transformer._model(settings, network, 3, 1, Kernels())
    plot = "the hero rides a horse. The cafe"  # with special tokens, more than max_length
    inputs = {"inputs": np.zeros((1, 8), np.int32), "lengths": np.ones(1, np.int32)}
    head = model.init(jax.random.key(0), **inputs)["params"]["head"]
    spans, genres = explanations.words_of(plot), np.array([2, 0], np.int32)
    found = [
        plot_transformer._word_scores(settings, tokenizer, model, frozen)(
            {"head": head} | trained, plot, spans, genres
        )
        for frozen, trained in ((layers, {}), ({}, {"bert": layers}))
    ]
    (scores, gap), again = found
    np.testing.assert_allclose(again.scores, scores, rtol=1e-4, atol=1e-6)

    batch = plot_transformer._tokens(settings, tokenizer, [plot])(np.arange(1))
    table = layers["embeddings"]["words"]["embedding"]
    same = {"words": {"embedding": np.broadcast_to(table.mean(axis=0), table.shape)}}
    baseline = layers | {"embeddings": layers["embeddings"] | same}
    of_plot, of_baseline = (
        model.apply({"params": {"head": head, "bert": of}}, batch["inputs"], batch["lengths"])[0][0]
        for of in (layers, baseline)
    )
    difference = np.asarray(of_plot - of_baseline)[genres]
    np.testing.assert_allclose(scores.sum(axis=0) + gap, difference, rtol=1e-3, atol=1e-4)
    by_text = dict(zip([span.text for span in spans], scores))
    assert np.abs(by_text["hero"]).min() > 1e-4
    assert not by_text["cafe"].any()  # beyond max_length


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2_with_registers"])
def test_heat_maps_of_a_vit_do_not_depend_on_which_layers_are_frozen(tmp_path, family):
    folder = tiny_vit.write(tmp_path / "vit", family)
    network = vit.network(folder)
    layers = vit.load(folder, network)
    settings = poster_vit.default_settings()
    settings.dtype = "float32"
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    head = PosterViT(network, num_genres=3).init(jax.random.key(0), images)["params"]["head"]
    genres, maps = np.array([2, 0], np.int32), {}
    for finetune_from in ("layer1", "layer2", "head"):
        settings.finetune_from = finetune_from
        backbone = poster_vit._backbone(settings, network, layers, Kernels())
        frozen_part = backbone.frozen_part()
        batch = {"images": images} if frozen_part is None else frozen_part({"images": images})
        model = poster_vit._model(settings, network, 3, backbone.first_trained, Kernels())
        of_fold, frozen_params = {"head": head}, layers
        if not backbone.only_head_trains:
            of_fold |= {"vit": backbone.trained_params}
            frozen_params = {}
        heat_maps = poster_vit._heat_maps(model, frozen_params, ((1, 1), (0, 0)))
        maps[finetune_from] = heat_maps(of_fold, batch, genres)
    assert maps["layer1"].shape == (2, 2, 4, 2)
    assert np.abs(maps["layer1"][:, :, 1:3]).min() > 0
    assert not np.asarray(maps["layer1"])[:, :, [0, 3]].any()  # cropped
    for found in maps.values():
        np.testing.assert_allclose(found, maps["layer1"], rtol=1e-3, atol=1e-6)


def test_margins_of_a_cropped_poster():
    processor = ImageProcessor(224, (224, 224), 3, (0, 0, 0), (1, 1, 1))
    # 256 x 160 pixels become 358 x 224, of which 67 rows are cut off above and below.
    assert poster_vit._margins((256, 160), processor, 32) == ((2, 2), (0, 0))
    assert poster_vit._margins((160, 256), processor, 16) == ((0, 0), (4, 4))
    whole = ImageProcessor((224, 224), None, 3, (0, 0, 0), (1, 1, 1))
    assert poster_vit._margins((256, 160), whole, 16) == ((0, 0), (0, 0))
