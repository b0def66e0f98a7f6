"""Movie genres from plots and posters, in JAX and Flax.

`train` trains on a table of movies. `Predictor` predicts the genres of a `Movie` with a finished
experiment. `ZeroShot` scores posters for genres without any training.
"""

import importlib as _importlib
import importlib.util as _util
import pathlib as _pathlib
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from mmgc_jax.api import train
    from mmgc_jax.data.movies import Movie
    from mmgc_jax.predictor import Predictor
    from mmgc_jax.zero_shot import ZeroShot

__all__ = ("Movie", "Predictor", "ZeroShot", "train")


def _import_configs_of_checkout() -> None:
    """Makes the top-level folder `configs/` of a checkout importable as `mmgc_jax.configs`.

    An installed package has it as a subpackage. In a checkout it lies beside this package, where
    Python would not look for it when the checkout is the current folder.
    """
    package = _pathlib.Path(__file__).parent
    init = package.parent / "configs" / "__init__.py"
    if (package / "configs").exists() or not init.exists():
        return
    spec = _util.spec_from_file_location(
        f"{__name__}.configs", init, submodule_search_locations=[str(init.parent)]
    )
    _sys.modules[spec.name] = configs = _util.module_from_spec(spec)
    spec.loader.exec_module(configs)
    globals()["configs"] = configs


_import_configs_of_checkout()


_MODULE_OF = {
    "Movie": "mmgc_jax.data.movies",
    "Predictor": "mmgc_jax.predictor",
    "ZeroShot": "mmgc_jax.zero_shot",
    "train": "mmgc_jax.api",
}


def __getattr__(name: str):
    # Imported when it is asked for, because it imports JAX and nearly the whole package.
    if name in _MODULE_OF:
        return getattr(_importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
