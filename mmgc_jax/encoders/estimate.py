"""Estimates how long an experiment trains."""

from collections.abc import Mapping

import ml_collections

from mmgc_jax.encoders import registry


def training_time(config: ml_collections.ConfigDict, movies: Mapping[str, int]) -> str:
    """Says how long the encoders of an experiment train on two cores of a CPU.

    Args:
      config: the config of the experiment.
      movies: for each encoder the number of training movies that have its modality.

    Returns:
      A sentence. Encoders whose kind has no `training_seconds` are named, and left out.
    """
    seconds, unknown = {}, []
    for name in config.encoders:
        kind = registry.of(config, name)
        if hasattr(kind, "training_seconds"):
            seconds[name] = kind.training_seconds(
                config[name], config.data, movies[name], config.folds
            )
        else:
            unknown.append(name)
    parts = ", ".join(f"{name} {_duration(time)}" for name, time in seconds.items())
    without = f" It is not known for {', '.join(unknown)}." if unknown else ""
    whole = _duration(sum(seconds.values()))
    return f"Estimated time on two CPU cores: {whole} ({parts}).{without} A GPU is faster."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds / 10)) * 10} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
