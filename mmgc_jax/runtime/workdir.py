"""A working directory: what it was made from, and its log."""

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

# Fields of a config that change no result that a working directory already has.
MAY_CHANGE = frozenset({"data.workers", "fusion.compare", "split_parameters", "tensorboard"})

_CONFIG, _INPUTS = "config.json", "inputs.json"


def claim(workdir: Path, config: dict, inputs: Mapping[str, str]) -> None:
    """Records what decides the results, or checks that it is what was recorded before.

    Args:
      workdir: the working directory.
      config: the config of the experiment, as JSON holds it.
      inputs: the hash of each input by the config's field that names it, as of `hash_inputs`.

    Raises:
      InputError: if the folder was made from another config or other inputs.
    """
    check_unchanged(workdir, config)
    _check_same(workdir / _INPUTS, dict(inputs))
    write_text(workdir / _INPUTS, json.dumps(inputs, indent=2))
    write_text(workdir / _CONFIG, json.dumps(config, indent=2))


def check_unchanged(workdir: Path, config: dict) -> None:
    """Checks that a working directory, if it is one already, was made with this config.

    Raises:
      InputError: if a field differs that is not in `MAY_CHANGE`.
    """
    _check_same(workdir / _CONFIG, config)


def hash_inputs(inputs: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """The SHA-256 of each input.

    Args:
      inputs: paths of this machine by the field that names them: a file, a folder, whose files
        count with their names, or several of them.

    Returns:
      64 hexadecimal digits for each path; of several paths of one field, `field[0]` and so on.
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
        # Python writes its byte code beside a package's files.
        files = (file for file in path.iterdir() if file.is_file() and ".py" not in file.name)
        for file in sorted(files):
            digest.update(f"{file.name}:{file.stat().st_size}:".encode())
            _add_content(digest, file)
    return digest.hexdigest()


def _add_content(digest, file: pathlib.Path) -> None:
    with file.open("rb") as stream:
        hashlib.file_digest(stream, lambda: digest)


def _check_same(file: Path, wanted: dict) -> None:
    if not file.exists():
        return
    found = read_json(file, "Choose another --workdir.")
    if not isinstance(found, dict):
        raise InputError(f"{file} is not a JSON object. Choose another --workdir.")
    differing = [
        f"{file.stem}.{name}: {before!r} in the folder, {now!r} now"
        for name, (before, now) in differences(found, wanted).items()
        if name not in MAY_CHANGE
    ]
    if differing:
        raise InputError(
            f"{file.parent} was made from something else. Choose another --workdir, or undo:\n  "
            + "\n  ".join(differing)
        )


def differences(one: dict, other: dict) -> dict[str, tuple]:
    """The fields in which two trees differ: dotted name, in order -> (value, other value)."""
    one, other = _flat(one), _flat(other)
    return {
        name: (one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays that `save_arrays` wrote; None if the file is not there."""
    if not parallel.broadcast(file.exists()):
        return None
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return dict(arrays)


def save_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as a compressed `.npz`, atomically."""
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
