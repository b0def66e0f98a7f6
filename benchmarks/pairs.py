"""Paired timings: programs run in turn, so that other load on the machine affects all alike."""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping

# Of a worker's set-up and of each run.
_TIMEOUT_SECONDS = 900


class Worker:
    """A workload in a process of its own, which is set up one time and timed repeatedly."""

    def __init__(self, work: str, **settings):
        """Starts the process and waits until the workload is set up.

        Args:
          work: `module:function`; the function sets the workload up and returns (run, count):
            `run()` does the work and waits for its end, `count` is the number of items in it.
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
        """Runs the workload; returns seconds."""
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
    # Several processes share a GPU, of which JAX would preallocate most of the memory.
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
    """Times a workload of ours and those of its peers in turn.

    Args:
      ours: (work, settings) as of `Worker`.
      peers: by name, likewise.
      pairs: number of timings of each.

    Returns:
      `ours`, the median of items per second; and for each peer, in `peers`, `rate`, likewise;
      `ratio`, the median of ours over theirs in each pair; `least` and `most`, the extremes of the
      pairs' ratios.
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
    result = {"ours": statistics.median(rates["ours"]), "peers": {}}
    for name in peers:
        ratios = [our / their for our, their in zip(rates["ours"], rates[name])]
        result["peers"][name] = {
            "rate": statistics.median(rates[name]),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    return result
