"""Fetches posters from web addresses: several at a time, with retries and a cache."""

import collections
import concurrent.futures
import hashlib
import logging
import pathlib
import time
from collections.abc import Iterator, Sequence

import requests
import requests.adapters
from urllib3.util import Retry

from mmgc_jax.data.posters import MAX_BYTES
from mmgc_jax.runtime import preemption

logger = logging.getLogger(__name__)

_WORKERS = 16
_TIMEOUT = (10, 30)  # seconds to connect, and between two packets
_MAX_SECONDS = 120  # for one poster
_MAX_REDIRECTS = 5
_MAX_WAIT = 30  # seconds that a server may ask us to wait before the next attempt
_CHUNK_BYTES = 1 << 16
_MAX_SHOWN = 10


class _Retry(Retry):
    """Three further attempts if the connection or the server fails, but not for a missing page."""

    def get_retry_after(self, response) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _MAX_WAIT)


def fetch(
    urls: Sequence[str], folder: pathlib.Path, workers: int = _WORKERS
) -> Iterator[bytes | None]:
    """Fetches files, a few ahead of the one that is asked for; yields their contents in order.

    A file that cannot be fetched becomes None; the log lists them at the end. All others are kept
    in the folder, so that they are fetched only once.

    Args:
      urls: addresses that begin with http:// or https://.
      folder: folder of the cache, which is made if it does not exist.
      workers: how many files are fetched at the same time.

    Raises:
      Interrupted: if a stop was requested; checked between files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # It warns of each attempt; what fails in the end is logged below.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    failures: list[str] = []
    with _session(workers) as session, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = iter(urls)
        ahead: collections.deque = collections.deque()
        try:
            for position, url in enumerate(urls, start=1):
                while len(ahead) < 2 * workers and (following := next(waiting, None)) is not None:
                    ahead.append(pool.submit(_fetch, session, following, folder))
                preemption.raise_if_requested_locally()
                content = None
                try:
                    content = ahead.popleft().result()
                except (requests.RequestException, ValueError) as error:
                    failures.append(f"{url}: {_reason(error)}")
                if position == len(urls):  # before the last one, after which nobody may ask
                    _report(failures, len(urls))
                yield content
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _report(failures: Sequence[str], total: int) -> None:
    """Logs which posters could not be fetched, if any."""
    if failures:
        shown = failures[:_MAX_SHOWN]
        more = [f"and {len(failures) - len(shown)} more"] if len(failures) > len(shown) else []
        logger.warning(
            "%d of %d posters cannot be fetched, and count as missing:\n  %s",
            len(failures), total, "\n  ".join([*shown, *more]),
        )  # fmt: skip


def _session(workers: int) -> requests.Session:
    session = requests.Session()
    session.max_redirects = _MAX_REDIRECTS
    session.headers["User-Agent"] = "mmgc_jax"
    retry = _Retry(
        total=3,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        redirect=False,  # `session` counts them
    )
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=workers, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _fetch(session: requests.Session, url: str, folder: pathlib.Path) -> bytes:
    """Fetches one file, or reads it from the cache.

    Raises:
      requests.RequestException: if it cannot be fetched.
      ValueError: if it is too large, takes too long, or is a web page.
    """
    file = folder / hashlib.sha256(url.encode()).hexdigest()[:32]
    if file.is_file():
        return file.read_bytes()
    start, content = time.monotonic(), b""
    with session.get(url, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise ValueError(f"a web page ({kind}), not an image")
        for chunk in response.iter_content(_CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES:,} bytes")
            if time.monotonic() - start > _MAX_SECONDS:
                raise ValueError(f"not complete after {_MAX_SECONDS} seconds")
    new = file.with_name(f"new-{file.name}")
    new.write_bytes(content)
    new.replace(file)
    return content


def _reason(error: Exception) -> str:
    """Says in a few words why a file cannot be fetched."""
    if isinstance(error, requests.HTTPError):
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.ConnectionError):
        return "no connection, or the server failed again and again"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return str(error)
