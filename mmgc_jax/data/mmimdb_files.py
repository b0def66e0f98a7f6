"""Reads the files of MM-IMDb from its archive or from the extracted folder.

The archive is streamed from beginning to end and never extracted. It need not be trusted: links,
paths outside of it, decompression bombs and truncated archives are errors. TFDS's `iter_archive`
does not detect any of these.
"""

import gzip
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator

from mmgc_jax.data import movies
from mmgc_jax.runtime.errors import InputError

SPLIT = "split.json"
# Maximum file sizes; larger files are mistakes or attacks.
_MAX_BYTES = {".json": 16 << 20, ".jpeg": 64 << 20}
_BLOCK = 1 << 20  # bytes; also the maximum size of a header
# Maximum ratio of uncompressed to compressed size; JPEGs hardly shrink, so more is a decompression
# bomb. Archives of up to _ALWAYS_ALLOWED bytes (uncompressed) may have any ratio.
_MAX_RATIO = 20
_ALWAYS_ALLOWED = 256 << 20
# gzip and tarfile raise these for damaged files; the last two for sizes that exceed an offset.
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError)

IsWanted = Callable[[pathlib.PurePosixPath], bool]
Files = Iterator[tuple[pathlib.PurePosixPath, bytes | None]]


def files(place: pathlib.Path, is_wanted: IsWanted) -> Files:
    """Yields the names and contents of `split.json` and the files in `dataset/`.

    Args:
      place: path of the archive or the folder.
      is_wanted: returns whether to read the file with a given name.

    Yields:
      The file's name, and its content, or None if it is not wanted. Other files are skipped.

    Raises:
      InputError: if the archive or folder cannot be read, is malformed or malicious, or has the
        same name twice.
    """
    seen = set()
    for name, content in (_of_archive if place.is_file() else _of_folder)(place, is_wanted):
        if name in seen:
            raise InputError(f"{place}: {name} occurs more than once.")
        seen.add(name)
        yield name, content


def _inside(name: pathlib.PurePosixPath) -> pathlib.PurePosixPath | None:
    """Removes the root folder (mmimdb/) from a name; returns None for files to be skipped."""
    parts = name.parts[1:] if len(name.parts) > 1 and name.parts[0] != "dataset" else name.parts
    of_a_movie = len(parts) == 2 and parts[0] == "dataset" and name.suffix in _MAX_BYTES
    return pathlib.PurePosixPath(*parts) if of_a_movie or parts == (SPLIT,) else None


def _of_folder(folder: pathlib.Path, is_wanted: IsWanted) -> Files:
    try:
        for file in (folder / SPLIT, *sorted((folder / "dataset").iterdir())):
            name = _inside(pathlib.PurePosixPath(file.relative_to(folder)))
            if name is not None and file.is_file():
                if movies.leads_out(file):
                    raise InputError(f"{file} is a link to a place outside its folder.")
                _check_size(folder, name, file.stat().st_size)
                yield name, file.read_bytes() if is_wanted(name) else None
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}") from error


def _of_archive(file: pathlib.Path, is_wanted: IsWanted) -> Files:
    try:
        with _Stream(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                stream.allow(archive.offset)
                _check_member(file, member)
                name = _inside(pathlib.PurePosixPath(member.name))
                if name is not None and member.isfile():
                    _check_size(file, name, member.size)
                    yield name, archive.extractfile(member).read() if is_wanted(name) else None
            _check_end(stream, archive.offset)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{file} is not a complete .tar.gz archive: {error}. Download it again."
        ) from error


def _check_member(file: pathlib.Path, member: tarfile.TarInfo) -> None:
    if member.size < 0:  # tarfile would seek back and read the same member forever
        raise tarfile.ReadError("a member has a negative size")
    name = pathlib.PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{file}: the member {member.name!r} has a path outside the archive.")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise InputError(
            f"{file}: the member {member.name!r} is a link, a device or a sparse file, which "
            "MM-IMDb's archive does not have."
        )


class _Stream(gzip.GzipFile):
    """The uncompressed archive, with a limit on the offset up to which it can be read.

    Without the limit, tarfile would read a header of any declared size into memory.
    """

    def __init__(self, file: pathlib.Path):
        super().__init__(file)
        self._limit = max(_ALWAYS_ALLOWED, _MAX_RATIO * file.stat().st_size)
        self.allow(0)

    def allow(self, offset: int) -> None:
        """Allows reading up to the offset of a header, plus the maximum size of a header.

        Raises:
          tarfile.ReadError: if the offset is too large for an archive of this size.
        """
        if offset > self._limit:
            raise tarfile.ReadError(f"a decompression bomb of more than {self._limit} bytes")
        self._allowed = offset + _BLOCK

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._allowed - self.tell():
            raise tarfile.ReadError(f"a header has more than {_BLOCK} bytes")
        return super().read(size)


def _check_size(place: pathlib.Path, name: pathlib.PurePosixPath, size: int) -> None:
    limit = _MAX_BYTES[name.suffix]
    if size > limit:
        raise InputError(f"{place}: {name} has {size} bytes, more than the limit of {limit}.")


def _check_end(stream: _Stream, end: int) -> None:
    """Reads to the end of the file, so that gzip verifies its checksum.

    tarfile silently stops at a header that it cannot parse and where the data ends. A complete
    archive has at least one block of zeros after the last member, and nothing but zeros.

    Args:
      stream: the archive.
      end: offset of the end of the last member.

    Raises:
      tarfile.ReadError: if the archive is truncated or a header is damaged.
    """
    if stream.tell() < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")
    stream.allow(stream.tell())
    while rest := stream.read(_BLOCK):
        stream.allow(stream.tell())
        if rest.strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
