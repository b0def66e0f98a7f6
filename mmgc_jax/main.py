"""Runs an experiment: python -m mmgc_jax.main --config=configs/talk.py --workdir=runs/talk

Any field of the config can be overridden: --config.data.path=FOLDER. Run again with the same
working directory, it continues where it stopped. SIGTERM and Ctrl-C stop it, and nothing is lost.
"""

import difflib
import logging
import pathlib
import re
import shlex
import sys

import jax
import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmgc_jax import configs, experiment
from mmgc_jax.runtime import failures, parallel, preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import cache_folder_or_none

logger = logging.getLogger("mmgc_jax")

_DEFAULT_CONFIG = str(pathlib.Path(configs.__path__[0]) / "demo.py")
# What ml_collections raises for an override of a field that the config lacks.
_NO_SUCH_FIELD = (AttributeError, KeyError, TypeError)


def define_flags() -> None:
    """Defines all flags. Raises an error of `_NO_SUCH_FIELD` if an override names no field."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Whether this is one of several processes that run the experiment together, with the same "
        "--workdir: see parallel.initialize on how they find each other.",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder for all that the experiment leaves behind; made if it is not there. It may be in a "
        "bucket: gs://bucket/folder.",
        required=True,
    )
    config_flags.DEFINE_config_file(
        "config",
        _DEFAULT_CONFIG,
        "The experiment: a file of configs/, or your own.",
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    # Of libraries only errors are shown; of this package, what it does.
    absl_logging.set_verbosity(absl_logging.ERROR)
    with preemption.listening():
        try:
            if flags.FLAGS.distributed:
                parallel.initialize()
            with failures.ending_together():
                # Every process shows errors and warnings, the first one what it does.
                logger.setLevel(logging.INFO if parallel.is_first() else logging.WARNING)
                logger.info("%d device(s): %s", jax.device_count(), jax.devices()[0].device_kind)
                use_compilation_cache()
                experiment.run(_config(), flags.FLAGS.workdir)
        except InputError as error:
            _exit(error)
        except preemption.Interrupted as stop:
            again = shlex.join(["python", "-m", "mmgc_jax.main", *sys.argv[1:]])
            print(f"{stop} To continue, run the same again:\n  {again}", file=sys.stderr)
            sys.exit(preemption.EXIT_CODE)


def use_compilation_cache() -> None:
    """Keeps compiled programs for later runs, unless JAX was configured where to keep them."""
    if jax.config.jax_compilation_cache_dir is None and (folder := cache_folder_or_none()):
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def start() -> None:
    """Defines the flags and runs `main`; an override of an unknown field ends in one line."""
    try:
        define_flags()  # looks overrides up where the config is the default one
    except _NO_SUCH_FIELD as error:
        _exit(InputError(_override_mistake(sys.argv) or f"--config: {error}"))
    app.run(main, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except _NO_SUCH_FIELD as error:
        _exit(InputError(_override_mistake(argv) or f"--config: {error}"))


def _override_mistake(argv: list[str]) -> str | None:
    """Names the first override of a field that the config lacks, and the nearest right field."""
    config = _load(argv)
    for argument in argv[1:]:
        found = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        section, place = config, "config"
        for name in found[1].split(".") if found else ():
            if not isinstance(section, ml_collections.ConfigDict):
                return f"{argument}: {place} is a value, and has no fields."
            if name not in section:
                near = difflib.get_close_matches(name, section.keys(), n=1)
                hint = f"Did you mean {place}.{near[0]}?" if near else (
                    f"It has: {', '.join(section.keys())}."
                )  # fmt: skip
                return f"{argument}: {place} has no field {name}. {hint}"
            section, place = section[name], f"{place}.{name}"
    return None


def _load(argv: list[str]) -> ml_collections.ConfigDict:
    """The config without overrides."""
    files = [_DEFAULT_CONFIG]
    for argument, following in zip(argv, [*argv[1:], ""]):
        if found := re.fullmatch(r"--?config(?:=(.*))?", argument):
            files.append(following if found[1] is None else found[1])
    file = files[-1]
    alone = flags.FlagValues()
    config_flags.DEFINE_config_file("config", file, flag_values=alone, sys_argv=[])
    alone([argv[0]])
    return alone.config


def _config() -> ml_collections.ConfigDict:
    try:
        return flags.FLAGS.config.lock()
    except OSError as error:  # the file could not be loaded; its first use tells why
        raise InputError(f"--config: {error} {_configs_at_hand()}") from error


def _configs_at_hand() -> str:
    folder = pathlib.Path(configs.__path__[0])
    names = sorted(file.stem for file in folder.glob("[!_]*.py"))
    return f"The configs of this package, in {folder}: {', '.join(names)}."


def _exit(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    start()
