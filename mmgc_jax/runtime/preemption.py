"""Stops a run on SIGTERM or SIGINT without losing work.

`main` installs handlers that record the signals. Loops check between steps whether a stop was
requested; if so, they save their state and raise `Interrupted`. The check is a collective, so all
processes stop at the same step.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import Interrupted

# EX_TEMPFAIL ("try again later") of BSD's sysexits.h; used for nothing else here.
EXIT_CODE = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: list[signal.Signals] = []


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Records SIGTERM and SIGINT in the block instead of ending the process.

    After the first signal, SIGINT ends the process as usual, so that a second Ctrl-C stops it at
    once.
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
    """Returns whether any process of the run has received a stop signal; a collective."""
    return parallel.any_of(bool(_received))


def raise_if_requested() -> None:
    """Raises `Interrupted` if a stop was requested; a collective.

    Raises:
      Interrupted: if any process of the run has received a stop signal.
    """
    if requested():
        raise _interrupted()


def raise_if_requested_locally() -> None:
    """Raises `Interrupted` if this process has received a stop signal; not a collective.

    Use it in code that not every process runs.

    Raises:
      Interrupted: if this process has received a stop signal.
    """
    if _received:
        raise _interrupted()


def _interrupted() -> Interrupted:
    how = f"by {_received[0].name}" if _received else "together with another process"
    return Interrupted(f"Stopped {how}; finished work is kept.")


def follow_parent(*_) -> None:
    """Makes a worker process end when its parent ends; an initializer for worker processes.

    Workers ignore stop signals, because the parent needs their batches to finish its step. They
    watch the parent process instead, so that they do not outlive a parent that is killed.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
