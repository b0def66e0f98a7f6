"""Stops on SIGTERM and SIGINT at points where no work is lost.

`main` listens for the signals. Loops ask between steps, save what they have, and raise. The
processes of a run ask together, so that all stop at the same step.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import Interrupted

# EX_TEMPFAIL, "try again later", of BSD's sysexits.h; no other exit here has it.
EXIT_CODE = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: list[signal.Signals] = []


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Records SIGTERM and SIGINT, which then do not end the process.

    A SIGINT after the first signal does, since a second Ctrl-C means at once.
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
    """Whether any process of the run was asked to stop; a collective."""
    return parallel.any_of(bool(_received))


def raise_if_requested() -> None:
    """Stops the run here if it was asked to stop; a collective.

    Raises:
      Interrupted: if any process was asked to stop.
    """
    if requested():
        raise _interrupted()


def raise_if_requested_locally() -> None:
    """As `raise_if_requested`, of this process alone: for code that not every process runs."""
    if _received:
        raise _interrupted()


def _interrupted() -> Interrupted:
    why = f"by {_received[0].name}" if _received else "with another process"
    return Interrupted(f"Stopped {why}; what was done is kept.")


def follow_parent(*_) -> None:
    """Makes a worker process end when its parent does; an initializer for worker processes.

    Ctrl-C and schedulers signal workers too, but the parent needs them until its step is done. And
    without this they would outlive a parent that was killed.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
