"""Reports progress: tqdm on a terminal, log lines otherwise."""

import io
import logging
import sys
from collections.abc import Iterable

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 20.0


def progress_bar(iterable: Iterable | None = None, *, shown: bool = True, **settings) -> tqdm:
    """Returns a tqdm bar, on standard error if that is a terminal, otherwise in the log.

    Log lines that are written while a bar is shown stand above it if they are written by
    `tqdm.write`, as `mmgc_jax.command_line` does.

    Args:
      iterable: counted while it is iterated over; without it, call `update`.
      shown: False shows nothing.
      **settings: arguments of `tqdm`, such as `desc`, `total` and `unit`.
    """
    if not shown or sys.stderr.isatty():
        return tqdm(iterable, disable=not shown, dynamic_ncols=True, **settings)
    return tqdm(
        iterable,
        file=_Log(),
        bar_format="{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}",
        delay=SECONDS_BETWEEN_LINES,
        mininterval=SECONDS_BETWEEN_LINES,
        maxinterval=SECONDS_BETWEEN_LINES,
        **settings,
    )


class _Log(io.StringIO):
    """A text stream whose writes become log lines.

    tqdm aligns numbers with spaces, and repeats its last line when it is closed; neither is logged.
    """

    _latest = ""

    def write(self, text: str) -> int:
        line = " ".join(text.split())
        if line and line != self._latest:
            logger.info("%s", line)
            self._latest = line
        return len(text)
