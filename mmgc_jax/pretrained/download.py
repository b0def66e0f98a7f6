"""Downloads published files into a cache: resumed after a break, and checked by size and hash.

Written by hand because no library does all of it for any URL: pooch starts a broken download anew
(it never asks for a range), and huggingface_hub resumes files of its own hub only, where Keras's
weights are not.
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
_TIMEOUT = 30  # seconds without a byte from the server
_LARGEST = 8 << 30  # bytes; a limit for files whose size is not known


@dataclasses.dataclass(frozen=True)
class Published:
    """A file that is published at an address, with its hash.

    Attributes:
      url: the address.
      name: of the file in the cache.
      algorithm: of the hash, one of `hashlib`'s.
      digest: the hash, in hexadecimal digits.
      size: in bytes; None if it is not known, and only the hash is checked.
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
    """Returns the path of a published file in the cache; downloads it unless it is present.

    The bytes received so far are kept beside it as `.partial` until the file is complete. After a
    break, in this call or in a later one, only the rest is requested, provided that the publisher's
    file is still the same (`If-Range`, RFC 9110, section 13.1.5). A file in the cache that is not
    the published one is replaced.

    Raises:
      InputError: if there is no cache folder, the file cannot be downloaded, or the publisher's
        file has another size or hash.
    """
    file = cache_folder() / published.name
    try:
        # One of several processes downloads the file; the others then find it in the cache.
        with filelock.FileLock(file.with_name(file.name + ".lock")):
            _complete(published, file)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(published, file, f"cannot be downloaded: {error}") from error
    return file


def _complete(published: Published, file: pathlib.Path) -> None:
    """Brings the published file to its place in the cache, unless it is present and unchanged."""
    if file.exists():
        if (difference := _difference(file, published)) is None:
            return
        logger.warning("%s %s; it is downloaded again.", file, difference)
    partial, etag = (file.with_name(file.name + ending) for ending in (".partial", ".etag"))
    _download(published, partial, etag)
    if difference := _difference(partial, published):
        partial.unlink()
        raise _failure(published, file, f"is not the file that is expected: it {difference}")
    os.replace(partial, file)
    etag.unlink(missing_ok=True)


def _download(published: Published, partial: pathlib.Path, etag: pathlib.Path) -> None:
    """Completes a partial file; resumes after breaks while each attempt receives more bytes."""
    logger.info("Downloading %s", published)
    while True:
        size_before = _size(partial)
        try:
            return _download_rest(published, partial, etag)
        except (OSError, http.client.HTTPException) as error:
            if _size(partial) <= size_before:
                raise
            logger.warning("%s broke off after %d bytes: %s", published.url, _size(partial), error)


def _download_rest(published: Published, partial: pathlib.Path, etag: pathlib.Path) -> None:
    """Requests the missing bytes, in one request, and appends them to a partial file."""
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
            partial.unlink(missing_ok=True)  # its bytes are of another version
            _save_etag(response.headers.get("ETag"), etag)
        received = _append(response, partial, total, done, largest)
    if total is not None and received < total:
        raise OSError("the connection was closed")


def _request(url: str, done: int, etag: pathlib.Path) -> http.client.HTTPResponse | None:
    """Sends a request for the bytes from `done` on; None if the server says that it has no more."""
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
    """Appends a response to a partial file of `done` bytes; returns the bytes that it then has.

    It stops after `largest` bytes: the size and the hash will be found to be wrong.
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
    """Saves the version of the file that is received; without one it cannot be resumed."""
    if value is None or value.startswith("W/"):  # a weak one does not identify the bytes
        etag.unlink(missing_ok=True)
    else:
        write_text(etag, value)


def _size(file: pathlib.Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _difference(file: pathlib.Path, published: Published) -> str | None:
    """Returns how a file differs from the published one, or None if it does not."""
    if published.size is not None and (size := _size(file)) != published.size:
        return f"has {size:,} bytes, not {published.size:,}"
    with file.open("rb") as stream:
        # MD5 does not protect against forgery, but some publishers give no other hash.
        new = functools.partial(hashlib.new, published.algorithm, usedforsecurity=False)
        digest = hashlib.file_digest(stream, new).hexdigest()
    if digest != published.digest:
        return f"has the {published.algorithm} {digest}, not {published.digest}"
    return None


def _failure(published: Published, file: pathlib.Path, what: str) -> InputError:
    return InputError(
        f"{published} {what}. Download it by hand and save it as {file}, or give --source the path "
        "of your file."
    )
