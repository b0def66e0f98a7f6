"""Tests that models can be exported from a CPU for other platforms and use no global state."""

import pathlib
import re

import jax
import numpy as np
import pytest

from mmgc_jax import models
from mmgc_jax.models import (
    FUSIONS,
    VGG16,
    BertEncoder,
    FusionOfLogits,
    PlotBagOfWords,
    PlotLSTM,
    PlotTransformer,
    PosterVGG16,
    PosterViT,
    ViT,
)
from mmgc_jax.ops.kernels import Kernels, kernels_for

# The first two blocks are wide enough, and their images large enough, for the CPU's kernels.
WIDTHS = (64, 128, 64, 64, 64)
POSTERS = np.zeros((2, 64, 32, 3), np.uint8)
TOKENS, LENGTHS = np.zeros((4, 16), np.int32), np.ones(4, np.int32)
PLATFORMS = pytest.mark.parametrize("platform", ["tpu", "cuda"])
CPU = kernels_for("cpu", 1, ("amx_bf16",))


def stablehlo(model, platform, *inputs):
    """Exports a model for a platform; returns its StableHLO as text."""
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.export.export(jax.jit(model.apply), platforms=[platform])(
        variables, *inputs
    ).mlir_module()


def count(text, operation):
    return len(re.findall(rf"\bstablehlo\.{operation}\b", text))


@PLATFORMS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", [VGG16, PosterVGG16])
def test_poster_networks_export_plain_convolutions(network, dtype, platform):
    plain = stablehlo(network(widths=WIDTHS, dtype=dtype), platform, POSTERS)
    assert count(plain, "convolution") == 13
    # No matmuls and loops of CPU kernels; the head has two dense layers.
    assert count(plain, "while") == 0
    assert count(plain, "dot_general") == (2 if network is PosterVGG16 else 0)
    assert f"x{'bf16' if dtype == 'bfloat16' else 'f32'}>" in next(
        line for line in plain.splitlines() if "stablehlo.convolution" in line
    )

    of_cpu = stablehlo(network(widths=WIDTHS, dtype=dtype, kernels=CPU), platform, POSTERS)
    assert count(of_cpu, "convolution") < 13
    assert count(of_cpu, "dot_general") > count(plain, "dot_general")


@PLATFORMS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_lstm_exports_a_plain_loop(dtype, platform):
    def text(kernels):
        return stablehlo(
            PlotLSTM(50, 8, 4, dtype=dtype, kernels=kernels), platform, TOKENS, LENGTHS
        )

    plain = text(Kernels())
    assert count(plain, "while") == 2  # directions
    assert "custom_call" not in plain
    unrolled = text(kernels_for("cuda", 1, ()))
    assert steps_of_an_iteration(plain) == 2
    assert steps_of_an_iteration(unrolled) == 2 * 8


def steps_of_an_iteration(text):
    """Returns the steps per iteration of both scans: function calls, or inlined (jax 0.12)."""
    # A step has two hyperbolic tangents: of the candidate gate and of the cell state.
    return text.count("call @closed_call") or count(text, "tanh") // 2


BERT = BertEncoder(vocabulary_size=12, hidden=8, layers=2, heads=2, intermediate=16, max_length=16)
VIT = ViT((32, 32), 16, hidden=8, layers=2, heads=2, intermediate=16)
OF_POSTERS = [("batch, 32, 32, 3", "uint8")]
OF_TOKENS = [("batch, 16", "int32"), ("batch", "int32")]
OF_EVIDENCE = [("batch, 2, 24", "float32"), ("batch, 2", "bool")]
MODELS = {
    "plot_bag_of_words": (PlotBagOfWords(9), [("batch, 16", "int32"), ("batch, 16", "float32")]),
    "plot_lstm": (PlotLSTM(9, 8, 4), OF_TOKENS),
    "plot_transformer": (PlotTransformer(BERT, head_layers=2), OF_TOKENS),
    "head_of_plot_transformer": (
        PlotTransformer(BERT.clone(first_layer=3), head_layers=2),
        [("batch, 16", "float32"), ("batch", "int32")],
    ),
    "poster_vgg16": (PosterVGG16(widths=(2, 2, 2, 2, 2)), OF_POSTERS),
    "poster_vit": (PosterViT(VIT), OF_POSTERS),
    "late": (FUSIONS["late"](), OF_EVIDENCE),
    "mlp": (FUSIONS["mlp"](), OF_EVIDENCE),
} | {
    name: (FusionOfLogits(fusion()), OF_EVIDENCE)
    for name, fusion in FUSIONS.items()
    if name not in ("late", "mlp")
}


@pytest.mark.parametrize(("model", "inputs"), MODELS.values(), ids=MODELS)
def test_every_model_exports_with_any_number_of_movies(model, inputs):
    scope = jax.export.SymbolicScope()
    shapes = [
        jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, scope=scope), np.dtype(dtype))
        for shape, dtype in inputs
    ]
    ones = [jax.ShapeDtypeStruct((1, *like.shape[1:]), like.dtype) for like in shapes]
    variables = jax.eval_shape(model.init, jax.random.key(0), *ones)
    exported = jax.export.export(jax.jit(model.apply))(variables, *shapes)
    assert str(exported.out_avals[0].shape) == "(batch, 24)"


def test_models_do_not_read_global_state():
    folder = pathlib.Path(models.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 5
    pattern = re.compile("backend|device_count|cpuinfo")
    found = [
        f"{file.name}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


def test_only_one_file_of_ops_reads_global_state():
    folder = pathlib.Path(models.__file__).parents[1] / "ops"
    pattern = re.compile(r"jax\.default_backend\(|device_count\(|devices\(|cpuinfo")
    found = {
        file.name
        for file in folder.rglob("*.py")
        if pattern.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"kernels.py"}
