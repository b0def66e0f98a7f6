"""Tests that stop signals are recorded, and that a second Ctrl-C ends the process at once."""

import os
import signal
import subprocess
import sys

import pytest

from mmgc_jax.runtime import preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_recorded_and_does_not_end_the_process(number):
    before = signal.getsignal(number)
    with preemption.listening():
        assert not preemption.requested()
        preemption.raise_if_requested()
        os.kill(os.getpid(), number)
        assert preemption.requested()
        with pytest.raises(preemption.Interrupted, match=f"^Stopped by {number.name}"):
            preemption.raise_if_requested()
    assert not preemption.requested()
    assert signal.getsignal(number) == before


def test_interrupted_is_not_an_exception_that_libraries_handle():
    assert not issubclass(preemption.Interrupted, Exception)


def run(code: str, **options) -> subprocess.CompletedProcess:
    lines = ["import os, signal, sys, time", "from mmgc_jax.runtime import preemption", code]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, **options
    )


def test_a_second_ctrl_c_ends_the_process_at_once():
    finished = run("""
with preemption.listening():
    for times in (1, 2):
        os.kill(os.getpid(), signal.SIGINT)
        print(times, flush=True)
""")
    assert finished.stdout == "1\n"
    assert finished.returncode == -signal.SIGINT


def test_a_worker_ignores_signals_and_ends_with_its_parent():
    code = """
import multiprocessing

def work(pipe):
    preemption.follow_parent(0, 1)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    pipe.send("still running")
    time.sleep(60)
    print("never printed", flush=True)

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("fork").Process(target=work, args=(theirs,)).start()
    print(ours.recv(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    # `run` returns when all processes that can write to the pipe have ended, including the worker.
    finished = run(code, timeout=30)
    assert finished.stdout == "still running\n"
    assert finished.returncode == -signal.SIGKILL
