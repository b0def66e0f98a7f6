"""Measures the peak memory of a process. Imports only small modules, which take little memory."""

import pathlib
import re
import resource
import sys


def peak_mb() -> float:
    """Returns the peak resident memory of this process so far, in 10^6 bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux
        # Unlike ru_maxrss, this does not include memory of the parent process at the start.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
