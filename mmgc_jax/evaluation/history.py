"""Command, versions and times of a run, read from its `run.log`."""

import datetime
import importlib.metadata
import platform
import re
from typing import NamedTuple

import jax

from mmgc_jax.runtime.files import Path

_COMMAND, _VERSIONS = "Command: ", "Versions: "
_LIBRARIES = ("mmgc_jax", "jax", "flax", "optax", "numpy")
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ (.*)")
_MODEL = re.compile(r"(\w+): (starting|already finished)\.")
# Lines that a run begins with, also when it continues.
_BEGINNINGS = (_COMMAND, _VERSIONS, "Shards of movies")


class History(NamedTuple):
    """How a run came about.

    Attributes:
      commands: command lines of the run, the first one first; a run that continued has several, if
        they differ.
      versions: versions of Python and the main libraries, and the devices, of the last start.
      started: time of the first line, as in the log; empty if there is none.
      seconds: time of training of each model, without interruptions, by its name.
    """

    commands: tuple[str, ...]
    versions: str
    started: str
    seconds: dict[str, float]


def command_line(command: str) -> str:
    """Returns the line of the log that `read` finds the command by."""
    return f"{_COMMAND}{command}"


def versions_line() -> str:
    """Returns the line of the log with the versions of this process, and its devices."""
    found = [f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # a copy that was never installed
            continue
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{_VERSIONS}{', '.join(found)}; {platform.system()}, {devices}"


def read(workdir: Path) -> History:
    """Reads the log of a run; all is empty if there is none."""
    file = workdir / "run.log"
    commands, versions, started, seconds = {}, "", "", {}
    model = since = before = None
    text = file.read_bytes().decode("utf-8", "replace") if file.is_file() else ""
    for line in text.splitlines():
        if (parts := _LINE.match(line)) is None:
            continue  # a further line of a message
        now, message = datetime.datetime.fromisoformat(parts[1]), parts[2]
        started = started or parts[1]
        begins = _MODEL.match(message)
        again = message.startswith(_BEGINNINGS)
        if model is not None and (begins or again):
            end = before if again else now
            seconds[model] = seconds.get(model, 0.0) + (end - since).total_seconds()
            model = None
        if begins and begins[2] == "starting":
            model, since = begins[1], now
        if message.startswith(_COMMAND):
            commands[message.removeprefix(_COMMAND)] = None
        elif message.startswith(_VERSIONS):
            versions = message.removeprefix(_VERSIONS)
        before = now
    if model is not None:
        seconds[model] = seconds.get(model, 0.0) + (before - since).total_seconds()
    return History(tuple(commands), versions, started, seconds)
