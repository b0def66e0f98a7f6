"""Tests the synthetic corpus and the true probabilities of its genres."""

import collections
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.data import synthetic, text
from mmgc_jax.data.movies import GENRES
from mmgc_jax.data.synthetic import Cues
from mmgc_jax.evaluation import metrics


@pytest.fixture(scope="module")
def corpus():
    """1,000 movies and their cues."""
    return list(synthetic.generate(seed=1, train=1000, validation=0, test=0)["train"])


def take(split, size=20, seed=0):
    """Returns the movies in a split of a small corpus."""
    return [movie for movie, _ in synthetic.generate(seed, size, size, size)[split]]


class TestGenerate:
    def test_movies_depend_on_the_seed(self):
        assert take("train") == take("train")
        assert take("train") != take("train", seed=1)

    def test_splits_differ(self):
        plots = [movie.plot for split in ("train", "validation", "test") for movie in take(split)]
        plots = [plot for plot in plots if plot is not None]
        assert len(set(plots)) == len(plots)

    def test_a_larger_corpus_begins_like_a_smaller_one(self):
        assert take("validation", size=6) == take("validation", size=9)[:6]

    def test_sizes_and_ids(self):
        corpus = synthetic.generate(train=3, validation=1, test=2)
        ids = {split: [movie.id for movie, _ in pairs] for split, pairs in corpus.items()}
        assert ids == {
            "train": ["train-0", "train-1", "train-2"],
            "validation": ["validation-0"],
            "test": ["test-0", "test-1"],
        }


class TestInvalidArguments:
    @pytest.mark.parametrize("name", ["seed", "train", "validation", "test"])
    @pytest.mark.parametrize("value", [-1, None, 2.0, "3", True])
    def test_invalid_values_are_refused_at_once(self, name, value):
        with pytest.raises(ValueError, match=rf"^{name} is {value!r}, not a whole number"):
            synthetic.generate(**{name: value})

    def test_an_unknown_argument_is_refused(self):
        with pytest.raises(TypeError, match="trian"):
            synthetic.generate(trian=3)


def labels_of(corpus):
    """Returns the labels <float32>[movies, 24]."""
    return np.float32([[genre in movie.genres for genre in GENRES] for movie, _ in corpus])


def figures_of(pixels):
    """Returns which pixels differ from the background (the median), <bool>[height, width]."""
    return (pixels != np.median(pixels, axis=(0, 1))).any(axis=-1)


