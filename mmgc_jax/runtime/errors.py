"""The exception that stands for a person's mistake rather than for ours, and that of a stop."""


class InputError(ValueError):
    """Something that was given is wrong: a file, a row, a flag, a working directory.

    Its message says what is wrong, where, and what to do. The command lines print it without a
    traceback and exit with status 2.
    """

    def __init__(self, message: str):
        """What a file holds may stand in it: control characters are shown as Python writes them."""
        shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
        super().__init__("".join(shown))


class Interrupted(BaseException):
    """The run was asked to stop, and what was done is kept.

    Like KeyboardInterrupt no Exception, so that no library takes it for a failure of its own.
    """
