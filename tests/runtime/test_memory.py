"""Freed memory stays in the process."""

import subprocess
import sys

import pytest

_PAGE_FAULTS = """
import ctypes, resource, sys
from mmgc_jax.runtime import memory

if sys.argv[1] == "keep" and not memory.keep_freed():
    sys.exit("no mallopt")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
for repetition in range(11):
    block = libc.malloc(256 << 20)
    ctypes.memset(block, 1, 256 << 20)
    libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if repetition == 0:
        first = faults
print(faults - first)
"""


def _faults(mode: str) -> int:
    """Counts the pages that the system provides when 256 MiB are allocated ten times more."""
    result = subprocess.run(
        [sys.executable, "-c", _PAGE_FAULTS, mode], capture_output=True, text=True
    )
    if "no mallopt" in result.stderr:
        pytest.skip("the C library has no mallopt")
    assert not result.returncode, result.stderr
    return int(result.stdout)


def test_large_blocks_are_not_fetched_from_the_system_again():
    assert _faults("keep") < 1000  # 655,360 pages of 4 KiB without huge pages
    assert _faults("return") > 1000
