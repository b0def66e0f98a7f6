"""Files from their publishers, into a cache: continued where they stopped, checked before use."""

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
from mmgc_jax.runtime.files import write_text
from mmgc_jax.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without an answer
_LARGEST = 8 << 30  # bytes, of a file whose size is not known


@dataclasses.dataclass(frozen=True)
class Published:
    """A file as somebody publishes it.

    Attributes:
      url: where it is.
      name: under which it lies in the cache.
      algorithm: of the hash, a name that `hashlib` knows.
      digest: the hash, in hexadecimal digits.
      size: in bytes; None where it is not known, and the hash alone decides.
    """

    url: str
    name: str
    algorithm: str
    digest: str
    size: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size:,} bytes, "
        return f"{self.url} ({size}{self.algorithm} {self.digest})"


def cache_folder() -> pathlib.Path:
    """`mmgc_jax` in `$XDG_CACHE_HOME`, or in `~/.cache` where that is not set.

    A path that is not absolute does not count, as the XDG Base Directory Specification wants.
    """
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else pathlib.Path.home() / ".cache") / "mmgc_jax"


def fetch(published: Published) -> pathlib.Path:
    """The path of a published file in the cache; it is downloaded if it is not there.

    What has arrived lies beside it as `.partial` until it is whole. After a break, in this call or
    in a later one, the rest is asked for if the publisher's file is still the same (RFC 9110,
    section 13.1.5). A file in the cache that is not the published one is replaced.

    Raises:
      InputError: if the file cannot be downloaded, or what the publisher gives has another size or
        hash.
    """
    file = cache_folder() / published.name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes one downloads, and the others find what it left.
        with filelock.FileLock(file.with_name(file.name + ".lock")):
            _make_whole(published, file)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(published, file, f"cannot be downloaded: {error}") from error
    return file


def _make_whole(published: Published, file: pathlib.Path) -> None:
    if file.exists():
        if (difference := _difference(file, published)) is None:
            return
        logger.warning("%s %s; it is downloaded again.", file, difference)
    partial, etag = (file.with_name(file.name + ending) for ending in (".partial", ".etag"))
    _download(published, partial, etag)
    if difference := _difference(partial, published):
        partial.unlink()
        raise _failure(published, file, f"is not what was published before: it {difference}")
    os.replace(partial, file)
    etag.unlink(missing_ok=True)


def _download(published: Published, partial: pathlib.Path, etag: pathlib.Path) -> None:
    """Makes a partial file whole; after a break it goes on, as long as more arrives each time."""
    logger.info("Downloading %s", published)
    while True:
        before = _size(partial)
        try:
            return _download_rest(published, partial, etag)
        except (OSError, http.client.HTTPException) as error:
            if _size(partial) <= before:
                raise
            logger.warning("%s broke off after %d bytes: %s", published.url, _size(partial), error)


def _download_rest(published: Published, partial: pathlib.Path, etag: pathlib.Path) -> None:
    """One request for what is missing."""
    done = _size(partial) if etag.exists() else 0
    if done and done == published.size:
        return
    headers = {"User-Agent": "mmgc_jax"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": etag.read_text(encoding="utf-8")}
    try:
        request = urllib.request.Request(published.url, headers=headers)
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if done and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the hash decides
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        total = None if answer.length is None else done + answer.length
        largest = published.size or _LARGEST
        if total is not None and (total > largest or total != (published.size or total)):
            raise OSError(f"it has {total:,} bytes there")
        with (
            partial.open("ab" if done else "wb") as file,
            progress_bar(
                total=total, initial=done, desc=published.name, unit="B", unit_scale=True
            ) as bar,
        ):
            if not done:
                _remember(answer.headers.get("ETag"), etag)
            while chunk := answer.read(_CHUNK):
                done += file.write(chunk)
                bar.update(len(chunk))
                if done > largest:
                    return  # the size and the hash will be found to be wrong
    if total is not None and done < total:
        raise OSError("the connection was closed")


def _remember(value: str | None, etag: pathlib.Path) -> None:
    """Keeps the name of the version that comes in; without one it cannot be continued."""
    if value is None or value.startswith("W/"):  # weak ones do not tell bytes apart
        etag.unlink(missing_ok=True)
    else:
        write_text(etag, value)


def _size(file: pathlib.Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _difference(file: pathlib.Path, published: Published) -> str | None:
    """How a file differs from the published one, None if it does not."""
    if published.size is not None and (size := _size(file)) != published.size:
        return f"has {size:,} bytes, not {published.size:,}"
    with file.open("rb") as stream:
        # MD5 is no safeguard against forgers, but it is all that some publishers give.
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
