"""Averages finished experiments that differ in their seed alone.

    python -m mmgc_jax.seeds runs/talk-0 runs/talk-1 runs/talk-2

Each figure of cross-validation becomes a mean over the experiments and their standard deviation.
"""

import json
import sys
from collections.abc import Sequence

import numpy as np
from absl import app

from mmgc_jax import settings
from mmgc_jax.evaluation import report
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path

# What may differ between the experiments: it changes no figure, or is the seed.
_MAY_DIFFER = {"seed", "data.directory"} | settings.MAY_CHANGE


def average(workdirs: Sequence[Path]) -> dict[str, dict]:
    """The figures of `cross_validation` of several experiments.

    Args:
      workdirs: of at least two finished experiments.

    Returns:
      For each stage that all of them have, and as `<stage>_both` too, `movies`, `genres_counted`,
      and of each other figure the mean and `<figure>_std`, over the experiments.

    Raises:
      InputError: if there are fewer than two, one has not finished, or they differ in more than
        their seed.
    """
    if len(workdirs) < 2:
        raise InputError("Give the working directories of at least two experiments.")
    results, configs = [], []
    for workdir in workdirs:
        try:
            results.append(json.loads((workdir / "results.json").read_text(encoding="utf-8")))
            configs.append(json.loads((workdir / "config.json").read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(
                f"{workdir} is not the working directory of a finished experiment: {error}"
            ) from error
    if len({config["seed"] for config in configs}) < len(configs):
        raise InputError("Two of the experiments have the same seed.")
    for workdir, config in zip(workdirs[1:], configs[1:]):
        differing = settings.differences(configs[0], config).keys() - _MAY_DIFFER
        if differing:
            raise InputError(
                f"{workdir} differs from {workdirs[0]} in {', '.join(sorted(differing))}, not in "
                "the seed alone."
            )

    parts = [of_one["cross_validation"] for of_one in results]
    return {
        stage: _average([part[stage] for part in parts])
        for stage in parts[0]
        if all(stage in part for part in parts)
    }


def _average(figures: Sequence[dict]) -> dict:
    first = figures[0]
    averaged = {name: first[name] for name in ("movies", "genres_counted", "genres_counted_most")}
    for name in (name for name in first if f"{name}_std" in first):
        values = [np.nan if of_one[name] is None else of_one[name] for of_one in figures]
        averaged |= {name: float(np.mean(values)), f"{name}_std": float(np.std(values, ddof=1))}
    return averaged


def main(argv: list[str]) -> None:
    try:
        averaged = average([as_path(workdir) for workdir in argv[1:]])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(report.table("cross_validation", averaged, f"{len(argv) - 1} seeds"))


if __name__ == "__main__":
    app.run(main)
