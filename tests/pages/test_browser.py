"""The page in the browser: its answers, its API, and a visit with Chromium."""

import csv
import importlib.util
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from mmgc_jax import Predictor
from mmgc_jax.data import talk
from mmgc_jax.data.movies import Movie
from mmgc_jax.pages import browser
from mmgc_jax.runtime.errors import InputError
from tests import tiny
from tests.pages import made_run

PLOT = "the heist in the city . a ghost and a scream ."
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="chromium or playwright is not installed",
)


@pytest.fixture
def service(finished, tmp_path):
    return browser.Service(Predictor.load(finished.workdir), tmp_path)


@pytest.fixture
def poster(finished):
    return str(next((finished.data / "posters").glob("*.jpg")))


@pytest.mark.slow
def test_answers_are_those_of_the_predictor(service, finished, poster):
    predictor = Predictor.load(finished.workdir)
    expected = predictor([Movie(plot=PLOT, poster=poster)])[0]
    found = service.predict(PLOT, poster)
    np.testing.assert_allclose(list(found["probabilities"].values()), expected, atol=1e-5)
    assert tuple(found["probabilities"]) == tuple(found["thresholds"]) == predictor.genres
    decided = predictor.decide(expected)
    assert set(found["predicted"]) == {g for g, yes in zip(predictor.genres, decided) if yes}
    assert service.predict("xyzzy plugh")["notes"]
    first, content = service.explain(PLOT, poster)
    assert first.count('class="bar" title="threshold ') >= len(predictor.genres)
    assert "Without the plot" in first and "follow." in first and "follow." not in content
    assert "Heat map: " not in first and "<mark" not in first
    assert content.count('class="bar" title="threshold ') >= len(predictor.genres)
    assert "Heat map: " in content and "Without the plot" in content and "<mark" in content
    # The page around it keeps its own styles.
    assert "\nbody" not in content and "\nh1" not in content


@pytest.mark.slow
def test_a_table_is_answered_row_by_row(service, finished, tmp_path):
    movies = [movie for movie in talk.read(str(finished.data)) if movie.plot][:3]
    file = tmp_path / "movies.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "plot", "poster"])
        writer.writerows([movie.id, movie.plot, "/etc/passwd"] for movie in movies)
    with open(service.predict_table(str(file))) as stream:
        rows = list(csv.DictReader(stream))
    assert [row["ID"] for row in rows] == [movie.id for movie in movies]
    # Posters of a table are not read: it could name any file.
    expected = Predictor.load(finished.workdir)([Movie(plot=movie.plot) for movie in movies])
    np.testing.assert_allclose([float(row["p_Action"]) for row in rows], expected[:, 0], atol=1e-5)


@pytest.fixture
def cheap(tmp_path):
    """A service that can be asked nothing that needs parameters."""
    return browser.Service(Predictor.load(made_run.write(tmp_path / "run", movies=12)), tmp_path)


def test_mistakes_of_visitors(cheap, tmp_path, monkeypatch):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    for ask in (lambda *given: list(cheap.explain(*given)), cheap.predict):
        with pytest.raises(InputError, match=r"Give a plot or a poster\."):
            ask(" ... ", None)
        with pytest.raises(InputError, match="The poster cannot be read: not an image of a known"):
            ask("", str(broken))
        with pytest.raises(InputError, match="upload it again"):
            ask("a plot", str(tmp_path / "deleted.jpg"))
        with pytest.raises(InputError, match="more than 1,000,000 characters"):
            ask("plot " * 300_000, None)
    with pytest.raises(InputError, match="Choose a table first"):
        cheap.predict_table(None)
    table = tmp_path / "given.csv"
    table.write_text("id,length\n1,2\n")
    with pytest.raises(InputError) as problem:
        cheap.predict_table(str(table))
    assert str(problem.value).startswith("given.csv has no column that looks like a plot")
    monkeypatch.setattr(browser, "_MOST_MOVIES", 1)
    table.write_text("plot\none\ntwo\n")
    with pytest.raises(InputError, match=r"given\.csv has 2 movies; at most 1 are possible"):
        cheap.predict_table(str(table))


