"""Averages the cross-validation of finished experiments that differ only in the seed."""

from collections.abc import Sequence

import numpy as np

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json
from mmgc_jax.runtime.workdir import MAY_CHANGE, differences

# Fields of a config that may differ between experiments: the seed, and fields without any effect on
# the figures.
_MAY_DIFFER = {"seed", "data.directory"} | MAY_CHANGE


def average(workdirs: Sequence[Path]) -> dict[str, dict]:
    """Averages the figures of `cross_validation` over experiments.

    Args:
      workdirs: working directories of two or more finished experiments.

    Returns:
      `{model: figures}` for the models that all experiments have, as `<model>` and `<model>_both`.
      `movies`, `genres_counted` and `genres_counted_most` are those of the first experiment. Every
      other figure is the mean over the experiments, and `<figure>_std` is the standard deviation.

    Raises:
      InputError: if there are fewer than two experiments, if one has not finished, or if they
        differ in more than the seed.
    """
    if len(workdirs) < 2:
        raise InputError("Give the working directories of at least two experiments.")
    configs = [_read(workdir, "config.json") for workdir in workdirs]
    results = [_read(workdir, "results.json") for workdir in workdirs]
    if len({config["seed"] for config in configs}) < len(configs):
        raise InputError("Two of the experiments have the same seed.")
    for workdir, config in zip(workdirs[1:], configs[1:]):
        differing = differences(configs[0], config).keys() - _MAY_DIFFER
        if differing:
            raise InputError(
                f"{workdir} differs from {workdirs[0]} in {', '.join(sorted(differing))}, not in "
                "the seed alone."
            )

    first, *others = (of_one["cross_validation"] for of_one in results)
    return {
        name: _average([first[name], *(other[name] for other in others)])
        for name in first
        if all(name in other for other in others)
    }


def _read(workdir: Path, name: str):
    advice = f"{workdir} must be the working directory of a finished experiment."
    return read_json(workdir / name, advice)


def _average(figures: Sequence[dict]) -> dict:
    """Computes mean and standard deviation of each figure that all experiments have."""
    first = figures[0]
    averaged = {name: first[name] for name in ("movies", "genres_counted", "genres_counted_most")}
    for name in first:
        if all(f"{name}_std" in of_one for of_one in figures):
            values = [np.nan if of_one[name] is None else of_one[name] for of_one in figures]
            averaged |= {name: float(np.mean(values)), f"{name}_std": float(np.std(values, ddof=1))}
    return averaged
