"""Reports a training: metrics.jsonl, TensorBoard event files, and progress."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Protocol

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.files import Path, append_line
from mmgc_jax.runtime.progress import progress_bar
from mmgc_jax.training.run import TrainingRun

logger = logging.getLogger(__name__)


class MetricWriter(Protocol):
    """Writes the metrics of a training to one place."""

    def write(self, run: str, step: int, metrics: dict) -> None:
        """Writes metrics.

        Args:
          run: name of the training.
          step: number of steps done when they were measured.
          metrics: numbers by name, or dictionaries of numbers by name.
        """

    def close(self) -> None:
        """Flushes buffered metrics."""


class JsonLinesWriter:
    """Appends lines of JSON to `metrics.jsonl`: `{"run": ..., "step": ..., metrics}`."""

    def __init__(self, workdir: Path):
        self._file = workdir / "metrics.jsonl"

    def write(self, run: str, step: int, metrics: dict) -> None:
        append_line(self._file, json.dumps({"run": run, "step": step, **metrics}))

    def close(self) -> None:
        pass


class TensorBoardWriter:
    """Writes TensorBoard event files to `tensorboard/<run>` with tensorboardX.

    Unlike `clu.metric_writers` and `flax.metrics.tensorboard` it does not need TensorFlow.
    """

    def __init__(self, workdir: Path, run: str):
        from tensorboardX import SummaryWriter  # an extra: pip install 'mmgc_jax[tensorboard]'

        self._writer = SummaryWriter(str(workdir / "tensorboard" / run))

    def write(self, run: str, step: int, metrics: dict) -> None:
        for name, value in metrics.items():
            if isinstance(value, dict):
                for inner, number in value.items():
                    self._writer.add_scalar(f"{name}/{inner}", number, step)
            else:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def metric_writers(run: TrainingRun) -> list[MetricWriter]:
    """Returns the writers of a training. Only process 0 writes."""
    writers: list[MetricWriter] = [JsonLinesWriter(run.workdir)]
    if run.tensorboard and parallel.is_first():
        writers.append(TensorBoardWriter(run.workdir, run.name))
    return writers


class TrainingLog:
    """Reports a training: metrics to the writers, progress as a bar or as log lines."""

    def __init__(
        self, run: TrainingRun, steps: int, steps_per_epoch: int, num_movies: int, start: int
    ):
        """Opens the writers and the bar.

        Args:
          run: the training.
          steps: number of steps of the whole training.
          steps_per_epoch: number of steps of an epoch.
          num_movies: number of movies of an epoch.
          start: number of steps done before.
        """
        self._run = run
        self._writers = metric_writers(run)
        self._epochs = steps // steps_per_epoch
        self._movies_per_step = num_movies / steps_per_epoch
        self._bar = progress_bar(
            total=steps, initial=start, desc=run.name, unit="step", shown=parallel.is_first()
        )
        self._clock = time.monotonic()
        self._waited, self._first_step = 0.0, {}
        self._step, self._loss = start, float("nan")

    def timed(self, batches: Iterator) -> Iterator:
        """Yields batches, and measures how long the loop waits for them."""
        while True:
            asked = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked
            yield batch

    def compiling(self) -> None:
        """Reports that the first step compiles the training step, which can take minutes."""
        logger.info("%s: compiling", self._run.name)

    def first_step_done(self) -> None:
        """Measures the time to the first step, with compilation and the start of the input.

        All rates, and the bar's remaining time, are about the steps after it.
        """
        now = time.monotonic()
        self._first_step = {"seconds_to_first_step": round(now - self._clock, 2)}
        self._clock, self._waited = now, 0.0
        self._step += 1
        self._bar.n = self._bar.last_print_n = self._bar.initial = self._step
        self._bar.unpause()

    def steps_done(self, step: int, metrics: dict[str, float]) -> None:
        """Reports the steps since the previous report.

        If that is only the first step, which compiles, its speed is not reported.

        Args:
          step: number of steps done.
          metrics: metrics by name, with `loss` among them.
        """
        now = time.monotonic()
        steps, seconds = step - self._step, max(now - self._clock, 1e-9)
        self._loss = metrics["loss"]
        shown, speed = {"loss": f"{metrics['loss']:.4f}"}, {}
        if steps:
            rate = steps * self._movies_per_step / seconds
            shown["movies_per_s"] = f"{rate:.1f}"
            speed["movies_per_second"] = round(rate, 2)
            speed["waiting_for_input"] = round(self._waited / seconds, 4)
        self._clock, self._waited, self._step = now, 0.0, step
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(steps)
        self._write(step, metrics | speed | self._first_step)
        self._first_step = {}

    def epoch_done(self, epoch: int) -> None:
        """Reports the end of an epoch, with the last reported loss, in nats."""
        logger.info("%s: epoch %d of %d: loss %.4f",
                    self._run.name, epoch, self._epochs, self._loss)  # fmt: skip

    def close(self) -> None:
        """Closes the bar and the writers."""
        self._bar.close()
        for writer in self._writers:
            writer.close()

    def _write(self, step: int, metrics: dict) -> None:
        for writer in self._writers:
            writer.write(self._run.name, step, metrics)
