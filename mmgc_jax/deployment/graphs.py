"""Exports the forward passes of a finished experiment as StableHLO, with `jax.export`.

A graph is a function of parameters and a batch: parameters are no constants in it. The batch size
is symbolic. Every operation is plain XLA, so that one graph runs on all of `PLATFORMS`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from mmgc_jax.encoders.base import Encoder, Portable
from mmgc_jax.encoders.frozen import Frozen
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training.run import ApplyFn

PLATFORMS = ("cpu", "cuda", "tpu")

# `graph(params, batch)` returns mean probabilities of the folds' models, <float32>[batch, genres].
# `params` has `fold_0`, `fold_1`, ... and, with frozen layers, `frozen`.
Graph = Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]
Spec = Mapping[str, Any]  # shapes and dtypes, in the structure of a batch


def params_of(encoder: Encoder, name: str) -> dict[str, Any]:
    """Returns the parameters of all folds' models, and of the frozen layers below them.

    Raises:
      InputError: if the encoder's frozen layers do not take their parameters as an argument.
    """
    params = folds(encoder.params)
    if encoder.frozen is not None:
        if not isinstance(encoder.frozen, Frozen):
            raise InputError(
                f"{name} cannot be exported: the attribute `frozen` of its Encoder is not a "
                "mmgc_jax.encoders.frozen.Frozen, which takes parameters as an argument."
            )
        params["frozen"] = jax.device_get(encoder.frozen.params)
    return params


def folds(params) -> dict[str, Any]:
    """Returns the parameters of the folds' models by name: `fold_0`, `fold_1`, ..."""
    return {f"fold_{number}": jax.device_get(of_fold) for number, of_fold in enumerate(params)}


def of_encoder(encoder: Encoder) -> Graph:
    """Makes the graph of an encoder, frozen layers included."""

    def graph(params, batch):
        return _mean(encoder.apply, params, _run_frozen(encoder, params, batch))

    return graph


def of_fusion(apply: ApplyFn) -> Graph:
    """Makes the graph of a fusion of probabilities."""
    return lambda params, batch: _mean(apply, params, batch)


def of_joint(apply: ApplyFn, encoders: Mapping[str, Encoder]) -> Graph:
    """Makes the graph of a jointly trained network.

    Its parameters have `frozen`, with those of each encoder that has frozen layers, by its name.
    """

    def graph(params, batch):
        arrays = {"present": batch["present"]}
        for name, encoder in encoders.items():
            of_encoder = {"frozen": params.get("frozen", {}).get(name)}
            arrays[name] = _run_frozen(encoder, of_encoder, batch[name])
        return _mean(apply, params, arrays)

    return graph


def _run_frozen(encoder: Encoder, params, batch):
    if encoder.frozen is None:
        return batch
    return encoder.frozen.function(params["frozen"], batch)


def _mean(apply: ApplyFn, params, batch) -> jax.Array:
    models = [of_fold for name, of_fold in params.items() if name.startswith("fold_")]
    return sum(jax.nn.sigmoid(apply(of_fold, batch, None)) / len(models) for of_fold in models)


def spec_of(portable: Portable, scope: export.SymbolicScope) -> Spec:
    """Returns the shapes and dtypes of an encoder's batch."""
    return {
        name: jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), np.dtype(dtype))
        for name, (shape, dtype) in portable.shapes.items()
    }


def spec_of_fusion(encoders: int, num_genres: int, scope: export.SymbolicScope) -> Spec:
    """Returns the shapes and dtypes of a batch of a fusion of probabilities."""
    (batch,) = export.symbolic_shape("batch", scope=scope)
    return {
        "probabilities": jax.ShapeDtypeStruct((batch, encoders, num_genres), np.float32),
        "present": jax.ShapeDtypeStruct((batch, encoders), np.float32),
    }


def serialize(graph: Graph, params: Mapping[str, Any], batch: Spec) -> bytes:
    """Exports a graph for all platforms; the bytes are for `jax.export.deserialize`."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    exported = export.export(jax.jit(graph), platforms=PLATFORMS)(shapes, batch)
    return bytes(exported.serialize())
