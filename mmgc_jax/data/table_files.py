"""Reads the rows of tables: CSV and its relatives, JSON, Parquet, and data frames.

Delimited text is read by Python's `csv` and not by pandas or pyarrow. pandas fills up rows that
have too few cells without a word, and neither says on which line of the file a mistake stands.
"""

import codecs
import csv
import dataclasses
import gzip
import io
import json
import logging
import math
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from mmgc_jax.data.movies import MAX_CHARACTERS, raise_if_any
from mmgc_jax.runtime.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_MAX_LINE_CHARACTERS = 10 * MAX_CHARACTERS
_MAX_COLUMNS = 1000
_MAX_BYTES = 4 * 2**30  # of a table that is not compressed any more
_MAX_SHOWN = 80  # characters of a cell
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_SAMPLE_BYTES = 2**16
_BLOCK_BYTES = 2**20
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# (names of all columns) -> names of the columns to read
Choose = Callable[[Sequence[str]], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a table.

    Attributes:
      place: the table's path, or the type of the data frame, for messages.
      kind: the table's format, for messages.
      columns: the names of all columns, in order.
      cells: the values of the columns that were read, by name. A value is a text, which is empty
        if the cell is; in JSON, Parquet and data frames it may be a list, a dictionary or bytes.
      lines: for each row, the number of its first line in the file; in tables without lines, the
        number of the row.
      unit: `line` or `row`.
    """

    place: str
    kind: str
    columns: Sequence[str]
    cells: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    unit: str

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """Names a row in a message, such as `line 12`."""
        return f"{self.unit} {self.lines[index]}"


def read(table, choose: Choose, delimiter: str = "", encoding: str = "") -> Rows:
    """Reads a table.

    Args:
      table: a path: CSV or other delimited text, JSON lines, a JSON list of objects, or Parquet;
        text may be compressed by gzip. Or a pandas data frame, or a pyarrow table.
      choose: returns the names of the columns to read.
      delimiter: of delimited text; empty to find it.
      encoding: of text; empty to find it: UTF-8 or UTF-16, otherwise Windows-1252.

    Raises:
      InputError: if the table cannot be read, or rows are malformed; it names up to ten of them.
    """
    library = type(table).__module__.split(".")[0]
    if library == "pyarrow":
        return _of_arrow(table, choose, "The Arrow table", "Arrow")
    if library == "pandas":
        return _of_pandas(table, choose)
    path = pathlib.Path(table)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        return _read_file(path, choose, delimiter, encoding)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _read_file(path: pathlib.Path, choose: Choose, delimiter: str, encoding: str) -> Rows:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return _read_parquet(path, choose)
    compressed = start.startswith(b"\x1f\x8b")

    def open_bytes() -> BinaryIO:
        return gzip.open(path) if compressed else path.open("rb")

    encoding = encoding or _find_encoding(open_bytes, path)
    kind = "" if encoding.startswith("utf-8") else f", {encoding}"
    kind += ", compressed" if compressed else ""
    try:
        with io.TextIOWrapper(open_bytes(), encoding, newline="") as text:
            sample = text.read(_SAMPLE_BYTES)
            text.seek(0)
            if sample.lstrip("\ufeff \t\r\n").startswith(("{", "[")):
                return _read_json(text, path, choose, kind)
            delimiter = delimiter or _find_delimiter(sample, choose)
            return _read_delimited(text, path, choose, delimiter, kind)
    except LookupError as error:
        raise InputError(f"config.data.encoding: {error}") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not text in the encoding {encoding}: {error}") from error


def _find_encoding(open_bytes: Callable[[], BinaryIO], path: pathlib.Path) -> str:
    """Finds the encoding of a text by its byte order mark, by its zero bytes, or by trying."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    multibyte = wrong = size = 0
    with open_bytes() as file:
        while block := file.read(_BLOCK_BYTES):
            if not size:
                for mark, encoding in _BYTE_ORDER_MARKS.items():
                    if block.startswith(mark):
                        return encoding
                # Every other byte of ASCII text in UTF-16 is zero.
                even, odd = (block[first::2].count(0) for first in (0, 1))
                if max(even, odd) > len(block) / 5:
                    return "utf-16-le" if odd > even else "utf-16-be"
            size += len(block)
            if size > _MAX_BYTES:
                raise InputError(f"{path} holds more than {_MAX_BYTES:,} bytes of text.")
            text = decoder.decode(block)
            if not text.isascii():
                replaced = text.count("\ufffd")
                wrong += replaced
                multibyte += sum(character > "\x7f" for character in text) - replaced
    wrong += len(decoder.decode(b"", final=True))
    # A file with few wrong bytes is damaged UTF-8; decoding it names the place.
    if wrong <= multibyte:
        return "utf-8"
    logger.warning(
        "%s is not UTF-8, and is read as Windows-1252. If that is wrong, set config.data.encoding.",
        path,
    )
    return "cp1252"


def _find_delimiter(sample: str, choose: Choose) -> str:
    """Finds the delimiter whose header has the most columns of known names, then the most."""

    def suits(delimiter: str) -> tuple[int, int]:
        try:
            header = next(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter), [])
            return len(set(choose(header))), len(header)
        except (csv.Error, InputError):
            return 0, 0

    return max(_DELIMITERS, key=suits)


