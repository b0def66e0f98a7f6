"""Runs an experiment: python -m mmgc_jax.main --config=configs/talk.py --workdir=runs/talk

Any field of the config can be overridden: --config.data.path=FOLDER. Run again with the same
working directory, it continues where it stopped. SIGTERM and Ctrl-C stop it, and nothing is lost.
"""

import logging
import pathlib
import shlex
import sys

import jax
import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmgc_jax import configs, experiment
from mmgc_jax.runtime import parallel, preemption
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import cache_folder_or_none

logger = logging.getLogger("mmgc_jax")


def define_flags() -> None:
    """Defines all flags; overrides of the config's fields are looked up here too."""
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
        str(pathlib.Path(configs.__path__[0]) / "demo.py"),
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
            with parallel.ending_together():
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
    """Keeps compiled programs for later runs, unless the person has said where they are kept."""
    if jax.config.jax_compilation_cache_dir is None and (folder := cache_folder_or_none()):
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def _config() -> ml_collections.ConfigDict:
    try:
        return flags.FLAGS.config.lock()
    except OSError as error:  # the file could not be loaded; its first use tells why
        raise InputError(f"--config: {error}") from error


def _exit(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    define_flags()
    app.run(main)
