"""Tests uploads to the Hugging Face Hub and downloads from it, with a stand-in on this machine."""

import logging

import pytest

from mmgc_jax.runtime import hub
from mmgc_jax.runtime.errors import InputError
from tests import hub_server

NAME = "owner/movies"


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hub_server.running(monkeypatch, tmp_path / "cache") as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    for name in (
        "README.md",
        "model.py",
        "__pycache__/model.pyc",
        "graphs/plot.jax_export",
        "encoders/plot/words.json",
    ):
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_text(f"the content of {name}")
    return tmp_path / "made"


def files_of(server):
    return server.repositories[NAME]["commits"][-1]


def test_a_folder_is_uploaded_in_one_commit_and_downloaded_without_code(server, folder, caplog):
    with caplog.at_level(logging.INFO, "mmgc_jax"):
        url = hub.upload(folder, NAME, "Upload it")
    assert url.endswith(f"/{NAME}") and url in caplog.text
    assert server.repositories[NAME]["private"] is True
    assert len([r for r in server.requests if "/commit/" in r]) == 1
    assert files_of(server)["encoders/plot/words.json"].startswith(b"the content of")
    assert "model.py" in files_of(server) and "pyc" not in str(files_of(server))

    copy = hub.download(f"hf://{NAME}")
    names = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_file()}
    assert names == {"README.md", "encoders/plot/words.json"}


def test_an_upload_replaces_the_files_of_an_earlier_one(server, folder):
    hub.upload(folder, NAME, "one")
    (folder / "graphs" / "plot.jax_export").rename(folder / "graphs" / "text.jax_export")
    hub.upload(folder, NAME, "two")
    assert {name for name in files_of(server) if "graphs" in name} == {"graphs/text.jax_export"}
    assert server.repositories[NAME]["private"] is True


def test_a_repository_becomes_public_only_after_the_upload(server, folder):
    hub.upload(folder, NAME, "one", public=True)
    assert server.repositories[NAME]["private"] is False
    actions = [request for request in server.requests if not request.startswith("GET")]
    assert "/settings" in actions[-1] and "/commit/" in actions[-2]


@pytest.mark.parametrize(
    ("failing", "left", "message"),
    [
        ("/repos/create", None, r"Nothing of .* is at http"),
        ("/preupload/", True, "is empty and private; delete it there"),
        ("/commit/", True, "is empty and private; delete it there"),
        ("/settings", True, "is complete, but a new repository is still private"),
    ],
)
def test_a_failure_says_what_exists_and_leaves_nothing_public(
    server, folder, monkeypatch, failing, left, message
):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's attempts
    server.failing = failing
    with pytest.raises(InputError, match=message):
        hub.upload(folder, NAME, "one", public=True)
    assert server.repositories.get(NAME, {}).get("private") is left
    if left and failing != "/settings":
        assert files_of(server) == {}


def test_a_failed_second_upload_leaves_the_first(server, folder, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.upload(folder, NAME, "one", public=True)
    before = dict(files_of(server))
    server.failing = "/commit/"
    (folder / "README.md").write_text("another")
    with pytest.raises(InputError, match=r"500 Internal Server Error.* is as it was before"):
        hub.upload(folder, NAME, "two")
    assert files_of(server) == before


def test_a_missing_repository_is_an_input_error(server):
    with pytest.raises(InputError, match=r"hf://owner/other cannot be downloaded: .*HF_TOKEN"):
        hub.download("hf://owner/other")


def test_addresses():
    assert hub.is_address("hf://owner/name")
    assert not hub.is_address("gs://bucket/name") and not hub.is_address("runs/demo")
