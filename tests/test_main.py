"""The command line of experiments."""

import subprocess
import sys

import jax
import pytest

import mmgc_jax
from mmgc_jax import main
from mmgc_jax.predictor import Predictor
from tests import tiny

PLACE = "jax_compilation_cache_dir"


@pytest.fixture
def place():
    """Sets where compiled programs are kept; as before afterwards."""
    before = getattr(jax.config, PLACE)
    yield lambda value: jax.config.update(PLACE, value)
    jax.config.update(PLACE, before)


def test_what_is_compiled_is_kept_in_the_cache(monkeypatch, tmp_path, place):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place(None)
    main.use_compilation_cache()
    assert getattr(jax.config, PLACE) == str(tmp_path / "mmgc_jax" / "compiled")


def test_the_person_decides_where(place):
    place("/elsewhere")
    main.use_compilation_cache()
    assert getattr(jax.config, PLACE) == "/elsewhere"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mmgc_jax.main", "--workdir=/nowhere/run", *arguments],
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("--config.no.such.field=1", "config has no field no. It has: data, encoders"),
        ("--config.plot.trainin.epochs=3", "Did you mean config.plot.training?"),
        ("--config.plot.pad_to_multiple_of.epochs=3", "config.plot.pad_to_multiple_of is a value"),
        ("--noconfig.split_parameter", "Did you mean config.split_parameters?"),
    ],
)
@pytest.mark.parametrize(
    "config", [(), ("--config=configs/talk.py",), ("--config", "configs/talk.py")]
)
def test_an_unknown_field_ends_in_one_line_with_the_nearest(config, override, answer):
    ended = run(*config, override)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {override}: ")
    assert answer in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_config_that_is_not_there():
    ended = run("--config=configs/tlak.py")
    assert ended.returncode == 2
    assert "demo, mmimdb, talk" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_list_of_what_can_be_run():
    listed = subprocess.run(
        [sys.executable, "-m", "mmgc_jax"], cwd=tiny.ROOT, capture_output=True, text=True
    )
    lines = listed.stdout.splitlines()
    assert [line.split()[2] for line in lines] == [
        "mmgc_jax.main", "mmgc_jax.predict", "mmgc_jax.compare"
    ]  # fmt: skip
    assert lines[0].endswith("Runs an experiment")


def test_the_package_offers_the_predictor_and_nothing_that_it_lacks():
    assert mmgc_jax.Predictor is Predictor
    with pytest.raises(AttributeError, match="has no attribute 'Predicter'"):
        mmgc_jax.Predicter  # noqa: B018
