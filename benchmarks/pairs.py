"""Timings of programs in turn, so that what else the machine does falls on all of them alike."""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping

# A worker that is silent for longer is given up, in seconds.
_PATIENCE = 900


class Worker:
    """A piece of work in a process of its own, ready to be timed again and again."""

    def __init__(self, work: str, **settings):
        """Starts the process.

        Args:
          work: `module:function`; the function makes everything ready and returns (run, count):
            `run()` does the work once and returns when it is done, and `count` says how many items
            that are.
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
        """Does the work once; returns seconds."""
        self._connection.send(None)
        return self._receive()

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=30)
        self._process.terminate()

    def _receive(self):
        if not self._connection.poll(_PATIENCE):
            raise TimeoutError(f"{self._name} took more than {_PATIENCE} s")
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self._name} ended; what it printed says why") from None
        return answer


def _serve(connection, work: str, settings: dict) -> None:
    # Several processes share a GPU here; JAX would take most of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module, function = work.split(":")
    run, count = getattr(importlib.import_module(module), function)(**settings)
    run()  # compiles, and fills caches
    run()
    connection.send(count)
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            connection.recv()
            start = time.perf_counter()
            run()
            connection.send(time.perf_counter() - start)


def measure(ours: tuple, peers: Mapping[str, tuple], pairs: int) -> dict:
    """Times our work and that of each peer in turn.

    Args:
      ours: (work, settings) as of `Worker`.
      peers: by name, likewise.
      pairs: how often.

    Returns:
      `ours`, items per second (median); and for each peer, under `peers`, `rate` likewise, `ratio`,
      the median of ours over theirs in each pair, and `least` and `most` of these ratios.
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
