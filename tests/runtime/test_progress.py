"""Progress on a terminal and in a log."""

import io
import logging
import sys

import pytest

from mmgc_jax.runtime import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO, logger="mmgc_jax.runtime.progress")
    return caplog


def test_without_a_terminal_there_are_lines_in_the_log(at_once, capsys):
    for _ in progress.progress_bar(range(4), desc="activations", unit="batch"):
        pass
    assert at_once.messages[-1].startswith("activations: 4 of 4, ")
    assert any(line.startswith("activations: 3 of 4, ") for line in at_once.messages)
    assert not any("\r" in line or "\n" in line for line in at_once.messages)
    assert capsys.readouterr().err == ""


def test_the_last_line_of_a_log_is_not_repeated(at_once):
    with progress.progress_bar(total=3, desc="activations") as bar:
        for _ in range(3):
            bar.update(1)
        bar.refresh()
    # tqdm draws a closed bar again, with another rate.
    assert [line.split(", ")[0] for line in at_once.messages] == [
        f"activations: {n} of 3" for n in range(4)
    ]


def test_a_bar_that_would_be_erased_logs_nothing_at_its_end(at_once):
    with progress.progress_bar(total=2, desc="activations", leave=False) as bar:
        bar.update(1)
        bar.n = 2  # not drawn yet
    assert [line.split(", ")[0] for line in at_once.messages] == [
        "activations: 0 of 2",
        "activations: 1 of 2",
    ]


def test_without_a_total_nothing_is_said_of_it(at_once):
    with progress.progress_bar(desc="predicting", unit="movie") as bar:
        bar.update(2)
    assert at_once.messages[-1].startswith("predicting: 2, ")
    assert "left" not in at_once.messages[-1]


def test_work_that_is_soon_done_logs_nothing(caplog):
    caplog.set_level(logging.INFO, logger="mmgc_jax.runtime.progress")
    assert list(progress.progress_bar(range(3), desc="predicting")) == [0, 1, 2]
    assert caplog.messages == []


def test_a_terminal_gets_a_bar(monkeypatch, at_once):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(progress.progress_bar(range(3), desc="activations"))
    assert "activations: 100%" in sys.stderr.getvalue()
    assert at_once.messages == []


def test_a_bar_that_is_not_shown_only_iterates(monkeypatch, at_once):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress.progress_bar(range(3), shown=False)) == [0, 1, 2]
    assert sys.stderr.getvalue() == "" and at_once.messages == []


@pytest.mark.parametrize("settings", [{}, {"leave": False}])  # inference sets it everywhere
def test_in_a_notebook_a_bar_is_drawn_and_erased(monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    list(progress.progress_bar(range(3), desc="predicting", mininterval=0, **settings))
    drawn = errors.getvalue().split("\r")
    assert "predicting: 100%" in errors.getvalue() and not drawn[-2].strip()
