"""Fetches posters from web addresses: several at a time, with retries and a cache."""

import collections
import concurrent.futures
import hashlib
import logging
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import requests
import requests.adapters
import urllib3.exceptions
from urllib3.util import Retry

from mmgc_jax.data.posters import MAX_BYTES
from mmgc_jax.runtime import preemption

logger = logging.getLogger(__name__)

_WORKERS = 16
_TIMEOUT = (10, 20)  # seconds to connect, and between two packets
_MAX_SECONDS = 120  # for one poster
_MAX_REDIRECTS = 5
_RETRIES = 3
_MAX_WAIT = 30  # seconds that a server may ask us to wait before the next attempt
_CHUNK_BYTES = 1 << 16
_MAX_SHOWN = 10
_SECONDS_BETWEEN_CHECKS = 0.5  # of whether a stop was requested


class _Retry(Retry):
    """Three further attempts if the connection or the server fails, but not for a missing page.

    Waiting between attempts ends at once when `stopping` is set.
    """

    stopping: threading.Event

    def new(self, **changes) -> "_Retry":
        retry = super().new(**changes)
        retry.stopping = self.stopping
        return retry

    def get_retry_after(self, response) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _MAX_WAIT)

    def sleep(self, response=None) -> None:
        seconds = None if response is None else self.get_retry_after(response)
        if self.stopping.wait(self.get_backoff_time() if seconds is None else seconds):
            raise ValueError("stopped")


def fetch(
    urls: Sequence[str], folder: pathlib.Path, workers: int = _WORKERS
) -> Iterator[bytes | None]:
    """Fetches files, a few ahead of the one that is asked for; yields their contents in order.

    A file that cannot be fetched becomes None; the log lists them at the end. All others are kept
    in the folder, so that they are fetched only once. Only the file that is yielded is in memory.

    Args:
      urls: addresses that begin with http:// or https://.
      folder: folder of the cache, which is made if it does not exist.
      workers: how many files are fetched at the same time.

    Raises:
      Interrupted: if a stop was requested.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # It warns of each attempt; what fails in the end is logged below.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    failures: dict[str, str] = {}
    failed = 0
    stopping = threading.Event()
    with (
        _session(workers, stopping) as session,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        waiting = iter(urls)
        ahead: collections.deque = collections.deque()  # of pairs of an address and a future
        try:
            for position, url in enumerate(urls, start=1):
                while len(ahead) < 2 * workers and (following := next(waiting, None)) is not None:
                    # Posters of several movies can be at one address.
                    future = next((same for other, same in ahead if other == following), None)
                    if future is None and following not in failures:
                        future = pool.submit(_fetch, session, following, folder, stopping)
                    ahead.append((following, future))
                _, future = ahead.popleft()
                content = None
                try:
                    if future is not None:
                        content = _result(future).read_bytes()
                except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as e:
                    failures[url] = _reason(e)
                failed += content is None
                if position == len(urls):  # before the last one, after which nobody may ask
                    _report(failures, failed, len(urls))
                yield content
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _result(future: concurrent.futures.Future) -> pathlib.Path:
    """Returns the result of a future; raises `Interrupted` if a stop is requested meanwhile."""
    while True:
        preemption.raise_if_requested_locally()
        if concurrent.futures.wait([future], _SECONDS_BETWEEN_CHECKS).done:
            return future.result()


def _report(failures: dict[str, str], failed: int, total: int) -> None:
    """Logs which posters could not be fetched, if any."""
    if failures:
        shown = [f"{url}: {reason}" for url, reason in failures.items()][:_MAX_SHOWN]
        more = [f"and {len(failures) - len(shown)} more"] if len(failures) > len(shown) else []
        logger.warning(
            "%d of %d posters cannot be fetched, and count as missing:\n  %s",
            failed, total, "\n  ".join([*shown, *more]),
        )  # fmt: skip


def _session(workers: int, stopping: threading.Event) -> requests.Session:
    session = requests.Session()
    session.max_redirects = _MAX_REDIRECTS
    # Images are compressed by themselves.
    session.headers.update({"User-Agent": "mmgc_jax", "Accept-Encoding": "identity"})
    retry = _Retry(
        total=_RETRIES,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,  # the answer says more than an exception
        redirect=False,  # `session` counts them
    )
    retry.stopping = stopping
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=workers, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _fetch(
    session: requests.Session, url: str, folder: pathlib.Path, stopping: threading.Event
) -> pathlib.Path:
    """Fetches one file into the cache, unless it is there; returns its path.

    Raises:
      requests.RequestException, urllib3.exceptions.HTTPError: if it cannot be fetched.
      ValueError: if it is empty, too large, takes too long, or is a web page.
    """
    file = folder / hashlib.sha256(url.encode()).hexdigest()[:32]
    if file.is_file():
        return file
    # Other processes may fetch the same file, so that each writes under a name of its own.
    new = tempfile.NamedTemporaryFile(dir=folder, prefix="new-", delete=False)  # noqa: SIM115
    try:
        with new:
            _download(session, url, new, stopping)
        os.replace(new.name, file)
    except BaseException:
        os.unlink(new.name)
        raise
    return file


def _download(
    session: requests.Session, url: str, file: BinaryIO, stopping: threading.Event
) -> None:
    """Writes what is at an address to a file; begins again if the connection breaks."""
    deadline = time.monotonic() + _MAX_SECONDS
    for retries_left in reversed(range(_RETRIES + 1)):
        file.seek(0)
        file.truncate()
        with session.get(url, stream=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind in ("text/html", "application/xhtml+xml"):
                raise ValueError(f"a web page ({kind}), not an image")
            try:
                return _receive(response, file, deadline, stopping)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError):
                if not retries_left:
                    raise


def _receive(
    response: requests.Response, file: BinaryIO, deadline: float, stopping: threading.Event
) -> None:
    size = 0
    # `iter_content` would wait for whole chunks, and a slow server could take hours for each.
    while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
        size += file.write(chunk)
        if size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"not complete after {_MAX_SECONDS} seconds")
        if stopping.is_set():
            raise ValueError("stopped")
    if not size:
        raise ValueError("an empty answer")


def _reason(error: Exception) -> str:
    """Says in a few words why a file cannot be fetched."""
    if isinstance(error, requests.HTTPError):
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "redirected to an address that is neither http nor https"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection; the server's certificate may be wrong"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke again and again"
    return str(error)
