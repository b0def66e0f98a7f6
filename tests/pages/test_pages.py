"""Tests of the pages of HTML: content, escaping, and that they need no network."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from mmgc_jax import Movie, pages
from mmgc_jax.data import posters
from mmgc_jax.encoders.explanations import WordScores, sentences_of, words_of
from mmgc_jax.explanations import Explanation
from mmgc_jax.pages import picture

PLOT = "a <b>ghost</b> & a kiss . the end"


def explanation(**changes) -> Explanation:
    """Makes an explanation by hand, of a movie with a plot and a poster."""
    words = words_of(PLOT)
    scores = np.zeros((len(words), 2), np.float32)
    scores[1] = 2.5, -1.0  # the ghost
    scores[3] = -1.5, 3.0  # the kiss
    heat = np.zeros((2, 64, 32), np.float32)
    heat[0, :8, :8] = 1
    poster = posters.encode_png(Image.new("RGB", (40, 60), (200, 30, 30)))
    fields = {
        "movie": Movie(title="Ghost <i>story</i>", plot=PLOT, poster=poster),
        "model": "fusion",
        "genres": ("Drama", "Horror", "Romance"),
        "probabilities": np.float32([0.2, 0.9, 0.1]),
        "thresholds": np.array([0.3, 0.5, 0.4]),
        "chosen": ("Horror", "Romance"),
        "titles": {"plot": "Plot (LSTM)", "poster": "Poster (VGG16, colour)"},
        "plot": PLOT,
        "words": tuple(words),
        "known": np.arange(len(words)) != 1,
        "word_scores": scores,
        "sentences": tuple(sentences_of(PLOT)),
        "sentence_scores": np.float32([[1, 2], [-0.04, 0.5]]),
        "encoder_words": {"plot": WordScores(scores, np.float32([0.1, 0.0]))},
        "heat_maps": {"poster": heat},
        "evidence": {
            "prior": np.float32([-1, -2, -3]),
            "plot": np.float32([0, 4.5, 0]),
            "calibration": np.float32([0, -0.3, 0]),
        },
        "without": {"plot": np.float32([0.1, 0.125, 0.1]), "poster": np.float32([0, 0.875, 0])},
        "notes": ["6 < 13 words known."],
    }
    return Explanation(**(fields | changes))


class _Parser(html.parser.HTMLParser):
    """Collects the open elements, texts and addresses of a page."""

    def __init__(self, content):
        super().__init__()
        self.texts, self.addresses, self.tags, self._open = [], [], [], []
        self.feed(content)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self._open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def text_of(content: str) -> str:
    return " ".join(" ".join(_Parser(content).texts).split())


def test_a_page_is_well_formed_and_needs_no_network():
    content = pages.document("Why?", pages.movie(explanation()))
    page = _Parser(content)
    assert content.startswith("<!doctype html>")
    assert page.addresses and all(a.startswith("data:image/jpeg;base64,") for a in page.addresses)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", content)
    assert "script" not in page.tags and "prefers-color-scheme: dark" in content


def test_texts_are_escaped():
    content = pages.movie(explanation())
    assert "<b>ghost" not in content and "&lt;b&gt;ghost&lt;/b&gt;" in content
    assert "<i>story" not in content and "6 &lt; 13" in content
    assert text_of(content).count("& a kiss") == 4  # for each genre, in the plot and as a sentence


def test_genres_stand_with_probability_threshold_and_a_sign():
    text = text_of(pages.movie(explanation()))
    assert "✓ Horror 90.0 %" in text and "✓ Drama" not in text
    assert "Why Horror? 90.0 %, predicted (threshold 50.0 %)" in text
    assert "Why Romance? 10.0 %, not predicted (threshold 40.0 %)" in text
    assert "Frequency of the genre −2.0" in text and "Plot (LSTM) +4.5" in text
    assert "Sum: 90.0 % +2.2" in text
    assert "Without the plot: 12.5 %" in text and "Without the poster: 87.5 %" in text


def test_words_have_numbers_and_lines_beside_their_colours():
    content = pages.movie(explanation())
    first = content.split("<details")[1]
    ghost = re.search(
        r'<mark class="(\w+)" style="--strength:([\d.]+)"><span class="unknown"', first
    )
    assert (ghost[1], float(ghost[2])) == ("for", 0.75)
    assert "<small>+2.5</small>" in first and "<small>−1.5</small>" in first
    assert first.count("<mark") == 4  # with both of the legend
    assert "dashed" in pages.STYLE and "orange, dashed line, −" in first
    assert "−0.0" not in content


def test_a_movie_with_little():
    bare = explanation(
        movie=Movie(), plot="", words=(), known=np.zeros(0, bool), notes=[], evidence={},
        word_scores=np.zeros((0, 2), np.float32), sentences=(), without={}, heat_maps={},
        sentence_scores=np.zeros((0, 2), np.float32), encoder_words={},
    )  # fmt: skip
    page = _Parser(pages.movie(bare))
    assert "img" not in page.tags and "The movie" in page.texts
    nothing = explanation(heat_maps={"poster": np.zeros((2, 64, 32), np.float32)})
    assert "Nothing in the poster speaks for Horror." in pages.movie(nothing)


def test_likeliest_genres_are_seen_and_the_others_folded():
    probabilities = np.linspace(0.01, 0.3, 300, dtype=np.float32)
    many = explanation(
        genres=("Horror", "Romance", *(f"Genre {n}" for n in range(298))),
        probabilities=probabilities,
        thresholds=np.where(np.arange(300) == 5, 0.001, 0.9),
        evidence={}, without={},
    )  # fmt: skip
    seen, folded = pages.movie(many).split("more genres</summary>")[:2]
    assert "289" in seen[-20:]
    assert "Genre 297" in seen and "✓ Genre 3" in seen and "Genre 20<" not in seen
    assert "Genre 20" in folded


def test_a_heat_picture_has_the_size_of_the_poster_and_is_bright_where_the_map_is():
    grey = np.full((60, 40, 3), 120, np.uint8)
    heat = np.zeros((16, 16), np.float32)
    heat[:4, :4] = 1
    picture_ = np.asarray(Image.open(io.BytesIO(pages.heat_picture(grey, heat))))
    assert picture_.shape == (60, 40, 3)
    lightness = picture_.astype(float).mean(axis=-1)
    assert lightness[4, 4] > lightness[40, 30] + 40
    address = re.search(r"data:image/jpeg;base64,([\w+/=]+)", pages.movie(explanation()))
    assert base64.b64decode(address[1]).startswith(b"\xff\xd8")


@pytest.mark.slow
@pytest.mark.parametrize("poster", [True, False])
def test_a_picture_is_a_png(poster):
    stream = io.BytesIO()
    changes = {} if poster else {"movie": Movie(plot=PLOT), "heat_maps": {}}
    picture.save(stream, explanation(**changes))
    width, height = Image.open(stream).size
    assert width > 900 and height > 500
