"""Tests of the Python API: predictions of a finished experiment."""

import concurrent.futures
import doctest
import io
import json
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image

import mmgc_jax
from mmgc_jax import Movie, Predictor, answers, experiment
from mmgc_jax import predictor as module
from mmgc_jax.data import posters, talk
from mmgc_jax.data.movies import GENRES
from mmgc_jax.encoders import registry
from mmgc_jax.encoders.base import KnownWords
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import loop
from mmgc_jax.training.run import TrainingRun
from tests import tiny
from tests.conftest import image_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor(finished):
    return Predictor.load(finished.workdir)


@pytest.fixture(scope="module")
def movies(finished):
    return list(talk.read(str(finished.data)))


@pytest.mark.parametrize("stage", ["plot", "poster", "poster_grey", "fusion"])
def test_predictions_equal_those_of_the_experiment(finished, inputs, predictor, movies, stage):
    rows, expected = tiny.probabilities_in(finished.workdir, tiny.config_of(inputs), stage)
    seen = {"plot": ("plot",), "fusion": ("plot", "poster")}.get(stage, ("poster",))
    some = np.array([any(getattr(movies[row], part) for part in seen) for row in rows])
    rows, expected = rows[some], expected[some]
    assert len(rows) > 10
    np.testing.assert_allclose(predictor(movies, stage)[rows], expected, atol=1e-4)


def test_the_preprocessing_of_pretrained_weights_is_kept_when_all_blocks_train(inputs, tmp_path):
    config = tiny.config_of(inputs)
    config.encoders = config.fusion.encoders = ("poster",)
    config.poster.finetune_from = "block1"
    experiment.run(config, tmp_path)
    with np.load(inputs[1]) as weights:
        trained = loop.restore_trained(TrainingRun("poster/fold_1", tmp_path, seed=0))["vgg16"]
        for part, array in trained["preprocessing"].items():
            np.testing.assert_array_equal(array, weights[f"preprocessing/{part}"])
        kernel = trained["block1_conv1"]["kernel"]
        assert (kernel != weights["block1_conv1/kernel"]).any()

    movies = list(talk.read(str(inputs[0])))
    rows, expected = tiny.probabilities_in(tmp_path, config, "poster")
    seen = np.array([movies[row].poster is not None for row in rows])
    predicted = Predictor.load(tmp_path)(movies, "poster")[rows]
    np.testing.assert_allclose(predicted[seen], expected[seen], atol=1e-4)


def test_decisions_use_the_thresholds_of_the_genres(finished, predictor, movies):
    probabilities = predictor(movies)
    of_fusion = json.loads((finished.workdir / "results.json").read_text())["validation"]["fusion"]
    thresholds = np.array([of_fusion["thresholds"][genre] for genre in GENRES])
    np.testing.assert_allclose(predictor.thresholds(), thresholds)
    decided = predictor.decide(probabilities)
    np.testing.assert_array_equal(decided, probabilities >= thresholds)
    assert decided.any() and not decided.all()
    np.testing.assert_array_equal(predictor.decide(probabilities[3]), decided[3])
    np.testing.assert_array_equal(predictor.decide(probabilities.tolist()), decided)
    predictor.thresholds()[:] = 0  # a copy
    np.testing.assert_array_equal(predictor.decide(probabilities), decided)


def test_decide_checks_the_shape(predictor):
    for wrong in (np.zeros((3, 23)), np.zeros(()), np.zeros((24, 3))):
        with pytest.raises(ValueError, match=r"the shape .*; \(movies, 24\) is needed"):
            predictor.decide(wrong)


def test_a_movie_without_anything_gets_the_frequencies(finished, predictor):
    frequencies = json.loads((finished.workdir / "genre_frequencies.json").read_text())
    expected = [frequencies[genre] for genre in GENRES]
    for stage in ("plot", "poster", "fusion"):
        np.testing.assert_allclose(predictor([Movie()], stage)[0], expected, rtol=1e-6)


