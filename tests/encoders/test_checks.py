"""Tests of checking config sections: which values are mistakes, and their messages."""

import math

import ml_collections
import pytest

from mmgc_jax.encoders import registry
from mmgc_jax.encoders.base import training_settings
from mmgc_jax.encoders.checks import Checker, schema_problems

NAN, INFINITY = math.nan, math.inf
NOT_NUMBERS = (None, "1", "", True, False, (), (1,), [1], {"a": 1}, NAN, INFINITY, -INFINITY)


def problems(value, check) -> list[str]:
    """Returns the mistakes that a check finds in a section whose field `a.b` has this value."""
    checker = Checker(ml_collections.ConfigDict({"a": {"b": value}}))
    check(checker)
    return checker.problems


@pytest.mark.parametrize(
    ("check", "right", "wrong", "message"),
    [
        (
            lambda c: c.at_least(1, "a.b"),
            (1, 2, 10**12),
            (0, -1, 1.0, 1.5, *NOT_NUMBERS),
            "a whole number of at least 1 is needed",
        ),
        (
            lambda c: c.at_least(0.0, "a.b"),
            (0, 0.0, 1, 0.5, 1e30),
            (-1, -1e-9, *NOT_NUMBERS),
            "a number of at least 0.0 is needed",
        ),
        (
            lambda c: c.above(0.0, "a.b"),
            (1, 1e-9, 5.5),
            (0, 0.0, -1.0, *NOT_NUMBERS),
            "a number above 0.0 is needed",
        ),
        (
            lambda c: c.share("a.b"),
            (0, 0.0, 0.5, 0.999),
            (1, 1.0, 1.5, -0.1, *NOT_NUMBERS),
            "a number of at least 0 and below 1 is needed",
        ),
        (
            lambda c: c.sizes("a.b"),
            ((), [], (1,), (3, 4), [5, 6]),
            ((0,), (1.0,), (True,), (NAN,), (None,), ("1",), ((1,),), 1, None, "12", {"a": 1}),
            "a list of whole numbers of at least 1 is needed",
        ),
        (
            lambda c: c.sizes("a.b", count=2),
            ((1, 2), [3, 4]),
            ((), (1,), (1, 2, 3), (1, 0), None),
            "a list of 2 whole numbers of at least 1 is needed",
        ),
        (
            lambda c: c.one_of("a.b", ("mean", "max")),
            ("mean", "max"),
            ("", "MEAN ", None, 1, True, NAN, (), ("mean",), ["mean"]),
            "possible: mean, max",
        ),
        (
            lambda c: c.some_of("a.b", ("plot", "poster")),
            (("plot",), ("poster", "plot"), ["plot", "poster"]),
            (
                (),
                None,
                "plot",
                3,
                NAN,
                ("plot", "plot"),
                ("x",),
                (None,),
                (("plot",),),
                (["x"],),
                {"plot": 1},
            ),
            "name at least one of plot, poster, each at most once",
        ),
        (
            lambda c: c.some_of("a.b", ("plot", "poster"), least=0),
            ((), ("plot",)),
            (None, "plot", ("plot", "plot"), (1,)),
            "possible: plot, poster, each at most once",
        ),
        (
            lambda c: c.require("a.b", lambda value: value % 2 == 0, "an even number is needed"),
            (2, 4.0),
            (3, None, "3", (), {"a": 1}),
            "an even number is needed",
        ),
    ],
)
def test_right_and_wrong_values(check, right, wrong, message):
    for value in right:
        assert problems(value, check) == [], value
    for value in wrong:
        (problem,) = problems(value, check)
        assert problem.startswith("a.b is ") and f"; {message}" in problem, value


def test_a_message_has_the_value():
    assert problems("maen", lambda c: c.at_least(1, "a.b")) == [
        "a.b is 'maen'; a whole number of at least 1 is needed"
    ]
    (problem,) = problems(NAN, lambda c: c.share("a.b"))
    assert problem.startswith("a.b is nan; ")


def test_the_nearest_name_is_suggested():
    pooling = ("last", "mean", "max", "mean_max")
    (problem,) = problems("maen", lambda c: c.one_of("a.b", pooling))
    expected = "a.b is 'maen'; possible: last, mean, max, mean_max. Did you mean 'mean'?"
    assert problem == expected
    (problem,) = problems("xyz", lambda c: c.one_of("a.b", pooling))
    assert "Did you mean" not in problem

    (problem,) = problems(
        ("plto", "poster", "pstr"), lambda c: c.some_of("a.b", ("plot", "poster"))
    )
    assert problem.endswith("Did you mean 'plot' for 'plto', 'poster' for 'pstr'?")


def test_missing_fields_are_not_reported_here():
    checker = Checker(ml_collections.ConfigDict({"a": {"b": 1}, "c": 2}))
    for field in ("d", "a.d", "c.d", "d.e.f"):
        checker.at_least(1, field)
        checker.one_of(field, ("x",))
        checker.some_of(field, ("x",))
        checker.sizes(field)
        checker.training(field)
    assert checker.problems == []


def test_all_mistakes_are_found_in_order():
    settings = ml_collections.ConfigDict({"a": 0, "b": {"c": None, "d": 2.0}, "e": "x"})
    checker = Checker(settings)
    checker.at_least(1, "a", "b.c")
    checker.share("b.d")
    checker.one_of("e", ("y",))
    fields = [problem.split(" ")[0] for problem in checker.problems]
    assert fields == ["a", "b.c", "b.d", "e"]


