"""Movie genres from plots and posters, in JAX and Flax."""

import importlib.util as _util
import pathlib as _pathlib
import sys as _sys


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


def __getattr__(name: str):
    # Imported when it is asked for, since it imports nearly everything.
    if name == "Predictor":
        from mmgc_jax.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
