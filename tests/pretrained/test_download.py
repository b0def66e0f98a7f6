"""Tests downloads from a local server that breaks connections, ignores ranges and so on."""

import concurrent.futures
import hashlib
import http.server
import socket
import threading

import numpy as np
import pytest

from mmgc_jax.pretrained import download
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import cache_folder

CONTENT = np.random.default_rng(0).bytes(3 << 20)
OTHER = np.random.default_rng(1).bytes(3 << 20)


class Server(http.server.ThreadingHTTPServer):
    """Serves one file.

    Attributes:
      content: the file's bytes.
      etag: the ETag header; None sends none.
      ranges: whether Range requests are supported.
      lengths: for each response, the number of bytes after which the connection breaks; when the
        list is empty, responses are complete.
      status: status code of every response, if it is an error.
      requests: for each request, its Range header and the status of the response.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges, self.status = CONTENT, '"one"', True, 200
        self.lengths, self.requests = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.h5"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if self.path == "/elsewhere":  # Hugging Face redirects to another server, too
            self.send_response(302)
            self.send_header("Location", server.url)
            return self.end_headers()
        start, status, requested = 0, server.status, self.headers.get("Range")
        if requested and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(server.content) else 416
        server.requests.append((requested, status))
        if status >= 400:
            return self.send_error(status)
        rest = server.content[start:]
        self.send_response(status)
        if server.etag:
            self.send_header("ETag", server.etag)
        if status == 206:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: server.lengths.pop(0) if server.lengths else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mmgc_jax"


SIZE = len(CONTENT)


def published(url, content=CONTENT, size=SIZE):
    return download.Published(url, "w.h5", "md5", hashlib.md5(content).hexdigest(), size)


def refusal(wanted):
    """Returns the error message, which has the URL, the expected hash and the path in the cache."""
    with pytest.raises(InputError) as caught:
        download.fetch(wanted)
    message = str(caught.value)
    assert f"{wanted.url} (" in message and f"md5 {wanted.digest})" in message
    assert f"by hand and save it as {cache_folder() / 'w.h5'}" in message
    return message


def cached_files(cache):
    """Returns the names of the files in the cache, except the lock file."""
    return [path.name for path in cache.iterdir() if path.name != "w.h5.lock"]


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_file_is_downloaded_only_once(server, cache, size):
    for _ in range(2):
        assert download.fetch(published(server.url, size=size)) == cache / "w.h5"
        assert (cache / "w.h5").read_bytes() == CONTENT
    assert server.requests == [(None, 200)]
    assert cached_files(cache) == ["w.h5"]


def test_two_threads_download_it_only_once(server, cache):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        files = list(pool.map(download.fetch, [published(server.url)] * 2))
    assert files == [cache / "w.h5"] * 2
    assert files[0].read_bytes() == CONTENT
    assert server.requests == [(None, 200)]


@pytest.mark.parametrize("size", [SIZE, None])
def test_a_broken_download_is_resumed(server, size):
    server.lengths = [2 << 20, 1000]
    file = download.fetch(published(server.url, size=size))
    assert file.read_bytes() == CONTENT
    rest = (2 << 20) + 1000
    assert server.requests == [(None, 200), (f"bytes={2 << 20}-", 206), (f"bytes={rest}-", 206)]


def test_redirects_are_followed_when_resuming(server):
    server.lengths = [1 << 20]
    url = server.url.replace("weights.h5", "elsewhere")
    assert download.fetch(published(url)).read_bytes() == CONTENT
    assert server.requests == [(None, 200), (f"bytes={1 << 20}-", 206)]


def test_without_progress_it_fails_and_a_later_call_resumes(server, cache):
    server.lengths = [1 << 20, 0]
    assert "cannot be downloaded: the connection was closed" in refusal(published(server.url))
    assert not (cache / "w.h5").exists()
    assert (cache / "w.h5.partial").read_bytes() == CONTENT[: 1 << 20]

    assert download.fetch(published(server.url)).read_bytes() == CONTENT
    assert server.requests[-1] == (f"bytes={1 << 20}-", 206)
    assert cached_files(cache) == ["w.h5"]


@pytest.mark.parametrize("size", [SIZE, None])
def test_stopped_after_the_last_byte_but_before_the_rename(server, cache, size):
    cache.mkdir()
    (cache / "w.h5.partial").write_bytes(CONTENT)
    (cache / "w.h5.etag").write_text('"one"')
    assert download.fetch(published(server.url, size=size)).read_bytes() == CONTENT
    assert server.requests == ([] if size else [(f"bytes={SIZE}-", 416)])


def leave_partial(server, cache):
    server.lengths = [1 << 20, 0]
    refusal(published(server.url))
    assert (cache / "w.h5.partial").stat().st_size == 1 << 20
    server.requests.clear()


def test_server_that_ignores_range(server, cache):
    leave_partial(server, cache)
    server.ranges = False
    assert download.fetch(published(server.url)).read_bytes() == CONTENT
    assert server.requests == [(f"bytes={1 << 20}-", 200)]


def test_a_file_that_changed_on_the_server_is_downloaded_again(server, cache):
    leave_partial(server, cache)
    server.content, server.etag = OTHER, '"two"'
    assert download.fetch(published(server.url, OTHER)).read_bytes() == OTHER
    assert server.requests == [(f"bytes={1 << 20}-", 200)]


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_a_strong_etag_it_starts_again(server, cache, etag):
    server.etag = etag
    server.lengths = [1 << 20]
    assert download.fetch(published(server.url)).read_bytes() == CONTENT
    assert server.requests == [(None, 200), (None, 200)]


def test_wrong_content_is_refused_and_deleted(server, cache):
    server.content = OTHER
    assert f"the md5 {hashlib.md5(OTHER).hexdigest()}, not" in refusal(published(server.url))
    assert not (cache / "w.h5").exists() and not (cache / "w.h5.partial").exists()
    server.content = CONTENT
    assert download.fetch(published(server.url)).read_bytes() == CONTENT


def test_wrong_size_is_refused_before_anything_is_downloaded(server, cache):
    server.content = b"<html>Log in to this network first.</html>"
    assert "the server has 42 bytes" in refusal(published(server.url))
    assert not cached_files(cache)


@pytest.mark.parametrize("spoilt", [b"short", OTHER])
def test_damaged_file_in_the_cache_is_reported_and_replaced(server, cache, caplog, spoilt):
    cache.mkdir()
    (cache / "w.h5").write_bytes(spoilt)
    assert download.fetch(published(server.url)).read_bytes() == CONTENT
    assert f"{cache / 'w.h5'} has " in caplog.text and "downloading it again" in caplog.text


@pytest.mark.parametrize("status", [404, 503])
def test_http_error(server, status):
    server.status = status
    assert f"HTTP Error {status}" in refusal(published(server.url))


def test_no_network(cache):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    assert "cannot be downloaded" in refusal(published(f"http://127.0.0.1:{port}/weights.h5"))


def test_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "mmgc_jax").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"mmgc_jax cannot be created"):
        download.fetch(published(server.url))
