"""Tests reading the talk's data and other CSV tables, including malformed ones."""

import doctest
import pathlib
import tracemalloc

import pytest

from mmgc_jax.data import movies
from mmgc_jax.runtime.errors import InputError
from tests.conftest import TALK_HEADER, write_talk

REAL_TALK = pathlib.Path(__file__).parents[3] / "shared/data/talk/train"
GOOD_ROW = ("7", "1999", "A Title", "a plot .", "['Drama']", "6.5")


@pytest.fixture
def read_rows(tmp_path):
    """A function that writes rows of cells like `GOOD_ROW` as the talk's data and reads them."""
    return lambda *rows: list(movies.read_talk(str(write_talk(tmp_path, rows, {}))))


def row_with(**cells):
    """Returns `GOOD_ROW` with some cells replaced."""
    return tuple((dict(zip(TALK_HEADER, GOOD_ROW)) | cells).values())


def test_genres_are_those_of_the_talk_in_alphabetical_order():
    assert len(movies.GENRES) == 24
    assert list(movies.GENRES) == sorted(movies.GENRES)


class TestTalk:
    def test_good_data(self, talk_folder):
        read = list(movies.read_talk(str(talk_folder)))
        assert [movie.id for movie in read] == [str(index) for index in range(139, 99, -1)]
        movie = read[3]
        assert (movie.title, movie.year, movie.plot) == ("Movie, no. 3", 1953, "word0 word1 word2")
        assert movie.genres == ("Drama", "War")
        assert movie.poster == (talk_folder / "posters/136.jpg").read_bytes()
        assert read[5].poster is None

    def test_the_talks_own_movies(self):
        if not REAL_TALK.is_dir():
            pytest.skip(f"{REAL_TALK} is not there: the talk's movies are not part of this project")
        read = list(movies.read_talk(str(REAL_TALK)))
        assert len(read) == 5289
        assert sum(movie.poster is not None for movie in read) == 3571
        assert all(movie.genres for movie in read)
        assert (read[0].id, read[0].year) == ("900", 2008)
        assert read[0].genres == ("Comedy", "Crime", "Horror")

    @pytest.mark.parametrize("plot", ["", "  \n"])
    def test_empty_plot_is_none(self, read_rows, plot):
        assert read_rows(row_with(plot=plot))[0].plot is None

    def test_plot_is_kept_as_written(self, read_rows):
        plot = ' “Čapek” said :\n"no , robots" .'
        assert read_rows(row_with(plot=plot))[0].plot == plot

    def test_empty_year_is_none(self, read_rows):
        assert read_rows(row_with(year=""))[0].year is None

    @pytest.mark.parametrize(
        ("cells", "reason"),
        [
            ({"index": " "}, "index is empty"),
            ({"year": "around 1999"}, "year is not a number: 'around 1999'"),
            ({"genres": ""}, "not a list literal"),
            ({"genres": "['Drama'"}, "not a list literal: \"['Drama'\""),
            ({"genres": "Drama"}, "not a list literal: 'Drama'"),
            ({"genres": "'Drama'"}, "not a list of strings"),
            ({"genres": "[3]"}, "not a list of strings"),
            ({"genres": "{['Drama']}"}, "genres"),
            ({"genres": "(" * 5000}, "not a list literal"),
            ({"genres": "[]"}, "no genre"),
            ({"genres": "-" * 990 + "1"}, "not a list literal"),
            ({"genres": "['Drama'" + ", 'Drama'" * 100_000 + "]"}, "not a list literal"),
            ({"genres": "9" * 10_000}, "not a list literal"),
            ({"genres": "['Drama\0']"}, "not a list literal"),
            ({"year": "²"}, "year is not a number: '²'"),
            ({"year": "9" * 5000}, "year has 5000 digits"),
            ({"genres": "['Drama', 'Telenovela']"}, "unknown genre Telenovela; known: Action, "),
        ],
    )
    def test_malformed_cell(self, read_rows, cells, reason):
        with pytest.raises(InputError) as caught:
            read_rows(GOOD_ROW, row_with(**{"index": "8", **cells}))
        message = str(caught.value)
        assert "movies.csv has 1 bad row of 2" in message
        assert f"row 2 (index {cells.get('index', '8')}): " in message
        assert reason in message

    def test_errors_escape_control_characters_of_a_file(self, read_rows):
        with pytest.raises(InputError) as caught:
            read_rows(row_with(index="7\x1b[2J" + "x" * 1000, title="t"))
        message = str(caught.value)
        assert "the index has a control character" in message
        assert "\x1b" not in message and r"7\x1b[2Jx" in message and len(message) < 500

    def test_control_characters_become_blanks_and_are_counted(self, read_rows, caplog):
        first = row_with(title="A\0title\x85", plot="a\x1b[31m plot\twith\na tab .")
        movie, other = read_rows(first, row_with(index="8", plot="\0\x07"))
        assert (movie.title, movie.plot) == ("A title ", "a [31m plot\twith\na tab .")
        assert other.plot is None
        assert any("control characters in 2 rows" in message for message in caplog.messages)

    def test_duplicate_genres_are_dropped(self, read_rows):
        (movie,) = read_rows(row_with(genres="['War', 'Drama', 'War']"))
        assert movie.genres == ("War", "Drama")

    def test_a_plot_of_a_million_characters(self, read_rows):
        assert len(read_rows(row_with(plot="x" * 1_000_000))[0].plot) == 1_000_000

    def test_code_in_a_cell_is_not_executed(self, read_rows, tmp_path):
        witness = tmp_path / "executed"
        code = f"__import__('os').system('touch {witness}')"
        for cell in (code, f"[{code}]", f"['Drama' if {code} else 'Drama']"):
            with pytest.raises(InputError, match="not a list literal"):
                read_rows(row_with(genres=cell))
        assert not witness.exists()

    def test_duplicated_index(self, read_rows):
        with pytest.raises(InputError, match=r"row 3 \(index 7\): an earlier row has the same"):
            read_rows(GOOD_ROW, row_with(index="8"), row_with(title="Another"))

    @pytest.mark.parametrize(
        ("row", "reason"), [(GOOD_ROW[:-1], "fewer cells"), ((*GOOD_ROW, "more"), "more cells")]
    )
    def test_wrong_number_of_cells(self, read_rows, row, reason):
        with pytest.raises(InputError, match=rf"row 1 \(index 7\): {reason}"):
            read_rows(row)

    def test_only_the_first_of_many_bad_rows_are_shown(self, read_rows):
        with pytest.raises(InputError) as caught:
            read_rows(*(row_with(index=str(n), year="?") for n in range(25)))
        message = str(caught.value)
        assert "25 bad rows of 25" in message and "and 15 more" in message
        assert message.count("the year is not a number") == 10

    def test_errors_come_before_the_first_movie(self, tmp_path):
        folder = write_talk(tmp_path, [GOOD_ROW, row_with(year="?")], {})
        with pytest.raises(InputError):
            movies.read_talk(str(folder))

    @pytest.mark.parametrize("column", ["year", "title", "plot", "genres"])
    def test_missing_column(self, tmp_path, column):
        folder = write_talk(tmp_path, [GOOD_ROW], {})
        table = folder / "movies.csv"
        table.write_text(table.read_text().replace(column, "else", 1))
        with pytest.raises(InputError, match=rf"movies\.csv lacks the column {column}; it has: "):
            movies.read_talk(str(folder))

    @pytest.mark.parametrize("column", ["year", "title", "plot", "index"])
    def test_duplicate_column(self, tmp_path, column):
        table = tmp_path / "movies.csv"
        table.write_text(f"index,year,title,plot,{column}\n7,1999,T,p,x\n")
        with pytest.raises(InputError, match=f"has the column '{column}' more than once"):
            movies.read_csv(table)

    def test_too_many_columns(self, tmp_path):
        table = tmp_path / "movies.csv"
        table.write_text("index,year,title,plot" + ",x" * 100_000 + "\n7\n")
        with pytest.raises(InputError, match="has 100,004 columns"):
            movies.read_csv(table)

    @pytest.mark.parametrize("row", ['7,1999,T,"a plot\n8,1999,T,p', '7,1999,"T"s,p\n'])
    def test_unclosed_quotation_mark(self, tmp_path, row):
        table = tmp_path / "movies.csv"
        table.write_text(f"index,year,title,plot\n{row}")
        with pytest.raises(InputError, match=r"movies\.csv cannot be read"):
            movies.read_csv(table)

    def test_an_overlong_line_is_not_read_into_memory(self, tmp_path):
        table = tmp_path / "movies.csv"
        table.write_text("index,year,title,plot\n7,1999,T,")
        with table.open("r+b") as file:
            file.truncate(1 << 40)  # a sparse file of zeros, which takes no disk space
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="a line is longer than 10,000,000"):
                movies.read_csv(table)
            assert tracemalloc.get_traced_memory()[1] < 100_000_000
        finally:
            tracemalloc.stop()

    def test_device(self):
        with pytest.raises(InputError, match="no such file"):
            movies.read_csv("/dev/zero")

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp037"])
    def test_other_encodings(self, tmp_path, encoding):
        table = tmp_path / "movies.csv"
        table.write_text("index,year,title,plot\n7,1999,T,für\n", encoding=encoding)
        with pytest.raises(InputError, match=r"movies\.csv"):
            movies.read_csv(table)

    def test_other_columns_are_ignored(self, tmp_path):
        table = tmp_path / "movies.csv"
        table.write_text("index,year,title,plot,surplus\n7,1999,T,p,x\n")
        assert [movie.id for movie in movies.read_csv(table)] == ["7"]

    def test_first_column_is_the_index_whatever_its_name(self, tmp_path):
        table = tmp_path / "movies.csv"
        table.write_text("\ufeff,year,title,plot\n7,1999,T,p\n", encoding="utf-8")
        (movie,) = movies.read_csv(table)
        assert (movie.id, movie.genres, movie.poster) == ("7", None, None)

    def test_not_utf8(self, tmp_path):
        folder = write_talk(tmp_path, [GOOD_ROW], {})
        (folder / "movies.csv").write_bytes(
            "index,year,title,plot,genres\n7,1999,Für".encode("cp1252")
        )
        with pytest.raises(InputError, match=r"movies\.csv cannot be read as a UTF-8 CSV file"):
            movies.read_talk(str(folder))

    def test_an_overlong_cell(self, read_rows):
        with pytest.raises(InputError, match=r"movies\.csv cannot be read.*field larger"):
            read_rows(row_with(plot="x" * 1_000_001))

    @pytest.mark.parametrize("missing", ["movies.csv", "posters", "talk"])
    def test_missing_file(self, talk_folder, missing):
        path = next(path for path in (talk_folder, *talk_folder.iterdir()) if path.name == missing)
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(InputError, match=missing):
            movies.read_talk(str(talk_folder))

    def test_empty_path(self):
        with pytest.raises(InputError, match=r"config\.data\.path is ''"):
            movies.read_talk("")

    @pytest.mark.parametrize("index", ["../x", "sub/../../x", "{root}/x"])
    def test_index_does_not_lead_out_of_the_posters(self, tmp_path, index):
        folder = tmp_path / "talk"
        (folder / "posters" / "sub").mkdir(parents=True)
        for outside in (folder / "x.jpg", tmp_path / "x.jpg"):
            outside.write_bytes(b"secret")
        index = index.format(root=tmp_path)
        assert pathlib.Path(folder / "posters", f"{index}.jpg").read_bytes() == b"secret"
        write_talk(folder, [row_with(index=index)], {})
        (movie,) = movies.read_talk(str(folder))
        assert movie.poster is None

    def test_poster_that_is_a_link(self, tmp_path, caplog):
        folder = write_talk(
            tmp_path / "talk", [row_with(index=i) for i in "12345"], {"1": b"image"}
        )
        (tmp_path / "private.jpg").write_bytes(b"secret")
        images = folder / "posters"
        (images / "2.jpg").symlink_to("1.jpg")
        (images / "3.jpg").symlink_to("../../private.jpg")
        (images / "4.jpg").symlink_to("4.jpg")
        (images / "5.jpg").symlink_to("/dev/zero")
        read = [movie.poster for movie in movies.read_talk(str(folder))]
        assert read == [b"image", b"image", b"", None, None]
        assert any("3.jpg is not read: it is a link" in message for message in caplog.messages)

    def test_folder_of_posters_that_is_a_link(self, tmp_path):
        folder = write_talk(tmp_path / "talk", [GOOD_ROW], {"7": b"image"})
        (folder / "posters").rename(tmp_path / "elsewhere")
        (folder / "posters").symlink_to("../elsewhere")
        (movie,) = movies.read_talk(str(folder))
        assert movie.poster == b"image"

    def test_index_too_long_for_a_file_name(self, read_rows):
        assert read_rows(row_with(index="9" * 300))[0].poster is None

    def test_percent_sign_in_the_path(self, tmp_path):
        folder = write_talk(tmp_path / "100%real", [row_with(year="?")], {})
        with pytest.raises(InputError, match="100%real"):
            movies.read_talk(str(folder))

    def test_commas_quotes_and_line_ends_stay_in_their_cell(self, read_rows):
        title = 'a "b", c\r\nd'
        assert read_rows(row_with(title=title))[0].title == title


