"""Finds the module of an encoder by the field `kind` of its config section."""

import collections
import functools
import importlib
import pkgutil
import sys
from collections.abc import Iterable

import ml_collections
import numpy as np

import mmgc_jax.encoders
from mmgc_jax.data.pipeline import Corpus
from mmgc_jax.encoders.base import MODALITIES, Kind
from mmgc_jax.runtime.errors import InputError, did_you_mean


@functools.cache
def kinds() -> tuple[str, ...]:
    """Returns the kinds of this package: modules of this folder named `plot_*` or `poster_*`."""
    modules = (module.name for module in pkgutil.iter_modules(mmgc_jax.encoders.__path__))
    return tuple(name for name in modules if name.split("_")[0] in MODALITIES)


def find(kind: str) -> Kind:
    """Returns the module of a kind.

    Args:
      kind: the name of a module of this folder, such as `plot_lstm`, or the full name of another
        module that defines the functions of `Kind`. Such a module must have been imported before,
        by a config file or by `import_modules`. It is not imported here, because `kind` can come
        from a working directory's config.json, which must not decide what code is run.

    Raises:
      InputError: if there is no such module.
    """
    if kind in kinds():
        return importlib.import_module(f"mmgc_jax.encoders.{kind}")
    module = sys.modules.get(str(kind))
    if module is not None and hasattr(module, "MODALITY"):
        return module
    hint = did_you_mean(str(kind), kinds(), "{!r}")
    hint = f" {hint}" if hint else ""
    raise InputError(
        f"{kind!r} is not a kind of encoder; possible: {', '.join(kinds())}.{hint} A module of "
        "your own must be imported: by the config file, or with --encoder_modules=MODULE."
    )


def import_modules(names: Iterable[str]) -> None:
    """Imports modules of encoders from outside this package, for `find`.

    Args:
      names: full names of the modules, such as `my_package.poster_resnet`.

    Raises:
      InputError: if a module cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"--encoder_modules: {name} cannot be imported: {error}") from error


def foreign_modules(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the modules of an experiment's encoders that are not of this package."""
    used = dict.fromkeys(config[name].kind for name in config.encoders)
    return [kind for kind in used if kind not in kinds()]


def of(config: ml_collections.ConfigDict, name: str) -> Kind:
    """Returns the module of an encoder, given the config of the experiment and its name."""
    return find(config[name].kind)


def modality(config: ml_collections.ConfigDict, name: str) -> str:
    """Returns the modality of an encoder, `plot` or `poster`."""
    return of(config, name).MODALITY


def fused_modalities(config: ml_collections.ConfigDict) -> set[str]:
    """Returns the modalities that the fused encoders read."""
    return {modality(config, name) for name in config.fusion.encoders}


def present(corpus: Corpus, config: ml_collections.ConfigDict, name: str) -> np.ndarray:
    """Returns whether each movie has an encoder's modality, <bool>[movies of the corpus]."""
    return corpus.has_plot if modality(config, name) == "plot" else corpus.has_poster


def titles(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the titles of an experiment's encoders, by name, in the order of the config.

    Encoders with equal titles get their names appended.
    """
    found = {name: of(config, name).title(config[name]) for name in config.encoders}
    count = collections.Counter(found.values())
    return {
        name: title if count[title] == 1 else f"{title}, {name}" for name, title in found.items()
    }
