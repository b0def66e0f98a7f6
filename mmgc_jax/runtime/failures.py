"""Ends all processes of a run when one of them fails.

A process in a collective waits for the others forever, and JAX's shutdown waits for them too. So a
process that fails leaves a record in the key-value store of JAX's coordination service, which runs
in process 0. The others look for it once a second, show the first error, and exit. The service also
misses the heartbeats of a process that was killed, and JAX then aborts the others.
"""

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from mmgc_jax.runtime.errors import InputError, Interrupted, PeerFailed
from mmgc_jax.runtime.preemption import EXIT_CODE as _STOPPED

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_STOP = 30.0  # after another process has stopped, as a preemption wants it
_SECONDS_TO_END = 10.0  # for all to see a failure, before the first of them exits
_LONGEST_MESSAGE = 10_000  # characters


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes of a run when one of them fails; goes around the whole run.

    The process that fails prints its error, the others print it after the number of that process,
    and all exit at once: with status 2 for an InputError, otherwise 1. A run of one process is left
    alone.

    Raises:
      Interrupted: after all processes have stopped. Those that still wait for others after a
        timeout are ended, with the exit status of a stop.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    peers = _Peers()
    with peers.watched():
        try:
            yield
            multihost_utils.sync_global_devices("every process has finished its run")
        except Interrupted as stop:
            peers.stop(stop)
            raise
        except BaseException as error:
            peers.fail(error)


@dataclasses.dataclass(frozen=True)
class _Failure:
    """The first failure, or stop, of a run: of which process, its message, and the exit status."""

    process: int
    message: str
    status: int

    def __str__(self) -> str:
        return f"error: process {self.process}: {self.message}"


class _Peers:
    """What the processes of a run tell each other of their ends."""

    _FAILURE, _ENDED = "mmgc_jax/failure", "mmgc_jax/ended"

    def __init__(self):
        # Not public, but Orbax relies on it too; JAX has no other way to the key-value store.
        from jax._src import distributed

        self._client = distributed.global_state.client
        self._process, self._count = jax.process_index(), jax.process_count()
        self._over = threading.Event()
        # Taken, and never given back, by the thread that ends this process; the other one waits.
        self._ending = threading.Lock()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ends this process when another one has failed while this one is within."""
        watcher = threading.Thread(target=self._watch, name="peers", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._over.set()
            watcher.join(_SECONDS_BETWEEN_LOOKS)

    def fail(self, error: BaseException) -> NoReturn:
        """Leaves an error for the others, prints it, and ends this process."""
        self._ending.acquire()
        self._over.set()
        is_input_error = isinstance(error, InputError)
        message = f"{error}" if is_input_error else traceback.format_exception_only(error)[-1]
        own = _Failure(self._process, message.strip(), 2 if is_input_error else 1)
        first = self._leave(own, wait=isinstance(error, PeerFailed))
        if is_input_error:
            print(f"error: {error}", file=sys.stderr)
        elif first == own or not isinstance(error, PeerFailed):
            traceback.print_exception(error)
        if first != own:
            print(first, file=sys.stderr)
        self._exit(first.status)

    def stop(self, stop: Interrupted) -> None:
        """Leaves a stop for the others, and waits until they have stopped too."""
        self._ending.acquire()
        self._over.set()
        first = self._leave(_Failure(self._process, str(stop), _STOPPED))
        if first.status != _STOPPED:
            print(first, file=sys.stderr)
            self._exit(first.status)
        self._end("stops")
        ends = self._ends(_SECONDS_TO_STOP + _SECONDS_TO_END)
        if ends != ["stops"] * self._count:
            print(f"{stop} Not every process stopped by itself.", file=sys.stderr)
            self._exit(_STOPPED)

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                failure = self._first()
            except jax.errors.JaxRuntimeError as error:
                failure = _Failure(0, f"does not answer any more: {error}", 1)
            if failure is None:
                continue
            # In a stop of all processes each arrives by itself, after its checkpoint.
            if failure.status == _STOPPED and self._over.wait(_SECONDS_TO_STOP):
                return
            self._ending.acquire()
            print(failure, file=sys.stderr)
            self._exit(failure.status)

    def _first(self) -> _Failure | None:
        for _, record in self._client.key_value_dir_get(self._FAILURE):
            return _Failure(**json.loads(record))
        return None

    def _leave(self, own: _Failure, wait: bool = False) -> _Failure:
        """Leaves a failure if it is the first one; returns the first one.

        Args:
          own: the failure of this process.
          wait: whether that of another process comes first, and is waited for.
        """
        deadline = time.monotonic() + (_SECONDS_TO_END if wait else 0)
        try:
            while (first := self._first()) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            if first is not None:
                return first
            short = dataclasses.replace(own, message=own.message[:_LONGEST_MESSAGE])
            record = json.dumps(dataclasses.asdict(short))
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was faster
                self._client.key_value_set(f"{self._FAILURE}/first", record)
                return own
            return self._first() or own
        except jax.errors.JaxRuntimeError as error:
            print(f"error: process 0 does not answer any more: {error}", file=sys.stderr)
            return own

    def _end(self, how: str) -> None:
        """Leaves word that this process ends: "stops", as all do, or "exits" without the others."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has ended before
            self._client.key_value_set(f"{self._ENDED}/{self._process}", how, allow_overwrite=True)

    def _ends(self, seconds: float) -> list[str]:
        """Waits until all processes have left word that they end; returns the words."""
        deadline, words = time.monotonic() + seconds, []
        while len(words) < self._count and time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                words = [word for _, word in self._client.key_value_dir_get(self._ENDED)]
            except jax.errors.JaxRuntimeError:  # process 0 has ended
                break
        return words

    def _exit(self, status: int) -> NoReturn:
        """Exits at once: Python's exit would wait for threads, and JAX's for other processes."""
        self._end("exits")
        # Whoever went earlier would break a collective of the others, and show them a second error.
        self._ends(_SECONDS_TO_END)
        if self._process == 0:  # the others need its service a moment longer
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
