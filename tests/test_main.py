import jax
import pytest

from mmgc_jax import main

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
    main.keep_compiled()
    assert getattr(jax.config, PLACE) == str(tmp_path / "mmgc_jax" / "compiled")


def test_the_person_decides_where(place):
    place("/elsewhere")
    main.keep_compiled()
    assert getattr(jax.config, PLACE) == "/elsewhere"
