"""The site of the manual: links to source files, shapes in docstrings, and figures."""

import importlib.util
import types

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.docs import pages

DOCS = pages.ROOT / "docs"


def load(name: str) -> types.ModuleType:
    """Imports a program of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path):
    """Builds a site of one page in a repository of two files; returns the HTML of its pages."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    def build_site(text: str, page: str = "page.md") -> dict[str, str]:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "one.py").write_text('"""```python"""\n')
        (tmp_path / "code" / "binary.png").write_bytes(b"\x89PNG")
        place = tmp_path / "docs" / page
        place.parent.mkdir(parents=True)
        place.write_text(text)
        settings = {
            "site_name": "x", "strict": True, "plugins": [], "use_directory_urls": False,
            "hooks": [str(DOCS / "hooks.py")], "markdown_extensions": ["pymdownx.superfences"],
        }  # fmt: skip
        (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
        build(load_config(str(tmp_path / "mkdocs.yml")))
        site = tmp_path / "site"
        return {
            file.relative_to(site).as_posix(): file.read_text(encoding="utf-8")
            for file in site.rglob("*.html")
        }

    return build_site


def test_a_link_to_a_source_file_leads_to_a_page_with_its_text(build):
    html = build("[one](../code/one.py) and [one](../code/one.py)")
    assert html["page.html"].count('href="source/code/one.py.html"') == 2
    # The fence is longer than any in the file.
    assert "```python" in html["source/code/one.py.html"]
    assert "````" not in html["source/code/one.py.html"]


def test_a_link_from_a_folder_of_the_manual(build):
    html = build("[one](../../code/one.py)", "api/page.md")
    assert 'href="../source/code/one.py.html"' in html["api/page.html"]


def test_a_link_to_a_folder_leads_to_a_list_of_its_text_files(build):
    html = build("[code](../code/)")
    assert 'href="source/code.html"' in html["page.html"]
    assert 'href="code/one.py.html"' in html["source/code.html"]
    assert "binary.png" not in html["source/code.html"]
    assert "source/code/one.py.html" in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`[one](../code/one.py)`", "[one](../code/one.py)"),
        ("```text\n[one](../code/one.py)\n```", "[one](../code/one.py)"),
        ("[one](https://a.b/../one.py)", 'href="https://a.b/../one.py"'),
    ],
)
def test_other_links_and_code_stay_as_they_are(build, text, shown):
    html = build(text)
    assert shown in html["page.html"]
    assert not any(name.startswith("source/") for name in html)


@pytest.mark.parametrize("link", ["../code/two.py", "../../outside.py"])
def test_a_dead_link_fails_the_build(build, link):
    from mkdocs.exceptions import Abort

    with pytest.raises(Abort):
        build(f"[dead]({link})")


def test_shapes_in_docstrings_become_code():
    pytest.importorskip("griffe", reason="griffe is not installed: pip install -e '.[docs]'")
    quote_shapes = load("docstrings").quote_shapes
    assert quote_shapes("x <float32>[a, b], of `<bool>[c]`; <kind>.") == (
        "x `<float32>[a, b]`, of `<bool>[c]`; `<kind>`."
    )
    for code in ("1 < 2 and 3 > 2", "Files:\n\n    encoders/<name>/  of <name>\n    other"):
        assert quote_shapes(code) == code
    assert quote_shapes("Args:\n  x: an array,\n    <float32>[a].") == (
        "Args:\n  x: an array,\n    `<float32>[a]`."
    )


@pytest.fixture(scope="module")
def draw_figures():
    return load("draw_figures")


def test_figures_of_the_readme_can_be_drawn(draw_figures, tmp_path, monkeypatch):
    monkeypatch.setattr(draw_figures, "IMAGES", tmp_path / "images")
    draw_figures.main()
    for name in draw_figures.FIGURES:
        with Image.open(tmp_path / "images" / f"{name}.png") as drawn:
            size, description = drawn.size, drawn.info["Description"]
        with Image.open(DOCS / "images" / f"{name}.png") as kept:
            assert (size, description) == (kept.size, kept.info["Description"])


def test_the_example_of_the_architecture_is_good_english(draw_figures):
    figure = draw_figures.draw_architecture()
    texts = [text.get_text() for text in figure.axes[0].texts]
    [plot] = [" ".join(text.split()) for text in texts if text.count("\n") > 3]
    assert "two brothers" not in plot.lower()  # of whom the corpus tells in the singular
    assert "drawn into" not in plot
    assert all(sentence[0].isupper() for sentence in plot.removesuffix(".").split(". "))
    [poster] = figure.axes[0].images
    pixels = np.asarray(poster.get_array())
    colours = {tuple(colour) for colour in pixels.reshape(-1, pixels.shape[-1])[:, :3].tolist()}
    assert len(colours) > 3  # figures on a background
    assert any("made-up" in text for text in texts)


def test_the_line_of_the_talk_crosses_no_label_and_whiskers_are_seen(draw_figures):
    figure = draw_figures.draw_results()
    figure.draw_without_rendering()
    left, right = figure.axes
    [talk] = [line for line in left.lines if list(line.get_xdata()) == [0.91, 0.91]]
    line = talk.get_window_extent()
    labels = [text.get_window_extent() for text in left.texts]
    assert len(labels) == len(left.get_yticks()) + 1
    assert not any(label.x0 <= line.x1 and line.x0 <= label.x1 for label in labels)
    beside = right.get_tightbbox()
    assert not any(label.overlaps(beside) for label in labels)
    assert len(left.containers) == len(left.get_yticks())
    for marker, _, (whisker,) in left.containers:
        size = marker.get_markersize() / 72 * figure.dpi
        [ends] = whisker.get_segments()
        start, end = left.transData.transform(ends)[:, 0]
        assert end - start > size
    assert "95 % interval" in left.get_xlabel()


def test_figures_of_results_are_of_the_csv_files(draw_figures):
    for name, (_, files) in draw_figures.FIGURES.items():
        if files:
            with Image.open(DOCS / "images" / f"{name}.png") as image:
                drawn = image.info["Description"]
            assert drawn == draw_figures.fingerprint(files), "run: python docs/draw_figures.py"