@pytest.mark.parametrize("encoders", [("plot",), ("poster",)])
def test_a_run_on_one_modality_asks_for_it_alone(tmp_path, encoders):
    predictor = Predictor.load(made_run.write(tmp_path / "run", movies=12, encoders=encoders))
    service = browser.Service(predictor, tmp_path)
    assert service.modalities == encoders
    with pytest.raises(InputError, match=rf"Give a {encoders[0]}\."):
        service.predict()


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    """A running server; yields its address."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mmgc_jax.serve", f"--workdir={finished.workdir}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--port={port}"], cwd=tiny.ROOT, stdout=log, stderr=log,
            env=os.environ | {"TMPDIR": str(folder)},
        )  # fmt: skip
        try:
            _wait(process, f"http://127.0.0.1:{port}", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: subprocess.Popen, address: str, log: pathlib.Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
@needs_gradio
def test_programs_ask_by_the_api(server, finished, poster):
    from gradio_client import Client, exceptions, handle_file

    client = Client(server, verbose=False)
    found = client.predict(PLOT, handle_file(poster), api_name="/predict")
    expected = Predictor.load(finished.workdir)([Movie(plot=PLOT, poster=poster)])[0]
    np.testing.assert_allclose(list(found["probabilities"].values()), expected, atol=1e-4)
    with pytest.raises(exceptions.AppError, match="Give a plot or a poster"):
        client.predict("", None, api_name="/predict")


@pytest.fixture
def open_page(server):
    """Opens the page in Chromium, each time for another visitor."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )

        def visit():
            page = chromium.new_context().new_page()
            page.set_default_timeout(60_000)
            requests = []
            page.on("request", lambda request: requests.append(request.url))
            page.goto(server)
            page.get_by_label("Plot").wait_for()
            return page, requests

        yield visit
        chromium.close()


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_a_visitor_uploads_a_poster_and_sees_why(open_page, server, poster):
    page, requests = open_page()
    page.get_by_label("Plot").fill(PLOT)
    page.locator("input[type=file]").first.set_input_files(poster)
    page.locator(f"a[download='{pathlib.Path(poster).name}']").wait_for()
    page.get_by_role("button", name="Which genres?").first.click()
    part = page.locator("#answer details:has(img[alt^='Heat map: '])").first
    part.wait_for()
    image = part.locator("img[alt^='Heat map: ']").first
    if image.is_hidden():  # another genre, for which nothing in the poster speaks, is open
        part.locator("summary").click()
    image.wait_for()
    assert image.evaluate("image => image.naturalHeight") > 100
    answer = page.locator("#answer").inner_text()
    assert re.search(r"Why [\w-]+\? \d+\.\d %", answer) and "Without the poster: " in answer
    assert page.locator("#answer mark").count() > 2
    assert {url.split("/")[2] for url in requests if url.startswith("http")} == {server[7:]}


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_a_broken_file_gives_a_message(open_page, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    page, _ = open_page()
    page.locator("input[type=file]").first.set_input_files(str(broken))
    page.locator("a[download='broken.jpg']").wait_for()
    page.get_by_role("button", name="Which genres?").first.click()
    message = page.get_by_role("alert").filter(has_text="The poster cannot be read: not an image")
    message.first.wait_for()


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_a_table_is_uploaded_and_its_answer_can_be_taken_away(open_page, tmp_path):
    page, _ = open_page()
    page.get_by_role("tab", name="A table").click()
    file = tmp_path / "movies.csv"
    file.write_text("id,plot\n1,the heist\n")
    page.locator("input[type=file]").last.set_input_files(str(file))
    page.locator("a[download='movies.csv']").wait_for()
    page.get_by_role("button", name="Which genres?").last.click()
    with page.expect_download() as download:
        page.locator("a[download^='genres-']").click()
    assert download.value.path().read_text().startswith("ID,p_Action,")


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_two_visitors_get_their_own_answers(open_page):
    (one, _), (other, _) = open_page(), open_page()
    one.get_by_label("Plot").fill("heist")
    other.get_by_label("Plot").fill("ghost scream")
    for page in (one, other):
        page.get_by_role("button", name="Which genres?").first.click()
    for page, word, absent in ((one, "heist", "ghost"), (other, "ghost", "heist")):
        page.locator("#answer .plot").first.wait_for()
        text = page.locator("#answer").inner_text()
        assert word in text and absent not in text
