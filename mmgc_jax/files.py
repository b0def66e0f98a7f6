"""Files that are there whole or not at all."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from mmgc_jax import parallel
from mmgc_jax.errors import InputError


def write_beside(file: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` make a file beside its place and renames it when it is whole.

    Of several processes, which share what they write to, the first one does this.

    Args:
      file: the place; its folder is made if it is not there.
      write: takes the path to write to; that path has the same ending.
    """
    if not parallel.is_first():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"new-{file.name}")
    write(beside)
    os.replace(beside, file)


def write_text(file: pathlib.Path, content: str) -> None:
    """`write_beside` for text, UTF-8."""
    write_beside(file, lambda beside: beside.write_text(content, encoding="utf-8"))


def read_json(file: pathlib.Path, advice: str) -> Any:
    """The content of a JSON file, UTF-8.

    Args:
      file: its path.
      advice: a sentence on what to do, put after the error.

    Raises:
      InputError: if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. {advice}") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}. {advice}") from error
