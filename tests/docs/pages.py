"""Finds the pages of the manual, their blocks of code, their commands and their links."""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))

# Above a block that tests cannot run, such as one that needs a GPU:  <!-- not run: REASON -->
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|<(?:img|a) [^>]*(?:src|href)=\"(?P<html>[^\"]+)")
_SHELLS = ("bash", "sh", "console")
_PROGRAMS = ("mmgc", "python")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code between two lines of three backticks.

    Attributes:
      page: its file.
      line: number of the first line of code, from 1.
      language: such as `python`; may be empty.
      text: the code.
      not_run: why tests do not run it; empty if they do.
    """

    page: pathlib.Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is to be saved in, if its first line is `# name.py`."""
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of this project.

    Attributes:
      page: the file that shows it.
      words: such as `("mmgc", "train", "--workdir=runs/demo")`.
    """

    page: pathlib.Path
    words: tuple[str, ...]


def name_of(page: pathlib.Path) -> str:
    """Returns a page's path from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: pathlib.Path) -> list[Block]:
    """Returns the blocks of code of a page.

    Raises:
      ValueError: if the last one has no end.
    """
    found, start, lines = [], None, page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if start is None and match:
            start, language, indent = number, match["language"], match["indent"]
        elif start is not None and line == f"{indent}```":
            text = "".join(f"{code.removeprefix(indent)}\n" for code in lines[start + 1 : number])
            found.append(Block(page, start + 2, language, text, _not_run(lines[:start])))
            start = None
    if start is not None:
        raise ValueError(f"{page}:{start + 1}: a block of code has no end")
    return found


def _not_run(lines_above: list[str]) -> str:
    above = next((line for line in reversed(lines_above) if line.strip()), "")
    found = _NOT_RUN.fullmatch(above.strip())
    return found[1] if found else ""


def prose(page: pathlib.Path) -> str:
    """Returns the text of a page with an empty line for each line of code."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in blocks(page):
        for number in range(block.line - 1, block.line - 1 + block.text.count("\n")):
            lines[number] = ""
    return "\n".join(lines)


def links(page: pathlib.Path) -> list[str]:
    """Returns the targets of a page's links and images."""
    text = re.sub(r"`+[^`\n]+`+", "`code`", prose(page))
    return [match["target"] or match["html"] for match in _LINK.finditer(text)]


def commands(page: pathlib.Path) -> list[Command]:
    """Returns the commands of this project in blocks of shell code, and those within the text.

    Placeholders for the rest of a command, `...`, are left out. `$seed` and `SEED` become 0.
    """
    texts = []
    for block in blocks(page):
        if block.language in _SHELLS:
            lines = block.text.replace("\\\n", " ").splitlines()
            if block.language == "console":
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            texts += lines
    texts += re.findall(r"`((?:mmgc|python -m) [^`]+)`", prose(page))
    return [Command(page, words) for text in texts for words in _simple_commands(text)]


def _simple_commands(text: str) -> Iterator[tuple[str, ...]]:
    """Yields the words of each command of a line that is one of this project."""
    text = text.replace("$seed", "0").replace("SEED", "0")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    simple = [[]]
    for word in lexer:
        if set(word) <= set(";|&<>"):
            simple.append([])
        elif word != "...":
            simple[-1].append(word)
    for words in simple:
        while words and re.match(r"\w+=", words[0]):  # variables of the environment
            words = words[1:]
        if words and words[0] in _PROGRAMS and _is_ours(words):
            yield tuple(words)


def _is_ours(words: list[str]) -> bool:
    if words[0] == "mmgc":
        return True
    module = words[2] if words[1:2] == ["-m"] and len(words) > 2 else ""
    return module.split(".")[0] in ("mmgc_jax", "benchmarks")
