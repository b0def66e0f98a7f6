"""Writes a folder from which a finished experiment predicts, with this package or without.

    README.md               model card; see `card`
    model.py                loader that does not need this package
    model.json              for the loader: how it reads movies for each encoder
    model.safetensors       parameters of all folds' models, and of the frozen layers
    graphs/<model>.jax_export   models as StableHLO; see `graphs`
    onnx/<model>.onnx       the same as ONNX, on request; see `onnx`
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

from mmgc_jax.deployment import card, graphs, model, onnx
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.base import Portable
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import tensors
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, is_address, write_text
from mmgc_jax.training.run import encoder_folder

logger = logging.getLogger(__name__)

_ABOUT = "model.json"
_COPIED = ("calibration.json", "genre_frequencies.json", "results.json")


def write(
    predictor: Predictor,
    workdir: Path,
    output: pathlib.Path,
    about: card.About,
    *,
    with_onnx: bool = False,
) -> None:
    """Writes the folder; a folder that an earlier call wrote is replaced.

    Args:
      predictor: the finished experiment.
      workdir: its working directory.
      output: path of the folder.
      about: name and licence, for the model card.
      with_onnx: whether to write `onnx/`, too.

    Raises:
      InputError: if a kind of encoder cannot be exported, a file is damaged, or the folder exists
        and has other files.
    """
    _check_output(output)
    if with_onnx:
        onnx.require_packages()
    new = output.with_name(f"new-{output.name}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write_all(predictor, workdir, new, about, with_onnx)
        if output.exists():
            shutil.rmtree(output)
        new.replace(output)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_all(
    predictor: Predictor, workdir: Path, folder: pathlib.Path, about: card.About, with_onnx: bool
) -> None:
    """Writes the files; see `write`."""
    config = predictor.config
    portables = {name: _portable(config, workdir, name) for name in config.encoders}
    for name, portable in portables.items():
        for file in portable.files:
            _write(encoder_folder(folder, name) / file, encoder_folder(workdir, name) / file)
        _write_module(folder, portable)
    _write(folder / pathlib.Path(model.__file__).name, pathlib.Path(model.__file__))
    for file in _COPIED:
        _write(folder / file, workdir / file)
    write_text(folder / "config.json", json.dumps(_without_places(config.to_dict()), indent=2))
    made = graphs.of_experiment(config, workdir, portables)
    tensors.save(folder / tensors.FILE, {name: graph.own_params for name, graph in made.items()})
    for name, graph in made.items():
        logger.info("%s: exporting for %s.", name, ", ".join(graphs.PLATFORMS))
        _write(folder / "graphs" / f"{name}.jax_export", graph.serialize())
    if with_onnx:
        made = graphs.of_experiment(config, workdir, portables, onnx.KERNELS)
        for name, graph in made.items():
            logger.info("%s: converting to ONNX.", name)
            _write(folder / "onnx" / f"{name}.onnx", onnx.convert(name, graph))
    write_text(folder / _ABOUT, json.dumps(_description(config, portables), indent=2))
    write_text(folder / "README.md", card.text(predictor, workdir, about, portables))


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


def _write_module(folder: pathlib.Path, portable: Portable) -> None:
    """Copies the module that reads movies for an encoder.

    Raises:
      InputError: if it imports this package, or another kind has a module of the same name.
    """
    module = _module_of(portable)
    for node in ast.walk(ast.parse(module.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["mmgc_jax" if node.level else node.module]
        if any(name.split(".")[0] == "mmgc_jax" for name in names):
            raise InputError(
                f"{module}, line {node.lineno}, imports mmgc_jax, which is missing where an "
                f"exported folder is used. Move the function {portable.open.__name__} to a module "
                "of its own."
            )
    copy = folder / module.name
    if copy.exists() and copy.read_bytes() != module.read_bytes():
        raise InputError(f"Two kinds of encoders have a module {module.name}. Rename {module}.")
    _write(copy, module)


def _write(file: pathlib.Path, content: bytes | Path) -> None:
    """Writes a file; its content is given, or copied from another file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


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
