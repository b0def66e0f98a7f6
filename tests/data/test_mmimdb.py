"""Tests reading MM-IMDb from a folder and an archive, including malformed and malicious ones."""

import gzip
import json
import pathlib
import tarfile
import tracemalloc

import pytest

from mmgc_jax.data import mmimdb, mmimdb_files, movies
from mmgc_jax.runtime.errors import InputError
from tests.tiny import write_mmimdb_archive, write_mmimdb_folder

GOOD = {
    "title": "A Title",
    "year": 1999,
    "plot": ["Short.", "The longest of them.", "Between."],
    "genres": ["War", "Drama"],
}


def files_of(contents, train=None, dev=(), test=(), posters=None):
    """Returns the files of an archive by name.

    Args:
      contents: for each id, the fields of its JSON file, or the file's text.
      train: ids in this split; all by default.
      dev: ids in this split.
      test: ids in this split.
      posters: ids with a poster, which contains the id; all by default.
    """
    split = {"train": list(contents) if train is None else train, "dev": dev, "test": test}
    files = {"split.json": json.dumps(split).encode()}
    for movie_id, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        files[f"dataset/{movie_id}.json"] = text.encode()
    for movie_id in contents if posters is None else posters:
        files[f"dataset/{movie_id}.jpeg"] = f"image of {movie_id}".encode()
    return files


@pytest.fixture(params=["folder", "archive"])
def write(request, tmp_path):
    """A function that writes the result of `files_of` as a folder or an archive."""
    if request.param == "folder":
        return lambda files: write_mmimdb_folder(tmp_path / "mmimdb", files)
    return lambda files: write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", files)


def read(path):
    """Reads all movies with their posters, by split, in the order of split.json."""
    found = mmimdb.read(path)
    return {
        split: [movie for _, movie in sorted(found.with_posters(split))] for split in found.movies
    }


def test_genres_are_those_of_the_talk_without_news():
    # From write_mmimdb.py of github.com/YiLunLee/missing_aware_prompts, most frequent first.
    by_frequency = (
        "Drama Comedy Romance Thriller Crime Action Adventure Horror Documentary Mystery Sci-Fi "
        "Fantasy Family Biography War History Music Animation Musical Western Sport Short Film-Noir"
    )
    assert list(mmimdb.GENRES) == sorted(by_frequency.split())
    assert len(mmimdb.GENRES) == 23


