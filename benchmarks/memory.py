"""Peak memory of a process. Imports only small modules, so as not to raise it."""

import pathlib
import re
import resource
import sys


def peak_mb() -> float:
    """Returns the largest resident memory of this process so far, in 10^6 bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux
        # Unlike ru_maxrss, it does not count what the parent process had in use at the start.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
