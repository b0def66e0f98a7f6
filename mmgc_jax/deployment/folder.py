"""Writes a folder from which a finished experiment predicts, with this package or without.

    README.md               model card; see `card`
    model.py                loader that needs JAX and NumPy alone
    model.json              for the loader: how it reads movies for each encoder
    model.safetensors       parameters of all folds' models, and of the frozen layers
    graphs/<model>.jax_export   forward passes as StableHLO; see `graphs`
    text.py, posters.py     copies of modules of this package, which the loader imports
    encoders/<name>/        vocabularies
    config.json, calibration.json, genre_frequencies.json, results.json   of the experiment

`Predictor.load` reads the folder as it reads a working directory.
"""

import ast
import importlib.metadata
import inspect
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import export

from mmgc_jax.deployment import card, graphs, model
from mmgc_jax.encoders import fusion, joint, registry
from mmgc_jax.encoders.base import Encoder, Portable
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import tensors
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, is_address, write_text
from mmgc_jax.training.run import encoder_folder

logger = logging.getLogger(__name__)

_LOADER, _ABOUT = pathlib.Path(model.__file__).name, "model.json"
_COPIED = ("calibration.json", "genre_frequencies.json", "results.json")


def write(predictor: Predictor, workdir: Path, output: pathlib.Path, about: card.About) -> None:
    """Writes the folder; a folder that an earlier call wrote is replaced.

    Args:
      predictor: the finished experiment.
      workdir: its working directory.
      output: path of the folder.
      about: name and licence, for the model card.

    Raises:
      InputError: if a kind of encoder cannot be exported, a file is damaged, or the folder exists
        and has other files.
    """
    _check_output(output)
    config, num_genres = predictor.config, len(predictor.genres)
    portables = {name: _portable(config, workdir, name) for name in config.encoders}
    encoders = {
        name: registry.of(config, name).load(config, workdir, name, num_genres, Kernels())
        for name in config.encoders
    }
    new = output.with_name(f"new-{output.name}")
    shutil.rmtree(new, ignore_errors=True)
    for name, portable in portables.items():
        for file in portable.files:
            _copy(encoder_folder(workdir, name) / file, encoder_folder(new, name) / file)
        module = _module_of(portable)
        _check_imports(module, config[name].kind)
        if (copy := new / module.name).exists() and copy.read_bytes() != module.read_bytes():
            raise InputError(f"Two kinds of encoders have different modules {module.name}.")
        _copy(module, copy)
    _copy(pathlib.Path(model.__file__), new / _LOADER)
    for file in _COPIED:
        _copy(workdir / file, new / file)
    write_text(new / "config.json", json.dumps(_without_places(config.to_dict()), indent=2))
    params = _write_graphs(config, workdir, predictor, encoders, portables, new / "graphs")
    tensors.save(new / tensors.FILE, params)
    write_text(new / _ABOUT, json.dumps(_description(config, portables), indent=2))
    write_text(new / "README.md", card.text(predictor, workdir, about, portables))
    if output.exists():
        shutil.rmtree(output)
    new.replace(output)


def _check_output(output: pathlib.Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output} is a file. Give the path of a folder.")
    if output.exists() and any(output.iterdir()) and not (output / _ABOUT).is_file():
        raise InputError(
            f"--output={output} has files that mmgc export did not write. Choose another folder."
        )


def _portable(config: ml_collections.ConfigDict, workdir: Path, name: str) -> Portable:
    kind = registry.of(config, name)
    if not hasattr(kind, "portable"):
        raise InputError(
            f"{name} cannot be exported: its kind {config[name].kind!r} does not define "
            "`portable`; see mmgc_jax.encoders.base.Portable."
        )
    return kind.portable(config, workdir, name)


def _module_of(portable: Portable) -> pathlib.Path:
    return pathlib.Path(inspect.getsourcefile(portable.open))


def _check_imports(module: pathlib.Path, kind: str) -> None:
    """Raises `InputError` if a module that is to be copied imports this package."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["mmgc_jax" if node.level else node.module]
        if any(name.split(".")[0] == "mmgc_jax" for name in names):
            raise InputError(
                f"{kind} cannot be exported: {module}, line {node.lineno}, imports mmgc_jax, which "
                "is not there where the folder is used. Move the function `open` of its Portable "
                "to a module of its own."
            )


def _copy(source: Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def _write_graphs(
    config: ml_collections.ConfigDict,
    workdir: Path,
    predictor: Predictor,
    encoders: Mapping[str, Encoder],
    portables: Mapping[str, Portable],
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Writes the graph of each model; returns their parameters, by the model's name."""
    scope = export.SymbolicScope()
    specs = {name: graphs.spec_of(portable, scope) for name, portable in portables.items()}
    params = {name: graphs.params_of(encoder, name) for name, encoder in encoders.items()}
    fused, num_genres = config.fusion.encoders, len(predictor.genres)
    of_fusion = graphs.spec_of_fusion(len(fused), num_genres, scope)
    if config.fusion.kind == fusion.JOINT:
        shares = json.loads((workdir / "genre_frequencies.json").read_text(encoding="utf-8"))
        frequencies = np.array(list(shares.values()), np.float32)
        fuser = joint.JointFuser(config, workdir, frequencies, Kernels())
        graph = graphs.of_joint(fuser.apply, fuser.encoders)
        of_fusion = {name: specs[name] for name in fused} | {"present": of_fusion["present"]}
        frozen = {name: params[name]["frozen"] for name in fused if "frozen" in params[name]}
    else:
        fuser = fusion.Fuser(config, workdir, num_genres)
        graph, frozen = graphs.of_fusion(fuser.apply), None
    params[fusion.FUSION] = graphs.folds(fuser.params)
    folder.mkdir(parents=True)
    made = {name: (graphs.of_encoder(encoder), specs[name]) for name, encoder in encoders.items()}
    made[fusion.FUSION] = (graph, of_fusion)
    for name, (graph, spec) in made.items():
        of_graph = params[name]
        if name == fusion.FUSION and frozen is not None:
            of_graph = of_graph | {"frozen": frozen}  # the file has them once, at the encoders
        logger.info("%s: exporting for %s.", name, ", ".join(graphs.PLATFORMS))
        (folder / f"{name}.jax_export").write_bytes(graphs.serialize(graph, of_graph, spec))
    return params


def _description(
    config: ml_collections.ConfigDict, portables: Mapping[str, Portable]
) -> dict[str, Any]:
    """Makes the content of model.json."""
    return {
        "jax": jax.__version__,
        "mmgc_jax": importlib.metadata.version("mmgc_jax"),
        "encoders": {
            name: {
                "modality": registry.modality(config, name),
                "module": _module_of(portable).name,
                "open": portable.open.__name__,
                "settings": dict(portable.settings),
                "arrays": list(portable.shapes),
            }
            for name, portable in portables.items()
        },
        "fusion": {
            "encoders": list(config.fusion.encoders),
            "joint": config.fusion.kind == fusion.JOINT,
        },
    }


def _without_places(value):
    """Cuts absolute paths and addresses to their last part, since they are of this machine."""
    if isinstance(value, Mapping):
        return {name: _without_places(of_name) for name, of_name in value.items()}
    if isinstance(value, tuple | list):
        return [_without_places(item) for item in value]
    if isinstance(value, str) and (os.path.isabs(value) or is_address(value)):
        return pathlib.PurePosixPath(value).name
    return value
