"""Reads word vectors from files in word2vec's binary or text format.

gensim's `load_word2vec_format` loads all vectors of a file (3.6 GB for Google's three million) or
the first ones. This module reads the file once and keeps only the vectors of the wanted words.

The format is detected from the content: binary or text, gzipped or not. A text file may lack the
header line with the number and the length of the vectors, as GloVe's files do. gensim's
`KeyedVectors.save_word2vec_format` writes these formats. Its `save` writes pickles, which are
refused.

In the binary format a word ends at the first blank. gensim writes words with blanks nevertheless;
such files are refused, because the bytes of a vector do not show where it begins.
"""

import contextlib
import gzip
import pathlib
import string
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.progress import progress_bar

_CHUNK = 1 << 20  # bytes read at once
_LONGEST_WORD = 1 << 12  # bytes
_LONGEST_LINE = 1 << 20  # bytes
_MOST_DIMENSIONS = 10_000
_LARGEST_VALUE = 1e10
_ENDS_IN_BLANK = 2.0**-63, 2.0**-61  # the floats whose last byte in a file is a blank
_TEXT = frozenset(string.printable.encode())
_BLANKS = (
    "If a word of the file contains a blank, which word2vec's binary format cannot hold, save the "
    "vectors again in the text format."
)

# Each word with a function that parses its vector. The function is only called for wanted words.
_Entries = Iterator[tuple[str, Callable[[], np.ndarray]]]


