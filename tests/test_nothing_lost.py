"""Tests of experiments that are killed or stopped, that fill the disk, or whose files are damaged.

Each experiment runs in its own process, forked from one that has already imported all modules.
"""

import functools
import logging
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mmgc_jax import experiment, main
from mmgc_jax.data import builder, pipeline
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_text
from mmgc_jax.runtime.locks import exclusive
from mmgc_jax.training import checkpoints, loop
from mmgc_jax.training.logging import TrainingLog
from mmgc_jax.training.run import TrainingRun
from tests import tiny, tiny_bert
from tests.training import linear_problem

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def live(arguments, log, prepare):
    """Runs the command of `tiny.command` in this process, after `prepare()`; logs to a file."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(tiny.ROOT)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if prepare is not None:
        prepare()
    sys.argv = arguments[2:]
    main.start()


def run(workdir, inputs, *further, prepare=None, **settings) -> int:
    """Runs an experiment in another process; returns its exit code. `output_of` has its output."""
    command = [*tiny.command(workdir, *inputs, *further, **settings), "--noreport"]
    arguments = (command, f"{workdir}.log", prepare)
    process = _CONTEXT.Process(target=live, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def output_of(workdir) -> str:
    """Returns the output of all runs in a working directory."""
    return workdir.with_name(f"{workdir.name}.log").read_text()


def tables(workdir) -> list[bytes]:
    return [(workdir / name).read_bytes() for name in ("results.json", "results.txt")]


class Sender(logging.Handler):
    """Sends this process a signal when a message with a given beginning is logged."""

    def __init__(self, line: str, number: int):
        super().__init__()
        self._line, self._number = line, number

    def emit(self, record):
        if record.getMessage().startswith(self._line):
            os.kill(os.getpid(), self._number)


def send_at(line: str, number: int):
    logging.getLogger("mmgc_jax").addHandler(Sender(line, number))


EVERYTHING = "tests/tiny_everything.py"
MOMENTS = [
    ("Shards of movies", signal.SIGTERM),
    ("Word2Vec: training", signal.SIGTERM),
    ("plot/fold_0: epoch 2", signal.SIGKILL),
    ("plot/fold_1: epoch 1", signal.SIGINT),
    ("plot_bag_of_words: starting", signal.SIGTERM),
    ("Computing activations of frozen layers", signal.SIGTERM),
    ("plot_transformer/fold_0/head: epoch 2", signal.SIGKILL),
    ("plot_transformer/fold_0: epoch 2", signal.SIGKILL),
    ("poster/fold_0/head: epoch 2", signal.SIGKILL),
    ("poster/fold_0: epoch 2", signal.SIGKILL),
    ("poster/fold_1: epoch 2", signal.SIGTERM),  # the stop is noticed during inference
    ("fusion/fold_0: epoch 3", signal.SIGKILL),
    ("fusion_joint/fold_0: epoch 2", signal.SIGKILL),
]


@pytest.mark.slow
def test_an_experiment_stopped_in_every_step_has_exactly_the_same_result(inputs, tmp_path):
    folder = tiny_bert.write(tmp_path / "bert", positions=64)
    arguments = (inputs, f"--config.plot_transformer.folder={folder}")
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert run(undisturbed, *arguments, config=EVERYTHING) == 0, output_of(undisturbed)
    stop_often_and_end(stopped, *arguments)
    assert_equal(stopped, undisturbed)


def stop_often_and_end(stopped, *arguments):
    for line, number in MOMENTS:
        send = functools.partial(send_at, line, number)
        expected = -number if number == signal.SIGKILL else 75
        code = run(stopped, *arguments, prepare=send, config=EVERYTHING)
        assert code == expected, (line, output_of(stopped))
        assert not (stopped / "results.json").exists()
        if expected == 75:
            *_, stop, command = output_of(stopped).splitlines()
            assert stop.startswith(f"Stopped by {number.name}; finished work is kept.")
            assert f"--workdir={stopped}" in command
    # With worker processes that prepare batches, which must not change the result.
    last = run(stopped, *arguments, "--config.data.workers=2", config=EVERYTHING)
    assert last == 0, output_of(stopped)


def assert_equal(stopped, undisturbed):
    """Asserts that results, predictions and trained parameters are exactly equal."""
    assert tables(stopped) == tables(undisturbed)
    for file in undisturbed.glob("predictions/*.npz"):
        with np.load(file) as one, np.load(stopped / "predictions" / file.name) as other:
            jax.tree.map(np.testing.assert_array_equal, dict(one), dict(other))
    kept = list(undisturbed.rglob("trained"))
    assert len(kept) == 2 + 2 * 2 + 2 * 2 + 2 + 2 + 2
    for directory in kept:
        one = checkpoints.restore(directory)
        other = checkpoints.restore(stopped / directory.relative_to(undisturbed))
        jax.tree.map(np.testing.assert_array_equal, one, other)


QUICK = (
    "--config.encoders=('plot', 'poster')",
    "--config.poster.finetune_from=head",
    "--config.fusion.training.epochs=3",
)
KILLS = 10


def kill_at(number: int, seconds: float, workdir):
    """Kills this process, some seconds after its file operation in a folder with this number."""
    left = iter(range(number))

    def look(event, arguments):
        touches = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if touches and str(arguments[0]).startswith(str(workdir)) and next(left, None) is None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


@pytest.mark.slow
def test_an_experiment_killed_at_random_moments_has_the_same_result(inputs, tmp_path):
    rng = np.random.default_rng(0)
    assert run(tmp_path / "undisturbed", inputs, *QUICK) == 0
    workdir = tmp_path / "killed"
    for _ in range(KILLS):
        kill = functools.partial(kill_at, rng.integers(5, 400), rng.choice([0, 0.01]), workdir)
        code = run(workdir, inputs, *QUICK, prepare=kill)
        assert code in (0, -signal.SIGKILL), output_of(workdir)
    assert run(workdir, inputs, *QUICK) == 0, output_of(workdir)
    assert tables(workdir) == tables(tmp_path / "undisturbed")
    assert not [path for path in workdir.rglob("*") if "checkpoint-tmp" in path.name]


@pytest.mark.slow
def test_resuming_with_worker_processes_gives_the_same_result(tmp_path):
    """The training is killed within an epoch, while workers prepare its batches."""
    for workdir, workers, kill_at_step in (("none", 0, None), ("two", 2, 7), ("two", 2, None)):
        process = _CONTEXT.Process(target=fit, args=(tmp_path / workdir, workers, kill_at_step))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if kill_at_step else 0)
    linear_problem.assert_same(*(linear_problem.trained(tmp_path / w) for w in ("none", "two")))


def fit(workdir, workers, kill_at_step):
    """Trains `linear_problem` for 15 steps, with a checkpoint after every third step."""
    steps_done = TrainingLog.steps_done

    def report_or_die(log, step, metrics):
        steps_done(log, step, metrics)
        if step == kill_at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingLog.steps_done = report_or_die
    workdir.mkdir(exist_ok=True)
    loop.fit(
        TrainingRun("fusion", workdir, seed=7, workers=workers),
        linear_problem.apply,
        linear_problem.PARAMS,
        linear_problem.batches(3),
        linear_problem.settings(log_every=1, checkpoint_every=3),
    )


def test_the_error_for_a_working_directory_in_use_names_the_process(inputs, tmp_path):
    process = _CONTEXT.Process(target=hold, args=(tmp_path / "run", ready := _CONTEXT.Event()))
    process.start()
    assert ready.wait(60)
    in_use = rf"run is in use: process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d "
    with pytest.raises(InputError, match=in_use):
        experiment.run(tiny.config_of(inputs), tmp_path / "run")
    process.kill()
    process.join()
    with exclusive(tmp_path / "run"):
        pass


def hold(folder, ready):
    with exclusive(folder):
        ready.set()
        time.sleep(60)


def test_a_working_directory_that_cannot_be_written_is_an_error(inputs, tmp_path):
    write_text(tmp_path / "file", "no folder")
    with pytest.raises(InputError, match=r"file/run cannot be written to: .*Not a directory"):
        experiment.run(tiny.config_of(inputs), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write [os_error_code='28']"),
        OSError(30, "Read-only file system"),
    ],
)
def test_a_full_disk_is_an_input_error(inputs, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(builder, "build", fail)
    with pytest.raises(
        InputError, match=r"^(No space|Read-only).*: .*run or config.data.directory"
    ):
        experiment.run(tiny.config_of(inputs), tmp_path / "run")


# Runs on a small disk and on a read-only disk, mounted in a namespace of this process only.
MOUNT = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
FILL = """
mount -t tmpfs -o size=6m tmpfs {disk}
code=0; {run} || code=$?; echo first $code
mount -o remount,size=1g {disk}
{run}; echo then $?
cp {disk}/run/results.json {copy}
mount -o remount,ro {disk}
code=0; {run} || code=$?; echo read-only $code
"""


@pytest.mark.slow
def test_a_disk_that_is_full_then_has_room_then_is_read_only(finished, inputs, tmp_path):
    can_mount = subprocess.run((*MOUNT, "mount -t tmpfs tmpfs /mnt"), capture_output=True)
    if can_mount.returncode:
        pytest.skip(f"no disk can be mounted here: {can_mount.stderr.decode()}")
    (disk := tmp_path / "disk").mkdir()
    command = shlex.join(tiny.command(disk / "run", *inputs))
    story = FILL.format(disk=disk, run=command, copy=tmp_path / "results.json")
    ran = subprocess.run((*MOUNT, story), cwd=tiny.ROOT, capture_output=True, text=True)
    codes = [line for line in ran.stdout.splitlines() if line.startswith(("first", "then", "read"))]
    assert codes == ["first 2", "then 0", "read-only 2"], ran.stderr
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert (
        "No space left on device" in errors[0] and "Free some space and run the same" in errors[0]
    )
    assert "cannot be written to" in errors[1] and "Read-only file system" in errors[1]
    assert len(errors) == 2 and "Traceback" not in ran.stderr
    assert (tmp_path / "results.json").read_bytes() == (
        finished.workdir / "results.json"
    ).read_bytes()


def test_other_errors_are_not_changed(inputs, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(builder, "build", fail)
    with pytest.raises(OSError, match="Input/output"):
        experiment.run(tiny.config_of(inputs), tmp_path / "run")


@pytest.mark.parametrize("change", [lambda b: b[:1000], lambda b: b[:-1000], lambda b: b""])
def test_truncated_shards_are_an_input_error(inputs, tmp_path, change):
    config = tiny.config_of(inputs)
    dataset = builder.build(config.data, tmp_path)
    [shard] = tmp_path.rglob("*.array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(change(whole))
    with pytest.raises(InputError, match=rf"{shard.parent} is damaged: .* Delete it"):
        pipeline.load_corpus(dataset, config.data)
