"""Python code of the README and the manual runs.

The blocks of a page run in their order, as a reader would run them, in a folder that holds what
they name: `runs/`, `movies.csv`, `posters/` and MM-IMDb's archive. A block whose first line is
`# name.py` is saved in this file before it runs, and its `get_config` is called.
"""

import pathlib
import re
import sys
import traceback

import ml_collections
import pytest

from tests import tiny
from tests.docs import pages


def python_blocks(page: pathlib.Path) -> list[pages.Block]:
    return [block for block in pages.blocks(page) if block.language == "python"]


def needs_run(page: pathlib.Path) -> bool:
    """Returns whether the code of a page reads a finished run."""
    return any("runs/" in block.text for block in python_blocks(page))


def pages_with_code() -> list:
    found = [page for page in pages.PAGES if python_blocks(page)]
    return [
        pytest.param(
            page, id=pages.name_of(page), marks=[pytest.mark.slow] if needs_run(page) else []
        )
        for page in found
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the code; modules that are imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def run(blocks: list[pages.Block]) -> None:
    """Runs blocks of one page; those without a file share their names."""
    shared = {"__name__": "__main__"}
    for block in blocks:
        if block.not_run:
            continue
        names = shared
        if block.file:
            pathlib.Path(block.file).write_text(block.text, encoding="utf-8")
            names = {"__name__": pathlib.Path(block.file).stem}
        # Empty lines above, so that errors name the line of the page.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, pages.name_of(block.page), "exec"), names)
        if "get_config" in names:
            assert isinstance(names["get_config"](), ml_collections.ConfigDict)


@pytest.mark.parametrize("page", pages_with_code())
def test_code_runs(page, folder, request):
    blocks = python_blocks(page)
    text = "".join(block.text for block in blocks)
    if needs_run(page):
        finished = request.getfixturevalue("finished")
        (folder / "runs").mkdir()
        for name in set(re.findall(r"runs/([\w-]+)", text)):
            (folder / "runs" / name).symlink_to(finished.workdir)
        (folder / "movies.csv").symlink_to(finished.data / "movies.csv")
        (folder / "posters").symlink_to(finished.data / "posters")
    if "mm_imdb" in text:
        tiny.write_mmimdb_archive(folder / "MANUAL" / "mmimdb.tar.gz", tiny.mmimdb_files())
    run(blocks)


def test_reasons_stand_above_blocks_that_do_not_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# a.py\n1\n```\n\n<!-- not run: needs a GPU -->\n\n```python\n2 / 0\n```\n"
    )
    first, second = pages.blocks(page)
    assert (first.file, first.line, first.not_run) == ("a.py", 2, "")
    assert (second.file, second.line, second.not_run) == (None, 9, "needs a GPU")


def test_errors_name_the_line_of_the_page(folder):
    page = pages.README
    with pytest.raises(ZeroDivisionError) as caught:
        run([pages.Block(page, 7, "python", "a = 0\n1 / a\n", "")])
    frame = traceback.extract_tb(caught.tb)[-1]
    assert (frame.filename, frame.lineno) == ("README.md", 8)
