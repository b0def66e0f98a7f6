"""Writes a finished experiment on plots alone, with random parameters instead of a training."""

import json
import pathlib

import jax
import numpy as np

from mmgc_jax import settings
from mmgc_jax.data import synthetic
from mmgc_jax.data.bag_of_words import TfIdf
from mmgc_jax.data.movies import GENRES
from mmgc_jax.encoders import fusion, plot_transformer
from mmgc_jax.evaluation import calibration
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pretrained import bert
from mmgc_jax.runtime import tensors
from mmgc_jax.runtime.files import write_text
from mmgc_jax.training.run import encoder_folder
from tests import tiny_bert, tiny_everything

BAG, TRANSFORMER = "plot_bag_of_words", "plot_transformer"


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes a bag of words and a transformer with a frozen layer, fused by `joint`."""
    folder.mkdir()
    config = tiny_everything.get_config()
    config.encoders = config.fusion.encoders = (BAG, TRANSFORMER)
    config.fusion.kind, config.fusion.compare = fusion.JOINT, ()
    config.plot_transformer.folder = str(tiny_bert.write(folder / "bert", positions=64))
    config = settings.without_unused_encoders(config)
    write_text(folder / "config.json", config.to_json(indent=2))
    rng = np.random.default_rng(0)

    def random(shapes):
        return jax.tree.map(lambda leaf: np.float32(0.5 * rng.normal(size=leaf.shape)), shapes)

    movies = [movie for movie, _ in synthetic.generate(seed=1, train=50)["train"]]
    words = TfIdf.fit(movie.plot or "" for movie in movies)
    words.save(encoder_folder(folder, BAG) / "bag_of_words.json")
    source = pathlib.Path(config.plot_transformer.folder)
    for name, content in bert.description_files(source).items():
        file = encoder_folder(folder, TRANSFORMER) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    network = bert.network(source)
    backbone = plot_transformer._backbone(
        config.plot_transformer, network, bert.load(source, network), Kernels()
    )
    first = backbone.first_trained
    assert 1 < first <= network.layers
    layers = plot_transformer._model(
        config.plot_transformer, network, len(GENRES), first, Kernels()
    )
    states, probabilities = np.zeros((1, 4, network.hidden)), np.zeros((1, 2, len(GENRES)))
    shapes = {
        BAG: {
            "kernel": np.zeros((len(words), len(GENRES))),
            "bias": np.zeros(len(GENRES)),
        },
        TRANSFORMER: jax.eval_shape(layers.init, jax.random.key(0), states, np.ones(1))["params"],
    }
    late = fusion._model(config, fusion.FUSION, len(GENRES))
    of_late = jax.eval_shape(late.init, jax.random.key(0), probabilities, np.ones((1, 2)))["params"]
    shapes[fusion.FUSION] = shapes | {fusion.FUSION: of_late}
    tree = {
        name: {f"fold_{fold}": random(of_name) for fold in range(config.folds)}
        for name, of_name in shapes.items()
    }
    tree[TRANSFORMER]["frozen"] = backbone.layers(1, first - 1)
    tensors.save(folder / tensors.FILE, tree)

    ones = np.ones(len(GENRES))
    calibrations = {
        name: calibration.Calibration(GENRES, 0.3 * ones, 0 * ones, 0.5 * ones) for name in shapes
    }
    calibration.save(folder / "calibration.json", calibrations)
    write_text(folder / "genre_frequencies.json", json.dumps(dict.fromkeys(GENRES, 0.1)))
    figures = {name: {"movies": 20, "auc_macro": 0.6} for name in shapes}
    write_text(folder / "results.json", json.dumps({"test": figures}))
    return folder
