"""Training on a table of movies whose genres the talk does not have, from Python."""

import json
import pathlib
import random

import numpy as np
import pandas
import pyarrow
import pytest

import mmgc_jax
from mmgc_jax import experiment, predict
from mmgc_jax.runtime.errors import InputError

WORDS = {
    "Kaiju": ("monster", "city", "giant", "island"),
    "Nordic noir": ("snow", "detective", "fjord", "murder"),
    "Telenovela": ("scandal", "wedding", "hacienda", "heir"),
    "Wuxia": ("sword", "monk", "temple", "honour"),
}
SMALL = {
    "encoders": ("plot_bag_of_words",),
    "folds": 2,
    "fusion": {"training": {"epochs": 2}},
    "data": {"genres": {"Kaiju": "Monsters"}, "poster_height": 32, "poster_width": 32},
}


def frame(movies=120):
    chance = random.Random(0)
    rows = []
    for number in range(movies):
        genres = [genre for genre in WORDS if chance.random() < 0.4]
        words = [chance.choice(WORDS[genre]) for genre in genres for _ in range(4)]
        rows.append({"Nr": number, "overview": " ".join(["the story of", *words]), "genre": genres})
    return pandas.DataFrame(rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    return workdir, mmgc_jax.train(frame(), workdir, **SMALL)


@pytest.mark.slow
class TestTrain:
    def test_the_predictor_knows_the_genres(self, trained):
        _, predictor = trained
        assert predictor.genres == ("Monsters", "Nordic noir", "Telenovela", "Wuxia")
        movies = [mmgc_jax.Movie(plot=" ".join(words)) for words in WORDS.values()]
        np.testing.assert_array_equal(predictor(movies).argmax(axis=1), range(4))

    def test_the_command_line_knows_them(self, trained, tmp_path, capfd):
        workdir, _ = trained
        predict.start(["predict", f"--workdir={workdir}", "--plot=a monk with a sword", "--top=1"])
        assert capfd.readouterr().out.startswith("* Wuxia")
        table = tmp_path / "new.tsv"
        table.write_text(
            "Nr\toverview\n7\tthe giant monster city island\n8\tsnow , detective , fjord , murder\n"
        )
        predict.start(["predict", f"--workdir={workdir}", f"--movies={table}", "--output=-",
                       "--format=json", "--columns=id=Nr"])  # fmt: skip
        answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert [answer["id"] for answer in answers] == ["7", "8"]
        likeliest = [max(a["probabilities"], key=a["probabilities"].get) for a in answers]
        assert likeliest == ["Monsters", "Nordic noir"]

    def test_a_finished_run_is_not_trained_again(self, trained):
        workdir, predictor = trained
        checkpoints = sorted((workdir / "predictions").iterdir())
        before = [file.stat().st_mtime_ns for file in checkpoints]
        report = (workdir / "report.html").stat().st_mtime_ns
        again = mmgc_jax.train(frame(), workdir, **SMALL)
        assert (workdir / "report.html").stat().st_mtime_ns == report
        assert again.genres == predictor.genres
        assert [file.stat().st_mtime_ns for file in checkpoints] == before

    def test_a_frame_an_arrow_table_and_a_file_are_the_same(self, trained, tmp_path):
        workdir, _ = trained
        results = (workdir / "results.json").read_text()
        arrow = pyarrow.Table.from_pandas(frame())
        mmgc_jax.train(arrow, tmp_path / "arrow", report=False, **SMALL)
        assert not (tmp_path / "arrow" / "report.html").exists()
        assert (tmp_path / "arrow" / "results.json").read_text() == results
        file = tmp_path / "movies.csv"
        frame().assign(genre=lambda f: f.genre.map("|".join)).to_csv(file, index=False)
        mmgc_jax.train(str(file), tmp_path / "csv", **SMALL)
        assert (tmp_path / "csv" / "results.json").read_text() == results


def test_posters_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"")
    written = {}

    def run(config, workdir):
        written["rows"] = pandas.read_json(config.data.path, lines=True)

    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr(mmgc_jax.Predictor, "load", lambda workdir, kernels=None: None)
    named = ["1.jpg", pathlib.Path("1.jpg"), "none.jpg", "https://a.b/c.jpg", None]
    mmgc_jax.train(frame(5).assign(image=named), "run")
    file = str(tmp_path / "1.jpg")
    assert written["rows"]["image"].fillna("").tolist() == [file, file, *named[2:4], ""]


class TestMistakes:
    def test_a_field_that_does_not_exist(self, tmp_path):
        with pytest.raises(InputError, match=r"data\.poster is not .* Did you mean data\.posters"):
            mmgc_jax.train(frame(), tmp_path, data={"poster": "images"})
        with pytest.raises(InputError, match="encoder is not a field of the config"):
            mmgc_jax.train(frame(), tmp_path, encoder=("plot",))

    def test_a_value_of_another_type(self, tmp_path):
        with pytest.raises(InputError, match=r"folds cannot be 'two'"):
            mmgc_jax.train(frame(), tmp_path, folds="two")

    def test_a_frame_without_genres(self, tmp_path):
        with pytest.raises(
            InputError, match=r"looks like genres.* Usual names for genres: genres, genre,"
        ):
            mmgc_jax.train(frame()[["overview"]], tmp_path)
