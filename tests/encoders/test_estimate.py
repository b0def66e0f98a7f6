"""The estimate of training time."""

import types

import pytest

from mmgc_jax.configs import demo, own, talk
from mmgc_jax.encoders import estimate, registry


def minutes(text):
    value, unit = text.partition(": ")[2].split(" (")[0].split()
    return float(value) * {"s": 1 / 60, "min": 1, "h": 60}[unit]


def estimated(config, plots, posters):
    config = config.copy_and_resolve_references()
    movies = {name: plots if name.startswith("plot") else posters for name in config.encoders}
    return estimate.training_time(config, movies)


@pytest.mark.parametrize(
    ("config", "plots", "posters", "measured"),
    [
        # Minutes on two cores of an AMD EPYC; the folder docs/ has the commands.
        (talk.get_config(), 5289, 3571, 56),
        (demo.get_config(), 2160, 2160, 2.2),
        (own.get_config(), 363, 250, 3.2),
    ],
)
def test_it_is_right_within_a_factor_of_two(config, plots, posters, measured):
    text = estimated(config, plots, posters)
    assert measured / 2 < minutes(text) < 2 * measured, text
    assert all(f"{name} " in text for name in config.encoders)


def test_more_movies_take_longer():
    few, many = (minutes(estimated(talk.get_config(), n, n)) for n in (3000, 30_000))
    assert 8 < many / few < 10.5


def test_a_kind_without_an_estimate_is_named(monkeypatch):
    of = registry.of
    monkeypatch.setattr(
        registry, "of", lambda config, name: types.SimpleNamespace() if name == "poster" else
        of(config, name)
    )  # fmt: skip
    text = estimated(talk.get_config(), 100, 100)
    assert "It is not known for poster." in text and "poster_grey" in text
