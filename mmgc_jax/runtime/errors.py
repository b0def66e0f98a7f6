"""Exceptions for invalid input, failures of other processes and requested stops."""


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
