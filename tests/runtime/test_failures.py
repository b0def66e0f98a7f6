"""Two processes, of which one fails, stops or is killed, end together."""

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
    """Runs two processes; returns the exit status of each, and what it wrote.

    Args:
      story: Python of what each does, from its `number`.
      seconds: within which all must end after the first has.
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


def test_without_a_failure_both_finish():
    for number, (status, printed, errors) in enumerate(run("collective(number)")):
        assert status == 0 and printed.endswith(f"together {number}\nfinished\n"), errors


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_the_middle_of_a_computation_ends_both(failing):
    ended = run(f"""
collective(number)
if number == {failing}:
    time.sleep(2)  # while the other waits in the next collective
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
time.sleep(600)  # as in a computation without the other
""")
    assert [status for status, *_ in ended] == [1, 1], ended
    assert re.search(r"Traceback[^\0]*\nKeyError: 'a bug'", ended[failing][2])
    assert ended[1 - failing][2].endswith(f"error: process {failing}: KeyError: 'a bug'\n")


@pytest.mark.slow
def test_of_two_errors_both_show_the_first():
    ended = run("""
failures._SECONDS_BETWEEN_LOOKS = 5.0
if number == 0:
    time.sleep(2)
    raise ValueError("the second")
raise ValueError("the first")
""")
    assert [status for status, *_ in ended] == [1, 1], ended
    assert all("ValueError: the first" in errors for *_, errors in ended), ended


def test_a_failure_of_what_process_0_does_first_is_shown_by_both():
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
def test_a_failure_after_the_other_has_finished_ends_both():
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
    assert ended[1 - killed][2], "it says why it ends"


def test_a_stop_of_both_is_left_to_them():
    ended = run("""
collective(number)
time.sleep(number)
raise Interrupted("Stopped by SIGTERM.")
""")
    assert [(status, errors) for status, _, errors in ended] == [(75, "Stopped by SIGTERM.\n")] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stop_of_one_process_alone_ends_the_other_with_the_status_of_a_stop(stopped):
    ended = run(f"""
if number == {stopped}:
    raise Interrupted("Stopped by SIGTERM.")
time.sleep(600)
""")
    assert [status for status, *_ in ended] == [75, 75], ended
    assert f"process {stopped}: Stopped by SIGTERM." in ended[1 - stopped][2]