def test_order_and_company_do_not_matter(predictor, movies):
    few = movies[:7]
    np.testing.assert_allclose(
        predictor(few)[::-1], np.concatenate([predictor([m]) for m in few[::-1]]), atol=1e-5
    )


def test_an_unreadable_poster_counts_as_missing(predictor, movies):
    movie = next(movie for movie in movies if movie.plot and movie.poster)
    broken = Movie(plot=movie.plot, poster=b"not an image")
    np.testing.assert_array_equal(predictor([broken]), predictor([Movie(plot=movie.plot)]))


def test_any_iterable_of_movies(predictor, movies):
    few = movies[:3]
    expected = predictor(few)
    for iterable in (tuple(few), iter(few), (movie for movie in few), dict.fromkeys(few)):
        np.testing.assert_array_equal(predictor(iterable), expected)


@pytest.mark.parametrize("nothing", [[], (), iter(()), {}])
def test_no_movies_give_no_rows(predictor, nothing):
    probabilities = predictor(nothing)
    assert probabilities.shape == (0, len(GENRES)) and probabilities.dtype == np.float32
    assert predictor.decide(probabilities).shape == (0, len(GENRES))


MOVIE = Movie(plot="the heist in the city")


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ("a plot", r"movies is str; .* such as \[Movie\(plot='...'\)\]"),
        (MOVIE, r"movies is Movie; .* such as \[movie\]"),
        (b"a plot", "movies is bytes; "),
        (None, "movies is None; "),
        (3, "movies is int; "),
        ([MOVIE, "a plot"], r"movies\[1\] is str; a Movie is needed"),
        ({"plot": "a plot"}, r"movies\[0\] is str; a Movie is needed"),
        ([MOVIE, Movie(plot=3)], r"movies\[1\].plot is int; a str or None is needed"),
        ([Movie(plot=float("nan"))], r"movies\[0\].plot is float \(nan, as pandas has"),
        ([Movie(title=None)], r"movies\[0\].title is None; a str is needed"),
        ([Movie(id=7)], r"movies\[0\].id is int; a str is needed"),
        ([Movie(poster=7)], r"movies\[0\].poster is int; the bytes of an image file, its path"),
        ([Movie(poster=np.zeros((2, 2, 3)))], r"poster is ndarray; .*Image.fromarray"),
    ],
)
def test_wrong_types_are_named(predictor, movies, message):
    for call in (predictor, predictor.to_frame):
        with pytest.raises(TypeError, match=message):
            call(movies)


def test_wrong_types_of_one_movie_are_named(predictor):
    for call in (predictor.known_words, predictor.notes, predictor.words_and_notes):
        with pytest.raises(TypeError, match=r"movie is str; a Movie is needed"):
            call("a plot")
        with pytest.raises(TypeError, match=r"movie.plot is int"):
            call(Movie(plot=3))


@pytest.mark.parametrize("call", ["__call__", "to_frame", "known_words", "notes", "decide"])
def test_an_unknown_model_is_refused(predictor, call):
    argument = {"decide": np.zeros((1, 24)), "known_words": MOVIE, "notes": MOVIE}.get(call, [])
    with pytest.raises(InputError, match="this experiment has: plot, poster, poster_grey, fusion"):
        getattr(predictor, call)(argument, "sound")
    with pytest.raises(InputError, match="model is 'sound'"):
        predictor.thresholds("sound")


def test_an_unfinished_experiment_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: there is no such folder\.$"):
        Predictor.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not the working directory"):
        Predictor.load(tmp_path)
    (tmp_path / "run.log").touch()
    with pytest.raises(InputError, match=r"has not begun to train: .* or ended with an error"):
        Predictor.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has not finished") as caught:
        Predictor.load(tmp_path)
    assert "If it is still running, wait" in str(caught.value)
    assert "run mmgc train with the same --config and --workdir" in str(caught.value)


