"""Files that are there whole or not at all."""

import os
import pathlib
from collections.abc import Callable


def write_beside(file: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` make a file beside its place and renames it when it is whole.

    Args:
      file: the place; its folder is made if it is not there.
      write: takes the path to write to; that path has the same ending.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"new-{file.name}")
    write(beside)
    os.replace(beside, file)


def write_text(file: pathlib.Path, content: str) -> None:
    """`write_beside` for text, UTF-8."""
    write_beside(file, lambda beside: beside.write_text(content, encoding="utf-8"))
