"""Exceptions for invalid input, failures of other processes and requested stops."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for invalid input: a file, a row, a flag, a config field or a working directory.

    The message says what is wrong, where, and what to do. The command lines print it without a
    traceback and exit with status 2.
    """

    def __init__(self, message: str):
        """Escapes control characters, which a quoted file may contain, as Python's `repr` does."""
        shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
        super().__init__("".join(shown))


class PeerFailed(RuntimeError):
    """Raised when another process of the run has failed and this one depends on it."""


class Interrupted(BaseException):
    """Raised to stop a run on request; finished work is kept.

    Like KeyboardInterrupt, it is not an Exception, so that libraries do not handle it as an error.
    """


def nearest_names(name: str, choices: Iterable[str]) -> list[str]:
    """Returns the choice that is most like a name, or two that are about as like it, or none."""

    def likeness(choice: str) -> float:
        return difflib.SequenceMatcher(None, choice, name).ratio()

    near = difflib.get_close_matches(name, list(dict.fromkeys(choices)), n=2)
    return [choice for choice in near if likeness(choice) > likeness(near[0]) - 0.1]


def did_you_mean(name: str, choices: Iterable[str], form: str = "{}") -> str:
    """Asks whether a wrong name was meant to be the choice that is most like it.

    >>> did_you_mean("plto", ["plot", "poster"], "--{}")
    'Did you mean --plot?'

    Args:
      name: the wrong name.
      choices: the right ones.
      form: a format string for a choice.

    Returns:
      The question; empty if no choice is like the name.
    """
    near = nearest_names(name, choices)
    return f"Did you mean {' or '.join(map(form.format, near))}?" if near else ""
