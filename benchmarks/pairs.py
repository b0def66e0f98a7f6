"""Times programs that take turns, so that other load on the machine affects all of them alike."""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence

from mmgc_jax.runtime import memory

# Limit for the setup of a worker, and for each run.
_TIMEOUT_SECONDS = 900


class Worker:
    """A workload in a separate process, which is set up once and timed repeatedly.

    Attributes:
      count: number of items in one run of the workload.
    """

    def __init__(self, work: str, **settings):
        """Starts the process and waits until the workload is set up.

        Args:
          work: `module:function`. The function sets up the workload and returns (run, count):
            `run()` does the work and waits until it is done, `count` is its number of items.
          settings: keyword arguments of the function.
        """
        self._name = work
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, work, settings), daemon=True)
        self._process.start()
        theirs.close()
        self.count = self._receive()

    def time(self) -> float:
        """Runs the workload; returns the time in seconds."""
        self._connection.send(None)
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(timeout=30)
        self._process.terminate()

    def _receive(self):
        if not self._connection.poll(_TIMEOUT_SECONDS):
            raise TimeoutError(f"{self._name} took more than {_TIMEOUT_SECONDS} s")
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self._name} ended; its output above says why") from None
        return answer


def _serve(connection, work: str, settings: dict) -> None:
    memory.keep_freed()  # as in an experiment; it helps both sides
    # Several processes share the GPU, but JAX would preallocate most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module, function = work.split(":")
    run, count = getattr(importlib.import_module(module), function)(**settings)
    run()  # compiles, and fills caches
    run()
    connection.send(count)
    with contextlib.suppress(EOFError):  # the other end is closed
        while True:
            connection.recv()
            start = time.perf_counter()
            run()
            connection.send(time.perf_counter() - start)


def measure(ours: tuple, peers: Mapping[str, tuple], pairs: int) -> dict:
    """Times a workload of ours and its peers, which take turns.

    Args:
      ours: (work, settings), the arguments of `Worker`.
      peers: (work, settings) of each peer, by name.
      pairs: number of timings of each workload.

    Returns:
      The result of `compare`.
    """
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, (work, settings) in {"ours": ours, **peers}.items():
            workers[name] = worker = Worker(work, **settings)
            stack.callback(worker.close)
        rates = {name: [] for name in workers}
        for _ in range(pairs):
            for name, worker in workers.items():
                rates[name].append(worker.count / worker.time())
    return compare(rates)


def compare(rates: Mapping[str, Sequence[float]]) -> dict:
    """Compares our rates with those of peers.

    Args:
      rates: the rates of each program in items per second, in the order of the timings, by its
        name; `ours` is the first.

    Returns:
      `ours`, our median rate, and `peers`, for each peer: `rate`, its median rate; `ratio`, the
      median over the pairs of timings of our rate / the peer's rate; `least` and `most`, the
      minimum and maximum of these ratios.
    """
    result = {"ours": statistics.median(rates["ours"]), "peers": {}}
    for name in list(rates)[1:]:
        ratios = [our / their for our, their in zip(rates["ours"], rates[name])]
        result["peers"][name] = {
            "rate": statistics.median(rates[name]),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    return result
