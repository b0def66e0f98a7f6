"""Lets pages of the manual link to files outside of docs/.

On a code host `../mmgc_jax/main.py` leads to the file. For each such link the site gets a page with
the file's text, or with a list of a folder's files, and the link is changed to lead to that page. A
link to a file that does not exist fails the build, as it does within docs/.
"""

import pathlib
import posixpath
import re
from collections.abc import Iterator

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

# A fenced block, a code span, or the target of a link. The first two are left as they are.
_LINK = re.compile(
    r"^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence) *$"
    r"|(?P<ticks>`+)[^`].*?(?P=ticks)"
    r"|(?<=\]\()(?P<target>[^)\s#]+)",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = {
    ".cfg": "ini", ".csv": "text", ".json": "json", ".md": "markdown", ".py": "python",
    ".sh": "bash", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml",
}  # fmt: skip


def on_files(files: Files, config) -> Files:
    """Adds a page for each file and folder outside of docs/ that a page links to."""
    root = pathlib.Path(config.config_file_path).parent
    wanted = {}
    for page in files.documentation_pages():
        if page.src_uri.endswith(".md"):
            for link, target in _links_out(page.content_string, page.src_uri):
                wanted[target] = f"{page.src_uri} links to {link}"
    for target, origin in wanted.items():
        _add_pages(files, config, root / target, target, origin)
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Leads links to files outside of docs/ to their pages."""
    here = page.file.src_uri

    def replace(match: re.Match) -> str:
        target = _outside(match["target"], here)
        if target is None:
            return match[0]
        return posixpath.relpath(_page_of(target), posixpath.dirname(here) or ".")

    return _LINK.sub(replace, markdown)


def _links_out(markdown: str, src_uri: str) -> Iterator[tuple[str, str]]:
    """Yields the links of a page that leave docs/, and the paths that they lead to."""
    for match in _LINK.finditer(markdown):
        if (target := _outside(match["target"], src_uri)) is not None:
            yield match["target"], target


def _outside(link: str | None, src_uri: str) -> str | None:
    """Returns the path of a link from the root of the repository; None if it stays in docs/."""
    if link is None or ":" in link or link.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(src_uri), link))
    return None if path == "docs" or path.startswith("docs/") else path


def _page_of(target: str) -> str:
    """Returns the page's path in the site's sources."""
    return f"source/{target}.md"


def _add_pages(files: Files, config, place: pathlib.Path, target: str, origin: str) -> None:
    """Adds the page of a file; of a folder, with the pages of its files."""
    if target.startswith("..") or not place.exists():
        raise PluginError(f"{origin}, which does not exist.")
    if files.get_file_from_path(_page_of(target)):
        return
    head = f"---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {target}\n\n"
    if place.is_dir():
        inside = sorted(p for p in place.glob("[!.]*") if p.is_file() and p.suffix in _LANGUAGES)
        text = head + "".join(f"- [{p.name}]({place.name}/{p.name}.md)\n" for p in inside)
    else:
        inside = []
        content = place.read_text(encoding="utf-8")
        script = "bash" if content.startswith("#!") else "text"
        language = _LANGUAGES.get(place.suffix, script)
        fence = "`" * (1 + max(3, *map(len, re.findall("`+", content)), 0))
        text = f'{head}{fence} {{.{language} linenums="1"}}\n{content}\n{fence}\n'
    files.append(
        File.generated(config, _page_of(target), content=text, inclusion=InclusionLevel.NOT_IN_NAV)
    )
    for file in inside:
        _add_pages(files, config, file, f"{target}/{file.name}", origin)
