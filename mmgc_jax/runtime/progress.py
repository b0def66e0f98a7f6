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

    Args:
      iterable: to be counted while it is iterated over; without it, call `update`.
      shown: False counts and shows nothing.
      **settings: of `tqdm`, such as `desc`, `total` and `unit`.
    """
    if not shown or sys.stderr.isatty():
        return tqdm(iterable, disable=not shown, **settings)
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
    """A text stream whose writes become log lines."""

    def write(self, text: str) -> int:
        if line := text.strip():
            logger.info("%s", line)
        return len(text)
