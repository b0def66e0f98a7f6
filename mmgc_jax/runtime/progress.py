"""Progress of long work: a bar if a terminal watches, otherwise a line now and then."""

import io
import logging
import sys
from collections.abc import Iterable

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 20.0


def progress_bar(iterable: Iterable | None = None, *, shown: bool = True, **settings) -> tqdm:
    """A bar of tqdm on standard error; if that is no terminal, lines in the log.

    Args:
      iterable: what is passed on while it is counted, if `update` is not called.
      shown: whether there is anything to see.
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
    """What is written here is a line of the log."""

    def write(self, text: str) -> int:
        if line := text.strip():
            logger.info("%s", line)
        return len(text)
