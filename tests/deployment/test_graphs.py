"""Tests that graphs of fusions can be exported, with parameters as arguments."""

import jax
import numpy as np
import pytest
from jax import export

from mmgc_jax.configs import demo
from mmgc_jax.deployment import graphs
from mmgc_jax.encoders import fusion
from mmgc_jax.models import FUSIONS
from mmgc_jax.runtime import tensors

GENRES = ("Comedy", "Drama", "War")


@pytest.fixture
def saved(tmp_path, request):
    """Writes random parameters of a fusion of a kind; returns the config and the parameters."""
    config = demo.get_config()
    config.fusion.kind = request.param
    model = fusion._model(config, fusion.FUSION, len(GENRES))
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), np.zeros((1, 2, len(GENRES))), np.ones((1, 2))
    )["params"]
    rng = np.random.default_rng(0)
    folds = {
        f"fold_{fold}": jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
        for fold in range(config.folds)
    }
    tensors.save(tmp_path / tensors.FILE, {fusion.FUSION: folds})
    (tmp_path / "genre_frequencies.json").write_text('{"Comedy": 0.3, "Drama": 0.5, "War": 0.1}')
    return config, model, folds.values()


@pytest.mark.slow
@pytest.mark.parametrize("saved", FUSIONS, indirect=True)
def test_every_fusion_is_exported_for_any_batch_size(saved, tmp_path):
    config, model, folds = saved
    graph = graphs.of_experiment(config, tmp_path, {})[fusion.FUSION]
    exported = export.deserialize(bytearray(graph.serialize()))
    assert exported.platforms == graphs.PLATFORMS
    text = exported.mlir_module()
    assert "custom_call" not in text.replace("stablehlo.custom_call @shape_assertion", "")
    assert 'dense<"0x' not in text  # a constant of many numbers
    rng = np.random.default_rng(1)
    for rows in (1, 5):
        batch = {
            "probabilities": rng.random((rows, 2, len(GENRES)), np.float32),
            "present": np.ones((rows, 2), np.float32),
        }
        found = exported.call(graph.params, batch)
        wanted = [
            jax.nn.sigmoid(model.apply({"params": of_fold}, *batch.values())[0])
            for of_fold in folds
        ]
        np.testing.assert_allclose(found, np.mean(wanted, axis=0), atol=1e-6)
