"""Finds the module of an encoder by the `kind` that its section of the config names."""

import collections
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable

import ml_collections
import numpy as np

import mmgc_jax.encoders
from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.encoders.base import MODALITIES, Kind
from mmgc_jax.runtime.errors import InputError


def kinds() -> list[str]:
    """The kinds of this package: the modules in this folder that are named after a modality."""
    modules = (module.name for module in pkgutil.iter_modules(mmgc_jax.encoders.__path__))
    return [name for name in modules if name.split("_")[0] in MODALITIES]


def find(kind: str) -> Kind:
    """The module of a kind.

    Args:
      kind: the name of a module in this folder; or the full name of any module that is imported
        already. Config files import their modules themselves; otherwise call `import_modules`
        first. So no file of a working directory decides what is imported.

    Raises:
      InputError: if there is no such module.
    """
    if kind in kinds():
        return importlib.import_module(f"mmgc_jax.encoders.{kind}")
    module = sys.modules.get(str(kind))
    if module is not None and hasattr(module, "MODALITY"):
        return module
    nearest = difflib.get_close_matches(str(kind), kinds(), n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InputError(
        f"{kind!r} is no kind of encoder; possible: {', '.join(kinds())}.{hint} The module of a "
        "kind of your own is imported by its config, and elsewhere by --encoder_modules=MODULE."
    )


def import_modules(names: Iterable[str]) -> None:
    """Imports the modules of kinds that are not of this package.

    Raises:
      InputError: if one cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"--encoder_modules: {name} cannot be imported: {error}") from error


def of(config: ml_collections.ConfigDict, name: str) -> Kind:
    """The module of an encoder of an experiment."""
    return find(config[name].kind)


def modality(config: ml_collections.ConfigDict, name: str) -> str:
    """What an encoder of an experiment looks at: `plot` or `poster`."""
    return of(config, name).MODALITY


def present(corpus: Corpus, config: ml_collections.ConfigDict, name: str) -> np.ndarray:
    """Whether a movie has what an encoder looks at, <bool>[movies of the corpus]."""
    return corpus.has_plot if modality(config, name) == "plot" else corpus.has_poster


def titles(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The titles of an experiment's encoders, in their order; of equal ones, with their names."""
    found = {name: of(config, name).title(config[name]) for name in config.encoders}
    count = collections.Counter(found.values())
    return {
        name: title if count[title] == 1 else f"{title}, {name}" for name, title in found.items()
    }
