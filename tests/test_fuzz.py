"""Fuzzes the readers: each returns valid data or raises its documented error, never another.

The files are valid ones with bytes cut, inserted and overwritten, the same in every run.
"""

import csv
import decimal
import gzip
import io
import json
import pathlib
import tempfile

import flax.traverse_util
import hypothesis
import numpy as np
import pandas
import pytest
import safetensors.numpy
from hypothesis import strategies as st
from PIL import Image

from mmgc_jax.data import mmimdb, movies, posters, table, talk
from mmgc_jax.data.text import tokenize_mmimdb
from mmgc_jax.models import VGG16
from mmgc_jax.pretrained import vector_file, vgg16_files
from mmgc_jax.runtime.errors import InputError
from tests import tiny
from tests.conftest import TALK_HEADER, image_bytes
from tests.data.dialects import DIALECTS
from tests.pretrained.test_vgg16_files import write_keras_3, write_published

fuzzed = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    # The fixtures are folders, to which each example writes the same files.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
# Bytes that are seldom drawn by chance.
PIECES = [
    *(b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80", b"\x1b"),
    *(b"9" * 20, b"-1", b"nan", b"[" * 2000, b'"', b"\n", b",", b" ", b"\\ud800", b"../"),
]


@st.composite
def damaged(draw, files):
    """Replaces a few bytes, or all to the end, at one to five places."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 4, len(content)]))
        new = draw(st.binary(max_size=4) | st.sampled_from(PIECES))
        content[start : start + length] = new
    return bytes(content)


def assert_text(text):
    """Asserts that every library can handle a text."""
    text.encode()
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in text)


# The talk's table.

GOOD_ROWS = [
    TALK_HEADER,
    ("7", "1999", "A Title", "a plot .", "['Drama', 'War']", "6.5"),
    ("8", "", 'An, "other"', "", "['War']", ""),
]
odd = st.text("a .\0\x1b\x85\n'\"[],7", max_size=6) | st.text(max_size=6)
good_but_for_one = st.builds(
    lambda row, column, cell: (*row[:column], cell, *row[column + 1 :]),
    st.sampled_from(GOOD_ROWS[1:]),
    st.integers(0, 5),
    odd,
)
tables = st.lists(good_but_for_one, max_size=2) | st.lists(st.lists(odd, max_size=7), max_size=3)


def as_csv(rows) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode(errors="surrogatepass")


@fuzzed
@hypothesis.given(
    content=damaged([as_csv(GOOD_ROWS)])
    | st.builds(lambda rows: as_csv([TALK_HEADER, *rows]), tables)
)
def test_the_talks_table(tmp_path, content):
    (tmp_path / "posters").mkdir(exist_ok=True)
    (tmp_path / "posters" / "7.jpg").write_bytes(b"image")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "movies.csv").write_bytes(content)
    try:
        found = list(talk.read(str(tmp_path)))
    except InputError as error:
        assert "movies.csv" in str(error)
        return
    for movie in found:
        assert movie.id.strip() == movie.id != ""
        assert_text(movie.title)
        assert movie.plot is None or movie.plot.strip()
        assert_text(movie.plot or "")
        assert movie.year is None or 0 <= movie.year <= 9999
        assert movie.genres and set(movie.genres) <= set(movies.GENRES)
        assert len(set(movie.genres)) == len(movie.genres)
        assert movie.poster in (b"image", None) and movie.poster != b"secret"


# Other tables.


def good_tables():
    """Returns for each dialect the bytes of a table, and the names of its columns."""
    rows = [movies.Movie(id=f"tt{n}", title=f"A, {n}", year=1999, plot='It\'s "a" plot;', genres=g)
            for n, g in enumerate([("Drama", "War"), ("War",), ("Drama",)])]  # fmt: skip
    found = []
    for write in DIALECTS.values():
        with tempfile.TemporaryDirectory() as folder:
            file, fields = write(rows, pathlib.Path(folder))
            found.append((file.read_bytes(), fields.get("columns", {})))
    return found


def assert_table(found, labelled):
    assert len(found.movies) == len(found.posters) == len(found.splits)
    for movie in found.movies:
        assert movie.id.strip() == movie.id != ""
        assert_text(movie.title)
        assert movie.plot is None or movie.plot.strip()
        assert_text(movie.plot or "")
        assert movie.year is None or 1800 <= movie.year <= 2099
        assert (movie.genres is None) != labelled
        assert all(genre.strip() == genre != "" for genre in movie.genres or ())
        assert movie.poster is None
    assert all(isinstance(poster, str) for poster in found.posters)


@hypothesis.settings(fuzzed, max_examples=300)
@hypothesis.given(
    data=st.data(), good=st.sampled_from(good_tables()), packed=st.booleans(),
    labelled=st.booleans(),
)  # fmt: skip
def test_tables(tmp_path, data, good, packed, labelled):
    content, names = good
    if content.startswith(b"\x1f\x8b") and not packed:
        content = gzip.compress(data.draw(damaged([gzip.decompress(content)])), 1)
    else:
        content = data.draw(damaged([content]))
    file = tmp_path / "movies"
    file.write_bytes(content)
    try:
        found = table.read(file, table.TableSettings(names), labelled)
    except InputError as error:
        assert str(file) in str(error) or "the table has no such column" in str(error)
        return
    assert_table(found, labelled)


CELLS = [
    *("", "a plot", "A|B", '["A"]', "['A']", "[", "[" * 2000, "\ud800", "\x1b", "train", "/a.jpg"),
    *(1990.0, 10**30, float("nan"), True, b"A", b"\xff", {"A", "B"}, {"name": "A"}, ("A", None)),
    *([], ["A"], [{"name": "A"}], [{"name": 1}], [["A"]], np.array(["A"]), np.str_("A")),
    *(None, pandas.NA, pandas.NaT, pandas.Timestamp("2001-02-03"), decimal.Decimal(1)),
]
columns = st.lists(st.sampled_from([*table.USUAL_NAMES, "Plot", "overview", "", 0]), max_size=6)
frames = columns.flatmap(
    lambda names: st.builds(
        lambda rows: pandas.DataFrame(rows, columns=[*names, "genres", "plot"], dtype=object),
        st.lists(
            st.tuples(
                *[st.sampled_from(CELLS) for _ in names],
                st.just("A|B") | st.sampled_from(CELLS),
                st.just("a plot") | st.sampled_from(CELLS),
            ),
            max_size=3,
        ),
    )
)


@hypothesis.settings(fuzzed, max_examples=300)
@hypothesis.given(frame=frames, labelled=st.booleans())
def test_data_frames(frame, labelled):
    try:
        found = table.read(frame, table.TableSettings(), labelled)
    except InputError as error:
        assert "The data frame" in str(error)
        return
    assert_table(found, labelled)
    for movie in found.movies:
        for text in (movie.plot or "", *(movie.genres or ())):
            assert "b'" not in text and "{'" not in text  # Python's notation of other values


# MM-IMDb.

GOOD_FIELDS = {"title": "A Title", "year": 1999, "plot": ["Short.", "Long ."], "genres": ["War"]}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
fields = st.builds(
    lambda name, value: GOOD_FIELDS | {name: value},
    st.sampled_from(list(GOOD_FIELDS)),
    anything | odd | st.lists(odd | st.sampled_from(movies.GENRES)),
)


def assert_mmimdb(file):
    try:
        found = mmimdb.read(file)
        read = {split: list(found.with_posters(split)) for split in found.movies}
    except InputError as error:
        assert str(error)
        return
    for split, numbered in read.items():
        assert sorted(number for number, _ in numbered) == list(range(len(found.movies[split])))
        for _, movie in numbered:
            assert_text(movie.title)
            assert_text(movie.plot)
            assert tokenize_mmimdb(movie.plot)
            assert movie.genres and set(movie.genres) <= set(mmimdb.GENRES)
            assert isinstance(movie.poster, bytes)


@fuzzed
@hypothesis.given(
    content=st.builds(lambda f: json.dumps(f).encode(), fields | anything)
    | damaged([json.dumps(GOOD_FIELDS).encode()]),
    ids=st.just(["1"]) | anything,
)
def test_mmimdbs_json(tmp_path, content, ids):
    split = {"train": ids, "dev": [], "test": ["2"]}
    files = {"dataset/1.json": content, "dataset/1.jpeg": b"image", "dataset/2.jpeg": b"image"}
    files |= {"dataset/2.json": json.dumps(GOOD_FIELDS).encode()}
    files |= {"split.json": json.dumps(split).encode()}
    assert_mmimdb(tiny.write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", files))


@fuzzed
@hypothesis.given(data=st.data(), packed=st.booleans())
def test_mmimdbs_archive(tmp_path, data, packed):
    split = {"train": ["1"], "dev": [], "test": []}
    files = {"dataset/1.json": json.dumps(GOOD_FIELDS).encode(), "dataset/1.jpeg": b"image"}
    files |= {"split.json": json.dumps(split).encode()}
    file = tiny.write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", files)
    content = file.read_bytes() if packed else gzip.decompress(file.read_bytes())
    content = data.draw(damaged([content]))
    file.write_bytes(content if packed else gzip.compress(content, 1))
    assert_mmimdb(file)


# Posters.


def images():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a description"
    several = {"save_all": True, "append_images": [picture.rotate(180)]}
    return [
        image_bytes(picture, "JPEG", exif=exif),
        image_bytes(picture, "JPEG", progressive=True, icc_profile=b"profile" * 9),
        image_bytes(picture.convert("CMYK"), "JPEG"),
        image_bytes(picture, "MPO", exif=exif, **several),
        image_bytes(picture, "PNG", exif=exif, icc_profile=b"profile" * 9),
        image_bytes(picture.quantize(8), "PNG", transparency=0),
        image_bytes(Image.fromarray(pixels[:, :, 0].astype(np.uint16) << 8), "PNG"),
        image_bytes(picture, "WEBP", exif=exif, **several),
        image_bytes(picture, "WEBP", lossless=True),
        image_bytes(picture.quantize(8), "GIF", interlace=1, **several),
        image_bytes(picture.convert("L"), "BMP"),
        image_bytes(picture.convert("RGBA"), "BMP"),
    ]


@hypothesis.settings(fuzzed, max_examples=500)
@hypothesis.given(content=damaged(images()) | st.binary(max_size=200))
def test_posters(content):
    try:
        pixels = posters.decode(content, 16, 8)
    except posters.PosterError as error:
        assert str(error)
        return
    assert (pixels.shape, pixels.dtype) == ((16, 8, 3), np.uint8)


# Word vectors.

TEXT = "3 3\nthe 1 2 3\nNew_York 4 5 6\nfür 7 8 9\n".encode()
BINARY = b"3 3\n" + b"".join(
    word.encode() + b" " + np.arange(3, dtype="<f4").tobytes()
    for word in ("the", "New_York", "für")
)
VECTORS = [TEXT, TEXT.partition(b"\n")[2], BINARY]  # the second as GloVe writes them


@fuzzed
@hypothesis.given(content=damaged(VECTORS), gzipped=st.booleans())
def test_word_vectors(tmp_path, content, gzipped):
    (tmp_path / "v").write_bytes(gzip.compress(content, 1) if gzipped else content)
    assert_vectors(tmp_path / "v")


@fuzzed
@hypothesis.given(content=damaged([gzip.compress(file, mtime=0) for file in VECTORS]))
def test_packed_word_vectors(tmp_path, content):
    (tmp_path / "v").write_bytes(content)
    assert_vectors(tmp_path / "v")


def assert_vectors(file):
    try:
        dim = vector_file.dimension(file)
        found = vector_file.read(file, ["the", "new_york", "für", "x"])
    except InputError as error:
        assert str(file) in str(error)
        return
    for vector in found.values():
        assert vector.shape == (dim,) and vector.dtype == np.float32
        assert np.isfinite(vector).all()


# VGG16's weights.

NETWORK = VGG16(widths=(2, 2, 2, 2, 2))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A valid file of each format, and the shapes."""
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_weights(folder / "npz", NETWORK.widths)
    params = flax.traverse_util.flatten_dict(vgg16_files.read(folder / "npz", NETWORK), sep="/")
    layers = list(dict.fromkeys(name.split("/")[0] for name in params if name.startswith("block")))
    hdf5 = [(layer, params[f"{layer}/kernel"], params[f"{layer}/bias"]) for layer in layers]
    write_published(folder / "published", hdf5)
    write_keras_3(folder / "keras 3", hdf5)
    features = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    torch = {}
    for number, (_, kernel, bias) in zip(features, hdf5):
        kernel = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        torch |= {f"features.{number}.weight": kernel, f"features.{number}.bias": bias}
    safetensors.numpy.save_file(torch, folder / "safetensors")
    for file in folder.iterdir():
        vgg16_files.read(file, NETWORK)
    return [file.read_bytes() for file in sorted(folder.iterdir())], {
        name: array.shape for name, array in params.items()
    }


@hypothesis.settings(fuzzed, max_examples=60)
@hypothesis.given(data=st.data())
def test_weights_of_vgg16(tmp_path, weights, data):
    files, shapes = weights
    file = tmp_path / "weights"
    file.write_bytes(data.draw(damaged(files)))
    try:
        params = vgg16_files.read(file, NETWORK)
    except InputError as error:
        assert str(file) in str(error)
        return
    params = flax.traverse_util.flatten_dict(params, sep="/")
    assert {name: array.shape for name, array in params.items()} == shapes
    for array in params.values():
        assert array.dtype == np.float32 and np.isfinite(array).all()
    assert (params["preprocessing/std"] > 0).all()
