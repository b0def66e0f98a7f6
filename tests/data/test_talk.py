"""Tests reading the talk's data, and mistakes in it."""

import pathlib
import tracemalloc

import pytest

from mmgc_jax.data import talk
from mmgc_jax.runtime.errors import InputError
from tests.conftest import TALK_HEADER, write_talk

REAL_TALK = pathlib.Path(__file__).parents[3] / "shared/data/talk/train"
GOOD_ROW = ("7", "1999", "A Title", "a plot .", "['Drama']", "6.5")


@pytest.fixture
def read_rows(tmp_path):
    """A function that writes rows of cells like `GOOD_ROW` as the talk's data and reads them."""
    return lambda *rows: list(talk.read(str(write_talk(tmp_path, rows, {}))))


def row_with(**cells):
    """Returns `GOOD_ROW` with some cells replaced."""
    return tuple((dict(zip(TALK_HEADER, GOOD_ROW)) | cells).values())


class TestTalk:
    def test_good_data(self, talk_folder):
        read = list(talk.read(str(talk_folder)))
        assert [movie.id for movie in read] == [str(index) for index in range(139, 99, -1)]
        movie = read[3]
        assert (movie.title, movie.year, movie.plot) == ("Movie, no. 3", 1953, "word0 word1 word2")
        assert movie.genres == ("Drama", "War")
        assert movie.poster == (talk_folder / "posters/136.jpg").read_bytes()
        assert read[5].poster is None

    def test_the_talks_own_movies(self):
        if not REAL_TALK.is_dir():
            pytest.skip(f"{REAL_TALK} is not there: the talk's movies are not part of this project")
        read = list(talk.read(str(REAL_TALK)))
        assert len(read) == 5289
        assert sum(movie.poster is not None for movie in read) == 3571
        assert all(movie.genres for movie in read)
        assert (read[0].id, read[0].year) == ("900", 2008)
        assert read[0].genres == ("Comedy", "Crime", "Horror")

    @pytest.mark.parametrize("plot", ["", "  \n", "...", "1984", "N/A", "no overview found ."])
    def test_a_plot_without_words_is_none(self, read_rows, plot):
        assert read_rows(row_with(plot=plot))[0].plot is None

    def test_a_plot_is_kept_as_written_but_for_blanks_around_it(self, read_rows):
        plot = '“Čapek” said :\n"no , robots" .'
        assert read_rows(row_with(plot=f"  {plot}\n"))[0].plot == plot

    @pytest.mark.parametrize(
        ("year", "expected"),
        [("", None), ("1990.0", 1990), ("around 1999", 1999), ("²", None), ("9" * 5000, None)],
    )
    def test_a_year_is_found_or_none(self, read_rows, year, expected):
        assert read_rows(row_with(year=year))[0].year == expected

    @pytest.mark.parametrize(
        "cell",
        ["['Drama'", "[3]", "{['Drama']}", "(" * 5000, "-" * 990 + "1", "9" * 20_000,
         "['Drama'" + ", 'Drama'" * 100_000 + "]"],
    )  # fmt: skip
    def test_malformed_genres(self, read_rows, cell):
        with pytest.raises(InputError) as caught:
            read_rows(GOOD_ROW, GOOD_ROW, row_with(genres=cell))
        message = str(caught.value)
        assert "movies.csv has 1 bad row of 3" in message and "line 4: genres " in message
        assert "Right is" in message or "at most" in message

    def test_genres_that_the_talk_does_not_have(self, read_rows):
        with pytest.raises(InputError, match=r"Telenovela\. It has: Action, .*source=table"):
            read_rows(GOOD_ROW, row_with(genres="['Drama', 'Telenovela']"))
        with pytest.raises(InputError, match=r"1 movies without a genre; .* index 8\..*source=tab"):
            read_rows(GOOD_ROW, row_with(index="8", genres="[]"))

    def test_control_characters_become_blanks_and_are_counted(self, read_rows, caplog):
        first = row_with(title="A\0title\x85", plot="a\x1b[31m plot\twith\na tab .")
        movie, other = read_rows(first, row_with(index="8", plot="\0\x07"))
        assert (movie.title, movie.plot) == ("A title", "a [31m plot\twith\na tab .")
        assert other.plot is None
        assert any(
            "control characters of 2 cells of plot" in message for message in caplog.messages
        )

    def test_duplicate_genres_are_dropped(self, read_rows):
        (movie,) = read_rows(row_with(genres="['War', 'Drama', 'War']"))
        assert movie.genres == ("War", "Drama")

    def test_a_plot_of_a_million_characters(self, read_rows):
        assert len(read_rows(row_with(plot="x" * 1_000_000))[0].plot) == 1_000_000

    def test_code_in_a_cell_is_not_executed(self, read_rows, tmp_path):
        witness = tmp_path / "executed"
        code = f"__import__('os').system('touch {witness}')"
        for cell in (f"[{code}]", f"['Drama' if {code} else 'Drama']"):
            with pytest.raises(InputError, match="not a list"):
                read_rows(row_with(genres=cell))
        assert not witness.exists()

    def test_errors_come_before_the_first_movie(self, tmp_path):
        folder = write_talk(tmp_path, [GOOD_ROW, row_with(genres="['Drama'")], {})
        with pytest.raises(InputError):
            talk.read(str(folder))

    @pytest.mark.parametrize("column", ["year", "title"])
    def test_columns_that_need_not_exist(self, tmp_path, column):
        folder = write_talk(tmp_path, [GOOD_ROW], {})
        table = folder / "movies.csv"
        table.write_text(table.read_text().replace(column, "else", 1))
        assert len(list(talk.read(str(folder)))) == 1

    def test_an_overlong_line_is_not_read_into_memory(self, tmp_path):
        folder = write_talk(tmp_path, [GOOD_ROW], {})
        with (folder / "movies.csv").open("r+b") as file:
            file.truncate(1 << 32)  # a sparse file of zeros, which takes no disk space
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"movies\.csv"):
                talk.read(str(folder))
            assert tracemalloc.get_traced_memory()[1] < 100_000_000
        finally:
            tracemalloc.stop()

    def test_an_overlong_cell(self, read_rows):
        with pytest.raises(InputError, match=r"movies\.csv, line 2: .*field larger"):
            read_rows(row_with(plot="x" * 1_000_001))

    @pytest.mark.parametrize("missing", ["movies.csv", "posters", "talk"])
    def test_missing_file(self, talk_folder, missing):
        path = next(path for path in (talk_folder, *talk_folder.iterdir()) if path.name == missing)
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(InputError, match=missing):
            talk.read(str(talk_folder))

    def test_empty_path(self):
        with pytest.raises(InputError, match=r"config\.data\.path is ''"):
            talk.read("")

    @pytest.mark.parametrize("index", ["../x", "sub/../../x", "{root}/x"])
    def test_index_does_not_lead_out_of_the_posters(self, tmp_path, index):
        folder = tmp_path / "talk"
        (folder / "posters" / "sub").mkdir(parents=True)
        for outside in (folder / "x.jpg", tmp_path / "x.jpg"):
            outside.write_bytes(b"secret")
        index = index.format(root=tmp_path)
        assert pathlib.Path(folder / "posters", f"{index}.jpg").read_bytes() == b"secret"
        write_talk(folder, [row_with(index=index)], {})
        (movie,) = talk.read(str(folder))
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
        read = [movie.poster for movie in talk.read(str(folder))]
        assert read == [b"image", b"image", b"", None, None]
        assert any("3.jpg is not read: it is a link" in message for message in caplog.messages)

    def test_folder_of_posters_that_is_a_link(self, tmp_path):
        folder = write_talk(tmp_path / "talk", [GOOD_ROW], {"7": b"image"})
        (folder / "posters").rename(tmp_path / "elsewhere")
        (folder / "posters").symlink_to("../elsewhere")
        (movie,) = talk.read(str(folder))
        assert movie.poster == b"image"

    def test_index_too_long_for_a_file_name(self, read_rows):
        assert read_rows(row_with(index="9" * 300))[0].poster is None

    def test_percent_sign_in_the_path(self, tmp_path):
        folder = write_talk(tmp_path / "100%real", [row_with(genres="x[")], {})
        with pytest.raises(InputError, match="100%real"):
            talk.read(str(folder))
