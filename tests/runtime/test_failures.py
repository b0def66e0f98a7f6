"""Tests that two processes end together if one of them fails, stops or is killed."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
RUN = """
import os, signal, sys, time
import jax, numpy as np
from jax.experimental import multihost_utils
from mmgc_jax.runtime import failures, parallel
from mmgc_jax.runtime.errors import InputError, Interrupted

failures._SECONDS_TO_STOP = 3.0

def collective(number):
    multihost_utils.process_allgather(np.full(1000, number))
    print("together", number, flush=True)

def main(number):
{story}

parallel.initialize()
try:
    with failures.ending_together():
        main(jax.process_index())
except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(75)
print("finished", flush=True)
"""


def run(story: str, seconds: float = 30) -> list[tuple[int, str, str]]:
    """Runs two processes; returns the exit status, stdout and stderr of each.

    Args:
      story: Python code that each process runs; its index is `number`.
      seconds: time within which the other process must end after the first one has ended.
    """
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    code = RUN.format(story="\n".join(f"    {line}" for line in story.strip().splitlines()))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {
                "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number),
            },
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.1)
        written = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, written, strict=True)]


def test_without_a_failure_both_processes_finish():
    for number, (status, printed, errors) in enumerate(run("collective(number)")):
        assert status == 0 and printed.endswith(f"together {number}\nfinished\n"), errors


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_in_the_middle_of_a_computation_ends_both(failing):
    ended = run(f"""
collective(number)
if number == {failing}:
    time.sleep(2)  # the other process waits in the next collective
    raise InputError("movies.csv, row 7: no genre.")
collective(number)
""")
    assert [status for status, *_ in ended] == [2, 2], ended
    assert ended[failing][2].count("error: movies.csv, row 7: no genre.") == 1
    assert f"error: process {failing}: movies.csv, row 7: no genre." in ended[1 - failing][2]
    assert not any("Traceback" in errors or "finished" in printed for _, printed, errors in ended)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_other_exceptions_are_shown_with_their_traceback_and_end_with_1(failing):
    ended = run(f"""
if number == {failing}:
    raise KeyError("a bug")
time.sleep(600)  # like a computation without collectives
""")
    assert [status for status, *_ in ended] == [1, 1], ended
    assert re.search(r"Traceback[^\0]*\nKeyError: 'a bug'", ended[failing][2])
    assert ended[1 - failing][2].endswith(f"error: process {failing}: KeyError: 'a bug'\n")


@pytest.mark.slow
def test_both_processes_show_the_first_of_two_errors():
    ended = run("""
failures._POLL_SECONDS = 5.0
if number == 0:
    time.sleep(2)
    raise ValueError("the second")
raise ValueError("the first")
""")
    assert [status for status, *_ in ended] == [1, 1], ended
    assert all("ValueError: the first" in errors for *_, errors in ended), ended


def test_a_failure_in_first_process_first_is_shown_by_both():
    ended = run("""
with parallel.first_process_first():
    if number == 0:
        raise InputError("no such folder.")
""")
    assert [status for status, *_ in ended] == [2, 2], ended
    assert "error: no such folder." in ended[0][2]
    assert ended[1][2].endswith("error: process 0: no such folder.\n")
    assert "Traceback" not in ended[0][2] + ended[1][2]


@pytest.mark.slow
def test_a_failure_after_the_other_process_has_finished_ends_both():
    ended = run("""
if number == 0:
    time.sleep(3)
    raise InputError("the report cannot be written.")
""")
    assert [status for status, *_ in ended] == [2, 2], ended
    assert "error: process 0: the report cannot be written." in ended[1][2]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("waits", ["collective(number)", "time.sleep(600)"])
def test_a_process_that_is_killed_ends_the_other(killed, waits):
    ended = run(f"""
collective(number)
if number == {killed}:
    os.kill(os.getpid(), signal.SIGKILL)
{waits}
""", seconds=60)  # fmt: skip
    assert ended[killed][0] == -signal.SIGKILL
    assert ended[1 - killed][0] not in (0, -signal.SIGKILL), ended
    assert ended[1 - killed][2], "there is an error message"


def test_both_processes_stop_by_themselves():
    ended = run("""
collective(number)
time.sleep(number)
raise Interrupted("Stopped by SIGTERM.")
""")
    assert [(status, errors) for status, _, errors in ended] == [(75, "Stopped by SIGTERM.\n")] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stop_of_one_process_ends_the_other_with_the_status_of_a_stop(stopped):
    ended = run(f"""
if number == {stopped}:
    raise Interrupted("Stopped by SIGTERM.")
time.sleep(600)
""")
    assert [status for status, *_ in ended] == [75, 75], ended
    assert f"process {stopped}: Stopped by SIGTERM." in ended[1 - stopped][2]