class TestMovies:
    def test_good_data(self, write):
        contents = dict.fromkeys(["0000001", "0000002", "0000003", "0000004"], GOOD)
        path = write(
            files_of(contents, train=["0000004", "0000002"], dev=["0000003"], test=["0000001"])
        )
        found = read(path)
        assert {split: [movie.id for movie in found[split]] for split in found} == {
            "train": ["0000004", "0000002"],
            "validation": ["0000003"],
            "test": ["0000001"],
        }
        movie = found["train"][1]
        assert (movie.title, movie.year, movie.genres) == ("A Title", 1999, ("Drama", "War"))
        assert movie.plot == "The longest of them."
        assert movie.poster == b"image of 0000002"

    def test_archive_and_folder_give_the_same_in_any_order(self, tmp_path):
        contents = {str(n): GOOD | {"title": f"Movie {n}"} for n in range(20)}
        ids = list(contents)
        files = files_of(contents, train=ids[::-2], dev=ids[:6:2], test=ids[6::2])
        backwards = dict(reversed(files.items()))
        by_kind = {name: files[name] for name in sorted(files, key=lambda name: name[::-1])}
        from_folder = read(write_mmimdb_folder(tmp_path / "folder", files))
        assert [len(from_folder[split]) for split in from_folder] == [10, 3, 7]
        for number, ordered in enumerate((files, backwards, by_kind)):
            assert read(write_mmimdb_archive(tmp_path / f"{number}.tar.gz", ordered)) == from_folder

    def test_the_first_of_equally_long_plots_is_used(self, write):
        path = write(files_of({"1": GOOD | {"plot": ["abc", "ABC"]}}))
        assert read(path)["train"][0].plot == "abc"

    def test_control_characters_become_blanks_and_are_counted(self, write, caplog):
        fields = GOOD | {"title": "A\0 title", "plot": ["A \x96 plot\n"]}
        (movie, _) = read(write(files_of({"1": fields, "2": GOOD})))["train"]
        assert (movie.title, movie.plot) == ("A  title", "A   plot\n")
        assert any("surrogates in 1 movies" in message for message in caplog.messages)

    @pytest.mark.parametrize("year", [float("nan"), True, "1999", [1999]])
    def test_a_year_that_is_not_a_number_is_none(self, write, year):
        assert read(write(files_of({"1": GOOD | {"year": year}})))["train"][0].year is None

    def test_lone_surrogates_become_question_marks(self, write):
        fields = GOOD | {"title": "A \ud800 title", "plot": ["A \udfff plot"]}
        (movie,) = read(write(files_of({"1": fields})))["train"]
        assert (movie.title, movie.plot) == ("A ? title", "A ? plot")

    def test_a_plot_that_is_not_a_list(self, write):
        path = write(files_of({"1": GOOD | {"plot": "The only one."}}))
        assert read(path)["train"][0].plot == "The only one."

    def test_missing_title_is_empty(self, write):
        assert read(write(files_of({"1": GOOD | {"title": None}})))["train"][0].title == ""

    def test_movies_left_out_are_counted(self, write, caplog):
        contents = {"good": GOOD, "other": GOOD | {"genres": ["Adult", "News"]}}
        contents |= {"unlabelled": {"plot": ["A plot."]}}
        for number, plot in enumerate([[], None, "", [" "], ["~ * #"], ["..."], ["N/A"]]):
            contents[f"plotless{number}"] = GOOD | {"plot": plot}
        contents |= {"posterless": GOOD, "posterless2": GOOD}
        posters = [movie_id for movie_id in contents if not movie_id.startswith("posterless")]
        path = write(files_of(contents, posters=posters))
        with caplog.at_level("INFO", logger="mmgc_jax"):
            found = mmimdb.read(path)
        assert [movie.id for movie in found.movies["train"]] == ["good"]
        assert found.left_out == {"none of the 23 genres": 2, "no plot": 7, "no poster": 2}
        for line in ("left out 2 movies: none of the", "left out 7 movies: no plot"):
            assert any(line in message for message in caplog.messages)
        assert any("1 train, 0 validation, 0 test" in message for message in caplog.messages)

    def test_genres_outside_the_23_are_dropped_and_counted(self, write, caplog):
        genres = ["Reality-TV", "War", "News", "Drama", "Drama", "Game-Show"]
        contents = {"1": GOOD | {"genres": genres}, "2": GOOD, "3": GOOD | {"genres": ["News"]}}
        path = write(files_of(contents))
        with caplog.at_level("INFO", logger="mmgc_jax"):
            found = mmimdb.read(path)
        assert found.movies["train"][0].genres == ("Drama", "War")
        assert found.dropped_genres == 3  # only of movies that are kept
        assert any(
            "dropped 3 labels that are not among the 23" in message for message in caplog.messages
        )

    def test_other_files_are_skipped(self, write):
        files = files_of({"1": GOOD}) | {
            "README": b"read me",
            "dataset/1.txt": b"?",
            "dataset/2.json": b"{",
            "dataset/3.jpeg": b"not in the split",
            "dataset/deeper/down/1.json": b"{",
        }
        (movie,) = read(write(files))["train"]
        assert movie.poster == b"image of 1"