class TestPosters:
    def test_bytes_paths_and_images_are_the_same(self, predictor, finished):
        file = finished.data / "posters" / "100.jpg"
        content = file.read_bytes()
        with Image.open(file) as image:
            ways = (content, bytearray(content), memoryview(content), file, str(file), image)
            found = [predictor([Movie(poster=poster)], "poster") for poster in ways]
        for other in found[1:]:
            # Pillow scales JPEG files down while it decodes them, but not images.
            np.testing.assert_allclose(other, found[0], atol=0.02)
        for other in found[1:-1]:
            np.testing.assert_array_equal(other, found[0])

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK", "F", "I"])
    def test_images_of_all_modes(self, predictor, noise, mode):
        image = Image.fromarray(noise).convert(mode)
        assert predictor([Movie(poster=image)], "poster").shape == (1, 24)

    def test_an_image_is_rotated_as_its_file(self, tmp_path, noise):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        content = image_bytes(Image.fromarray(noise), "PNG", exif=exif)
        (tmp_path / "poster.png").write_bytes(content)
        expected = posters.decode(content, 64, 32)
        with Image.open(tmp_path / "poster.png") as image:
            again = posters.decode(posters.encode_png(image), 64, 32)
        np.testing.assert_array_equal(again, expected)
        upright = posters.decode(image_bytes(Image.fromarray(noise), "PNG"), 64, 32)
        assert (expected != upright).any()

    def test_a_file_that_cannot_be_read_is_an_error(self, predictor, tmp_path):
        for poster, reason in (
            (tmp_path / "nowhere.jpg", "nowhere.jpg cannot be read: No such file or directory."),
            (tmp_path, "cannot be read: Is a directory."),
            ("a\0b", "cannot be read"),
        ):
            with pytest.raises(InputError, match=r"^movies\[1\]\.poster: ") as caught:
                predictor([MOVIE, Movie(poster=poster)])
            assert reason in str(caught.value)

    def test_an_image_that_cannot_be_read_is_an_error(self, predictor, noise):
        cut = Image.open(io.BytesIO(image_bytes(Image.fromarray(noise), "PNG")[:5000]))
        closed = Image.fromarray(noise)
        closed.close()
        for image in (cut, closed):
            with pytest.raises(InputError, match=r"^movies\[0\]\.poster: the PIL image cannot be"):
                predictor([Movie(poster=image)])


class TestFrame:
    def test_ids_are_the_index(self, predictor, movies):
        pytest.importorskip("pandas")
        frame = predictor.to_frame(iter(movies[:5]), "plot")
        assert list(frame.columns) == list(GENRES) and frame.index.name == "ID"
        assert list(frame.index) == [movie.id for movie in movies[:5]]
        np.testing.assert_array_equal(frame.to_numpy(), predictor(movies[:5], "plot"))
        assert frame["War"].dtype == np.float32

    def test_positions_are_the_index_of_movies_without_ids(self, predictor):
        pytest.importorskip("pandas")
        assert list(predictor.to_frame([MOVIE, Movie(id="7")]).index) == [0, 1]
        assert predictor.to_frame([]).shape == (0, 24)

    def test_without_pandas_the_error_says_what_to_install(self, predictor, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match=r"pip install 'mmgc_jax\[tables\]'"):
            predictor.to_frame([MOVIE])


