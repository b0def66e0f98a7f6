"""Tests of scoring posters by genres' names; test_vit_parity.py compares the scores."""

import logging

import numpy as np
import pytest
from PIL import Image

from mmgc_jax import Movie, ZeroShot
from mmgc_jax.data import posters
from mmgc_jax.runtime.errors import InputError
from tests import tiny_vit

GENRES = ["Drama", "Film-Noir", "stop motion"]


@pytest.fixture(scope="module")
def zero_shot(tmp_path_factory):
    return ZeroShot.load(tiny_vit.write(tmp_path_factory.mktemp("clip") / "model"))


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_scores_of_posters_of_every_type(zero_shot, picture, tmp_path, caplog):
    file = tmp_path / "poster.png"
    file.write_bytes(posters.encode_png(picture))
    given = [picture, file, str(file), file.read_bytes(), Movie(poster=picture)]
    with caplog.at_level(logging.WARNING):
        scores = zero_shot([*given, Movie(plot="no poster"), b"no image"], GENRES)
    assert scores.shape == (7, 3) and scores.dtype == np.float32
    np.testing.assert_allclose(scores[:5], np.tile(scores[0], (5, 1)), atol=1e-5)
    assert np.isnan(scores[5:]).all()
    assert "number 6: not an image of a known format" in caplog.text
    assert np.ptp(scores[0]) > 1e-3


def test_scores_do_not_depend_on_the_other_genres(zero_shot, picture):
    alone = zero_shot([picture], GENRES[1:2])
    np.testing.assert_allclose(zero_shot([picture], GENRES)[:, 1:2], alone, atol=1e-5)


def test_the_size_of_a_poster_is_its_own(zero_shot, picture):
    """A poster is not squeezed into a fixed shape before it is resized and cropped."""
    wide = picture.resize((90, 40), Image.Resampling.BICUBIC)
    found = zero_shot._image(Movie(poster=posters.encode_png(wide)), 0)
    expected = wide.resize((40, 18), Image.Resampling.BICUBIC).crop((12, 1, 28, 17))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_the_prompt_is_used(picture, tmp_path):
    folder = tiny_vit.write(tmp_path / "model")
    usual, other = ZeroShot.load(folder), ZeroShot.load(folder, "{genre}, {a} poster")
    assert usual.prompt == "a poster of a {genre} movie."
    assert np.abs(usual([picture], GENRES) - other([picture], GENRES)).max() > 1e-3


def test_no_movies(zero_shot):
    assert zero_shot([], GENRES).shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("poster.png", GENRES), TypeError, "movies is str; a list"),
        ((Movie(), GENRES), TypeError, "movies is Movie; a list"),
        (([3], GENRES), TypeError, r"movies\[0\].poster is int; the bytes"),
        (([], "Drama"), TypeError, "genres is 'Drama'; a list of names"),
        (([], ["Drama", ""]), TypeError, r"genres\[1\] is ''; the name of a genre"),
        (([], []), InputError, "genres is empty"),
        ((["/nowhere.png"], GENRES), InputError, r"movies\[0\].poster: /nowhere.png cannot be"),
    ],
)
def test_wrong_arguments(zero_shot, arguments, error, message):
    with pytest.raises(error, match=message):
        zero_shot(*arguments)


def test_wrong_prompts_and_networks(tmp_path):
    folder = tiny_vit.write(tmp_path / "clip")
    with pytest.raises(InputError, match=r"prompt is 'a poster'; it must have \{genre\}"):
        ZeroShot.load(folder, "a poster")
    with pytest.raises(InputError, match="'siglip'; scores of texts need 'clip'"):
        ZeroShot.load(tiny_vit.write(tmp_path / "siglip", "siglip"))
