"""Tests of the ViT poster encoder: its layers, its settings, and whole experiments."""

import json
import shutil

import jax
import numpy as np
import pytest

from mmgc_jax import experiment, explanations
from mmgc_jax.data import builder, pipeline, talk
from mmgc_jax.data.movies import Movie
from mmgc_jax.deployment import card, model
from mmgc_jax.deployment import folder as deployment_folder
from mmgc_jax.encoders import poster_vit
from mmgc_jax.models import PosterViT
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.predictor import Predictor
from mmgc_jax.pretrained import vit
from mmgc_jax.runtime.errors import InputError
from tests import tiny, tiny_vit

POSTERS = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def settings_of(folder, finetune_from="head"):
    settings = poster_vit.default_settings()
    settings.folder, settings.finetune_from = str(folder), finetune_from
    settings.dtype = "float32"
    return settings


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2"])
def test_blocks_compose_to_the_features_of_the_network(tmp_path, family):
    folder = tiny_vit.write(tmp_path / "vit", family)
    network = vit.network(folder)
    params = vit.load(folder, network)
    expected = jax.jit(network.apply)({"params": params}, POSTERS)["features"]
    backbone = poster_vit._backbone(settings_of(folder, "layer2"), network, params, Kernels())
    # All parameters belong to a block, and to one alone.
    parts = [set(backbone.layers(block, block)) for block in (1, 2)]
    assert set.union(*parts) == set(params) and not set.intersection(*parts)
    below = backbone.part(1, 1)({"images": POSTERS})
    assert below["images"].shape == (2, 5 - (family == "siglip"), 8)
    found = backbone.part(2, 2)(below)["images"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("first_layer", "is_mirrored"), [(1, True), (2, False), (3, False)])
def test_only_pixels_are_mirrored(tmp_path, first_layer, is_mirrored):
    """In training, some of the copies of a poster get other logits."""
    folder = tiny_vit.write(tmp_path / "vit")
    settings, network = settings_of(folder), vit.network(folder)
    settings.model.head_dropout = 0.0
    inputs = np.tile(POSTERS[:1], (8, 1, 1, 1))
    if first_layer == 2:
        inputs = np.ones((8, 5, 8), np.float32) * np.arange(8, dtype=np.float32)
    elif first_layer == 3:
        inputs = np.ones((8, 8), np.float32) * np.arange(8, dtype=np.float32)
    model = PosterViT(network.clone(first_layer=first_layer), num_genres=3)
    params = jax.jit(model.init)(jax.random.key(0), inputs)["params"]
    apply = jax.jit(poster_vit._apply(settings, network, 3, first_layer, Kernels()))
    logits = apply(params, {"images": inputs}, jax.random.key(0))
    assert (np.ptp(logits, axis=0).max() > 1e-3) == is_mirrored


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"finetune_from": "layer2"}, None),
        ({"finetune_from": "layer3"}, "finetune_from is 'layer3'; possible: layer1, layer2, head"),
        ({"folder": ""}, "folder is empty. Download config.json"),
        ({"folder": "/nowhere"}, "folder: /nowhere: no such folder"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"model.hidden": (0,)}, "model.hidden is (0,)"),
        ({"model.head_dropout": 1.0}, "model.head_dropout is 1.0"),
    ],
)
def test_problems(tmp_path, fields, problem):
    settings = settings_of(tiny_vit.write(tmp_path / "vit", "siglip_vision_model"))
    settings.update_from_flattened_dict(fields)
    found = poster_vit.problems(settings, None)
    assert len(found) == (problem is not None) and all(problem in text for text in found)


def test_damaged_weights_are_found_before_anything_runs(tmp_path):
    folder = tiny_vit.write(tmp_path / "vit")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (found,) = poster_vit.problems(settings_of(folder), None)
    assert found.startswith(f"folder: {file} cannot be read: ")


def test_training_more_layers_takes_longer(tmp_path):
    folder = tiny_vit.write(tmp_path / "vit")
    head, layer2, layer1 = (
        poster_vit.training_seconds(settings_of(folder, name), None, 10**7, 5)
        for name in ("head", "layer2", "layer1")
    )
    assert head < layer2 < layer1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "finetune_from"), [("clip", "head"), ("siglip", "layer2"), ("dinov2", "layer1")]
)
def test_a_whole_experiment_and_its_predictions(inputs, tmp_path, family, finetune_from):
    folder, workdir = tiny_vit.write(tmp_path / "vit", family), tmp_path / "run"
    config = tiny.config_of(inputs)
    config.data.test_fraction = 0.3
    config.encoders = config.fusion.encoders = ("poster_vit",)
    config.fusion.training.epochs = 2
    config.poster_vit = tiny.vit_settings(folder)
    config.poster_vit.finetune_from = finetune_from
    experiment.run(config, workdir)
    recorded = json.loads((workdir / "inputs.json").read_text())
    assert any("poster_vit.folder" in name for name in recorded)
    # Predictions need nothing outside of the working directory.
    shutil.rmtree(folder)
    movies = list(talk.read(str(inputs[0])))
    predictor = Predictor.load(workdir)
    corpus = pipeline.load_corpus(builder.build(config.data, workdir / "data"), config.data)
    rows = [row for row in corpus.split["test"] if movies[row].poster is not None]
    assert len(rows) > 5
    with np.load(workdir / "predictions" / "poster_vit.npz") as stored:
        expected = stored["probabilities"][rows]
    found = predictor.predict_all(movies, ["poster_vit"])["poster_vit"].uncalibrated
    np.testing.assert_allclose(found[rows], expected, atol=1e-4)
    assert np.ptp(expected, axis=0).max() > 1e-3
    poster = Movie(poster=movies[rows[0]].poster)
    (maps,) = explanations.explain(predictor, poster).heat_maps.values()
    assert maps.shape[1:] == (config.data.poster_height, config.data.poster_width)

    # An exported folder reads posters by itself.
    output = tmp_path / "exported"
    deployment_folder.write(predictor, workdir, output, card.About("Genres", "cc-by-4.0"))
    alone = model.Model(output)([{"poster": movies[row].poster} for row in rows])
    answers = predictor([Movie(poster=movies[row].poster) for row in rows])
    np.testing.assert_allclose(alone, answers, atol=1e-5)

    # The copy of the preprocessing is needed.
    (workdir / "encoders" / "poster_vit" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json: no such file"):
        Predictor.load(workdir)(movies[:1], "poster_vit")