class TestMistakes:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("{", "1.json is not JSON"),
            ("[1]", "1.json is not a JSON object"),
            ("[" * 100_000, "1.json is not JSON"),
            (GOOD | {"genres": "Drama"}, "1.json: genres is not a list"),
            (GOOD | {"plot": [None]}, "1.json: plot is not a list of strings"),
            (GOOD | {"plot": 5}, "1.json: plot is not a list of strings"),
            (GOOD | {"plot": {"en": "x"}}, "1.json: plot is not a list of strings"),
            (GOOD | {"title": {"en": "x"}}, "1.json: title is not a string"),
            (GOOD | {"plot": "x" * 1_000_001}, "1.json: title or plot has more than 1,000,000"),
            ('{"year": ' + "9" * 5000 + "}", "1.json is not JSON"),
        ],
    )
    def test_malformed_file(self, write, content, reason):
        path = write(files_of({"0": GOOD, "1": content}, train=["0"], dev=["1"]))
        with pytest.raises(InputError) as caught:
            mmimdb.read(path)
        message = str(caught.value)
        assert f"{path} has 1 bad file of 2" in message
        assert reason in message

    def test_not_utf8(self, write):
        files = files_of({"1": GOOD}) | {"dataset/1.json": '{"plot": "für"}'.encode("cp1252")}
        with pytest.raises(InputError, match=r"1\.json is not JSON"):
            mmimdb.read(write(files))

    def test_missing_movie(self, write):
        with pytest.raises(InputError, match=r"2: no file dataset/2\.json"):
            mmimdb.read(write(files_of({"1": GOOD}, train=["1", "2"])))

    @pytest.mark.parametrize(
        "movie_id", ["../../etc/passwd", "/etc/passwd", "../outside", "..", ""]
    )
    def test_id_does_not_lead_out_of_the_dataset(self, tmp_path, movie_id):
        folder = write_mmimdb_folder(tmp_path / "mmimdb", files_of({"1": GOOD}, train=[movie_id]))
        (folder / "outside.json").write_text(json.dumps(GOOD))
        with pytest.raises(InputError, match="no file"):
            mmimdb.read(folder)

    @pytest.mark.parametrize(("train", "dev"), [(2, 0), (1, 1)])
    def test_id_listed_twice(self, write, train, dev):
        movie_id = "0123456"
        path = write(files_of({movie_id: GOOD}, train=[movie_id] * train, dev=[movie_id] * dev))
        with pytest.raises(InputError, match=movie_id):
            mmimdb.read(path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("{", "split.json is not JSON"),
            ("[]", "split.json is not a JSON object"),
            ('{"train": [], "test": []}', "no list of ids under dev"),
            ('{"train": 1, "dev": {}, "test": []}', "no list of ids under train, dev"),
            ('{"train": ["1", ["2"]], "dev": [NaN], "test": []}', "under train, dev"),
        ],
    )
    def test_malformed_split(self, write, content, reason):
        with pytest.raises(InputError, match=reason):
            mmimdb.read(write(files_of({"1": GOOD}) | {"split.json": content.encode()}))

    @pytest.mark.parametrize("missing", ["split.json", "dataset"])
    def test_incomplete_folder(self, tmp_path, missing):
        folder = write_mmimdb_folder(tmp_path / "mmimdb", files_of({"1": GOOD}))
        (folder / missing).rename(folder / "elsewhere")
        with pytest.raises(InputError, match=r"split\.json and dataset/"):
            mmimdb.read(folder)

    def test_archive_of_something_else(self, tmp_path):
        with pytest.raises(InputError, match=r"x\.tar\.gz has no split\.json"):
            mmimdb.read(write_mmimdb_archive(tmp_path / "x.tar.gz", {"a": b"1"}))

    def test_no_path(self, tmp_path):
        for path in ("", tmp_path / "nowhere.tar.gz"):
            with pytest.raises(InputError, match=r"config\.data\.path is '.*mmimdb\.tar\.gz"):
                mmimdb.read(path)

    @pytest.mark.parametrize(("name", "limit"), [("1.json", 16 << 20), ("1.jpeg", 64 << 20)])
    def test_file_too_large(self, write, name, limit):
        files = files_of({"1": GOOD}) | {f"dataset/{name}": bytes(limit + 1)}
        with pytest.raises(InputError, match=rf"dataset/{name} has {limit + 1} bytes"):
            mmimdb.read(write(files))

    @pytest.mark.parametrize("name", ["split.json", "dataset/1.json", "dataset/1.jpeg"])
    def test_link_out_of_the_folder(self, tmp_path, name):
        folder = write_mmimdb_folder(tmp_path / "mmimdb", files_of({"1": GOOD}))
        (folder / name).rename(tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=rf"{name} is a link to a place outside"):
            read(folder)

    def test_poster_that_is_deleted_meanwhile(self, tmp_path):
        folder = write_mmimdb_folder(tmp_path / "mmimdb", files_of({"1": GOOD}))
        found = mmimdb.read(folder)
        (folder / "dataset/1.jpeg").unlink()
        with pytest.raises(InputError, match="no longer has the poster of 1"):
            list(found.with_posters("train"))


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class TestArchive:
    """Mistakes that only archives can have; nothing is ever written to disk."""

    @pytest.mark.parametrize(
        ("malicious", "reason"),
        [
            (member("/etc/passwd"), "has a path outside"),
            (member("../mmimdb/dataset/2.json"), "has a path outside"),
            (member("mmimdb/dataset/../../../2.json"), "has a path outside"),
            (member("mmimdb/dataset/2.json", tarfile.SYMTYPE, "/etc/passwd"), "a link, a device"),
            (member("mmimdb/dataset/2.jpeg", tarfile.LNKTYPE, "/etc/passwd"), "a link, a device"),
            (member("mmimdb/elsewhere", tarfile.SYMTYPE, ".."), "a link, a device"),
            (member("mmimdb/dataset/2.json", tarfile.CHRTYPE), "a link, a device"),
            (member("mmimdb/dataset/2.json", tarfile.BLKTYPE), "a link, a device"),
            (member("mmimdb/dataset/2.json", tarfile.FIFOTYPE), "a link, a device"),
        ],
    )
    def test_malicious_member(self, tmp_path, malicious, reason):
        files = {"first": malicious} | files_of({"1": GOOD})
        file = write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", files)
        with pytest.raises(InputError) as caught:
            mmimdb.read(file)
        assert f"{file}: the member {malicious.name!r}" in str(caught.value)
        assert reason in str(caught.value)
        assert list(tmp_path.iterdir()) == [file]

    def test_sparse_member(self, tmp_path):
        sparse = member("mmimdb/dataset/2.jpeg", tarfile.GNUTYPE_SPARSE)
        file = write_mmimdb_archive(
            tmp_path / "m.tar.gz", {"first": sparse} | files_of({"1": GOOD})
        )
        with pytest.raises(InputError, match="or a sparse file"):
            mmimdb.read(file)

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
    @pytest.mark.parametrize("first", [True, False])
    def test_header_that_unpacks_to_gigabytes(self, tmp_path, kind, first):
        header = member("bomb", kind)
        header.size = 8 << 30
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD}))
        members = b"" if first else gzip.decompress(whole.read_bytes()).rstrip(b"\0")
        members += b"\0" * (-len(members) % 512)
        whole.write_bytes(
            gzip.compress(members + header.tobuf(tarfile.GNU_FORMAT) + bytes(9 << 20))
        )
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="a header has more than 1048576 bytes"):
                mmimdb.read(whole)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("where", ["member", "many members", "end"])
    def test_decompression_bomb(self, tmp_path, monkeypatch, where):
        monkeypatch.setattr(mmimdb_files, "_ALWAYS_ALLOWED", 4 << 20)
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD}))
        content = gzip.decompress(whole.read_bytes())
        bomb = member("mmimdb/README")
        if where == "member":
            bomb.size = 5 << 20
            content = bomb.tobuf() + bytes(bomb.size) + content
        elif where == "many members":
            content = bomb.tobuf() * 10_000 + content
        else:
            content += bytes(5 << 20)
        whole.write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match="a decompression bomb"):
            mmimdb.read(whole)

    def test_member_that_occurs_twice(self, tmp_path):
        files = files_of({"1": GOOD}) | {"./dataset/1.json": json.dumps(GOOD).encode()}
        with pytest.raises(InputError, match=r"dataset/1\.json occurs more than once"):
            mmimdb.read(write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", files))

    @pytest.mark.parametrize("root", ["", "./", "mmimdb/", "./mmimdb/", "another/"])
    def test_folder_inside_the_archive(self, tmp_path, root):
        file = write_mmimdb_archive(tmp_path / "x.tar.gz", files_of({"1": GOOD}), root)
        assert [movie.id for movie in read(file)["train"]] == ["1"]

    def test_truncated_archive(self, tmp_path):
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD, "2": GOOD}))
        content = whole.read_bytes()
        file = tmp_path / "cut.tar.gz"
        for length in range(0, len(content), 7):
            file.write_bytes(content[:length])
            with pytest.raises(
                InputError, match=r"cut\.tar\.gz is not a complete \.tar\.gz archive"
            ):
                mmimdb.read(file)

    def test_truncated_before_compression(self, tmp_path):
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD, "2": GOOD}))
        content = gzip.decompress(whole.read_bytes()).rstrip(b"\0")
        file = tmp_path / "cut.tar.gz"
        # Some lengths are ends of members, where tarfile assumes the end of the archive.
        for length in (512, 1024, 1536, 1600, 2048, 2560, len(content)):
            file.write_bytes(gzip.compress(content[:length]))
            with pytest.raises(InputError, match="not a complete"):
                mmimdb.read(file)

    def test_damaged_header_in_the_middle(self, tmp_path):
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD, "2": GOOD}))
        content = bytearray(gzip.decompress(whole.read_bytes()))
        position = content.index(b"mmimdb/dataset/2.jpeg")
        content[position + 148 : position + 156] = b"???????\0"  # the header's checksum
        whole.write_bytes(gzip.compress(bytes(content)))
        with pytest.raises(InputError, match="a header is damaged"):
            mmimdb.read(whole)

    def test_damaged_content(self, tmp_path):
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD}))
        content = bytearray(whole.read_bytes())
        content[-6] ^= 1  # part of the checksum
        whole.write_bytes(content)
        with pytest.raises(InputError, match=r"whole\.tar\.gz is not a complete .*CRC"):
            mmimdb.read(whole)

    @pytest.mark.parametrize("size", [-512, 1 << 70])
    def test_invalid_size(self, tmp_path, size):
        empty = tarfile.TarInfo("mmimdb/elsewhere").tobuf(tarfile.GNU_FORMAT)
        header = bytearray(empty)
        # Numbers that do not fit are stored in base 256, after a marker byte.
        marker = b"\xff" if size < 0 else b"\x80"
        header[124:136] = marker + size.to_bytes(11, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        whole = write_mmimdb_archive(tmp_path / "whole.tar.gz", files_of({"1": GOOD}))
        whole.write_bytes(
            gzip.compress(empty + bytes(header) + gzip.decompress(whole.read_bytes()))
        )
        with pytest.raises(InputError, match="not a complete"):
            mmimdb.read(whole)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>"])
    def test_not_an_archive(self, tmp_path, content):
        file = tmp_path / "mmimdb.tar.gz"
        file.write_bytes(content)
        with pytest.raises(InputError, match="Download it again"):
            mmimdb.read(file)


def test_genres_of_the_talk_are_unchanged():
    assert "News" in movies.GENRES and len(movies.GENRES) == 24


def test_folder_is_not_written_to(tmp_path):
    folder = write_mmimdb_folder(tmp_path / "mmimdb", files_of({"1": GOOD}))
    before = {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*")}
    read(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
