"""Tests of dividing a transformer into frozen and trained layers, and of its cached features."""

import types

import jax
import ml_collections
import numpy as np
import pytest

from mmgc_jax.encoders import plot_transformer
from mmgc_jax.models import PlotTransformer
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pretrained import bert
from mmgc_jax.training.run import Experiment
from tests import tiny_bert

TOKENS = np.array([[2, 5, 6, 13, 3], [2, 9, 3, 0, 0]], np.int32)
LENGTHS = np.array([5, 3], np.int32)
GENRES = ("Comedy", "Drama")


def settings_of(folder, finetune_from="head"):
    settings = plot_transformer.default_settings()
    settings.folder, settings.finetune_from = str(folder), finetune_from
    settings.max_length, settings.pad_to_multiple_of, settings.dtype = 8, 8, "float32"
    return settings


@pytest.mark.parametrize("family", tiny_bert.CONFIGS)
@pytest.mark.parametrize("pooling", [None, "cls", "max"])
def test_features_are_the_sentence_vectors_of_the_network(tmp_path, family, pooling):
    folder = tiny_bert.write(tmp_path / "bert", family=family, pooling=pooling)
    network = bert.network(folder)
    params = bert.load(folder, network)
    head = {"genres": {"kernel": np.zeros((8, 24)), "bias": np.zeros(24)}}
    model = PlotTransformer(network.clone(dtype="float32"))
    _, expected = model.apply({"params": {"bert": params, "head": head}}, TOKENS, LENGTHS)

    backbone = plot_transformer._backbone(settings_of(folder, "layer2"), network, params, Kernels())
    batch = {"inputs": TOKENS, "lengths": LENGTHS}
    below = backbone.run(1, 1, backbone.layers(1, 1), batch)
    assert below["inputs"].shape == (2, 8, 8)  # padded to max_length
    for features in (
        backbone.run(1, 2, backbone.layers(1, 2), batch),
        backbone.run(2, 2, backbone.layers(2, 2), below),
    ):
        np.testing.assert_allclose(features["inputs"], expected["sentence"], atol=1e-5)


def test_features_of_several_layers(tmp_path):
    folder = tiny_bert.write(tmp_path / "bert")
    network = bert.network(folder)
    params = bert.load(folder, network)
    model = PlotTransformer(network.clone(dtype="float32"), head_layers=2)
    head = {"genres": {"kernel": np.zeros((16, 24)), "bias": np.zeros(24)}}
    _, expected = model.apply({"params": {"bert": params, "head": head}}, TOKENS, LENGTHS)
    settings = settings_of(folder, "head")
    settings.model.head_layers = 2
    backbone = plot_transformer._backbone(settings, network, params, Kernels())
    batch = {"inputs": TOKENS, "lengths": LENGTHS}
    features = backbone.run(1, 2, backbone.layers(1, 2), batch)["inputs"]
    np.testing.assert_allclose(features, expected["sentence"], atol=1e-5)


@pytest.mark.parametrize(
    ("finetune_from", "wanted", "taken"),
    [("head", 2, 2), ("head", 7, 2), ("layer1", 2, 2), ("layer2", 1, 1), ("layer2", 2, 1)],
)
def test_the_head_takes_layers_that_exist_and_run(tmp_path, finetune_from, wanted, taken):
    folder = tiny_bert.write(tmp_path / "bert")
    settings = settings_of(folder, finetune_from)
    settings.model.head_layers = wanted
    assert not plot_transformer.problems(settings, None)
    network = bert.network(folder)
    first = plot_transformer._first_layer(settings, network)
    model = plot_transformer._model(settings, network, 24, first, Kernels())
    assert model.head_layers == taken


def test_another_pooling_has_other_cached_features(tmp_path):
    size = 2 * jax.device_count()
    plots = ["the hero rides.", "a cafe"] * size

    def features(pooling):
        folder = tmp_path / f"bert_{pooling}"
        settings = settings_of(tiny_bert.write(folder, pooling=pooling))
        settings.training.batch_size = size
        config = ml_collections.ConfigDict({"data": {"workers": 0}, "seed": 0, "plot": settings})
        corpus = types.SimpleNamespace(
            ids=plots,
            genres=GENRES,
            labels=np.tile(np.eye(2, dtype=np.float32), (size, 1)),
            has_plot=np.ones(len(plots), bool),
            plot=plots.__getitem__,
            split={"train": np.arange(len(plots))},
        )
        folds = np.zeros(len(plots), int)
        experiment = Experiment(config, tmp_path / "run", corpus, folds, tmp_path / "cache")
        recipe = plot_transformer.prepare(experiment, "plot")
        assert bert.network(tmp_path / "run" / "encoders" / "plot").pooling == pooling
        return recipe.examples(np.arange(2))["inputs"]

    assert np.abs(features("mean") - features("cls")).max() > 1e-3
    written = [file.name for file in (tmp_path / "cache" / "activations").glob("*.npy")]
    assert len(written) == 2 and all("-features-" in name for name in written)


def test_training_takes_longer_with_larger_layers(tmp_path):
    folder = tiny_bert.write(tmp_path / "bert")
    wide = tiny_bert.CONFIG | {"hidden_size": 768}
    tiny_bert.write(tmp_path / "wide")
    tiny_bert.write_json(tmp_path / "wide" / "config.json", wide)
    of_8, of_768 = (
        plot_transformer.training_seconds(settings_of(place), None, 10_000, 0)
        for place in (folder, tmp_path / "wide")
    )
    assert of_768 == pytest.approx(of_8 * 96**2)


@pytest.mark.parametrize(
    ("finetune_from", "problem"), [("layer2", None), ("head", None), ("layer3", "finetune_from")]
)
def test_finetune_from_names_a_layer_of_the_network(tmp_path, finetune_from, problem):
    settings = settings_of(tiny_bert.write(tmp_path / "bert", family="mpnet"), finetune_from)
    found = plot_transformer.problems(settings, None)
    assert len(found) == (problem is not None) and all(problem in text for text in found)


def test_a_pooling_that_is_not_supported_is_a_problem(tmp_path):
    settings = settings_of(tiny_bert.write(tmp_path / "bert", pooling="lasttoken"))
    (found,) = plot_transformer.problems(settings, None)
    assert found.startswith("folder: ") and "the pooling is 'lasttoken'" in found
