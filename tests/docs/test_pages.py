"""The README and the pages of the manual: their form, their links and their place in the site."""

import json
import pathlib
import re

import pytest
import yaml

from tests.docs import pages

NOTEBOOKS = sorted((pages.ROOT / "docs").glob("*.ipynb"))
each_page = pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)


def test_the_readme_is_short():
    assert len(pages.README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_first_two_bash_blocks_of_the_readme_are_the_demo_and_the_tests():
    demo, tests, *others = (b.text for b in pages.blocks(pages.README) if b.language == "bash")
    assert demo.splitlines()[0] == "pip install -e ."
    assert demo.splitlines()[1].endswith(" --workdir=runs/demo")
    assert tests == 'pip install -e ".[test]"\npython -m pytest --numprocesses=2\n'
    assert not others


@each_page
def test_lines_are_short(page):
    # A table's row is one line, whatever its length.
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        assert len(line) <= 120, f"{page}:{number}"


@each_page
def test_nothing_is_left_to_fill_in(page):
    assert not re.findall(r"@@[A-Z]+|TODO|FIXME|XXX", page.read_text(encoding="utf-8"))


@each_page
def test_links_lead_to_files_and_headings(page):
    for link in pages.links(page):
        check_link(page, link)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=pages.name_of)
def test_links_of_notebooks_lead_to_files_and_headings(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        check_link(notebook, link)


def check_link(page: pathlib.Path, link: str) -> None:
    """Asserts that a link, unless it is an address, leads to a file of the repository."""
    if re.match(r"https?://|mailto:", link):
        return
    path, _, anchor = link.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.is_relative_to(pages.ROOT) and file.exists(), f"{page}: {link}"
    if anchor and file.suffix == ".md":
        assert anchor in anchors(file), f"{page}: {link}; there are {', '.join(anchors(file))}"


def anchors(page: pathlib.Path) -> list[str]:
    """Returns the anchors of a page's headings, as code hosts and the site make them."""
    headings = re.findall(r"^#+ +(.+)$", pages.prose(page), re.MULTILINE)
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower() for heading in headings)
    return [re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading)) for heading in plain]


def test_the_page_on_predicting_makes_the_files_that_its_examples_read():
    text = (pages.ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    read = list(re.finditer(r"(?:--(?:poster|plot_file|movies)=|poster=\")([a-z]+\.[a-z]+)", text))
    assert {match[1] for match in read} == {
        "poster.png", "plot.txt", "movies.csv", "labelled.csv"
    }  # fmt: skip
    for match in read:
        # A path in Python, a redirection, or "Save this as `movies.csv`".
        made = rf"(?:\(\"|> |as `){re.escape(match[1])}"
        assert re.search(made, text[: match.start()]), match[0]


def test_the_navigation_of_the_site_has_every_page():
    nav = yaml.safe_load((pages.ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    docs = pages.ROOT / "docs"
    files = {p.relative_to(docs).as_posix() for p in (*pages.PAGES[1:], *NOTEBOOKS)}
    assert sorted(files_in(nav)) == sorted(files)


def files_in(entry) -> list[str]:
    """Returns the files that an entry of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [file for inner in entries for file in files_in(inner)]


def test_the_readme_leads_to_every_page():
    linked = {(pages.ROOT / link).resolve() for link in pages.links(pages.README)}
    for page in (*(pages.ROOT / "docs").glob("*.md"), *NOTEBOOKS):
        assert page in linked or page.name == "index.md", page
