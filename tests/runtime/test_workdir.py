"""Tests that a working directory is tied to its config and inputs, and its arrays and log."""

import hashlib
import json
import logging

import numpy as np
import pytest

from mmgc_jax.runtime import workdir
from mmgc_jax.runtime.errors import InputError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_file_depends_on_its_content(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"weights")
    (tmp_path / "b.npz").write_bytes(b"weights")
    found = workdir.hash_inputs(
        {"poster.weights": str(tmp_path / "a.npz"), "other": str(tmp_path / "b.npz")}
    )
    assert found == {"poster.weights": sha256(b"weights"), "other": sha256(b"weights")}


def write_folder(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


def test_the_hash_of_a_folder_depends_on_its_files_and_their_names(tmp_path):
    files = {"config.json": b"{}", "model": b"numbers"}
    folders = {
        "first": files,
        "same": dict(reversed(files.items())),
        "renamed": {"config.json": b"{}", "modell": b"numbers"},
        "changed": {"config.json": b"{}", "model": b"Numbers"},
        "exchanged": {"config.json": b"numbers", "model": b"{}"},
        "moved": {"config.json": b"{}n", "model": b"umbers"},
        "more": files | {"new": b""},
        "fewer": {"model": b"numbers"},
        "joined": {"a": b"xb:y"},
        "apart": {"a": b"x", "b": b"y"},
        "byte_code": files | {"__init__.py": b"", "x.pyc": b"anything"},
    }
    found = workdir.hash_inputs(
        {name: write_folder(tmp_path / name, content) for name, content in folders.items()}
    )
    assert found.pop("same") == found["first"]
    assert found.pop("byte_code") == found["first"]
    assert len(set(found.values())) == len(found)


def test_several_paths_of_a_field_are_numbered(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    paths = (str(tmp_path / "b"), str(tmp_path / "a"))
    assert workdir.hash_inputs({"plot.unlabelled": paths, "none": ()}) == {
        "plot.unlabelled[0]": sha256(b"b"),
        "plot.unlabelled[1]": sha256(b"a"),
    }


CONFIG = {"seed": 0, "data": {"workers": 0, "path": "talk"}, "fusion": {"compare": []},
          "split_parameters": False, "tensorboard": False}  # fmt: skip
INPUTS = {"movies": "1" * 64, "poster.weights": "a" * 64}


@pytest.fixture
def claimed(tmp_path):
    workdir.claim(tmp_path, CONFIG, INPUTS)
    return tmp_path


def content(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_claim_is_written(claimed):
    assert json.loads((claimed / "config.json").read_text()) == CONFIG
    assert json.loads((claimed / "inputs.json").read_text()) == INPUTS
    workdir.claim(claimed, CONFIG, INPUTS)  # the same again is allowed


def test_a_section_that_only_one_side_has_is_one_difference():
    whole = {"seed": 0, "plot": {"hidden": 8, "vectors": {"dim": 2}}, "data": {"synthetic": {}}}
    other = {"seed": 0, "words": {"C": 3.0}, "data": {"synthetic": {"seed": 1}}, "empty": {}}
    assert workdir.differences(whole, other) == {
        "plot": ("a section", None),
        "words": (None, "a section"),
        "data.synthetic": ("an empty section", "a section"),
        "empty": (None, "an empty section"),
    }


def test_at_most_eight_differences_are_listed(tmp_path):
    workdir.claim(tmp_path, {f"field_{n}": n for n in range(12)}, {})
    with pytest.raises(InputError) as caught:
        workdir.check_unchanged(tmp_path, {f"field_{n}": n + 1 for n in range(12)})
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 8 + 1 and lines[-1].strip() == "and 4 more"


@pytest.mark.parametrize(
    ("inputs", "lines"),
    [
        (
            INPUTS | {"poster.weights": "b" * 64},
            [f"inputs.poster.weights: '{'a' * 64}' in the folder, '{'b' * 64}' now"],
        ),
        ({"movies": "1" * 64}, ["inputs.poster.weights: only in the folder"]),
        (
            {"movies": "2" * 64, "poster.weights": "a" * 64, "plot.file": "c" * 64},
            [
                f"inputs.movies: '{'1' * 64}' in the folder, '{'2' * 64}' now",
                "inputs.plot.file: only now",
            ],
        ),
    ],
)
def test_other_inputs_are_refused(claimed, inputs, lines):
    before = content(claimed)
    with pytest.raises(InputError) as caught:
        workdir.claim(claimed, CONFIG, inputs)
    first, *found = str(caught.value).splitlines()
    assert first.startswith(
        f"{claimed} was made with different settings or inputs. Choose another --workdir"
    )
    assert [line.strip() for line in found] == lines
    assert content(claimed) == before


@pytest.mark.parametrize("check", [workdir.check_unchanged,
                                   lambda *args: workdir.claim(*args, INPUTS)])  # fmt: skip
def test_another_config_is_refused(claimed, check):
    before = content(claimed)
    changed = CONFIG | {"seed": 1, "data": {"workers": 0, "path": "other"}}
    with pytest.raises(InputError) as caught:
        check(claimed, changed)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "config.data.path: 'talk' in the folder, 'other' now",
        "config.seed: 0 in the folder, 1 now",
    ]
    assert content(claimed) == before


def test_fields_that_change_no_result_may_change(claimed):
    changed = {"seed": 0, "data": {"workers": 8, "path": "talk"}, "fusion": {"compare": ["gated"]},
               "split_parameters": True, "tensorboard": True}  # fmt: skip
    assert workdir.differences(CONFIG, changed).keys() == workdir.MAY_CHANGE
    workdir.claim(claimed, changed, INPUTS)
    assert json.loads((claimed / "config.json").read_text()) == changed


def test_a_new_folder_takes_any_config(tmp_path):
    workdir.check_unchanged(tmp_path / "new", CONFIG)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["config.json", "inputs.json"])
def test_damaged_records_are_refused(claimed, name):
    (claimed / name).write_text("{")
    with pytest.raises(InputError, match=rf"{name} is not JSON: .*Choose another --workdir"):
        workdir.claim(claimed, CONFIG, INPUTS)


def test_differences_have_dotted_names():
    one = {"a": {"b": 1, "c": {}}, "d": [1], "e": None}
    other = {"a": {"b": 2, "c": {"x": 1}}, "d": [1], "f": 3}
    assert workdir.differences(one, other) == {
        "a.b": (1, 2), "a.c": ("an empty section", "a section"), "f": (None, 3),
    }  # fmt: skip
    assert workdir.differences(one, one) == {}


def test_saved_arrays_are_loaded(tmp_path):
    file = tmp_path / "predictions" / "plot.npz"
    assert workdir.load_arrays(file) is None
    arrays = {"probabilities": np.float32([[0.1, 0.2]]), "without_plot": np.zeros((0, 3), np.int64)}
    workdir.save_arrays(file, arrays)
    found = workdir.load_arrays(file)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_log_lines_of_the_package_are_written_within_the_block(tmp_path):
    ours, theirs = logging.getLogger("mmgc_jax.training"), logging.getLogger("orbax")
    ours.warning("before")
    with pytest.raises(ZeroDivisionError), workdir.logging_to(tmp_path / "run.log"):
        ours.warning("within %d", 1)
        theirs.warning("another package")
        raise ZeroDivisionError
    ours.warning("after")
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    assert line.endswith(" within 1")


@pytest.mark.parametrize("name", ["config.json", "inputs.json"])
@pytest.mark.parametrize("content", ["[1]", "3", "null", "{"])
def test_json_that_is_not_an_object_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} is not .*Choose another --workdir"):
        workdir.claim(tmp_path, {"seed": 0}, {"movies": "talk-1"})
