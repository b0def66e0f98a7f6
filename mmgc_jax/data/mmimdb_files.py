"""Reads the files of MM-IMDb out of its archive, or out of the folder that it extracts to.

The archive is never unpacked, but read as a stream from beginning to end. It is not trusted: links,
names that lead out of it, decompression bombs and silent ends are errors. TFDS's `iter_archive`
lets all of these pass.
"""

import gzip
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator

from mmgc_jax.data import movies
from mmgc_jax.runtime.errors import InputError

SPLIT = "split.json"
# Larger files are mistakes or attacks.
_MAX_BYTES = {".json": 16 << 20, ".jpeg": 64 << 20}
_BLOCK = 1 << 20  # bytes; also the limit for a header
# Uncompressed to compressed size. More is a decompression bomb, since JPEGs hardly shrink; small
# archives may have any ratio.
_MAX_RATIO = 20
_ALWAYS_ALLOWED = 256 << 20  # bytes, uncompressed
# Raised by gzip and tarfile for a damaged file; the last two for numbers too large for an offset.
_DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError)

IsWanted = Callable[[pathlib.PurePosixPath], bool]
Files = Iterator[tuple[pathlib.PurePosixPath, bytes | None]]


def files(place: pathlib.Path, is_wanted: IsWanted) -> Files:
    """Yields `split.json` and the files of `dataset/`; the content only of those wanted, else None.

    Other files are skipped. A name that occurs twice is an `InputError`.
    """
    seen = set()
    for name, content in (_of_archive if place.is_file() else _of_folder)(place, is_wanted):
        if name in seen:
            raise InputError(f"{place}: {name} occurs more than once.")
        seen.add(name)
        yield name, content


def _inside(name: pathlib.PurePosixPath) -> pathlib.PurePosixPath | None:
    """Returns a file's name without the archive's root, mmimdb/; None if it is not of the data."""
    parts = name.parts[1:] if len(name.parts) > 1 and name.parts[0] != "dataset" else name.parts
    of_a_movie = len(parts) == 2 and parts[0] == "dataset" and name.suffix in _MAX_BYTES
    return pathlib.PurePosixPath(*parts) if of_a_movie or parts == (SPLIT,) else None


def _of_folder(folder: pathlib.Path, is_wanted: IsWanted) -> Files:
    try:
        for file in (folder / SPLIT, *sorted((folder / "dataset").iterdir())):
            name = _inside(pathlib.PurePosixPath(file.relative_to(folder)))
            if name is not None and file.is_file():
                if movies.leads_out(file):
                    raise InputError(f"{file} is a link that leads out of its folder.")
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
            f"{file} is not a whole .tar.gz archive: {error}. Download it again."
        ) from error


def _check_member(file: pathlib.Path, member: tarfile.TarInfo) -> None:
    if member.size < 0:  # tarfile would go back, and read the same member for ever
        raise tarfile.ReadError("a member has a negative size")
    name = pathlib.PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{file}: the member {member.name!r} leads out of it.")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise InputError(
            f"{file}: the member {member.name!r} is a link or a device, or sparse, which MM-IMDb's "
            "archive does not have."
        )


class _Stream(gzip.GzipFile):
    """The uncompressed archive, with a limit on how far it may be read.

    tarfile itself reads a header of any size that the header claims, into memory.
    """

    def __init__(self, file: pathlib.Path):
        super().__init__(file)
        self._limit = max(_ALWAYS_ALLOWED, _MAX_RATIO * file.stat().st_size)
        self.allow(0)

    def allow(self, offset: int) -> None:
        """Allows reading up to an offset where a header begins, and that header.

        Raises:
          tarfile.ReadError: if the offset is more than an archive of this size can hold.
        """
        if offset > self._limit:
            raise tarfile.ReadError(f"it holds over {self._limit} bytes: a decompression bomb")
        self._allowed = offset + _BLOCK

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._allowed - self.tell():
            raise tarfile.ReadError(f"a header has over {_BLOCK} bytes")
        return super().read(size)


def _check_size(place: pathlib.Path, name: pathlib.PurePosixPath, size: int) -> None:
    limit = _MAX_BYTES[name.suffix]
    if size > limit:
        raise InputError(f"{place}: {name} has {size} bytes; more than {limit} are a mistake.")


def _check_end(stream: _Stream, end: int) -> None:
    """Reads to the end of the file, where gzip compares its checksum.

    tarfile stops silently at a header that it does not understand, or at the end of the data. So
    only zeros may follow `end`, and at least the block of them that ends an archive.
    """
    if stream.tell() < end + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("unexpected end of data")
    stream.allow(stream.tell())
    while rest := stream.read(_BLOCK):
        stream.allow(stream.tell())
        if rest.strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