class TestMovies:
    def test_frequencies(self, corpus):
        """15 % of movies have each genre, 5 % have no plot, 15 % no poster, and none lacks both."""
        labels = labels_of(corpus)
        assert labels.mean() == pytest.approx(0.15, abs=0.01)
        assert labels.mean(axis=0) == pytest.approx(0.15, abs=0.05)
        no_plot = np.array([movie.plot is None for movie, _ in corpus])
        no_poster = np.array([movie.poster is None for movie, _ in corpus])
        assert no_plot.mean() == pytest.approx(0.05, abs=0.02)
        assert no_poster.mean() == pytest.approx(0.15, abs=0.035)
        assert not (no_plot & no_poster).any()

    def test_cues_exist_for_modalities_that_the_movie_has(self, corpus):
        for movie, cues in corpus:
            assert (cues.plot is None) == (movie.plot is None)
            assert (cues.poster is None) == (movie.poster is None)

    def test_plot_has_exactly_the_words_of_its_cues(self, corpus):
        genre_of = {
            word: genre for genre, words in synthetic._CUE_WORDS.items() for word in words.split()
        }
        assert tuple(synthetic._CUE_WORDS) == GENRES and len(genre_of) == 3 * 24
        for movie, cues in corpus[:200]:
            if movie.plot is not None:
                words = collections.Counter(text.tokenize(movie.plot))
                shown = [genre_of[word] for word in words.elements() if word in genre_of]
                assert sorted(shown) == sorted(
                    2 * [genre for genre, seen in zip(GENRES, cues.plot) if seen]
                )

    def test_poster_has_exactly_one_figure_for_each_cue(self, corpus):
        for movie, cues in corpus[:200]:
            if movie.poster is None:
                continue
            picture = Image.open(io.BytesIO(movie.poster))
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (128, 256))
            pixels = np.asarray(picture)
            # 8 x 4 cells of 32 x 32 pixels.
            used = figures_of(pixels).reshape(8, 32, 4, 32).any(axis=(1, 3))
            assert used.sum() == cues.poster.sum()

    def test_boxes_enclose_the_figures_of_the_cues(self, corpus):
        for movie, cues in corpus[:50]:
            if movie.poster is None:
                assert cues.boxes is None
                continue
            figures = figures_of(np.asarray(Image.open(io.BytesIO(movie.poster))))
            np.testing.assert_array_equal(cues.boxes.any(axis=1), cues.poster)
            for left, top, right, bottom in cues.boxes[cues.poster]:
                assert figures[top:bottom, left:right].any()
                figures[top:bottom, left:right] = False
            assert not figures.any()

    def test_cue_words_are_those_of_the_plots(self, corpus):
        for movie, cues in corpus[:50]:
            for genre, seen in zip(GENRES, cues.plot if movie.plot else ()):
                words = set(synthetic.cue_words(genre)) & set(text.tokenize(movie.plot))
                assert len(words) == (2 if seen else 0)

    def test_each_genre_has_a_different_figure(self):
        rng = np.random.default_rng(0)
        shown = set()
        for genre in range(24):
            poster, _ = synthetic._draw_poster(rng, np.arange(24) == genre)
            pixels = np.asarray(Image.open(io.BytesIO(poster)))
            figure = figures_of(pixels)
            rows, columns = np.flatnonzero(figure.any(axis=1)), np.flatnonzero(figure.any(axis=0))
            box = figure[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            shown.add((box.tobytes(), pixels[figure][0].tobytes()))
        assert len(shown) == 24


class TestTrueProbabilities:
    @pytest.mark.parametrize(
        ("genre", "in_plot", "in_poster"), [(0, (0.95, 0.02), (0.5, 0.1)),
                                            (1, (0.5, 0.1), (0.95, 0.02))],
        ids=["Action: better in the plot", "Adventure: better in the poster"],
    )  # fmt: skip
    def test_bayes_by_hand(self, genre, in_plot, in_poster):
        """in_plot and in_poster are P(cue | genre) and P(cue | no genre); the prior is 0.15."""
        for plot, poster in itertools.product((True, False, None), repeat=2):
            joint = [0.15, 0.85]  # genre, no genre
            for seen, rates in ((plot, in_plot), (poster, in_poster)):
                if seen is not None:
                    joint = [j * (r if seen else 1 - r) for j, r in zip(joint, rates)]
            cues = Cues(*(None if s is None else np.full(24, s) for s in (plot, poster)))
            assert synthetic.true_probabilities(cues)[genre] == pytest.approx(joint[0] / sum(joint))

    def test_golden(self):
        """0.15 * 0.95 / (0.15 * 0.95 + 0.85 * 0.02) = 0.1425 / 0.1595 = 285 / 319."""
        cues = Cues(plot=np.ones(24, bool), poster=np.zeros(24, bool))
        assert synthetic.true_probabilities(cues, ("plot",))[0] == pytest.approx(285 / 319)

    def test_only_the_given_modalities_are_used(self):
        seen, other = np.arange(24) < 12, np.arange(24) < 3
        plot_only = synthetic.true_probabilities(Cues(seen, other), ("plot",))
        np.testing.assert_array_equal(plot_only, synthetic.true_probabilities(Cues(seen, None)))
        assert (plot_only != synthetic.true_probabilities(Cues(seen, other))).any()

    def test_they_are_calibrated(self, corpus):
        """Among movies and genres with probability p, a fraction p has the genre."""
        probabilities = np.stack([synthetic.true_probabilities(cues) for _, cues in corpus])
        labels = labels_of(corpus)
        checked = 0
        for p in np.unique(probabilities.round(9)):
            labels_of_p = labels[np.isclose(probabilities, p, atol=1e-8)]
            if len(labels_of_p) >= 50:
                deviation = np.sqrt(p * (1 - p) / len(labels_of_p))
                assert labels_of_p.mean() == pytest.approx(p, abs=4 * deviation)
                checked += 1
        assert checked >= 6, "at least 6 of 8 values: each cue is seen, not seen or missing"

    def test_even_genres_are_easier_from_plots_and_odd_ones_from_posters(self, corpus):
        both = [(movie, cues) for movie, cues in corpus if movie.plot and movie.poster]
        labels = labels_of(both)

        def auc(modalities):
            scores = [synthetic.true_probabilities(cues, modalities) for _, cues in both]
            figures = metrics.evaluate(labels, np.stack(scores), GENRES)["per_genre"]
            return np.array([figures[genre]["auc"] for genre in GENRES])

        plot, poster, fusion = auc(("plot",)), auc(("poster",)), auc(("plot", "poster"))
        assert (plot[::2] > poster[::2] + 0.1).all()
        assert (poster[1::2] > plot[1::2] + 0.1).all()
        assert fusion.mean() > max(plot.mean(), poster.mean()) + 0.05
