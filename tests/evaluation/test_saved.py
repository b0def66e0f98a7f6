"""The file of predictions that a run leaves behind."""

import numpy as np
import pytest

from mmgc_jax.evaluation import results, saved
from mmgc_jax.runtime.errors import InputError
from tests.evaluation.test_report import small_corpus

FOLDS = np.array([-1] * 10 + [0, 0, 1, 1])


def collected():
    corpus, probabilities, present = small_corpus()
    calibrations = results.calibrate(corpus, probabilities, present)
    calibrated = results.cross_calibrate(corpus, FOLDS, probabilities, present, calibrations)
    arguments = corpus, FOLDS, present, ("words", "cover"), calibrated, calibrations
    return saved.of_experiment(*arguments), arguments


def test_movies_and_their_calibrated_probabilities_are_collected():
    found, (corpus, _, present, _, calibrated, calibrations) = collected()
    assert found.split.tolist() == ["cross_validation"] * 4 + ["validation"] * 4 + ["test"] * 6
    assert found.ids.tolist() == ["10", "11", "12", "13", *map(str, range(10))]
    assert found.folds.tolist() == [0, 0, 1, 1] + [-1] * 10
    assert found.models.tolist() == ["words", "cover", "fusion"]
    rows = np.array(found.ids, int)
    np.testing.assert_array_equal(found.labels, corpus.labels[rows] > 0)
    np.testing.assert_array_equal(found.both, (present["words"] & present["cover"])[rows])
    np.testing.assert_array_equal(found.present[0], present["words"][rows])
    words, has_words = calibrated["words"].probabilities[rows], found.present[0]
    np.testing.assert_array_equal(found.probabilities[0, has_words], words[has_words])
    assert np.isnan(found.probabilities[0, ~has_words]).all() and not has_words.all()
    assert found.probabilities.dtype == np.float32
    # Those of new movies, which differ from those of the folds.
    np.testing.assert_array_equal(found.thresholds[0], calibrations["words"].thresholds)
    assert not np.array_equal(found.thresholds[0], calibrated["words"].thresholds[10])


def test_predictions_are_read_as_they_were_written(tmp_path):
    found, _ = collected()
    saved.save(tmp_path / saved.FILE, found)
    again = saved.load(tmp_path / saved.FILE)
    for name, array in found._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), array)
        assert getattr(again, name).dtype == array.dtype
    assert [file.name for file in tmp_path.iterdir()] == [saved.FILE]
    assert saved.load(tmp_path / "nowhere" / saved.FILE) is None


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "lacking", "shape", "pickle"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    file = tmp_path / saved.FILE
    found, _ = collected()
    arrays = found._asdict()
    if damage == "lacking":
        del arrays["folds"]
    elif damage == "shape":
        arrays["present"] = arrays["present"][:, 1:]
    elif damage == "pickle":
        arrays["ids"] = np.array(arrays["ids"].tolist(), object)
    np.savez_compressed(file, **arrays)
    content = {"cut": file.read_bytes()[:-200], "text": b"ids", "empty": b""}.get(damage)
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"predictions.npz is damaged: .*\. Delete it; running"):
        saved.load(file)


def test_the_fingerprint_is_that_of_movies_and_labels():
    found, _ = collected()
    one = saved.fingerprint(found)
    assert one == saved.fingerprint(found._replace(probabilities=found.probabilities / 2))
    assert one != saved.fingerprint(found._replace(labels=~found.labels))
    assert one != saved.fingerprint(found._replace(ids=found.ids[::-1]))
