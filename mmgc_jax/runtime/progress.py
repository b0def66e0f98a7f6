"""Reports progress: tqdm on a terminal or in a notebook, log lines otherwise."""

import io
import logging
import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 20.0


def progress_bar(iterable: Iterable | None = None, *, shown: bool = True, **settings) -> tqdm:
    """Returns a tqdm bar, on standard error if people watch it, otherwise in the log.

    People watch terminals, where finished bars stay, and notebooks, where finished bars are erased.

    Log lines that are written while a bar is shown stand above it if they are written by
    `tqdm.write`, as `mmgc_jax.command_line` does.

    Args:
      iterable: counted while it is iterated over; without it, call `update`.
      shown: False shows nothing.
      **settings: arguments of `tqdm`, such as `desc`, `total` and `unit`.
    """
    if not shown:
        return tqdm(iterable, disable=True, **settings)
    if sys.stderr.isatty():
        return tqdm(iterable, **_size(), **settings)
    if "ipykernel" in sys.modules:
        return tqdm(iterable, **{"leave": False, "ncols": 80} | settings)
    return _LoggedBar(
        iterable,
        file=io.StringIO(),
        bar_format="{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}",
        delay=SECONDS_BETWEEN_LINES,
        mininterval=SECONDS_BETWEEN_LINES,
        maxinterval=SECONDS_BETWEEN_LINES,
        **settings,
    )


def _size() -> dict:
    """Returns arguments of tqdm: that it follows the terminal's size, or a size if that has none.

    The terminals of some containers, and of `script`, have 0 rows and columns, for which tqdm would
    draw empty bars.
    """
    try:
        known = min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except OSError:  # no device, as in tests
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


class _LoggedBar(tqdm):
    """A bar that is a log line whenever tqdm would draw it.

    tqdm draws a finished bar again when it is closed, with the average rate. Since its line would
    be about the same count, it is not logged.
    """

    _logged = None  # the count of the latest line

    @property
    def format_dict(self) -> dict:
        """The values of a line. A bar without a total has no remaining time to show."""
        found = super().format_dict
        if self.total is None:
            found["bar_format"] = "{desc}: {n_fmt}, {rate_fmt}{postfix}"
        return found

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Logs the state of the bar; `msg` is empty if tqdm would erase the bar."""
        if msg is None and self.n != self._logged:
            logger.info("%s", " ".join(str(self).split()))  # tqdm aligns numbers with spaces
            self._logged = self.n
        return True