def test_settings_of_a_training():
    training = training_settings(1, 8, 0.1, {"vgg16": 0.5})
    settings = ml_collections.ConfigDict({"training": training})
    checker = Checker(settings)
    checker.training("training")
    assert checker.problems == []

    wrong = dict.fromkeys(training, -1) | {"learning_rate_scale": {"vgg16": NAN}}
    checker = Checker(ml_collections.ConfigDict({"training": wrong}))
    checker.training("training")
    found = [problem.split(" ")[0].removeprefix("training.") for problem in checker.problems]
    assert sorted(found) == sorted(
        [*(set(training) - {"learning_rate_scale"}), "learning_rate_scale.vgg16"]
    )


DEFAULT = ml_collections.ConfigDict(
    {
        "count": 3,
        "rate": 0.5,
        "name": "mean",
        "flag": True,
        "sizes": (1, 2),
        "model": {"hidden": 8, "inner": {"deep": 1.0}},
        "learning_rate_scale": {"vgg16": 0.2},
    }
)


def with_value(section, field, value) -> ml_collections.ConfigDict:
    """Returns a copy with another value of a field, of any type, as in a config.json."""
    tree = section.to_dict()
    *sections, last = field.split(".")
    target = tree
    for name in sections:
        target = target[name]
    target[last] = value
    return ml_collections.ConfigDict(tree)


def changed(field, value) -> list[str]:
    return schema_problems(with_value(DEFAULT, field, value), DEFAULT, "plot.")


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("count", (0, -5, 10**9), (None, 1.0, NAN, "3", True, False, (3,), {"a": 1})),
        ("rate", (0.1, 1, NAN), (None, "0.5", True, False, (0.5,), {"a": 1})),
        ("name", ("", "max"), (None, 1, 1.5, True, ("mean",), b"mean", {"a": 1})),
        ("flag", (True, False), (None, 0, 1, 1.0, "True", (), {"a": 1})),
        ("sizes", ((), (1,), [2, 3], ("a",)), (None, 1, "12", True, 1.5, {"a": 1})),
        ("model.hidden", (9,), (None, 8.5, "8", True)),
        ("model.inner.deep", (2, 2.5), (None, "x", False)),
        ("model", (), (None, 3, "x", (1,))),
        ("learning_rate_scale", (), (None, 0.1)),
    ],
)
def test_values_must_have_the_type_of_the_default(field, right, wrong):
    dotted = f"plot.{field}"
    for value in right:
        assert changed(field, value) == [], value
    for value in wrong:
        (problem,) = changed(field, value)
        assert problem.startswith(f"{dotted} is ") or problem.startswith(f"{dotted}."), value
        assert "needed" in problem or "must be a section" in problem or "is not a field" in problem


def test_unknown_fields_get_the_nearest_name():
    assert changed("cuont", 1) == ["plot.cuont is not a field of plot. Did you mean count?"]
    assert changed("model.hiden", 1) == [
        "plot.model.hiden is not a field of plot.model. Did you mean hidden?"
    ]
    (problem,) = changed("zzz", 1)
    assert problem == (
        "plot.zzz is not a field of plot: it has count, flag, learning_rate_scale, model, name, "
        "rate, sizes"
    )
    assert schema_problems(ml_collections.ConfigDict({"a": 1}), ml_collections.ConfigDict()) != []


def test_learning_rate_factors_can_have_any_name():
    assert changed("learning_rate_scale.anything", 0.5) == []


def test_missing_fields_are_named_with_their_default():
    settings = DEFAULT.copy_and_resolve_references()
    del settings.count, settings.model.inner
    assert schema_problems(settings, DEFAULT, "plot.") == [
        "plot.count is missing; its default is 3",
        "plot.model.inner is missing; its default is a section",
    ]


def test_all_wrong_fields_are_found():
    settings = DEFAULT
    for field, value in {"count": "x", "zzz": 1, "model.hidden": None, "flag": 1}.items():
        settings = with_value(settings, field, value)
    found = schema_problems(settings, DEFAULT, "plot.")
    assert {problem.split(" ")[0] for problem in found} == {
        "plot.count", "plot.zzz", "plot.model.hidden", "plot.flag",
    }  # fmt: skip


def leaves(section, prefix=""):
    for name, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("name", registry.kinds())
def test_numbers_of_every_kind_are_checked(name):
    """NaN has the right type, so the check of the schema accepts it; `problems` must find it."""
    kind = registry.find(name)
    data = ml_collections.ConfigDict({"poster_height": 64, "poster_width": 32})
    numbers = [field for field, value in leaves(kind.default_settings()) if type(value) is float]
    assert numbers
    for field in numbers:
        settings = with_value(kind.default_settings(), field, NAN)
        assert schema_problems(settings, kind.default_settings()) == []
        assert any(p.startswith(f"{field} is nan") for p in kind.problems(settings, data)), field


@pytest.mark.parametrize("name", registry.kinds())
def test_none_is_never_a_value(name):
    kind = registry.find(name)
    default = kind.default_settings()
    assert schema_problems(default, default) == []
    for field, _ in leaves(default):
        if "learning_rate_scale." in field:  # checked with the values
            continue
        (problem,) = schema_problems(with_value(default, field, None), default)
        assert problem.startswith(f"{field} is None; a value like "), field
