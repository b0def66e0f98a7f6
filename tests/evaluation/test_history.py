"""Command, versions and times, read from the log of a run."""

import jax
import numpy as np

from mmgc_jax.evaluation import history

FIRST = """\
2026-11-29 10:00:00,000 Command: mmgc train --workdir=runs/a
2026-11-29 10:00:00,500 Versions: Python 3.11.2, jax 0.10.2; Linux, 1 x cpu
2026-11-29 10:00:10,000 plot: starting.
2026-11-29 10:00:40,000 plot/fold_0: compiling
2026-11-29 10:01:10,000 poster: starting.
a further line of a message
2026-11-29 10:03:10,000 poster/fold_0: epoch 1 of 9: loss 0.5
"""
SECOND = """\
2026-11-30 08:00:00,000 Command: mmgc train --workdir=runs/a
2026-11-30 08:00:00,500 Versions: Python 3.11.2, jax 0.11.0; Linux, 1 x cpu
2026-11-30 08:00:10,000 plot: already finished.
2026-11-30 08:00:11,000 poster: starting.
2026-11-30 08:00:41,000 fusion: starting.
2026-11-30 08:00:44,000 fusion/fold_1: epoch 3 of 3: loss 0.1
"""


def test_times_leave_out_what_lies_between_two_starts(tmp_path):
    (tmp_path / "run.log").write_text(FIRST)
    found = history.read(tmp_path)
    assert found.seconds == {"plot": 60, "poster": 120}
    (tmp_path / "run.log").write_text(FIRST + SECOND)
    found = history.read(tmp_path)
    assert found.seconds == {"plot": 60, "poster": 120 + 30, "fusion": 3}
    assert found.commands == ("mmgc train --workdir=runs/a",)
    assert found.versions == "Python 3.11.2, jax 0.11.0; Linux, 1 x cpu"
    assert found.started == "2026-11-29 10:00:00"


def test_commands_that_differ_are_all_kept(tmp_path):
    (tmp_path / "run.log").write_text(FIRST + SECOND.replace("runs/a", "runs/a --tensorboard"))
    assert len(history.read(tmp_path).commands) == 2


def test_without_a_log_all_is_empty(tmp_path):
    assert history.read(tmp_path) == ((), "", "", {})
    (tmp_path / "run.log").write_bytes(b"\xff\xfe nothing of ours\n")
    assert history.read(tmp_path) == ((), "", "", {})


def test_the_lines_are_those_that_are_read(tmp_path):
    lines = [history.command_line("mmgc train --workdir='a b'"), history.versions_line()]
    text = "".join(f"2026-01-01 00:00:00,000 {line}\n" for line in lines)
    (tmp_path / "run.log").write_text(text)
    found = history.read(tmp_path)
    assert found.commands == ("mmgc train --workdir='a b'",)
    assert f"jax {jax.__version__}" in found.versions
    assert f"numpy {np.__version__}" in found.versions
