"""Tests of the formats of predictions, with probabilities that are made up."""

import csv
import io
import json

import numpy as np
import pytest

from mmgc_jax import answers, command_line
from mmgc_jax.data.movies import GENRES, Movie
from mmgc_jax.encoders.base import KnownWords

THRESHOLDS = np.full(len(GENRES), 0.5)


def answer(probabilities=0.1, movie=None, words=None, notes=(), **genres):
    """An answer whose genres have one probability, except those that are named."""
    row = np.full(len(GENRES), probabilities, np.float32)
    for genre, value in genres.items():
        row[GENRES.index(genre)] = value
    return answers.Answer(movie or Movie(), row, row >= THRESHOLDS, words, list(notes))


def names(description):
    return [line[2:].split()[0] for line in description.splitlines() if "%" in line]


def test_the_five_likeliest_genres_are_described():
    found = answer(War=0.4, Drama=0.3, Horror=0.2)
    lines = answers.describe(found, GENRES, THRESHOLDS).splitlines()
    assert names("\n".join(lines)) == ["War", "Drama", "Horror", "Action", "Adventure"]
    assert lines[0] == "  War        40.0%  " + "█" * 16 + "    |"
    assert lines[-2] == "No genre is predicted: none reaches its threshold, marked |."
    assert lines[-1] == "Genres not shown: 19. --top=24 shows all."


def test_all_genres_that_reach_their_thresholds_are_described():
    seven = dict.fromkeys(GENRES[3:10], 0.75)
    lines = answers.describe(answer(**seven), GENRES, THRESHOLDS).splitlines()
    assert names("\n".join(lines)) == list(GENRES[3:10])
    assert lines[0] == "* Biography    75.0%  " + "█" * 20 + "▒" + "█" * 9
    assert lines[7] == (
        "Genres with * are predicted. ▒ marks a threshold that is reached, | one that is not."
    )


def test_a_genre_with_a_low_threshold_is_described_although_others_are_likelier():
    thresholds = np.full(len(GENRES), 0.9)
    thresholds[GENRES.index("News")] = 0.05
    found = answer(0.5, News=0.06)
    found = found._replace(predicted=found.probabilities >= thresholds)
    lines = answers.describe(found, GENRES, thresholds).splitlines()
    assert names("\n".join(lines)) == [*GENRES[:5], "News"]
    assert lines[5].startswith("* News        6.0%  ██▒")


@pytest.mark.parametrize(("top", "shown"), [(1, 1), (7, 7), (24, 24), (100, 24)])
def test_top_is_the_number_of_genres_described(top, shown):
    description = answers.describe(answer(0.6), GENRES, THRESHOLDS, top)
    assert len(names(description)) == shown
    assert ("not shown" in description) == (shown < 24)