class TestKnownWords:
    def test_of_each_model(self, predictor, finished):
        vocabulary = json.loads((finished.workdir / "encoders/plot/vocabulary.json").read_text())
        movie = Movie(plot=f"{vocabulary[0]} qq {vocabulary[1]}'qq ww, {vocabulary[0]}!")
        assert predictor.known_words(movie) == predictor.known_words(movie, "plot")
        assert predictor.known_words(movie) == KnownWords(3, 6, len(vocabulary))
        assert predictor.known_words(movie, "poster") is None
        assert predictor.known_words(Movie(poster=b"x")) is None

    def test_words_are_counted_once_for_an_answer(self, predictor, monkeypatch):
        counted, count = [], predictor.known_words
        monkeypatch.setattr(
            predictor, "known_words", lambda *args: counted.append(args) or count(*args)
        )
        movie = Movie(plot="heist qq ww")
        (answer,) = answers.predict(predictor, [movie], "plot")
        assert answer.words == count(movie, "plot") and len(answer.notes) == 1
        assert counted == [(movie, "plot")]

    def test_notes(self, predictor):
        assert predictor.notes(MOVIE) == []
        assert predictor.notes(Movie(plot="heist heist qq")) == []
        [note] = predictor.notes(Movie(plot="heist qq"))
        assert note.startswith("1 of 2 words known; trained on ")
        [note] = predictor.notes(Movie(plot="qq xx yy"))
        assert note == "None of the 3 words is known: do not rely on this answer."
        [note] = predictor.notes(Movie(plot="qq"))
        assert note == "The word is not known: do not rely on this answer."
        (note,) = predictor.notes(Movie(plot="heist qq ww"))
        assert note.startswith("1 of 3 words known; trained on ")
        assert predictor.notes(Movie(plot="heist qq ww", poster=b""), "poster") == []
        for plot in ("...", "!", "_", " ", "1984", "N/A"):
            first, second = predictor.notes(Movie(plot=plot))
            assert first == "The plot has no words." and second.startswith("Without a plot")
            assert predictor.known_words(Movie(plot=plot)) is None

    def test_a_movie_without_what_the_model_needs_is_noted(self, predictor):
        for model, needed in (
            ("fusion", "plot or a poster"),
            ("plot", "plot"),
            ("poster", "poster"),
        ):
            (note,) = predictor.notes(Movie(), model)
            assert note.startswith(f"Without a {needed}, the model {model} answers with the freq")
        assert len(predictor.notes(MOVIE, "poster")) == 1
        assert predictor.notes(Movie(poster=b"x")) == []


class Compilations:
    """Counts the programs that JAX compiles or reads from its cache, while it is entered."""

    def __enter__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def _note(self, event, duration, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._note)


def test_warm_up_reads_everything_and_compiles_for_single_movies(finished, movies, monkeypatch):
    jax.clear_caches()
    with Compilations() as compilations:
        warm = Predictor.load(finished.workdir, warm_up=True)
    assert compilations.count > 0

    def fail(*_):
        raise AssertionError("read after the warm-up")

    for name in ("plot", "poster"):
        monkeypatch.setattr(registry.of(warm.config, name), "load", fail)
    with Compilations() as compilations:
        for model in warm.models:
            for words in (1, 31, 32, 33, 63, 64, 65, 1000):
                for movie in (Movie(plot="heist " * words), *movies[:2], MOVIE):
                    warm([movie], model)
    assert compilations.count == 0


def test_threads_share_a_predictor(finished, movies, monkeypatch):
    """Each encoder is loaded by one of them."""
    loads, plot = [], registry.find("plot_lstm")
    load = plot.load
    monkeypatch.setattr(plot, "load", lambda *a: loads.append(a) or load(*a))
    expected = {
        model: Predictor.load(finished.workdir)(movies[:9], model) for model in ("plot", "fusion")
    }
    loads.clear()
    shared, barrier = Predictor.load(finished.workdir), threading.Barrier(8)

    def ask(number):
        barrier.wait()
        model = ("plot", "fusion")[number % 2]
        for _ in range(3):
            np.testing.assert_array_equal(shared(movies[:9], model), expected[model])
            assert shared.known_words(MOVIE, model).known > 2

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len(loads) == 1


def test_libraries_print_no_warnings(finished):
    code = (
        "from mmgc_jax import Movie, Predictor\n"
        f"predictor = Predictor.load({str(finished.workdir)!r})\n"
        "predictor([Movie(plot='the heist in the city', poster=b'')], 'plot')\n"
        "predictor([Movie(plot='the heist in the city')])\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tiny.ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_package_is_imported_without_jax_until_something_is_asked_for():
    code = "import sys, mmgc_jax; print('jax' in sys.modules, dir(mmgc_jax))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("False") and "'Predictor'" in run.stdout
    assert mmgc_jax.Movie is Movie and mmgc_jax.Predictor is module.Predictor


def test_examples_in_docstrings(finished):
    documentation = module.__doc__.replace("runs/demo", str(finished.workdir))
    example = types.ModuleType("example", documentation)
    assert doctest.testmod(example, raise_on_error=True).attempted > 4
