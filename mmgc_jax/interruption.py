"""Stopping when asked: a signal is noted, and loops look for it where nothing is lost.

Main begins to listen; loops ask between steps, write down what they have, and raise. Where several
processes train together, `asked` is where they will have to agree on the step at which they stop
(`jax.experimental.multihost_utils.reached_preemption_sync_point` does so).
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

# "Try again later" in BSD's sysexits.h, which nothing else here ends with.
EXIT_CODE = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_noted: list[signal.Signals] = []


class Interrupted(BaseException):
    """The process was asked to stop, and what was done is kept.

    Like KeyboardInterrupt no Exception, so that no library takes it for a failure of its own.
    """


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within it, SIGTERM and SIGINT are noted and do not end the process.

    A second SIGINT ends it at once, as people expect who press Ctrl-C again.
    """

    def note(number, frame):
        _noted.append(signal.Signals(number))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        _noted.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def asked() -> bool:
    """Whether the process was asked to stop."""
    return bool(_noted)


def raise_if_asked() -> None:
    """Stops here, where all that was done is kept.

    Raises:
      Interrupted: if the process was asked to stop.
    """
    if _noted:
        raise Interrupted(f"Stopped by {_noted[0].name}; what was done is kept.")


def leave_to_parent(*_) -> None:
    """Lets a worker process end with the process that started it, and not before.

    Ctrl-C and schedulers signal all processes at once; workers go on until the step in flight is
    done. Of a parent that was killed they would never hear.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
