"""Downloads published files into a cache, resuming broken downloads and verifying hashes.

No library does all of this for any URL. pooch restarts a broken download from the beginning, since
it never requests a range. huggingface_hub can resume, but only files of its own hub, and Keras's
weights are elsewhere.
"""

import dataclasses
import functools
import hashlib
import http
import http.client
import logging
import os
import pathlib
import urllib.error
import urllib.request

import filelock

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import cache_folder, write_text
from mmgc_jax.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without any data from the server
_LARGEST = 8 << 30  # bytes, the limit for files of unknown size


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file and its hash.

    Attributes:
      url: address to download from.
      name: name of the file in the cache.
      algorithm: hash algorithm, a name that `hashlib` knows.
      digest: expected hash in hexadecimal.
      size: expected size in bytes; None if unknown, then only the hash is checked.
    """

    url: str
    name: str
    algorithm: str
    digest: str
    size: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size:,} bytes, "
        return f"{self.url} ({size}{self.algorithm} {self.digest})"


def fetch(published: Published) -> pathlib.Path:
    """Returns the path of a published file in the cache, downloading it first if needed.

    Until the file is complete, the bytes received so far are kept next to it as `.partial`. After a
    broken connection, this call or a later one requests only the missing bytes, provided that the
    server's file has not changed (`If-Range`, RFC 9110, section 13.1.5). A cached file with a wrong
    size or hash is downloaded again.

    Args:
      published: the file to download.

    Raises:
      InputError: if there is no cache folder, the download fails, or the downloaded file has a
        wrong size or hash.
    """
    file = cache_folder() / published.name
    try:
        # Of several processes, one downloads the file; the others wait and find it in the cache.
        with filelock.FileLock(file.with_name(file.name + ".lock")):
            _complete(published, file)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(published, file, f"cannot be downloaded: {error}") from error
    return file


def _complete(published: Published, file: pathlib.Path) -> None:
    """Downloads and verifies the file, unless the cache already has it with the right hash."""
    if file.exists():
        if (difference := _difference(file, published)) is None:
            return
        logger.warning("%s %s; downloading it again.", file, difference)
    partial, etag = (file.with_name(file.name + ending) for ending in (".partial", ".etag"))
    _download(published, partial, etag)
    if difference := _difference(partial, published):
        partial.unlink()
        raise _failure(published, file, f"is not the expected file: it {difference}")
    os.replace(partial, file)
    etag.unlink(missing_ok=True)


def _download(published: Published, partial: pathlib.Path, etag: pathlib.Path) -> None:
    """Completes a partial file; retries as long as each attempt receives at least one byte."""
    logger.info("Downloading %s", published)
    while True:
        size_before = _size(partial)
        try:
            return _download_rest(published, partial, etag)
        except (OSError, http.client.HTTPException) as error:
            if _size(partial) <= size_before:
                raise
            logger.warning(
                "Resuming the download of %s after %d bytes: %s",
                published.url,
                _size(partial),
                error,
            )


def _download_rest(published: Published, partial: pathlib.Path, etag: pathlib.Path) -> None:
    """Requests the missing bytes once and appends them to a partial file."""
    done = _size(partial) if etag.exists() else 0
    if done and done == published.size:
        return
    response = _request(published.url, done, etag)
    if response is None:
        return
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        total = None if response.length is None else done + response.length
        largest = published.size or _LARGEST
        if total is not None and (total > largest or total != (published.size or total)):
            raise OSError(f"the server has {total:,} bytes")
        if not done:
            partial.unlink(missing_ok=True)  # it is part of another version
            _save_etag(response.headers.get("ETag"), etag)
        received = _append(response, partial, total, done, largest)
    if total is not None and received < total:
        raise OSError("the connection was closed")


def _request(url: str, done: int, etag: pathlib.Path) -> http.client.HTTPResponse | None:
    """Requests the bytes from offset `done`; returns None if the server has no more bytes."""
    headers = {"User-Agent": "mmgc_jax"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": etag.read_text(encoding="utf-8")}
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise


def _append(
    response: http.client.HTTPResponse,
    partial: pathlib.Path,
    total: int | None,
    done: int,
    largest: int,
) -> int:
    """Appends a response to a partial file.

    Args:
      response: the server's response.
      partial: the file to append to.
      total: size of the complete file in bytes, None if unknown; for the progress bar.
      done: size of the partial file in bytes.
      largest: stop above this size in bytes; the check of size and hash will then fail.

    Returns:
      The new size of the partial file in bytes.
    """
    with (
        partial.open("ab") as file,
        progress_bar(
            total=total, initial=done, desc=partial.stem, unit="B", unit_scale=True
        ) as bar,
    ):
        while done <= largest and (chunk := response.read(_CHUNK)):
            done += file.write(chunk)
            bar.update(len(chunk))
    return done


def _save_etag(value: str | None, etag: pathlib.Path) -> None:
    """Saves the ETag of the file being downloaded; without one, the download cannot resume."""
    if value is None or value.startswith("W/"):  # weak ETags do not identify the bytes
        etag.unlink(missing_ok=True)
    else:
        write_text(etag, value)


def _size(file: pathlib.Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _difference(file: pathlib.Path, published: Published) -> str | None:
    """Returns how a file differs from the published one, or None if it is the same."""
    if published.size is not None and (size := _size(file)) != published.size:
        return f"has {size:,} bytes, not {published.size:,}"
    with file.open("rb") as stream:
        # MD5 does not protect against forgery, but some publishers provide no other hash.
        new = functools.partial(hashlib.new, published.algorithm, usedforsecurity=False)
        digest = hashlib.file_digest(stream, new).hexdigest()
    if digest != published.digest:
        return f"has the {published.algorithm} {digest}, not {published.digest}"
    return None


def _failure(published: Published, file: pathlib.Path, what: str) -> InputError:
    return InputError(
        f"{published} {what}. Download it by hand and save it as {file}, or use a file of yours "
        "with --source=FILE."
    )
