"""Checks a config before anything is computed, and reports all of its mistakes.

Each encoder checks its own section; here is what none of them can check alone.
"""

import importlib.util
import json
import logging
import pathlib
from collections.abc import Iterator

import jax
import ml_collections

from mmgc_jax.configs import default
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.checks import Checker, schema_problems
from mmgc_jax.runtime import remote
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

_LARGEST_SEED = 2**32 - 1


def without_unused(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy without the sections of encoders that `config.encoders` does not name.

    All stay if it names none, or one that is no section, which `checked` then reports.
    """
    config = config.copy_and_resolve_references().unlock()
    sections, used = _encoder_sections(config), config.get("encoders")
    if isinstance(used, list | tuple) and used and set(used) <= set(sections):
        for name in sections:
            if name not in used:
                logger.info("config.%s is not used: config.encoders does not name it.", name)
                del config[name]
    return config


def checked(
    config: ml_collections.ConfigDict, copies: pathlib.Path
) -> tuple[ml_collections.ConfigDict, dict[str, str | tuple[str, ...]]]:
    """Checks a config, and copies inputs that lie elsewhere to this machine.

    Args:
      config: as of `without_unused`.
      copies: folder for the copies.

    Returns:
      The config with the paths of copies in place of addresses; and the encoders' inputs, paths of
      this machine, by the field that names them, such as `poster.weights`.

    Raises:
      InputError: names all mistakes.
      Interrupted: if the process was asked to stop while copying.
    """
    config = config.copy_and_resolve_references().unlock()
    problems = _shared_problems(config)
    inputs: dict[str, str | tuple[str, ...]] = {}
    for name in _encoder_sections(config):
        if found := _section_problems(config, name):
            problems += found
        elif isinstance(config.get("data"), ml_collections.ConfigDict):
            problems += _encoder_problems(config, name, copies, inputs)
    if problems:
        raise InputError(_message(problems))
    if config.data.path:
        config.data.path = remote.copy_here(config.data.path, copies)
    return config.lock(), inputs


def field_problems(config: ml_collections.ConfigDict) -> list[str]:
    """Finds fields that are unknown, missing or of another type, and kinds that are not known.

    Args:
      config: as of `without_unused`.

    Returns:
      A sentence for each mistake.
    """
    problems = _schema_problems(config)
    for name in _encoder_sections(config):
        problems += _section_problems(config, name)
    return problems


def as_json(config: ml_collections.ConfigDict) -> dict:
    """A config as JSON holds it."""
    return json.loads(config.to_json())


def _message(problems: list[str]) -> str:
    lines = [f"config.{problem}{'' if problem[-1] in '.?' else '.'}" for problem in problems]
    if len(lines) == 1:
        return lines[0]
    return f"The config has {len(lines)} mistakes:\n  " + "\n  ".join(lines)


def _encoder_sections(config: ml_collections.ConfigDict) -> list[str]:
    """The sections that belong to encoders: all but those that every experiment has."""
    shared = default.get_config()
    return [
        name
        for name, section in config.items()
        if isinstance(section, ml_collections.ConfigDict) and name not in shared
    ]


def _section_problems(config: ml_collections.ConfigDict, name: str) -> list[str]:
    """Mistakes in the name of an encoder, in its kind, and in its fields and their types."""
    # results.json has `fusion`, `fusion_<kind>` and `<name>_both` beside the encoders' names.
    if not name.isidentifier() or name.startswith(fusion.FUSION) or name.endswith("_both"):
        return [
            f"{name} cannot be the name of an encoder: letters, digits and _ are possible, but "
            f"neither {fusion.FUSION} at the beginning nor _both at the end"
        ]
    section = config[name]
    if "kind" not in section:
        return [f"{name}.kind is missing; possible: {', '.join(registry.kinds())}"]
    try:
        kind = registry.find(section.kind)
    except InputError as error:
        return [f"{name}.kind: {error}"]
    return schema_problems(section, kind.default_settings(), f"{name}.")


def _encoder_problems(
    config: ml_collections.ConfigDict, name: str, copies: pathlib.Path, inputs: dict
) -> list[str]:
    """Mistakes in the values of an encoder's fields; copies its inputs into `inputs`."""
    try:
        inputs |= _copy_inputs(config, name, copies)
    except InputError as error:
        return [f"{name}: {error}"]
    found = registry.of(config, name).problems(config[name], config.data)
    return [f"{name}.{problem}" for problem in found]


def _copy_inputs(
    config: ml_collections.ConfigDict, name: str, copies: pathlib.Path
) -> dict[str, str | tuple[str, ...]]:
    """Copies an encoder's inputs, and puts their paths into its section."""
    inputs = {}
    for field, places in registry.of(config, name).inputs(config[name]).items():
        if isinstance(places, str):
            paths = remote.copy_here(places, copies)
        else:
            paths = tuple(remote.copy_here(place, copies) for place in places)
        *sections, last = field.split(".")
        target = config[name]
        for section in sections:
            target = target[section]
        target[last] = paths
        inputs[f"{name}.{field}"] = paths
    return inputs


def _schema_problems(config: ml_collections.ConfigDict) -> list[str]:
    """Mistakes in the fields that every experiment has, and in their types."""
    sections = _encoder_sections(config)
    shared = ml_collections.ConfigDict(
        {name: value for name, value in config.items() if name not in sections}
    )
    return schema_problems(shared, default.get_config())


def _shared_problems(config: ml_collections.ConfigDict) -> list[str]:
    """All mistakes outside of the encoders' sections."""
    from mmgc_jax.data import builder  # imports TFDS, which predictions do not need

    schema = _schema_problems(config)
    checker = Checker(config)
    checker.some_of("encoders", _encoder_sections(config))
    checker.at_least(2, "folds")
    _check_seed(checker, "seed")
    checker.one_of("data.source", builder.SOURCES)
    checker.above(0.0, "data.validation_fraction")
    checker.share("data.validation_fraction", "data.max_bad_fraction")
    _check_seed(checker, "data.split_seed")
    checker.at_least(0, "data.workers")
    for field in ("data.poster_height", "data.poster_width"):
        checker.require(
            field, lambda size: size > 0 and size % 32 == 0, "a multiple of 32 is needed"
        )
    checker.require(
        "tensorboard",
        lambda wanted: not wanted or importlib.util.find_spec("tensorboardX") is not None,
        "tensorboardX is not installed. Run: pip install 'mmgc_jax[tensorboard]'",
    )
    devices = jax.device_count()
    for field in _batch_sizes(config):
        checker.require(
            field,
            lambda size: size % devices == 0,
            f"it must be a multiple of the number of devices, {devices}",
        )
    reported = {problem.split(" ")[0] for problem in schema}
    values = [problem for problem in checker.problems if problem.split(" ")[0] not in reported]
    if not any(problem.startswith((fusion.FUSION, "encoders")) for problem in schema):
        values += [f"{fusion.FUSION}.{problem}" for problem in fusion.problems(config)]
    return schema + values


def _check_seed(checker: Checker, field: str) -> None:
    checker.at_least(0, field)
    checker.require(field, lambda seed: seed <= _LARGEST_SEED, f"at most {_LARGEST_SEED}")


def _batch_sizes(section: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields called `batch_size`."""
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _batch_sizes(value, f"{prefix}{name}.")
        elif name == "batch_size":
            yield prefix + name
