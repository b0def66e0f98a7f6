"""Posters are fetched from a server of the test: in order, in parallel, again, and only once."""

import collections
import contextlib
import http.server
import signal
import threading
import time

import pytest

from mmgc_jax.data import fetch
from mmgc_jax.data.table import TableSettings, read_movies
from mmgc_jax.runtime import preemption
from mmgc_jax.runtime.errors import Interrupted


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked[self.path] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        kind = self.path.removeprefix("/").partition("/")[0]
        if kind == "slow":
            time.sleep(0.05)
        with server.lock:  # before the answer, since its reader may ask again at once
            server.at_once -= 1
        self.answer(kind)

    def answer(self, kind):
        status, headers, content = 200, {"Content-Type": "image/jpeg"}, self.path.encode()
        if kind == "missing":
            status = 404
        elif kind == "broken":
            status = 503
        elif kind == "later" and self.server.asked[self.path] < 3:
            status, headers = 429, {"Retry-After": "0"}
        elif kind == "page":
            headers = {"Content-Type": "text/html; charset=utf-8"}
        elif kind == "loop":
            status, headers = 302, {"Location": "/loop/" + self.path[-1] + "x"}
        elif kind == "file":
            status, headers = 302, {"Location": "file:///etc/hostname"}
        elif kind == "moved":
            status, headers = 301, {"Location": "/good/moved"}
        elif kind == "empty":
            content = b""
        size = len(content)
        if kind == "cut" or (kind == "cut-once" and self.server.asked[self.path] == 1):
            size += 1
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if kind == "drip":
            with contextlib.suppress(OSError):  # the client gives up
                for byte in range(len(content)):
                    self.wfile.write(content[byte : byte + 1])
                    self.server.closing.wait(0.1)
        elif kind == "silent":
            self.server.closing.wait(10)
        else:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.asked, server.lock = collections.Counter(), threading.Lock()
    server.at_once = server.most_at_once = 0
    server.closing = threading.Event()
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(fetch._Retry, "get_backoff_time", lambda self: 0)


def test_in_order_and_a_bounded_number_at_once(server, tmp_path):
    urls = [f"{server.address}/slow/{n}" for n in range(40)]
    assert list(fetch.fetch(urls, tmp_path, workers=4)) == [
        f"/slow/{n}".encode() for n in range(40)
    ]
    assert 2 <= server.most_at_once <= 4


def test_only_a_few_are_fetched_ahead(server, tmp_path):
    found = fetch.fetch([f"{server.address}/good/{n}" for n in range(100)], tmp_path, workers=2)
    next(found)
    time.sleep(0.3)
    assert server.asked.total() <= 5
    found.close()


def test_each_is_fetched_once(server, tmp_path):
    urls = [f"{server.address}/good/1", f"{server.address}/missing/1"]
    for _ in range(2):
        assert list(fetch.fetch(urls, tmp_path)) == [b"/good/1", None]
    assert server.asked == {"/good/1": 1, "/missing/1": 2}


def test_failures_are_listed_and_the_others_are_there(server, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 20)
    kinds = ["good", "missing", "broken", "later", "page", "loop", "file", "moved", "cut", "empty"]
    kinds.append("good/" + "x" * 30)
    urls = [f"{server.address}/{kind}" for kind in kinds] + ["http://127.0.0.1:1/closed", "http://"]
    found = dict(zip([*kinds, "closed", "no address"], fetch.fetch(urls, tmp_path)))
    assert {kind for kind, content in found.items() if content} == {"good", "later", "moved"}
    assert (found["later"], found["moved"]) == (b"/later", b"/good/moved")
    (message,) = caplog.messages  # urllib3 logs nothing
    assert message.startswith("10 of 13 posters cannot be fetched, and count as missing:")
    assert f"{server.address}/missing: 404 Not Found" in message
    assert "page: a web page (text/html), not an image" in message
    assert "loop: too many redirects" in message and "more than 20 bytes" in message
    assert "broken: 503 Service Unavailable" in message
    assert "file: redirected to an address that is neither http nor https" in message
    assert "cut: the connection broke again and again" in message
    assert "empty: an empty answer" in message
    assert "closed: no connection" in message
    assert len(list(tmp_path.iterdir())) == 3  # neither failures nor parts of files are kept
    assert server.asked["/missing"] == 1 and server.asked["/broken"] == 4


def test_more_than_ten_failures(server, tmp_path, caplog):
    urls = [f"{server.address}/missing/{n}" for n in range(12)]
    assert list(fetch.fetch(urls, tmp_path)) == [None] * 12
    (message,) = caplog.messages
    assert message.startswith("12 of 12") and message.endswith("\n  and 2 more")
    assert message.count("404 Not Found") == 10


def test_one_address_of_many_movies(server, tmp_path, caplog):
    urls = [f"{server.address}/slow", f"{server.address}/missing"] * 50
    assert list(fetch.fetch(urls, tmp_path)) == [b"/slow", None] * 50
    assert server.asked == {"/slow": 1, "/missing": 1}
    (message,) = caplog.messages
    assert message.startswith("50 of 100") and message.count("404 Not Found") == 1
    far_apart = [urls[1], *(f"{server.address}/good/{n}" for n in range(9)), urls[1]]
    list(fetch.fetch(far_apart, tmp_path, workers=1))
    assert server.asked["/missing"] == 2


def test_a_broken_connection_is_tried_again(server, tmp_path):
    assert list(fetch.fetch([f"{server.address}/cut-once"], tmp_path)) == [b"/cut-once"]
    assert server.asked == {"/cut-once": 2}


def test_a_server_that_sends_byte_by_byte(server, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fetch, "_MAX_SECONDS", 0.3)
    start = time.monotonic()
    assert list(fetch.fetch([f"{server.address}/drip/{'x' * 50}"], tmp_path)) == [None]
    assert time.monotonic() - start < 3
    assert "not complete after 0.3 seconds" in caplog.text


def test_a_server_that_does_not_answer(server, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fetch, "_TIMEOUT", (1, 0.1))
    assert list(fetch.fetch([f"{server.address}/silent"], tmp_path)) == [None]
    assert "no answer in time" in caplog.text
    assert server.asked == {"/silent": 4}


@pytest.mark.parametrize("kind", ["drip/" + "x" * 50, "later"])
def test_a_stop_does_not_wait_for_slow_servers(server, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(fetch._Retry, "get_retry_after", lambda self, response: 60.0)
    timer = threading.Timer(0.3, preemption._received.append, [signal.SIGTERM])
    start = time.monotonic()
    with preemption.listening():
        timer.start()
        with pytest.raises(Interrupted):
            list(fetch.fetch([f"{server.address}/{kind}"], tmp_path))
    assert time.monotonic() - start < 3
    assert not list(tmp_path.iterdir())


def test_a_server_cannot_make_us_wait_for_hours(monkeypatch):
    monkeypatch.setattr(fetch.Retry, "get_retry_after", lambda self, response: 3600.0)
    assert fetch._Retry().get_retry_after(None) == 30


def test_a_column_of_addresses(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = tmp_path / "movies.csv"
    (tmp_path / "2.jpg").write_bytes(b"a file")
    table.write_text(
        f"id,plot,poster_url\n1,p,{server.address}/good/1\n2,p,2.jpg\n3,p,\n"
        f"4,p,{server.address}/missing\n5,p,{server.address}/good/5\n"
    )
    posters = [movie.poster for movie in read_movies(table, TableSettings())]
    assert posters == [b"/good/1", b"a file", None, None, b"/good/5"]