def test_a_movie_needs_only_a_plot():
    movie = movies.Movie(plot="a plot .")
    assert (movie.id, movie.title, movie.poster, movie.genres) == ("", "", None, None)
    assert doctest.testmod(movies, raise_on_error=True).attempted > 0


class TestFolderOfPosters:
    """The log says how many posters were found."""

    @pytest.fixture
    def table(self, tmp_path):
        file = tmp_path / "movies.csv"
        file.write_text("index,year,title,plot\n7,1999,T,p\n8,1999,T,p\n")
        (tmp_path / "posters").mkdir()
        return file

    def messages(self, table, caplog):
        """The messages before the first movie is asked for."""
        with caplog.at_level("INFO", "mmgc_jax"):
            found = movies.read_csv(table, table.parent / "posters")
        logged = [record for record in caplog.records if "poster in" in record.message]
        assert len(list(found)) == 2
        return [(record.levelname, record.message) for record in logged]

    def test_some(self, table, caplog):
        (table.parent / "posters" / "8.jpg").touch()
        assert self.messages(table, caplog) == [
            ("INFO", f"1 of 2 movies have a poster in {table.parent}/posters.")
        ]

    def test_an_empty_folder(self, table, caplog):
        [(level, message)] = self.messages(table, caplog)
        assert level == "WARNING" and message.endswith(
            "/posters. Needed: <index>.jpg, such as 7.jpg. The folder is empty."
        )

    def test_a_folder_with_other_files(self, table, caplog):
        for name in ("7.png", "9.jpg", "\x1b[2J.jpg", "zz.jpg"):
            (table.parent / "posters" / name).touch()
        (table.parent / "posters" / "8.jpg").mkdir()
        [(_, message)] = self.messages(table, caplog)
        assert message.startswith("None of 2 movies has a poster in ")
        assert message.endswith(r"The folder has: '\x1b[2J.jpg', 7.png, 8.jpg/ and 2 more.")

    def test_without_a_folder_or_movies_nothing_is_logged(self, tmp_path, table, caplog):
        list(movies.read_csv(table))
        table.write_text("index,year,title,plot\n")
        list(movies.read_csv(table, tmp_path / "posters"))
        assert not [message for message in caplog.messages if "None of" in message]
