"""Tests stratified splits and folds."""

import numpy as np
import pytest

from mmgc_jax.data import splits


@pytest.fixture
def labels():
    """<float32>[800, 24]: genres of decreasing frequency, from 400 movies to eight."""
    rng = np.random.default_rng(0)
    labels = np.zeros((800, 24), np.float32)
    for genre, positives in enumerate(np.geomspace(400, 8, 24).astype(int)):
        labels[rng.choice(800, positives, replace=False), genre] = 1
    return labels


class TestHoldOut:
    def test_every_movie_is_in_one_part(self, labels):
        first, second = splits.hold_out(labels, 0.15, seed=0)
        assert np.sort(np.concatenate([first, second])).tolist() == list(range(800))
        assert (np.diff(first) > 0).all() and (np.diff(second) > 0).all()

    def test_proportions(self, labels):
        for fraction in (0.15, 0.5):
            _, second = splits.hold_out(labels, fraction, seed=0)
            assert len(second) == pytest.approx(800 * fraction, abs=8)
            shares = labels[second].sum(axis=0) / labels.sum(axis=0)
            assert shares[:12] == pytest.approx(fraction, abs=0.05)

    def test_rare_labels_are_on_both_sides(self, labels):
        """Two of eight movies are expected; one in five unstratified draws is not within 1 to 3."""
        for seed in range(10):
            _, second = splits.hold_out(labels, 0.25, seed)
            assert 1 <= labels[second, -1].sum() <= 3

    def test_labels_are_spread_better_than_by_chance(self, labels):
        def error(second):
            return np.abs(labels[second].mean(axis=0) - labels.mean(axis=0)).max()

        by_chance = [np.random.default_rng(n).permutation(800)[:160] for n in range(20)]
        stratified = max(error(splits.hold_out(labels, 0.2, seed)[1]) for seed in range(3))
        assert stratified < min(error(second) for second in by_chance)

    def test_results_depend_on_the_seed(self, labels):
        one, again, other = (splits.hold_out(labels, 0.2, seed)[1] for seed in (3, 3, 4))
        np.testing.assert_array_equal(one, again)
        assert set(one) != set(other)

    @pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0, 1.5, -0.1, None, "0.2", float("nan")])
    def test_invalid_fraction(self, labels, fraction):
        with pytest.raises(ValueError, match="fraction is"):
            splits.hold_out(labels, fraction, seed=0)

    @pytest.mark.parametrize("seed", [-1, 1 << 32, None, 0.5])
    def test_invalid_seed(self, labels, seed):
        with pytest.raises(ValueError, match="seed is"):
            splits.hold_out(labels, 0.2, seed)


class TestFolds:
    def test_every_movie_has_one_fold(self, labels):
        fold_of = splits.assign_folds(labels, 4, seed=0)
        assert (fold_of.shape, fold_of.dtype) == ((800,), np.int64)
        assert np.bincount(fold_of) == pytest.approx(200, abs=8)
        assert set(fold_of) == {0, 1, 2, 3}

    def test_rare_labels_are_spread(self, labels):
        fold_of = splits.assign_folds(labels, 4, seed=0)
        for genre in range(24):
            of_fold = np.bincount(fold_of[labels[:, genre] == 1], minlength=4)
            assert of_fold.min() >= 1, "every fold has every genre"
            assert of_fold == pytest.approx(of_fold.mean(), abs=max(3, 0.1 * of_fold.mean()))

    def test_movies_without_labels_are_spread_too(self):
        labels = np.zeros((40, 2), np.float32)
        labels[:20, 0] = labels[:4, 1] = 1
        fold_of = splits.assign_folds(labels, 4, seed=0)
        assert np.bincount(fold_of).tolist() == [10, 10, 10, 10]
        assert np.bincount(fold_of[:4]).tolist() == [1, 1, 1, 1]
        assert np.bincount(fold_of[20:]).tolist() == [5, 5, 5, 5]

    def test_results_depend_on_the_seed(self, labels):
        one, again, other = (splits.assign_folds(labels, 4, seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()

    @pytest.mark.parametrize("folds", [0, 1, -2, None, 801])
    def test_invalid_number_of_folds(self, labels, folds):
        with pytest.raises(ValueError, match=r"folds|n_splits"):
            splits.assign_folds(labels, folds, seed=0)

    @pytest.mark.parametrize("seed", [-1, 1 << 32, None, 0.5])
    def test_invalid_seed(self, labels, seed):
        with pytest.raises(ValueError, match="seed is"):
            splits.assign_folds(labels, 4, seed)


class TestGroups:
    @pytest.fixture
    def labels(self):
        return np.random.default_rng(0).integers(0, 2, (60, 3)).astype(np.float32)

    def test_groups_stay_together(self, labels):
        groups = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 3))
        parts = splits.hold_out(labels, 0.3, 0, groups)
        assert not set(groups[parts[0]]) & set(groups[parts[1]])
        assert sorted(np.concatenate(parts)) == list(range(60))
        folds = splits.assign_folds(labels, 4, 0, groups)
        assert all(len(set(folds[groups == group])) == 1 for group in range(20))

    def test_groups_of_one_movie_change_nothing(self, labels):
        for groups in (np.arange(60), np.arange(60) * 7):
            for ours, theirs in zip(
                splits.hold_out(labels, 0.3, 0, groups), splits.hold_out(labels, 0.3, 0)
            ):
                np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(
                splits.assign_folds(labels, 4, 0, groups), splits.assign_folds(labels, 4, 0)
            )