def _read_delimited(
    text: TextIO, path: pathlib.Path, choose: Choose, delimiter: str, kind: str
) -> Rows:
    if len(delimiter) != 1:
        raise InputError(f"config.data.delimiter is {delimiter!r}; it must be one character.")
    csv.field_size_limit(MAX_CHARACTERS)
    # Strict, or the cell of an unclosed quotation mark would extend over the next rows.
    reader = csv.reader(_lines(text), delimiter=delimiter, strict=True)
    header, first_line, problems, lines = None, 1, [], []
    chosen: dict[str, int] = {}
    cells: dict[str, list[str]] = {}
    try:
        for row in reader:
            line, first_line = first_line, reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip().removeprefix("\ufeff") for name in row]
                chosen = {name: header.index(name) for name in _chosen(path, header, choose)}
                cells = {name: [] for name in chosen}
            elif len(row) != len(header):
                right = (
                    "A row has a cell for each column, even if it is empty"
                    if len(row) < len(header)
                    else 'A cell with the delimiter in it is written "in quotation marks"'
                )
                problems.append(
                    f"line {line}: {len(row)} cells where the header has {len(header)} columns. "
                    f"{right}"
                )
            else:
                lines.append(line)
                for name, column in chosen.items():
                    cells[name].append(row[column])
    except csv.Error as error:
        raise InputError(
            f"{path}, line {first_line}: {_explain(error)}. In a cell in quotation marks, write "
            f'each quotation mark twice: "a ""right"" cell".'
        ) from error
    if header is None:
        raise InputError(f"{path} is empty. Its first line must name the columns.")
    raise_if_any(problems, path, f"bad rows of {len(lines) + len(problems)}")
    kind = f"text with {_DELIMITERS.get(delimiter, repr(delimiter))}{kind}"
    return Rows(str(path), kind, header, cells, lines, "line")