@pytest.mark.parametrize("threshold", [0.0, 0.111, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("difference", [-1e-4, 0, 1e-4])
def test_the_mark_is_behind_the_bar_unless_the_genre_is_predicted(threshold, difference):
    probability = np.clip(threshold + difference, 0, 1)
    bar = answers._bar(probability, threshold, predicted := probability >= threshold)
    mark, other = ("▒", "|") if predicted else ("|", "▒")
    assert bar.count(mark) == 1 and other not in bar and len(bar) <= 40
    if not predicted:
        assert bar.endswith("|")
    assert abs(len(bar) - 40 * threshold) <= 1


def test_bars_of_equal_length_differ_in_their_marks():
    """One that just reaches its threshold, and one that just misses its."""
    reached, missed = answers._bar(0.17, 0.16, True), answers._bar(0.167, 0.18, False)
    assert (reached, missed) == ("██████▒", "███████|")


def test_marks_differ_without_utf_8():
    command_line.make_output_safe()
    line = f"{answers._REACHED}{answers._MISSED}█".encode("ascii", command_line._ERRORS)
    assert line == b"+|#"


def test_title_and_notes_are_described():
    found = answer(movie=Movie(title="Amélie"), notes=["The plot has no words.", "Another."])
    lines = answers.describe(found, GENRES, THRESHOLDS).splitlines()
    assert lines[0] == "Amélie"
    assert lines[-2:] == ["Note: The plot has no words.", "Note: Another."]


def written(write, *arguments):
    stream = io.BytesIO()
    write(stream, *arguments)
    return stream.getvalue()  # which the writer has not closed


TWO = [answer(movie=Movie(id='7,"', title="é")), answer(0.25, movie=Movie(id="8"), War=1.0)]


@pytest.mark.parametrize("decisions", [False, True])
def test_csv(decisions):
    content = written(answers.write_csv, TWO, GENRES, decisions).decode()
    header, *rows = csv.reader(io.StringIO(content))
    prefixes = "pd" if decisions else "p"
    assert header == ["ID", *(f"{prefix}_{genre}" for prefix in prefixes for genre in GENRES)]
    assert [row[:2] for row in rows] == [['7,"', "0.100000"], ["8", "0.250000"]]
    if decisions:
        assert rows[1][25:] == ["1" if genre == "War" else "0" for genre in GENRES]


@pytest.mark.parametrize("decisions", [False, True])
@pytest.mark.parametrize("found", [TWO, []])
def test_parquet(found, decisions):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(written(answers.write_parquet, found, GENRES, decisions)))
    prefixes = "pd" if decisions else "p"
    assert table.column_names == [
        "ID", *(f"{prefix}_{genre}" for prefix in prefixes for genre in GENRES)
    ]  # fmt: skip
    assert [str(kind) for kind in table.schema.types[:2]] == ["string", "float"]
    assert table.to_pydict()["ID"] == ['7,"', "8"][: len(found)]
    assert table.to_pydict()["p_War"] == [np.float32(0.1), 1.0][: len(found)]
    if decisions:
        assert table.to_pydict()["d_War"] == [0, 1][: len(found)]


def test_json():
    known = answer(movie=Movie(id="9"), words=KnownWords(1, 18, 121), notes=["Why."], War=0.5)
    lines = written(answers.write_json, [TWO[0], known], GENRES, "plot").splitlines()
    assert all(line.isascii() for line in lines)
    first, second = map(json.loads, lines)
    assert (first["id"], first["title"], first["model"]) == ('7,"', "é", "plot")
    assert first["predicted"] == [] and first["plot_words"] is None and first["notes"] == []
    assert list(second["probabilities"]) == list(GENRES)
    assert second["probabilities"]["War"] == 0.5 and second["probabilities"]["Action"] == 0.1
    assert second["predicted"] == ["War"] and second["notes"] == ["Why."]
    assert second["plot_words"] == {"known": 1, "total": 18, "vocabulary": 121}


def test_a_stream_stays_open_if_a_prediction_fails():
    def failing():
        yield TWO[0]
        raise ValueError("a poster")

    stream = io.BytesIO()
    with pytest.raises(ValueError, match="a poster"):
        answers.write_csv(stream, failing(), GENRES)
    assert stream.getvalue().count(b"\n") == 2


def test_movies_are_predicted_in_parts_and_counted():
    class Fake:
        """Predicts without a model; records what it is given."""

        def __init__(self):
            self.sizes = []

        def __call__(self, movies, model):
            self.sizes.append(len(movies))
            return np.stack([answer().probabilities for _ in movies])

        decide = staticmethod(lambda row, model: row >= THRESHOLDS)

        @staticmethod
        def words_and_notes(movie, model):
            return None, ["no"] if movie.id in ("3", "5") else []

    fake, read = Fake(), []
    movies = (read.append(number) or Movie(id=str(number)) for number in range(600))
    found = answers.Counted(answers.predict(fake, movies, "fusion"))
    iterator = iter(found)
    assert next(iterator).movie.id == "0"
    assert len(read) == 256
    assert [answer.movie.id for answer in iterator] == list(map(str, range(1, 600)))
    assert fake.sizes == [256, 256, 88]
    assert (found.count, found.noted, found.first.movie.id) == (600, 2, "3")
