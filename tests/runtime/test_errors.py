"""Tests of the questions in error messages."""

import pytest

from mmgc_jax.runtime.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("pster", "Did you mean --poster or --posters?"),
        ("plot_fil", "Did you mean --plot_file?"),
        ("plo", "Did you mean --plot?"),
        ("xyz", ""),
    ],
)
def test_the_nearest_right_names(name, question):
    choices = ["poster", "posters", "plot", "plot_file", "poster"]
    assert did_you_mean(name, choices, "--{}") == question
