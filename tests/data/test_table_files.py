"""Rows of tables: formats, delimiters and encodings are found; mistakes are named by line."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from mmgc_jax.data import table_files
from mmgc_jax.runtime.errors import InputError

HEADER = ("id", "title", "plot", "genres")
ROWS = [
    ("1", "Amélie; a film", "two\r\nlines, and a comma", "Comedy|Romance"),
    ("2", 'The "Thing"', "", "Horror"),
    ("30", "Ikiru", "a | b\tc", "Drama"),
]
CELLS = {name: [row[i] for row in ROWS] for i, name in enumerate(HEADER) if name != "title"}


def choose(columns):
    """Reads all known columns but titles."""
    return [name for name in columns if name in HEADER and name != "title"]


def delimited(delimiter=",", line_end="\n") -> str:
    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"'

    return "".join(delimiter.join(map(quoted, row)) + line_end for row in (HEADER, *ROWS))


def read(path, content, **options):
    path.write_bytes(content)
    return table_files.read(path, choose, **options)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
)
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_delimiter_and_encoding_are_found(tmp_path, delimiter, encoding, line_end):
    content = delimited(delimiter, line_end).encode(encoding)
    for file, data in (("a.txt", content), ("a.csv.gz", gzip.compress(content))):
        rows = read(tmp_path / file, data)
        assert rows.cells == CELLS
        assert rows.columns == list(HEADER)
        assert [rows.where(i) for i in range(3)] == ["line 2", "line 4", "line 5"]


def test_delimiter_and_encoding_can_be_given(tmp_path):
    content = "id:plot\n1:é\n".encode("cp850")
    rows = read(tmp_path / "a.csv", content, delimiter=":", encoding="cp850")
    assert rows.cells == {"id": ["1"], "plot": ["é"]}
    with pytest.raises(InputError, match=r"config\.data\.encoding: unknown encoding: latin-99"):
        read(tmp_path / "a.csv", content, encoding="latin-99")


def objects():
    return [dict(zip(HEADER, row)) for row in ROWS]


def as_json_lines(rows):
    return "\n\n".join(json.dumps(row) for row in rows).encode()


def as_parquet(rows, path):
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path.read_bytes()


def test_json_parquet_and_frames(tmp_path):
    expected = {name: [row[name] for row in objects()] for name in CELLS}
    parquet = as_parquet(objects(), tmp_path / "written")
    for name, content in {
        "lines.jsonl": as_json_lines(objects()),
        "lines.gz": gzip.compress(as_json_lines(objects())),
        "list.json": json.dumps(objects()).encode("utf-16"),
        "table": parquet,
    }.items():
        assert read(tmp_path / name, content).cells == expected, name
    assert table_files.read(pa.Table.from_pylist(objects()), choose).cells == expected
    pandas = pytest.importorskip("pandas")
    assert table_files.read(pandas.DataFrame(objects()), choose).cells == expected


def test_values_that_are_no_texts(tmp_path):
    rows = [
        {"id": 862.0, "plot": None, "genres": ["Drama", {"name": "War"}]},
        {"id": 7, "plot": float("nan"), "genres": []},
        {"id": 0.5},
    ]
    found = read(tmp_path / "a.jsonl", as_json_lines(rows)).cells
    assert found == {
        "id": ["862", "7", "0.5"],
        "plot": ["", "", ""],
        "genres": [["Drama", {"name": "War"}], [], ""],
    }
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [1, None], "plot": ["a", None]})  # ids become floats
    assert table_files.read(frame, choose).cells == {"id": ["1", ""], "plot": ["a", ""]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Its first line must name the columns"),
        (b"id,plot\n1,a\n2,b,c\n\n3\n", "2 bad rows of 3:\n  line 3: 3 cells .* 2 columns"),
        (b'id,plot\n1,a\n\n2,"b\nc\n', "line 4: a quotation mark opens a cell that is never"),
        (b'id,plot\n1,"a"b\n', "line 2: .* write each quotation mark twice"),
        (b"id,plot,plot\n1,a,b\n", "has the column 'plot' more than once"),
        (b'{"id": 1}\n{"id": 2\n', "line 2 is not JSON"),
        (b'{"id": 1}\n[2]\n', "line 2: not an object"),
        (b'[{"id": 1}, 2]', "row 2: not an object"),
        (b"PAR1 and nothing that follows", "is not a readable Parquet file"),
        (b"\x1f\x8b\x08 cut short", "cannot be read"),
        (b"id,plot\n1," + b"a" * 1_000_001, "line 2: field larger than field limit"),
        (b'{"plot": "' + b"a" * 1_000_001 + b'"}', "line 1: plot has 1,000,001 characters"),
        ("id,plot\n1,é\n2,".encode() + b"\xff", "is not text in the encoding utf-8: .* position"),
        (b"[" * 100_000, "is not JSON"),
        (",".join(f"column{i}" for i in range(1001)).encode(), "1,001 columns"),
    ],
)
def test_mistakes_are_named(tmp_path, content, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        read(tmp_path / "movies", content)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        table_files.read(tmp_path / "none.csv", choose)


def test_bytes_and_sets(tmp_path):
    """Hive, Spark and others write texts as bytes without a note that they are text."""
    table = pa.table({"plot": ["Amélie".encode(), b"\xff", None]})
    assert table.schema.field("plot").type == pa.binary()
    pa.parquet.write_table(table, tmp_path / "a")
    assert table_files.read(tmp_path / "a", choose).cells["plot"] == ["Amélie", b"\xff", ""]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"genres": [{"Drama", "Comedy"}]})
    assert table_files.read(frame, choose).cells["genres"] == [["Comedy", "Drama"]]


def test_a_parquet_file_with_damaged_text(tmp_path):
    table = pa.table({"id": ["tt1", "tt2"], "plot": ["a plot", "another"]})
    pa.parquet.write_table(table, tmp_path / "a", compression="none", use_dictionary=False)
    content = (tmp_path / "a").read_bytes()
    for right, wrong in ((b"another", b"\x80nother"), (b"plot", b"\xfflot")):
        with pytest.raises(InputError, match="is not a readable Parquet file"):
            read(tmp_path / "b", content.replace(right, wrong))
