"""Checks a config before anything is computed, and reports all of its mistakes together.

The module of each encoder checks its own section. This module runs these checks, checks the fields
that all experiments share, and copies inputs to this machine.
"""

import importlib.util
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections

from mmgc_jax.configs import default
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.checks import AUTO, DTYPES, Checker, schema_problems
from mmgc_jax.ops import kernels
from mmgc_jax.runtime import remote
from mmgc_jax.runtime.errors import InputError

logger = logging.getLogger(__name__)

_LARGEST_SEED = 2**32 - 1
# Sources that need config.data.path, and what it must be.
_PATHS = {
    "table": "the file of your table, such as movies.csv",
    "talk": "a folder with movies.csv and posters/",
}


def without_unused_encoders(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Copies a config without the sections of encoders that `config.encoders` does not name.

    If `config.encoders` is empty or names an encoder without a section, all sections are copied;
    `check_and_copy_inputs` reports the mistake.
    """
    config = config.copy_and_resolve_references().unlock()
    sections, used = _encoder_sections(config), config.get("encoders")
    if isinstance(used, list | tuple) and used and set(used) <= set(sections):
        if unused := [name for name in sections if name not in used]:
            logger.info("Not trained, since not in config.encoders: %s.", ", ".join(unused))
        for name in unused:
            del config[name]
    return config


def choose_dtypes(
    config: ml_collections.ConfigDict, recorded: Mapping[str, Any] | None
) -> ml_collections.ConfigDict:
    """Copies a config, with the dtype of this machine for encoders whose `dtype` is `auto`.

    Args:
      config: the config of an experiment.
      recorded: the config of the same experiment, if it was begun before, as a JSON object. It
        continues with the dtypes that it began with, perhaps on another machine.
    """
    config = config.copy_and_resolve_references().unlock()
    for name in _encoder_sections(config):
        if config[name].get("dtype") == AUTO:
            before = (recorded or {}).get(name)
            before = before.get("dtype") if isinstance(before, dict) else None
            is_known = before in DTYPES and before != AUTO
            config[name].dtype = before if is_known else kernels.auto_dtype()
            logger.info("%s.dtype: %s.", name, config[name].dtype)
    return config


def check_and_copy_inputs(
    config: ml_collections.ConfigDict, copies: pathlib.Path
) -> tuple[ml_collections.ConfigDict, dict[str, str | tuple[str, ...]]]:
    """Checks a config, and copies inputs with addresses, such as `gs://...`, to this machine.

    Args:
      config: a config without unused encoders.
      copies: folder for the copies.

    Returns:
      The locked config, with paths of copies instead of addresses; and the local paths of the
      encoders' inputs, by the field that names them, such as `poster.weights`.

    Raises:
      InputError: if the config has mistakes; its message has all of them.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C) while copying.
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
    for field in ("path", "posters"):
        if config.data[field]:
            config.data[field] = remote.copy_here(config.data[field], copies)
    return config.lock(), inputs


def field_problems(config: ml_collections.ConfigDict) -> list[str]:
    """Finds fields that are unknown, missing or of the wrong type, and unknown kinds of encoders.

    Args:
      config: a config without unused encoders.

    Returns:
      A sentence for each mistake, which begins with the field's name.
    """
    problems = _schema_problems(config)
    for name in _encoder_sections(config):
        problems += _section_problems(config, name)
    return problems


def as_json(config: ml_collections.ConfigDict) -> dict:
    """Converts a config to the dictionary that its JSON file has."""
    return json.loads(config.to_json())


def _message(problems: list[str]) -> str:
    """Makes the text of an error from all mistakes."""
    lines = [f"config.{problem}{'' if problem[-1] in '.?' else '.'}" for problem in problems]
    if len(lines) == 1:
        return lines[0]
    return f"The config has {len(lines)} mistakes:\n  " + "\n  ".join(lines)


def _encoder_sections(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names of the sections of encoders: those that `configs/default.py` lacks."""
    shared = default.get_config()
    return [
        name
        for name, section in config.items()
        if isinstance(section, ml_collections.ConfigDict) and name not in shared
    ]


def _section_problems(config: ml_collections.ConfigDict, name: str) -> list[str]:
    """Finds mistakes in the name of an encoder, its kind, and the types of its fields."""
    # In results.json the names `fusion`, `fusion_<kind>` and `<name>_both` have other meanings.
    if not name.isidentifier() or name.startswith(fusion.FUSION) or name.endswith("_both"):
        return [
            f"{name} cannot be the name of an encoder: a name has letters, digits and _, does not "
            f"begin with {fusion.FUSION} and does not end with _both"
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
    """Finds mistakes in the values of an encoder's fields; adds its copied inputs to `inputs`."""
    try:
        inputs |= _copy_inputs(config, name, copies)
    except InputError as error:
        return [f"{name}: {error}"]
    found = registry.of(config, name).problems(config[name], config.data)
    return [f"{name}.{problem}" for problem in found]


def _copy_inputs(
    config: ml_collections.ConfigDict, name: str, copies: pathlib.Path
) -> dict[str, str | tuple[str, ...]]:
    """Copies an encoder's inputs to this machine, and sets its fields to their paths."""
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
    """Finds unknown, missing and wrongly typed fields outside of the encoders' sections."""
    sections = _encoder_sections(config)
    shared = ml_collections.ConfigDict(
        {name: value for name, value in config.items() if name not in sections}
    )
    return schema_problems(shared, default.get_config())


def _shared_problems(config: ml_collections.ConfigDict) -> list[str]:
    """Finds all mistakes outside of the encoders' sections."""
    from mmgc_jax.data import builder  # imports TFDS, which predictions do not need

    schema = _schema_problems(config)
    checker = Checker(config)
    checker.some_of("encoders", _encoder_sections(config))
    checker.at_least(2, "folds")
    _check_seed(checker, "seed")
    checker.one_of("data.source", builder.SOURCES)
    for source, wanted in _PATHS.items():
        checker.require(
            "data.path",
            lambda path, source=source: path or config.data.source != source,
            f"for source={source} it must be {wanted}",
        )
    checker.share("data.validation_fraction", "data.test_fraction", "data.max_bad_fraction")
    checker.at_least(1, "data.min_positives")
    checker.require(
        "data.genres",
        lambda genres: all(isinstance(name, str) and name.strip() for name in genres),
        "a list of names is needed, such as ('Drama', 'Science Fiction=Sci-Fi')",
    )
    _check_seed(checker, "data.split_seed")
    checker.at_least(0, "data.workers", "data.train_movies")
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
    checker.require(
        field,
        lambda seed: seed <= _LARGEST_SEED,
        f"a whole number of at most {_LARGEST_SEED} is needed",
    )


def _batch_sizes(section: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yields the dotted names of all fields called `batch_size`."""
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _batch_sizes(value, f"{prefix}{name}.")
        elif name == "batch_size":
            yield prefix + name
