"""How much memory a process took; it imports nothing that takes some itself."""

import pathlib
import re
import resource


def peak_mb() -> float:
    """The largest resident memory of this process, in 10^6 bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux
        # Unlike ru_maxrss, it does not count what the parent process had in use at the start.
        kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    else:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e6
