"""Movies of tables: columns, genres and posters are found, and the notes say how."""

import doctest
import json
import re

import pandas
import pyarrow
import pytest

from mmgc_jax.data import table
from mmgc_jax.data.table import TableSettings, read
from mmgc_jax.runtime.errors import InputError
from tests import tiny


@pytest.fixture(autouse=True)
def all_messages(caplog):
    caplog.set_level("INFO", "mmgc_jax")


def write(folder, text, name="movies.csv"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def read_text(folder, text, labelled=True, **settings):
    return read(write(folder, text), TableSettings(**settings), labelled)


def test_the_example():
    assert doctest.testmod(table, raise_on_error=True).attempted > 0


class TestColumns:
    def test_the_manual_lists_the_usual_names(self):
        page = (tiny.ROOT / "docs" / "your_movies.md").read_text(encoding="utf-8")
        for role, names in table.USUAL_NAMES.items():
            (row,) = re.findall(rf"^\| `{role}` \| (.*) \|$", page, re.MULTILINE)
            listed = [re.sub(r"[\s_-]", "", name).lower() for name in row.split(",")]
            expected = {"": "acolumnwithoutaname"}
            assert listed == [expected.get(n, n) for n in names if n != "unnamed:0"]

    @pytest.mark.parametrize(
        ("header", "columns"),
        [
            ("index,year,title,plot,genres,rating", "id from 'index', title, year, plot, genres"),
            ("movieId,title,genres,overview", "id from 'movieId', title, plot from 'overview'"),
            ("imdbID,Title,Year,Plot,Genre,Poster", "poster from 'Poster'"),
            ("Release Date,SYNOPSIS,Category,image_url", "year from 'Release Date'"),
            ("overview,plot,genres", "Columns: plot, genres."),  # the first usual name counts
        ],
    )
    def test_usual_names_are_found(self, tmp_path, caplog, header, columns):
        row = ",".join("x" for _ in header.split(","))
        read_text(tmp_path, f"{header}\n{row}\n")
        assert columns in caplog.messages[0]

    def test_given_names_count(self, tmp_path):
        text = "plot,what,kinds\nwrong,right,Drama\n"
        found = read_text(tmp_path, text, columns={"plot": "what", "genres": "kinds"})
        assert found.movies[0].plot == "right"
        assert found.movies[0].genres == ("Drama",)
        assert found.movies[0].id == "1", "without a column of ids, rows are numbered"

    def test_a_given_name_that_does_not_exist(self, tmp_path):
        with pytest.raises(
            InputError, match=r"--config\.data\.columns\.plot=plott: .* Did you mean 'plots'"
        ):
            read_text(tmp_path, "plots,genres\na,b\n", columns={"plot": "plott"})

    def test_what_is_needed(self, tmp_path):
        with pytest.raises(InputError, match="no column that looks like a plot or a poster"):
            read_text(tmp_path, "a,genres\n1,2\n")
        # An id finds a poster only in a folder of posters.
        with pytest.raises(InputError, match="no column that looks like a plot or a poster"):
            read_text(tmp_path, "id,genres\n1,2\n")
        with pytest.raises(InputError, match=r"plot or a poster, or like genres; .* Name them: "):
            read_text(tmp_path, "id,story,kinds\n1,2,3\n")
        assert len(read_text(tmp_path, "id,genres\n1,2\n", posters=str(tmp_path)).movies) == 1
        with pytest.raises(InputError, match=r"like genres; .* --config\.data\.columns\.genres=N"):
            read_text(tmp_path, "plot,kinds\n1,2\n")
        assert read_text(tmp_path, "plot,kinds\n1,2\n", labelled=False).movies[0].genres is None

    def test_cells(self, tmp_path):
        text = (
            "id,title,release_date,plot,genres\n"
            " 7 ,A film,1990.0,N/A,Drama\n"
            ",B,2001-05-30, a plot ,Drama\n"
            "x/y,,soon,nan,Drama\n"
        )
        movies = read_text(tmp_path, text).movies
        assert [movie.id for movie in movies] == ["7", "2", "x/y"]
        assert [movie.year for movie in movies] == [1990, 2001, None]
        assert [movie.plot for movie in movies] == [None, "a plot", None]

    def test_cells_that_are_no_texts(self, tmp_path):
        lines = '{"plot": ["a"], "genres": "Drama"}\n{"plot": "a", "genres": "Drama"}\n'
        with pytest.raises(InputError, match=r"line 1: plot is \"\['a'\]\", not a text\. Right is"):
            read_text(tmp_path, lines)


class TestGenres:
    @pytest.mark.parametrize(
        ("cells", "form"),
        [
            (["['Drama', 'War']", "['Film-Noir, Classic']", "[]"], "lists"),
            (['["Drama", "War"]', '["Film-Noir, Classic"]', ""], "lists"),
            (
                ["[{'id': 18, 'name': 'Drama'}, {'id': 1, 'name': 'War'}]",
                 '[{"id": 3, "name": "Film-Noir, Classic"}]', "[]"],
                "lists",
            ),
            (["Drama|War", "Film-Noir, Classic", "(no genres listed)"], "text separated by '|'"),
            (["Drama; War", "Film-Noir, Classic", "N/A"], "text separated by ';'"),
            (["Drama / War", "Film-Noir", "none"], "text separated by '/'"),
        ],
    )  # fmt: skip
    def test_forms(self, tmp_path, caplog, cells, form):
        lines = "\n".join(json.dumps({"plot": "p", "genres": cell}) for cell in cells)
        found = read(write(tmp_path, lines), TableSettings(), True)
        second = "Film-Noir, Classic" if "Classic" in cells[1] else "Film-Noir"
        assert [movie.genres for movie in found.movies] == [("Drama", "War"), (second,), ()]
        assert caplog.messages[1] == f"Genres are {form}."

    def test_values_that_are_lists(self, tmp_path):
        cells = [["Drama", "War", "Drama"], [{"name": "War"}], None]
        lines = "\n".join(json.dumps({"plot": "p", "genres": cell}) for cell in cells)
        found = read(write(tmp_path, lines), TableSettings(), True)
        assert [movie.genres for movie in found.movies] == [("Drama", "War"), ("War",), ()]

    def test_the_separator_is_found_over_the_column(self, tmp_path):
        text = "plot\tgenres\n" + "p\tDrama, War\n" * 3 + "p\tSci-Fi/Fantasy\n" * 2
        found = read_text(tmp_path, text)
        assert found.movies[0].genres == ("Drama", "War")
        assert found.movies[-1].genres == ("Sci-Fi/Fantasy",)
        given = read_text(tmp_path, text, genre_separator="/")
        assert given.movies[0].genres == ("Drama, War",)
        assert given.movies[-1].genres == ("Sci-Fi", "Fantasy")

    def test_one_genre_for_each_movie(self, tmp_path, caplog):
        found = read_text(tmp_path, "plot,genres\np,Drama\np,War\n")
        assert [movie.genres for movie in found.movies] == [("Drama",), ("War",)]
        assert caplog.messages[1] == "Genres are text."

    @pytest.mark.parametrize(
        "cell", ["['Drama'", "[1, 2]", "[{'id': 1}]", "Drama|War", "['a'" + "," * 20_000]
    )
    def test_malformed_cells_are_named_with_a_right_one(self, tmp_path, cell):
        text = f"plot;genres\np;['Drama']\np;[]\np;\"{cell}\"\n"
        with pytest.raises(InputError, match=r"line 4: genres .*(Right is|at most)"):
            read_text(tmp_path, text)


class TestSplits:
    def test_names(self, tmp_path):
        text = "plot,genres,split\np,a,Train\np,a,dev\np,a,TEST\n"
        assert read_text(tmp_path, text).splits == ["train", "validation", "test"]
        assert read_text(tmp_path, "plot,genres\np,a\n").splits == [""]

    def test_others(self, tmp_path):
        with pytest.raises(InputError, match=r"line 2: split is '3'\. Right is train, valid"):
            read_text(tmp_path, "plot,genres,split\np,a,3\n")


class TestPosters:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "images"
        folder.mkdir()
        for name in ("1.jpg", "2.PNG", "Named.webp", "notes.txt"):
            (folder / name).write_bytes(b"")
        return folder

    def test_by_id_in_a_folder(self, tmp_path, folder, caplog):
        found = read_text(tmp_path, "id,genres\n1,a\n2,a\n3,a\n", posters=str(folder))
        assert found.posters == [str(folder / "1.jpg"), str(folder / "2.PNG"), ""]
        assert caplog.messages[-1] == "posters found for 2 of 3 movies"

    def test_by_a_column(self, tmp_path, folder):
        text = (
            "id,poster_path,genres\n9,/named.webp,a\n9,images/1.jpg,a\n9,https://a.b/c.jpg,a\n"
            "9,N/A,a\n9,none.jpg,a\n"
        )
        expected = ["", str(folder / "1.jpg"), "https://a.b/c.jpg", "", ""]
        assert read_text(tmp_path, text).posters == expected
        expected[0] = str(folder / "Named.webp")
        assert read_text(tmp_path, text, posters=str(folder)).posters == expected

    def test_by_a_column_of_a_data_frame(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        named = [str(folder / "1.jpg"), "images/2.PNG", "/images/1.jpg", None]
        frame = pandas.DataFrame({"poster": named, "genres": ["a"] * 4})
        expected = [str(folder / "1.jpg"), "images/2.PNG", "", ""]
        assert read(frame, TableSettings(), True).posters == expected
        assert read(pyarrow.Table.from_pandas(frame), TableSettings(), True).posters == expected

    def test_a_table_iterates_over_movies_with_posters(self, tmp_path, folder):
        found = read_text(tmp_path, "id,genres\n1,a\n3,a\n", posters=str(folder))
        assert len(found) == 2
        assert [movie.poster for movie in found] == [b"", None]

    def test_none_is_found(self, tmp_path, folder, caplog):
        read_text(tmp_path, "id,plot,genres\ntt1,a,a\n", posters=str(folder))
        note = caplog.messages[-1]
        assert note.startswith("posters found for 0 of 1 movies. Looked for tt1.jpg")
        assert f"{folder} holds 1 .jpg files, 1 .png files, 1 .webp files" in note

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match="no such folder of posters"):
            read_text(tmp_path, "plot,genres\na,a\n", posters="none")

    def test_urls(self):
        assert table.is_url("HTTPS://a.b/c.jpg") and not table.is_url("/c.jpg")
