"""Writes report.html of a finished run anew: figures, genres, movies, and how it was made.

    mmgc report --workdir=runs/demo
    mmgc report --workdir=runs/demo --explained=200

`mmgc train` writes it at its end. It is one page that needs no network, of at most 5 MB, made from
the files of the working directory.
"""

from collections.abc import Sequence

from absl import flags

from mmgc_jax import command_line


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", None, "Working directory of a finished experiment.", flag_values=values
    )
    flags.DEFINE_integer(
        "explained",
        24,
        "Number of movies that are explained, with words and heat maps, at most. Each takes about "
        "half a second.",
        lower_bound=0,
        flag_values=values,
    )
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    # Imported here, so that --help and wrong flags are answered at once.
    from mmgc_jax.encoders import registry
    from mmgc_jax.pages import report
    from mmgc_jax.runtime.errors import InputError
    from mmgc_jax.runtime.files import as_path, relative_to_here

    command_line.cache_small_programs()
    registry.import_modules(values.encoder_modules)
    try:
        file = report.write(as_path(values.workdir), explained=values.explained)
    except OSError as error:
        raise InputError(f"{report.FILE} cannot be written: {error.strerror or error}.") from error
    print(f"Report:      {relative_to_here(file)}")


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir",))


if __name__ == "__main__":
    start()
