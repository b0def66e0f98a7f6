"""Stopping when asked: a signal is noted, and loops look for it where nothing is lost.

Main begins to listen; loops ask between steps, write down what they have, and raise. Processes that
train together agree, so that all stop at the same step.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import Interrupted

# "Try again later" in BSD's sysexits.h, which nothing else here ends with.
EXIT_CODE = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: list[signal.Signals] = []


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within it, SIGTERM and SIGINT are noted and do not end the process.

    A second SIGINT ends it at once, as people expect who press Ctrl-C again.
    """

    def note(number, frame):
        _received.append(signal.Signals(number))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def requested() -> bool:
    """Whether a process of the run was asked to stop; all of them must call this."""
    return parallel.any_of(bool(_received))


def raise_if_requested() -> None:
    """Stops here, where all that was done is kept; all processes of the run must call this.

    Raises:
      Interrupted: if one of them was asked to stop.
    """
    if requested():
        raise _interrupted()


def raise_if_requested_locally() -> None:
    """As `raise_if_requested`, in what one process does while others wait for it or go on."""
    if _received:
        raise _interrupted()


def _interrupted() -> Interrupted:
    why = f"by {_received[0].name}" if _received else "with another process"
    return Interrupted(f"Stopped {why}; what was done is kept.")


def follow_parent(*_) -> None:
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
