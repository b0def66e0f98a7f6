"""Exceptions: a person's mistake, the failure of another process, and a stop that was requested."""


class InputError(ValueError):
    """Something that was given is wrong: a file, a row, a flag, a working directory.

    Its message says what is wrong, where, and what to do. The command lines print it without a
    traceback and exit with status 2.
    """

    def __init__(self, message: str):
        """Control characters, as a quoted file may contain, are escaped as in Python's `repr`."""
        shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
        super().__init__("".join(shown))


class PeerFailed(RuntimeError):
    """Another process of the run has failed, and this one depends on it."""


class Interrupted(BaseException):
    """The run was asked to stop, and finished work is kept.

    Like KeyboardInterrupt no Exception, so that libraries do not handle it as an error.
    """
