"""Tests of the reports of a training: metrics.jsonl, TensorBoard's event files, the log."""

import collections
import importlib.util
import json
import logging as python_logging
import re
import struct
import sys

import numpy as np
import pytest

from mmgc_jax.training import logging, loop
from mmgc_jax.training.optimizer import make_schedule
from mmgc_jax.training.run import TrainingRun
from tests.terminal import screen_of
from tests.training.linear_problem import batches, fit, settings

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="tensorboardX is not installed"
)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The lines of metrics.jsonl of a training with three epochs of five steps each."""
    workdir = tmp_path_factory.mktemp("run")
    loop._cached_train_step.cache_clear()  # an earlier test may have compiled the same step
    fit(workdir)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_have_a_line_for_each_report(lines):
    assert {line["run"] for line in lines} == {"fusion"}
    # Every third step (log_every), every second (checkpoint_every) and every fifth (an epoch ends).
    assert [line["step"] for line in lines] == [2, 3, 4, 5, 6, 8, 9, 10, 12, 14, 15]
    keys = {"run", "step", "loss", "grad_norm", "learning_rate", "movies_per_second",
            "waiting_for_input"}  # fmt: skip
    assert lines[0].keys() == keys | {"seconds_to_first_step"}
    assert all(line.keys() == keys for line in lines[1:])
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert all(line["movies_per_second"] > 0 for line in lines)
    assert all(0 <= line["waiting_for_input"] < 1 for line in lines)
    assert 0 < lines[0]["seconds_to_first_step"] < 60


def test_the_learning_rate_is_that_of_the_step(lines):
    schedule = make_schedule(settings(), len(batches(3)))
    for line in lines:
        # A line has the number of finished steps; the schedule counts steps from 0.
        expected = float(schedule(line["step"] - 1))
        assert line["learning_rate"] == pytest.approx(expected, rel=1e-5)


class Clock:
    """A clock whose time a test sets."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_speed_and_waiting_by_hand(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(logging, "time", clock)
    log = logging.TrainingLog(TrainingRun("plot", tmp_path, seed=0), 20, 10, num_movies=75, start=4)

    def arriving():
        while True:
            clock.now += 1.5  # the loop waits for a batch
            yield {}

    timed = log.timed(arriving())
    for step in (5, 6):
        next(timed)
        clock.now += 0.5  # the loop computes a step
        if step == 5:
            clock.now += 60  # and compiles it before
            log.first_step_done()
    log.steps_done(6, {"loss": 0.3})
    next(timed)
    clock.now += 4.5
    log.steps_done(7, {"loss": 0.2})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    plot = {"run": "plot"}
    assert lines == [
        plot | {"step": 6, "loss": 0.3, "movies_per_second": 3.75, "waiting_for_input": 0.75,
                "seconds_to_first_step": 62.0},
        plot | {"step": 7, "loss": 0.2, "movies_per_second": 1.25, "waiting_for_input": 0.25},
    ]  # fmt: skip


def test_the_rates_of_a_bar_leave_out_compilation(tmp_path, monkeypatch, caplog):
    caplog.set_level(python_logging.INFO, "mmgc_jax")
    clock = Clock()
    monkeypatch.setattr(logging, "time", clock)
    monkeypatch.setattr("tqdm.std.time", clock.monotonic)
    run = TrainingRun("plot", tmp_path, seed=0)
    log = logging.TrainingLog(run, 1000, 100, num_movies=800, start=100)
    clock.now += 600  # compilation
    log.first_step_done()
    for step in range(101, 302, 100):
        log.steps_done(step, {"loss": 0.3})
        clock.now += 50
    log.close()
    assert caplog.messages == [
        "plot: 201 of 1000, 2.00step/s, 06:39 left, loss=0.3000, movies_per_s=16.0",
        "plot: 301 of 1000, 2.00step/s, 05:49 left, loss=0.3000, movies_per_s=16.0",
    ]


def test_the_first_step_alone_has_no_rate(tmp_path):
    fit(tmp_path, epochs=1, log_every=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["step"] for line in lines if "movies_per_second" in line]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert speeds == [2, 3, 4, 5]
    assert [line["step"] for line in lines if "seconds_to_first_step" in line] == [1]


def test_a_training_on_a_terminal(tmp_path):
    code = f"""
        import pathlib
        from mmgc_jax import command_line
        command_line.set_up_logging()
        from tests.training.linear_problem import fit
        for name in ("plot", "fusion"):
            fit(pathlib.Path({str(tmp_path)!r}), name)
    """
    *lines, end = screen_of(code, rows=40, columns=100)
    assert end == ""
    assert len(lines) == 10
    for n, name in enumerate(("plot", "fusion")):
        compiling, *epochs, bar = lines[5 * n : 5 * n + 5]
        assert compiling == f"{name}: compiling"
        for number, line in enumerate(epochs, 1):
            assert re.fullmatch(rf"{name}: epoch {number} of 3: loss 0\.\d{{4}}", line)
        assert re.fullmatch(rf"{name}: 100%\|.*\| 15/15 \[.*, loss=.*, movies_per_s=.*\]", bar)


def test_batches_pass_in_order_to_their_end(tmp_path):
    log = logging.TrainingLog(TrainingRun("plot", tmp_path, seed=0), 3, 3, num_movies=3, start=0)
    assert list(log.timed(iter("abc"))) == ["a", "b", "c"]
    log.close()


def test_each_epoch_is_a_line_of_the_log(tmp_path, caplog):
    caplog.set_level(python_logging.INFO, "mmgc_jax")
    log = logging.TrainingLog(
        TrainingRun("plot/fold_1", tmp_path, seed=0), 30, 10, num_movies=9, start=0
    )
    log.steps_done(10, {"loss": 0.23456})
    log.epoch_done(1)
    log.close()
    assert "plot/fold_1: epoch 1 of 3: loss 0.2346" in caplog.messages


def kinds(run):
    writers = logging.metric_writers(run)
    for writer in writers:
        writer.close()
    return [type(writer) for writer in writers]


@needs_tensorboard
def test_tensorboard_is_written_only_if_it_is_asked_for(tmp_path, monkeypatch):
    plain = TrainingRun("plot", tmp_path, seed=0)
    assert kinds(plain) == [logging.JsonLinesWriter]
    assert not (tmp_path / "tensorboard").exists()
    asked = TrainingRun("plot", tmp_path, seed=0, tensorboard=True)
    assert kinds(asked) == [logging.JsonLinesWriter, logging.TensorBoardWriter]
    # With several processes, only the first one writes.
    monkeypatch.setattr(logging.parallel, "is_first", lambda: False)
    assert kinds(asked) == [logging.JsonLinesWriter]


def test_who_does_not_ask_for_tensorboard_needs_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # cannot be imported
    assert kinds(TrainingRun("plot", tmp_path, seed=0)) == [logging.JsonLinesWriter]


def scalars(folder):
    """Reads the scalars of event files without TensorFlow: name -> [(step, value)]."""
    from tensorboardX.proto.event_pb2 import Event

    found = collections.defaultdict(list)
    for file in sorted(folder.glob("events.out.tfevents.*")):
        # TFRecord: length <uint64>, its CRC <uint32>, the record, its CRC <uint32>.
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
    return found


@needs_tensorboard
def test_tensorboard_gets_the_metrics_of_a_training(tmp_path):
    fit(tmp_path, "plot/fold_1", tensorboard=True)
    found = scalars(tmp_path / "tensorboard" / "plot" / "fold_1")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "grad_norm", "learning_rate"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
