r"""Runs an experiment: trains all encoders and their fusion, and evaluates them.

    mmgc train --workdir=runs/demo
    mmgc train --config=talk --workdir=runs/talk \
        --config.data.path=FOLDER --config.poster.weights=vgg16.npz
    mmgc train --config=my_config.py --workdir=runs/mine
    mmgc train --config=talk --help_config

Without --config, the demo runs, which needs no files. Any field of a config can be set, as in
--config.plot.training.epochs=3; --help_config lists all fields. A run that was stopped by Ctrl-C or
SIGTERM continues where it stopped when the same command is given again. `mmgc train` and
`python -m mmgc_jax.main` are the same.
"""

import logging
import shlex
from collections.abc import Sequence

from absl import flags

from mmgc_jax import command_line

logger = logging.getLogger("mmgc_jax")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder for all files of the run; made if it does not exist. It may be in a bucket: "
        "gs://bucket/folder. Required, except with --help_config.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "config",
        "demo",
        "The experiment: name of a config of this package, or path of a Python file with a "
        "function get_config.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "help_config",
        False,
        "Whether to list all fields of the config, with their values and meanings, and to exit.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "report",
        True,
        "Whether to write report.html at the end, a page on the run; `mmgc report` writes it, too.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Whether this is one of several processes that run the experiment together, with the same "
        "--workdir. docs/scaling_out.md says how they find each other.",
        flag_values=values,
    )


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    for argument in arguments:
        # A misspelt --workdir is named as such, and not as missing.
        if argument.startswith("--") and not argument.startswith(("--config.", "--noconfig.")):
            command_line.parse(values, ["mmgc train", argument])
    if not values.help_config:
        command_line.require(values, ["workdir"])
    # Imported here, so that --help and wrong flags are answered at once.
    import jax

    from mmgc_jax import config_flag, experiment
    from mmgc_jax.pages import report
    from mmgc_jax.runtime import failures, parallel, preemption

    if values.help_config:
        print(config_flag.describe(config_flag.load(values.config, arguments, values)))
        return
    with preemption.listening():
        if values.distributed:
            parallel.initialize()
        with failures.ending_together():
            # All processes show warnings and errors, only the first one shows its progress.
            logger.setLevel(logging.INFO if parallel.is_first() else logging.WARNING)
            config = config_flag.load(values.config, arguments, values)
            logger.info("%d device(s): %s", jax.device_count(), jax.devices()[0].device_kind)
            experiment.run(config, values.workdir, _command(values, arguments))
            if values.report:
                report.after_training(values.workdir)


def _command(values: flags.FlagValues, arguments: Sequence[str]) -> str:
    """Returns a command line that does the same."""
    given = [values[name].serialize() for name in values if values[name].present]
    return shlex.join(["mmgc", "train", *given, *arguments])


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(
        __doc__, define_flags, main, argv, known_only=True, further_help=_config_summaries
    )


def _config_summaries() -> str:
    from mmgc_jax import config_flag

    return config_flag.summaries()


if __name__ == "__main__":
    start()
