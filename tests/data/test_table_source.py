"""The source `table`: splits, genres and posters of the corpus that is built from a table."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.configs import default
from mmgc_jax.data import builder, pipeline
from mmgc_jax.runtime.errors import InputError
from tests.conftest import image_bytes

HEADER = ("id", "title", "plot", "genres")


def table_config(path, **fields):
    config = default.get_config().data
    fields = {"source": "table", "min_positives": 1, "validation_fraction": 0.25} | fields
    config.update({"path": str(path), "poster_height": 64, "poster_width": 32} | fields)
    return config


def write(folder, rows, header=HEADER):
    file = folder / "movies.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def rows(number=40):
    """Movies; each has one of three genres, and the last one no genre."""
    genres = ["Kaiju", "Wuxia|Kaiju", "Telenovela"]
    found = [(n, f"Movie {n}", f"a plot of {n}", genres[n % 3]) for n in range(number)]
    return [*found[:-1], (*found[-1][:-1], "")]


@pytest.fixture
def load(tmp_path):
    """A function that builds the corpus of a table."""

    def build_and_load(path, **fields):
        config = table_config(path, **fields)
        return pipeline.load_corpus(builder.build(config, tmp_path / "data"), config)

    return build_and_load


def test_movies_and_genres(tmp_path, load, caplog):
    corpus = load(write(tmp_path, rows()))
    assert corpus.genres == ("Kaiju", "Telenovela", "Wuxia")
    assert corpus.ids == [str(n) for n in range(39)]
    assert corpus.labels[:3].tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert corpus.plot(5) == "a plot of 5"
    assert {name: len(part) for name, part in corpus.split.items()} == {
        "train": 29, "validation": 10
    }  # fmt: skip
    assert any("which are left out: 1; the first is" in line for line in caplog.messages)


def test_a_movie_whose_genres_are_left_out_stays_as_an_example_without_genres(tmp_path, load):
    corpus = load(write(tmp_path, rows()), genres=("Wuxia",))
    assert corpus.genres == ("Wuxia",)
    assert len(corpus.ids) == 39 and corpus.labels.sum() == 13


def test_a_column_of_splits(tmp_path, load):
    splits = ["train"] * 20 + ["dev"] * 10 + ["test"] * 10
    table = write(tmp_path, [(*r, s) for r, s in zip(rows(), splits)], (*HEADER, "Split"))
    corpus = load(table, test_fraction=0.5)
    ids = {name: [corpus.ids[i] for i in part] for name, part in corpus.split.items()}
    assert ids["train"] == [str(n) for n in range(20)]
    assert ids["validation"] == [str(n) for n in range(20, 30)]
    assert ids["test"] == [str(n) for n in range(30, 39)], "without the movie that has no genre"


def test_a_test_part_is_held_out_before_the_validation_part(tmp_path, load):
    corpus = load(write(tmp_path, rows(81)), test_fraction=0.25)
    assert {name: len(part) for name, part in corpus.split.items()} == {
        "train": 45, "test": 20, "validation": 15
    }  # fmt: skip
    assert sorted(np.concatenate(list(corpus.split.values()))) == list(range(80))
    for part in corpus.split.values():  # stratified
        np.testing.assert_allclose(corpus.labels[part].mean(axis=0), [0.67, 0.33, 0.33], atol=0.1)


def test_related_rows_stay_on_one_side(tmp_path, load, caplog):
    caplog.set_level("INFO", "mmgc_jax")
    movies = [(n, f"Movie {n // 2}", "a plot", "Kaiju|Wuxia" if n % 3 else "Kaiju")
              for n in range(80)]  # fmt: skip
    corpus = load(write(tmp_path, movies), test_fraction=0.25)
    titles = [{int(corpus.ids[i]) // 2 for i in part} for part in corpus.split.values()]
    assert sum(map(len, titles)) == len(set.union(*titles)) == 40
    assert any(
        message.startswith("Related to an earlier row") and "40 of 80 rows" in message
        for message in caplog.messages
    )


def test_rows_that_are_related_to_a_later_part_are_left_out(tmp_path, load, caplog):
    splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    movies = [(n, title, plot, "Kaiju") for n, title, plot, _ in rows()]
    for row, twin in ((0, 39), (1, 25), (29, 30)):
        movies[row] = (row, movies[twin][1], *movies[row][2:])
    table = write(tmp_path, [(*r, s) for r, s in zip(movies, splits)], (*HEADER, "split"))
    corpus = load(table)
    assert corpus.split["train"].tolist() == list(range(2, 20))
    assert corpus.split["validation"].tolist() == list(range(20, 29))
    assert corpus.split["test"].tolist() == list(range(30, 40))
    assert sum("are left out, because they are related" in m for m in caplog.messages) == 2


class TestPosters:
    @pytest.fixture
    def table(self, tmp_path):
        (tmp_path / "images").mkdir()
        for n in range(20):
            image = Image.new("RGB", (20, 30), (10 * n, 0, 0))
            (tmp_path / "images" / f"{n}.PNG").write_bytes(image_bytes(image, "PNG"))
        return write(tmp_path, rows())

    def test_a_folder(self, tmp_path, table, load, caplog):
        caplog.set_level("INFO", "mmgc_jax")
        corpus = load(table, posters=str(tmp_path / "images"))
        assert corpus.has_poster.tolist() == [True] * 20 + [False] * 19
        assert "posters found for 20 of 40 movies" in caplog.messages
        poster = Image.open(io.BytesIO(corpus.records[19]["poster"]))
        assert poster.size == (32, 64) and abs(poster.getpixel((5, 5))[0] - 190) < 8

    def test_equal_posters_relate_movies(self, tmp_path, table, load):
        image = (tmp_path / "images" / "3.PNG").read_bytes()
        (tmp_path / "images" / "30.png").write_bytes(image)
        corpus = load(table, posters=str(tmp_path / "images"))
        assert corpus.groups[30] == corpus.groups[3] == 3

    def test_a_column_of_paths(self, tmp_path, table, load):
        paths = [f"images\\{n}.PNG" if n % 2 else f"/images/{n}.png" for n in range(40)]
        header = (*HEADER, "poster_path")
        corpus = load(write(tmp_path, [(*r, p) for r, p in zip(rows(), paths)], header),
                      posters=str(tmp_path / "images"))  # fmt: skip
        assert corpus.has_poster.sum() == 20


def test_shards_are_used_again_until_the_table_changes(tmp_path, load):
    def folders():
        return sorted((tmp_path / "data" / "table").iterdir())

    table = write(tmp_path, rows())
    load(table)
    (first,) = folders()
    load(table, columns={"plot": "plot"}, delimiter=",")
    assert folders() == [first], "the movies are the same"
    load(table, genres=("Wuxia",))
    assert len(folders()) == 2
    write(tmp_path, rows()[:-2])
    load(table)
    assert len(folders()) == 3


def test_no_movies(tmp_path, load):
    with pytest.raises(InputError, match="No movie has a genre"):
        load(write(tmp_path, []))
    table = write(tmp_path, [(1, "t", "p", "Kaiju", "test")], (*HEADER, "split"))
    with pytest.raises(InputError, match=r"movies\.csv"):
        load(table)
