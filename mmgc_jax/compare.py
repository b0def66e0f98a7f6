"""Compares finished runs: averages them over their seeds, and prints one table.

    mmgc compare runs/seed_0 runs/seed_1 runs/seed_2

The runs must differ in nothing but their seed. Each figure is that of cross-validation, averaged
over the runs; macro AUC has its standard deviation beside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import InputError

if TYPE_CHECKING:  # slow to import; see `command_line`
    from mmgc_jax.runtime.files import Path


def define_flags(values: flags.FlagValues) -> None:
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    from mmgc_jax.encoders import registry
    from mmgc_jax.runtime.files import as_path

    registry.import_modules(values.encoder_modules)
    print(compare([as_path(workdir) for workdir in arguments]))


def compare(workdirs: list["Path"]) -> str:
    """Averages runs over their seeds, and returns the table of their cross-validation.

    Raises:
      InputError: if they cannot be averaged; see `seeds.average`.
    """
    from mmgc_jax.evaluation import seeds, tables

    averaged = seeds.average(workdirs)
    titles = _titles(workdirs[0] / "config.json")
    return tables.table("cross_validation", averaged, titles, f"{len(workdirs)} seeds")


def _titles(file: "Path") -> dict[str, str]:
    """Returns the titles of a run's encoders and fusions."""
    import ml_collections

    from mmgc_jax.encoders import fusion
    from mmgc_jax.runtime.files import read_json

    advice = "Choose another run, or compare with the version that made this one."
    config = ml_collections.ConfigDict(read_json(file, advice))
    try:
        return fusion.titles(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a config of this version: {error}. {advice}") from error


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the arguments of a command line; None takes those of the process."""
    command_line.run(__doc__, define_flags, main, argv, operands=True)


if __name__ == "__main__":
    start()
