"""Tests of the dtype `auto`: the machine's own, or the one that a run began with."""

import pytest

from mmgc_jax import settings
from mmgc_jax.configs import talk
from mmgc_jax.ops import kernels


@pytest.fixture(params=["float32", "bfloat16"])
def fastest(request, monkeypatch):
    """The dtype that is fastest on this machine, as far as the package knows."""
    monkeypatch.setattr(kernels, "auto_dtype", lambda: request.param)
    return request.param


def dtypes(config, recorded=None):
    chosen = settings.choose_dtypes(config, recorded)
    return [chosen[name].dtype for name in ("plot", "poster", "poster_grey")]


def test_auto_is_the_fastest_dtype(fastest):
    config = talk.get_config()
    assert dtypes(config) == [fastest] * 3
    assert config.poster.dtype == "auto", "the caller's config is not changed"


def test_a_dtype_that_is_given_stays(fastest):
    config = talk.get_config()
    config.poster.dtype = "bfloat16"  # `poster_grey` follows it
    assert dtypes(config) == [fastest, "bfloat16", "bfloat16"]


def test_a_run_continues_with_the_dtypes_that_it_began_with(fastest):
    recorded = {"plot": {"dtype": "bfloat16"}, "poster": {"dtype": "float32"}}
    assert dtypes(talk.get_config(), recorded) == ["bfloat16", "float32", fastest]


@pytest.mark.parametrize("section", [None, 3, {}, {"dtype": None}, {"dtype": "float8"}])
def test_a_damaged_record_has_no_say(fastest, section):
    assert dtypes(talk.get_config(), {"plot": section}) == [fastest] * 3