def _explain(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quotation mark opens a cell that is never closed"
    return str(error)


def _lines(file: TextIO) -> Iterator[str]:
    """Yields the lines of a file; one that is too long is an error before it is in memory."""
    while line := file.readline(_MAX_LINE_CHARACTERS):
        if len(line) == _MAX_LINE_CHARACTERS:
            raise csv.Error(f"a line is longer than {_MAX_LINE_CHARACTERS:,} characters")
        yield line


def _read_json(text: TextIO, path: pathlib.Path, choose: Choose, kind: str) -> Rows:
    """Reads JSON lines, or one JSON list of objects."""
    objects, lines, problems, unit = [], [], [], "line"
    start = text.read(1)
    while start and start in "\ufeff \t\r\n":
        start = text.read(1)
    text.seek(0)
    if start == "[":
        unit, kind = "row", f"a JSON list{kind}"
        content = _parse_json(text.read().removeprefix("\ufeff"), path, "")
        numbered = enumerate(content, start=1)
    else:
        kind = f"JSON lines{kind}"
        numbered = (
            (number, _parse_json(line.removeprefix("\ufeff"), path, f", line {number}"))
            for number, line in enumerate(_lines(text), start=1)
            if line.strip()
        )
    try:
        for number, found in numbered:
            if isinstance(found, dict):
                objects.append(found)
                lines.append(number)
            else:
                problems.append(f'{unit} {number}: not an object such as {{"plot": "..."}}')
    except csv.Error as error:
        raise InputError(f"{path}: {error}.") from error
    raise_if_any(problems, path, f"bad rows of {len(lines) + len(problems)}")
    columns = list(dict.fromkeys(name for found in objects for name in found))
    cells = {
        name: [_plain(found.get(name)) for found in objects]
        for name in _chosen(path, columns, choose)
    }
    return _checked(Rows(str(path), kind, columns, cells, lines, unit))


def _parse_json(text: str, path: pathlib.Path, place: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}{place} is not JSON: {error}") from error


def _read_parquet(path: pathlib.Path, choose: Choose) -> Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(
            f"{path} is a Parquet file; reading it needs pyarrow, which is not installed. Run: "
            "pip install 'mmgc_jax[tables]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            metadata = file.metadata
            sizes = (metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if sum(sizes) > _MAX_BYTES:
                raise InputError(f"{path} holds more than {_MAX_BYTES:,} bytes.")
            columns = file.schema_arrow.names
            table = file.read(list(_chosen(path, columns, choose)))
            table.validate(full=True)  # otherwise damaged offsets would be followed
    except (ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    rows = _of_arrow(table, lambda names: names, str(path), "Parquet")
    return dataclasses.replace(rows, columns=columns)


def _of_pandas(table, choose: Choose) -> Rows:
    columns = [str(name) for name in table.columns]
    names = list(_chosen("The data frame", columns, choose))
    cells = {
        name: [_plain(value) for value in table.iloc[:, columns.index(name)].tolist()]
        for name in names
    }
    numbers = range(1, len(table) + 1)
    return _checked(Rows("The data frame", "pandas", columns, cells, numbers, "row"))


def _of_arrow(table: "pa.Table", choose: Choose, place: str, kind: str) -> Rows:
    columns = table.column_names
    cells = {
        name: [_plain(value) for value in table.column(columns.index(name)).to_pylist()]
        for name in _chosen(place, columns, choose)
    }
    return _checked(Rows(place, kind, columns, cells, range(1, table.num_rows + 1), "row"))


def _chosen(place, columns: Sequence[str], choose: Choose) -> list[str]:
    """The names of the columns to read.

    Raises:
      InputError: if there are too many columns, or two of a name that is read.
    """
    if len(columns) > _MAX_COLUMNS:
        raise InputError(
            f"{place} has {len(columns):,} columns; at most {_MAX_COLUMNS:,} are read."
        )
    names = list(dict.fromkeys(choose(columns)))
    if twice := [name for name in names if list(columns).count(name) > 1]:
        raise InputError(
            f"{place} has the column {', '.join(map(repr, twice))} more than once. Rename one."
        )
    return names


def _plain(value):
    """Converts a value to a text, a list or a dictionary; a missing one to an empty text.

    Bytes that are not UTF-8 stay as they are.
    """
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        value = value.tolist()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):  # Parquet files of some programs do not say that it is text
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, str | list | tuple | dict):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas makes floats of whole numbers where one is missing
    text = str(value)
    return "" if text in ("NaT", "<NA>") else text


def _checked(rows: Rows) -> Rows:
    """Checks the length of texts, which `csv` does by itself."""
    problems = [
        f"{rows.where(i)}: {name} has {len(value):,} characters, more than {MAX_CHARACTERS:,}"
        for name, values in rows.cells.items()
        for i, value in enumerate(values)
        if isinstance(value, str) and len(value) > MAX_CHARACTERS
    ]
    raise_if_any(problems, rows.place, f"bad rows of {len(rows)}")
    return rows


def shorten(value) -> str:
    """Shows a cell in a message."""
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
