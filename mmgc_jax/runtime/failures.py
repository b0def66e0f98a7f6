"""Ends all processes of a run when one of them fails.

A collective waits forever for a process that has failed, and so does JAX's shutdown. Therefore a
failing process writes a record to the key-value store of JAX's coordination service, which runs in
process 0. The other processes poll for the record once a second, print the first error and exit. If
a process is killed, the service no longer receives its heartbeats, and JAX aborts the others.
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

_POLL_SECONDS = 1.0
_SECONDS_TO_STOP = 30.0  # for a process to stop by itself after another one has stopped
_SECONDS_TO_END = 10.0  # for all processes to see a failure before the first of them exits
_LONGEST_MESSAGE = 10_000  # characters


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes of a run when one of them fails; wrap the whole run in it.

    The failing process prints its error, the others print the same error with that process's
    number, and all exit: with status 2 for an `InputError`, otherwise with status 1. Has no effect
    in runs of one process.

    Raises:
      Interrupted: if the run was stopped, after all processes have stopped. If some have not
        stopped within a timeout, every process exits with the status of a stop instead.
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
    """The first failure or stop in a run.

    Attributes:
      process: index of the process that failed or stopped.
      message: its error message.
      status: the exit status of the run.
    """

    process: int
    message: str
    status: int

    def __str__(self) -> str:
        return f"error: process {self.process}: {self.message}"


class _Peers:
    """Shares failures and exits between the processes of a run.

    Records are in the key-value store of JAX's coordination service: the first failure or stop
    under `_FAILURE`, and how each process ends under `_ENDED`.
    """

    _FAILURE, _ENDED = "mmgc_jax/failure", "mmgc_jax/ended"

    def __init__(self):
        # Not public API, but Orbax uses it, too: there is no other access to the key-value store.
        from jax._src import distributed

        self._client = distributed.global_state.client
        self._process, self._count = jax.process_index(), jax.process_count()
        self._over = threading.Event()
        # The thread that ends this process acquires it and never releases it; others block.
        self._ending = threading.Lock()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Ends this process if another one fails while this one is in the block."""
        watcher = threading.Thread(target=self._watch, name="peers", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._over.set()
            watcher.join(_POLL_SECONDS)

    def fail(self, error: BaseException) -> NoReturn:
        """Records an error for the other processes, prints it, and ends this process."""
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
        """Records a stop for the other processes, and waits until they have stopped, too."""
        self._ending.acquire()
        self._over.set()
        first = self._leave(_Failure(self._process, str(stop), _STOPPED))
        if first.status != _STOPPED:
            print(first, file=sys.stderr)
            self._exit(first.status)
        self._end("stops")
        ends = self._ends(_SECONDS_TO_STOP + _SECONDS_TO_END)
        if ends != ["stops"] * self._count:
            print(f"{stop} Some processes did not stop in time.", file=sys.stderr)
            self._exit(_STOPPED)

    def _watch(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            try:
                failure = self._first()
            except jax.errors.JaxRuntimeError as error:
                failure = _Failure(0, f"no longer responds: {error}", 1)
            if failure is None:
                continue
            # When all processes are stopped, each one stops by itself after its checkpoint.
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
        """Records a failure unless there is a record already; returns the recorded failure.

        Args:
          own: the failure of this process.
          wait: whether to wait for the record of another process, because its failure is the
            cause of this one.
        """
        deadline = time.monotonic() + (_SECONDS_TO_END if wait else 0)
        try:
            while (first := self._first()) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            if first is not None:
                return first
            short = dataclasses.replace(own, message=own.message[:_LONGEST_MESSAGE])
            record = json.dumps(dataclasses.asdict(short))
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was faster
                self._client.key_value_set(f"{self._FAILURE}/first", record)
                return own
            return self._first() or own
        except jax.errors.JaxRuntimeError as error:
            print(f"error: process 0 no longer responds: {error}", file=sys.stderr)
            return own

    def _end(self, how: str) -> None:
        """Records how this process ends: "stops" with all others, or "exits" after a failure."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has already ended
            self._client.key_value_set(f"{self._ENDED}/{self._process}", how, allow_overwrite=True)

    def _ends(self, seconds: float) -> list[str]:
        """Waits until all processes have recorded how they end; returns the records."""
        deadline, records = time.monotonic() + seconds, []
        while len(records) < self._count and time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                records = [how for _, how in self._client.key_value_dir_get(self._ENDED)]
            except jax.errors.JaxRuntimeError:  # process 0 has ended
                break
        return records

    def _exit(self, status: int) -> NoReturn:
        """Exits without waiting for threads, as Python does, or for JAX's other processes."""
        self._end("exits")
        # An earlier exit would break collectives of other processes, which would then report that.
        self._ends(_SECONDS_TO_END)
        if self._process == 0:  # the others need its coordination service a moment longer
            time.sleep(_POLL_SECONDS)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
