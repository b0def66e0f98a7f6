"""Exports the models of a finished experiment as StableHLO, with `jax.export`.

A graph is a function of parameters and a batch: parameters are no constants in it. It returns the
mean probabilities of the folds' models. The batch size is symbolic. Every operation is plain XLA,
so that one graph runs on all of `PLATFORMS`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax import export

from mmgc_jax.encoders import fusion, joint, registry
from mmgc_jax.encoders.base import Encoder, Portable
from mmgc_jax.encoders.frozen import Frozen
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path
from mmgc_jax.training.run import ApplyFn

PLATFORMS = ("cpu", "cuda", "tpu")

_FROZEN = "frozen"


class Graph(NamedTuple):
    """A model as a function of parameters and a batch.

    Attributes:
      function: `function(params, batch)` returns probabilities, <float32>[batch, genres].
      params: the parameters: `fold_0`, `fold_1`, ... with those of the folds' models; and `frozen`,
        with those of the frozen layers, or of those of each encoder by its name.
      batch: shapes and dtypes of a batch.
    """

    function: Callable[[Mapping[str, Any], Mapping[str, Any]], jax.Array]
    params: Mapping[str, Any]
    batch: Mapping[str, Any]

    @property
    def own_params(self) -> dict[str, Any]:
        """The parameters without those that a jointly trained network has from the encoders."""
        if "present" not in self.batch:
            return dict(self.params)
        return {name: of_name for name, of_name in self.params.items() if name != _FROZEN}

    def serialize(self) -> bytes:
        """Exports the function for all platforms; the bytes are for `jax.export.deserialize`."""
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.params)
        exported = export.export(jax.jit(self.function), platforms=PLATFORMS)(params, self.batch)
        return bytes(exported.serialize())


def of_experiment(
    config: ml_collections.ConfigDict,
    workdir: Path,
    portables: Mapping[str, Portable],
    kernels: Kernels = Kernels(),  # noqa: B008 (frozen)
) -> dict[str, Graph]:
    """Makes the graphs of all encoders and of `fusion`.

    Args:
      config: the config of the experiment.
      workdir: its working directory.
      portables: the shapes of each encoder's batches, by the encoder's name.
      kernels: implementations of the operations; the default is plain XLA.

    Raises:
      InputError: if a file is damaged, or an encoder's frozen layers do not take their parameters
        as an argument.
    """
    shares = json.loads((workdir / "genre_frequencies.json").read_text(encoding="utf-8"))
    frequencies = np.array(list(shares.values()), np.float32)
    scope = export.SymbolicScope()
    made, encoders = {}, {}
    for name, portable in portables.items():
        kind = registry.of(config, name)
        encoder = kind.load(config, workdir, name, len(frequencies), kernels)
        encoders[name] = encoder
        made[name] = Graph(_of_encoder(encoder), _params(encoder, name), _batch(portable, scope))
    fused = config.fusion.encoders
    (rows,) = export.symbolic_shape("batch", scope=scope)
    present = jax.ShapeDtypeStruct((rows, len(fused)), np.float32)
    if config.fusion.kind == fusion.JOINT:
        fuser = joint.JointFuser(config, workdir, frequencies, kernels)
        frozen = {n: made[n].params[_FROZEN] for n in fused if _FROZEN in made[n].params}
        params = _folds(fuser.params) | {_FROZEN: frozen}
        batch = {name: made[name].batch for name in fused} | {"present": present}
        function = _of_joint(fuser.apply, {name: encoders[name] for name in fused})
    else:
        fuser = fusion.Fuser(config, workdir, len(frequencies))
        shape = (rows, len(fused), len(frequencies))
        batch = {"probabilities": jax.ShapeDtypeStruct(shape, np.float32), "present": present}
        params, function = _folds(fuser.params), _of_fusion(fuser.apply)
    made[fusion.FUSION] = Graph(function, params, batch)
    return made


def _params(encoder: Encoder, name: str) -> dict[str, Any]:
    params = _folds(encoder.params)
    if encoder.frozen is not None:
        if not isinstance(encoder.frozen, Frozen):
            raise InputError(
                f"{name} cannot be exported: the attribute `frozen` of its Encoder is not a "
                "mmgc_jax.encoders.frozen.Frozen, which takes parameters as an argument."
            )
        params[_FROZEN] = jax.device_get(encoder.frozen.params)
    return params


def _folds(params: Sequence[Any]) -> dict[str, Any]:
    return {f"fold_{number}": jax.device_get(of_fold) for number, of_fold in enumerate(params)}


def _batch(portable: Portable, scope: export.SymbolicScope) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), np.dtype(dtype))
        for name, (shape, dtype) in portable.shapes.items()
    }


def _of_encoder(encoder: Encoder):
    return lambda params, batch: _mean(
        encoder.apply, params, _run_frozen(encoder, params.get(_FROZEN), batch)
    )


def _of_fusion(apply: ApplyFn):
    return lambda params, batch: _mean(apply, params, batch)


def _of_joint(apply: ApplyFn, encoders: Mapping[str, Encoder]):
    def function(params, batch):
        arrays = {"present": batch["present"]}
        for name, encoder in encoders.items():
            arrays[name] = _run_frozen(encoder, params[_FROZEN].get(name), batch[name])
        return _mean(apply, params, arrays)

    return function


def _run_frozen(encoder: Encoder, params, batch):
    return batch if encoder.frozen is None else encoder.frozen.function(params, batch)


def _mean(apply: ApplyFn, params, batch) -> jax.Array:
    models = [of_fold for name, of_fold in params.items() if name != _FROZEN]
    return sum(jax.nn.sigmoid(apply(of_fold, batch, None)) / len(models) for of_fold in models)