def read(file, words: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the vectors of some words.

    If the file does not have a word, the first of these spellings that it has is used:

    1. with capitals (`John` for `john`) or hyphens for underscores (`New-York` for `new_york`); of
       several such spellings, the one with the fewest changed characters, then the first one;
    2. without accents (`fiancee` for `fiancée`).

    Args:
      file: path of the file.
      words: the wanted words, lowercase; phrases are joined by underscores.

    Returns:
      The vector <float32>[dim] of each word that was found.

    Raises:
      InputError: if the file is missing, malformed or truncated, or a wanted vector has values
        that are not finite or exceed 1e10, or numbers such as 2e-19 that end in a blank in bytes.
    """
    wanted: dict[str, list[tuple[int, str, str]]] = {}
    for word in words:
        for rank, form in enumerate(_forms(word)):
            wanted.setdefault(_fold(form), []).append((rank, form, word))
    best: dict[str, tuple[int, int]] = {}
    vectors: dict[str, np.ndarray] = {}
    with _open(file) as (entries, total, _):
        for key, vector in progress_bar(
            entries, desc="word vectors", total=total, unit="word", unit_scale=True
        ):
            for rank, form, word in wanted.get(_fold(key), ()):
                closeness = rank, sum(a != b for a, b in zip(key, form))
                if word not in best or closeness < best[word]:
                    best[word], vectors[word] = closeness, vector()
    for word, vector in vectors.items():
        if not np.isfinite(vector).all():
            raise InputError(f"{file}: the vector of {word!r} is not finite.")
        low, high = _ENDS_IN_BLANK
        odd = vector[(np.abs(vector) > _LARGEST_VALUE) | ((low <= vector) & (vector < high))]
        if odd.size:
            raise InputError(
                f"{file}: the vector of {word!r} has values such as {odd[0]:.0e}. {_BLANKS}"
            )
    return vectors


def dimension(file) -> int:
    """Returns the length of a file's vectors; reads only its first entry.

    Args:
      file: path of the file.

    Raises:
      InputError: if the file is missing, empty, or malformed at its beginning.
    """
    with _open(file) as (entries, _, dim):
        for _, vector in entries:
            vector()
            return dim
    raise InputError(f"{file} holds no vectors.")


def _forms(word: str) -> list[str]:
    """Returns spellings of a word, best first; capitals and hyphens are handled by `_fold`."""
    apart = unicodedata.normalize("NFD", word)
    plain = unicodedata.normalize("NFC", "".join(c for c in apart if not unicodedata.combining(c)))
    return list(dict.fromkeys(filter(None, (word, plain))))


def _fold(key: str) -> str:
    """Maps spellings that differ only in capitals, hyphens and underscores to the same key."""
    return key.lower().replace("-", "_")


@contextlib.contextmanager
def _open(file) -> Iterator[tuple[_Entries, int | None, int]]:
    """Opens a file; yields entries, their number (None if unknown) and the length of vectors."""
    file = pathlib.Path(file)
    if not file.is_file():
        raise InputError(
            f"{file}: no such file. Word vectors must be in word2vec's binary or text format."
        )
    try:
        with file.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if gzipped else file.open("rb") as stream:
            beginning = stream.read(_CHUNK)
        if beginning.startswith(b"\x80"):
            raise ValueError(
                "it is a pickle, which could run any code. Save the vectors again from gensim with "
                "vectors.save_word2vec_format(FILE, binary=True)"
            )
        total, dim = _header(beginning)
        with gzip.open(file) if gzipped else file.open("rb") as stream:
            if total is not None:
                stream.readline()
            is_text = total is None or _is_text(beginning, dim)
            yield (_text if is_text else _binary)(stream, total, dim), total, dim
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} is not a valid file of word vectors: {error}") from error


def _header(beginning: bytes) -> tuple[int | None, int]:
    """Returns the number of vectors (None without a header line) and their length.

    A line that begins with a blank is an entry of the empty word.
    """
    line = beginning.partition(b"\n")[0][:_LONGEST_LINE]
    numbers = line.split()
    if len(numbers) == 2 and all(number.isdigit() for number in numbers):
        total, dim = int(numbers[0]), int(numbers[1])
    else:
        total, dim = None, len(_parse(numbers if line[:1].isspace() else numbers[1:]))
    if not 1 <= dim <= _MOST_DIMENSIONS or total == 0:
        raise ValueError("it does not begin like word2vec's formats")
    return total, dim


def _is_text(beginning: bytes, dim: int) -> bool:
    """Returns whether the first vector, after the header and a word, is text.

    It is text if its bytes are printable up to the end of the line and there are at least two for
    each number, since numbers are separated by blanks. Binary floats can hardly look like that by
    chance.
    """
    line = beginning.partition(b"\n")[2].lstrip(b"\n").partition(b"\n")[0]
    vector = line if line[:1].isspace() else line[len((line.split(None, 1) or [b""])[0]) :]
    return len(vector) >= 2 * dim and _TEXT.issuperset(vector)


def _text(stream: BinaryIO, total: int | None, dim: int) -> _Entries:
    number = 0
    while total is None or number < total:
        line = stream.readline(_LONGEST_LINE)
        if not line:
            break
        if not line.strip():
            continue
        # Split from the right, since words contain blanks in some files. The word is missing if it
        # is empty or consists of blanks.
        word, *values = line.rstrip().rsplit(None, dim)
        if len(values) == dim - 1 and line[:1].isspace():
            word, values = b"", [word, *values]
        if len(values) != dim:
            raise ValueError(f"entry {number + 1} is not a word and {dim} numbers")
        number += 1
        yield word.decode(errors="replace"), lambda values=values: _parse(values)
    if total is not None and number < total:
        raise ValueError(f"it is truncated: {number} of {total} words")


def _parse(values: list[bytes]) -> np.ndarray:
    try:
        return np.array([float(value) for value in values], np.float32)
    except ValueError as error:
        raise ValueError(f"not all of these are numbers: {b' '.join(values[:5])!r} ...") from error


def _binary(stream: BinaryIO, total: int, dim: int) -> _Entries:
    size = 4 * dim
    buffer, place = b"", 0
    for number in range(total):
        space = buffer.find(b" ", place)
        while space < 0 or len(buffer) < space + 1 + size:
            if space < 0 and len(buffer) - place > _LONGEST_WORD:
                raise ValueError(f"entry {number + 1} has no word")
            chunk = stream.read(_CHUNK)
            if not chunk:
                raise ValueError(f"it is truncated: {number} of {total} words")
            buffer, place = buffer[place:] + chunk, 0
            space = buffer.find(b" ")
        # word2vec itself ends each vector with a line break; other programs do not.
        word = buffer[place:space].removeprefix(b"\n")
        has_break = len(word) < space - place
        place = space + 1 + size
        try:
            # word2vec cuts long words between any two bytes. Elsewhere, bytes that are not UTF-8
            # are the end of a vector, as line breaks are: the reader has lost its place.
            key = word.decode(errors="replace" if has_break else "strict")
            misplaced = b"\n" in word
        except UnicodeDecodeError:
            misplaced = True
        if misplaced:
            raise ValueError(f"entry {number + 1} does not begin with a word. {_BLANKS}")
        yield key, lambda b=buffer, p=space + 1: np.frombuffer(b, "<f4", dim, p).astype(np.float32)
    if (buffer[place:] + stream.read(_CHUNK)).strip(b"\n"):
        raise ValueError(f"it goes on after its {total} words. {_BLANKS}")
