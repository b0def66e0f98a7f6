"""Compares finished experiments: python -m mmgc_jax.compare runs/talk-0 runs/talk-1 runs/talk-2

The experiments must differ only in their seed. Each figure of cross-validation is shown as the mean
over them, and macro AUC with its standard deviation.
"""

import sys

import ml_collections
from absl import app, flags

from mmgc_jax.encoders import fusion, registry
from mmgc_jax.evaluation import seeds, tables
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, read_json


def define_flags() -> None:
    flags.DEFINE_multi_string(
        "encoder_modules",
        [],
        "Modules with kinds of encoders of your own, imported before the experiments are read.",
    )


def main(argv: list[str]) -> None:
    try:
        registry.import_modules(flags.FLAGS.encoder_modules)
        print(compare([as_path(workdir) for workdir in argv[1:]]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def compare(workdirs: list[Path]) -> str:
    """Averages experiments over their seeds and returns the table.

    Raises:
      InputError: if they cannot be averaged; see `seeds.average`.
    """
    averaged = seeds.average(workdirs)
    titles = _titles(workdirs[0] / "config.json")
    return tables.table("cross_validation", averaged, titles, f"{len(workdirs)} seeds")


def _titles(file: Path) -> dict[str, str]:
    """The titles of an experiment's encoders and fusions."""
    advice = "Choose another experiment, or compare with the version that made this one."
    config = ml_collections.ConfigDict(read_json(file, advice))
    try:
        return fusion.titles(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a config of this version: {error}. {advice}") from error


if __name__ == "__main__":
    define_flags()
    app.run(main)
