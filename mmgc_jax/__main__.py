"""Runs a command: `mmgc train ...`, or `python -m mmgc_jax train ...`. Alone, it lists them."""

import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import did_you_mean


class Door(NamedTuple):
    """A command.

    Attributes:
      module: name of its module in this package, which has a function `start`.
      example: arguments, for the list of commands.
    """

    module: str
    example: str


DOORS = {
    "train": Door("main", "--workdir=runs/demo"),
    "predict": Door("predict", '--workdir=runs/demo --plot="..."'),
    "explain": Door("explain", '--workdir=runs/demo --plot="..."'),
    "serve": Door("serve", "--workdir=runs/demo"),
    "score": Door("score", "--workdir=runs/a --movies=test.csv"),
    "report": Door("report", "--workdir=runs/demo"),
    "compare": Door("compare", "runs/seed_0 runs/seed_1"),
    "export": Door("export", "--workdir=runs/a --output=model"),
}


def start(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names; None takes the arguments of the process."""
    command_line.make_output_safe()
    arguments = list(sys.argv if argv is None else argv)[1:]
    if not arguments or command_line.asks_for_help(["mmgc", arguments[0]]):
        try:
            print(_list(), flush=True)
        except BrokenPipeError:
            command_line.exit_if_nobody_reads()
            raise
        return
    name, *rest = arguments
    if name not in DOORS:
        hint = did_you_mean(name, DOORS) or f"Possible: {', '.join(DOORS)}."
        print(f"error: {name!r} is not a command. {hint}", file=sys.stderr)
        sys.exit(2)
    if not sys.flags.safe_path and "" not in sys.path:
        # As `python -m` does, so that configs and encoders in the current folder can be imported.
        sys.path.insert(0, "")
    module = importlib.import_module(f"mmgc_jax.{DOORS[name].module}")
    module.start([f"mmgc {name}", *rest])


def _list() -> str:
    """Returns a line for each command: its name, what it does, and an example."""
    lines = ["Movie genres from plots and posters. Commands:", ""]
    summaries = {name: _summary(door.module) for name, door in DOORS.items()}
    width = max(map(len, summaries.values()))
    for name, summary in summaries.items():
        lines.append(f"  {name:<9}{summary:<{width}}  mmgc {name} {DOORS[name].example}")
    lines += ["", "`mmgc COMMAND --help` shows more examples and all flags of a command."]
    return "\n".join(lines)


def _summary(module: str) -> str:
    """Returns the first sentence of a module's docstring, up to a colon, without importing it."""
    file = pathlib.Path(__file__).with_name(f"{module}.py")
    return command_line.summary_of(file).split(":")[0].rstrip(".")


if __name__ == "__main__":
    start()
