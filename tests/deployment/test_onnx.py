"""Tests the conversion to ONNX: names, symbolic sizes, equal results, and what is refused."""

import sys

import jax
import numpy as np
import pytest
from jax import export

from mmgc_jax.deployment import onnx
from mmgc_jax.deployment.graphs import Graph
from mmgc_jax.models import PlotLSTM, PosterVGG16
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.errors import InputError

REASON = "jax2onnx is not installed: pip install -e '.[onnx]'"
GENRES = 3


def spec(shape, dtype, scope):
    return jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), np.dtype(dtype))


def graph_of(kernels=onnx.KERNELS):
    """A graph of two networks with nested arrays, as of joint training."""
    scope = export.SymbolicScope()
    batch = {
        "plot": {
            "tokens": spec("batch, 6", "int32", scope),
            "lengths": spec("batch", "int32", scope),
        },
        "poster": {"images": spec("batch, 32, 32, 3", "uint8", scope)},
    }
    plot = PlotLSTM(9, 4, 5, kernels=kernels, num_genres=GENRES)
    poster = PosterVGG16(widths=(2,) * 5, depths=(1,) * 5, num_genres=GENRES, kernels=kernels)
    tokens, lengths = np.zeros((1, 6), np.int32), np.ones(1, np.int32)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    params = {
        "plot": plot.init(jax.random.key(0), tokens, lengths)["params"],
        "poster": poster.init(jax.random.key(1), images)["params"],
    }

    def function(params, batch):
        of_plot = plot.apply({"params": params["plot"]}, **batch["plot"])[0]
        return jax.nn.sigmoid(
            of_plot + poster.apply({"params": params["poster"]}, batch["poster"]["images"])[0]
        )

    return Graph(function, params, batch)


@pytest.mark.slow
def test_onnxruntime_computes_the_same_for_any_batch_size():
    pytest.importorskip("jax2onnx", reason=REASON)
    onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
    graph = graph_of()
    session = onnxruntime.InferenceSession(onnx.convert("joint", graph))
    rng = np.random.default_rng(0)
    for rows in (1, 4):
        plot = {
            "tokens": rng.integers(0, 9, (rows, 6)).astype(np.int32),
            "lengths": rng.integers(1, 7, rows).astype(np.int32),
        }
        poster = {"images": rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)}
        arrays = {f"plot.{name}": array for name, array in plot.items()}
        (found,) = session.run([onnx.OUTPUT], arrays | {"poster.images": poster["images"]})
        wanted = graph.function(graph.params, {"plot": plot, "poster": poster})
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_what_cannot_be_converted_is_an_input_error(monkeypatch):
    pytest.importorskip("jax2onnx", reason=REASON)
    with pytest.raises(InputError, match="joint: jax2onnx cannot convert it"):
        onnx.convert("joint", graph_of(Kernels()))
    monkeypatch.setattr(onnx, "_TOLERANCE", 0.0)
    with pytest.raises(InputError, match="differ from JAX's by"):
        onnx.convert("joint", graph_of())


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"jax2onnx is not installed.*mmgc_jax\[onnx\]"):
        onnx.require_packages()
