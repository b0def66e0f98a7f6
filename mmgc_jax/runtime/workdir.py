"""A working directory: the config and inputs it was made from, its arrays and its log."""

import contextlib
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, append_line, read_json, write_atomically, write_text

logger = logging.getLogger(__name__)

# Config fields that may differ when a run continues, since they do not change existing results.
MAY_CHANGE = frozenset({"data.workers", "fusion.compare", "split_parameters", "tensorboard"})

_MOST_DIFFERENCES = 8  # that an error message lists

_CONFIG, _INPUTS = "config.json", "inputs.json"


def claim(workdir: Path, config: dict, inputs: Mapping[str, str]) -> None:
    """Records the config and the hashes of inputs, or checks them against an earlier record.

    Args:
      workdir: the working directory.
      config: the config of the experiment, as a JSON object.
      inputs: the result of `hash_inputs`.

    Raises:
      InputError: if the folder was made from a different config or different inputs.
    """
    check_unchanged(workdir, config)
    _check_same(workdir / _INPUTS, dict(inputs))
    write_text(workdir / _INPUTS, json.dumps(inputs, indent=2))
    write_text(workdir / _CONFIG, json.dumps(config, indent=2))


def check_unchanged(workdir: Path, config: dict) -> None:
    """Checks that a working directory, if it exists, was made from this config.

    Args:
      workdir: the working directory.
      config: the config of the experiment, as a JSON object.

    Raises:
      InputError: if fields differ, except those in `MAY_CHANGE`.
    """
    _check_same(workdir / _CONFIG, config)


def recorded_config(workdir: Path) -> dict | None:
    """Returns the config that a working directory was made from; None if there is none.

    Raises:
      InputError: if its file is damaged.
    """
    return _read(workdir / _CONFIG)


def hash_inputs(inputs: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """Computes the SHA-256 of each input.

    Args:
      inputs: for each config field, a local path or a tuple of paths, of files or folders. The hash
        of a folder covers the names and contents of its files.

    Returns:
      64 hexadecimal digits for each path, by the name of the field; for a tuple of paths the names
      are `field[0]`, `field[1]` and so on.
    """
    hashes, hash_of = {}, functools.cache(_hash)  # encoders may share a file
    for field, paths in inputs.items():
        if isinstance(paths, str):
            hashes[field] = hash_of(pathlib.Path(paths))
        else:
            hashes |= {f"{field}[{i}]": hash_of(pathlib.Path(path)) for i, path in enumerate(paths)}
    return hashes


def _hash(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        _add_content(digest, path)
    else:
        # Python writes byte code next to a package's files; it does not count.
        files = (file for file in path.iterdir() if file.is_file() and ".py" not in file.name)
        for file in sorted(files):
            digest.update(f"{file.name}:{file.stat().st_size}:".encode())
            _add_content(digest, file)
    return digest.hexdigest()


def _add_content(digest, file: pathlib.Path) -> None:
    with file.open("rb") as stream:
        hashlib.file_digest(stream, lambda: digest)


def _check_same(file: Path, wanted: dict) -> None:
    if (recorded := _read(file)) is None:
        return
    differing = [
        f"{file.stem}.{name}: {_change(before, now)}"
        for name, (before, now) in differences(recorded, wanted).items()
        if name not in MAY_CHANGE
    ]
    if differing:
        more = len(differing) - _MOST_DIFFERENCES
        shown = differing[:_MOST_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
        raise InputError(
            f"{file.parent} was made with different settings or inputs. Choose another --workdir, "
            "or undo:\n  " + "\n  ".join(shown)
        )


def _read(file: Path) -> dict | None:
    """Reads a JSON object; None if there is no file."""
    if not file.exists():
        return None
    found = read_json(file, "Choose another --workdir.")
    if not isinstance(found, dict):
        raise InputError(f"{file} is not a JSON object. Choose another --workdir.")
    return found


def _change(before, now) -> str:
    """Describes the values of a field in the folder and now; None if there is no such field."""
    if before is None or now is None:
        return "only now" if before is None else "only in the folder"
    return f"{before!r} in the folder, {now!r} now"


def differences(one: dict, other: dict) -> dict[str, tuple]:
    """Returns the fields in which two configs differ.

    Args:
      one: a config as nested dictionaries.
      other: another config.

    Returns:
      {dotted name: (value in `one`, value in `other`)}, sorted by name; None for missing fields. A
      section that the other one lacks, or has empty, is one field, with the value `"a section"`; an
      empty one has the value `"an empty section"`.
    """
    found = {}
    for name in sorted(one.keys() | other.keys()):
        pair = one.get(name), other.get(name)
        if pair[0] == pair[1]:
            continue
        if all(isinstance(value, dict) and value for value in pair):
            inner = differences(*pair)
            found |= {f"{name}.{field}": values for field, values in inner.items()}
        else:
            found[name] = tuple(map(_without_fields, pair))
    return found


def _without_fields(value):
    if not isinstance(value, dict):
        return value
    return "a section" if value else "an empty section"


def load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """Reads the arrays that `save_arrays` wrote; None if there is no file; a collective."""
    if not parallel.broadcast(file.exists()):
        return None
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return dict(arrays)


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name to a compressed `.npz` file, atomically; on process 0 only."""
    write_atomically(file, lambda stream: np.savez_compressed(stream, **arrays))


class _FileHandler(logging.Handler):
    """Appends log lines to a file, on this machine or in a bucket."""

    def __init__(self, file: Path):
        super().__init__()
        self._file = file

    def emit(self, record) -> None:
        append_line(self._file, self.format(record))


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Appends the log lines of this package to a file, each with its time, within the block."""
    package = logging.getLogger("mmgc_jax")
    handler = _FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
