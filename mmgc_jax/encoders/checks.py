"""Checks the values and the fields of a config section, and collects all mistakes."""

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import ml_collections

from mmgc_jax.runtime.errors import did_you_mean, nearest_names

# `settings.choose_dtypes` replaces AUTO before training.
AUTO = "auto"
DTYPES = ("float32", "bfloat16", AUTO)
# Sections whose field names are not fixed.
_FREE = ("learning_rate_scale", "synthetic")


class Checker:
    """Checks values of a config section and collects the mistakes.

    Fields have dotted names within the section, such as `model.pooling`. A field that is missing is
    not a mistake here; `schema_problems` reports it.

    Attributes:
      problems: a sentence for each mistake, with the field, its value, the possible values and the
        nearest of them: `model.pooling is 'maen'; possible: last, mean, max, mean_max. Did you mean
        'mean'?`
    """

    def __init__(self, settings: ml_collections.ConfigDict):
        self.problems: list[str] = []
        self._settings = settings

    def require(self, field: str, is_right: Callable[[Any], bool], wanted: str) -> None:
        """Adds a mistake unless the value of a field is right.

        Args:
          field: dotted name of the field.
          is_right: function from a value to whether it is right. A TypeError, ValueError,
            AttributeError or ZeroDivisionError from it counts as wrong.
          wanted: description of the right values, for the message.
        """
        try:
            value = operator.attrgetter(field)(self._settings)
        except AttributeError:
            return
        try:
            if is_right(value):
                return
        except (TypeError, ValueError, AttributeError, ZeroDivisionError):
            pass
        self.problems.append(f"{field} is {value!r}; {wanted}")

    def one_of(self, field: str, choices: Iterable[str]) -> None:
        """Requires that a field is one of the names in `choices`."""
        choices = tuple(choices)

        hint = did_you_mean(str(self._get(field)), choices, "{!r}")
        self.require(
            field,
            lambda value: isinstance(value, str) and value in choices,
            f"possible: {', '.join(choices)}{hint and '. ' + hint}",
        )

    def some_of(self, field: str, choices: Iterable[str], least: int = 1) -> None:
        """Requires a list of different names from `choices`, at least `least` of them."""
        choices = tuple(map(str, choices))
        value = self._get(field)
        names = [name for name in value if isinstance(name, str)] if _is_list(value) else []
        hints = [
            f"{found[0]!r} for {name!r}"
            for name in names
            if name not in choices and (found := nearest_names(name, choices))
        ]
        self.require(
            field,
            lambda value: (
                _is_list(value)
                and len(value) >= least
                and set(value) <= set(choices)
                and len(set(value)) == len(value)
            ),
            f"{'name at least one of' if least else 'possible:'} {', '.join(choices)}, each at "
            f"most once{'. Did you mean ' + ', '.join(hints) + '?' if hints else ''}",
        )

    def at_least(self, least: float, *fields: str) -> None:
        """Requires finite numbers of at least `least`, and integers if `least` is an int."""
        whole = isinstance(least, int)
        for field in fields:
            self.require(
                field,
                lambda value: _is_number(value, whole) and value >= least,
                f"a {'whole ' if whole else ''}number of at least {least} is needed",
            )

    def above(self, least: float, *fields: str) -> None:
        """Requires finite numbers greater than `least`."""
        for field in fields:
            self.require(
                field,
                lambda value: _is_number(value) and value > least,
                f"a number above {least} is needed",
            )

    def share(self, *fields: str) -> None:
        """Requires numbers of at least 0 and below 1."""
        for field in fields:
            self.require(
                field,
                lambda value: _is_number(value) and 0 <= value < 1,
                "a number of at least 0 and below 1 is needed",
            )

    def sizes(self, *fields: str, count: int | None = None) -> None:
        """Requires lists of positive integers, of length `count` if it is given."""
        for field in fields:
            self.require(
                field,
                lambda value: (
                    _is_list(value)
                    and all(_is_number(size, whole=True) and size > 0 for size in value)
                    and count in (None, len(value))
                ),
                f"a list of {'' if count is None else f'{count} '}whole numbers of at least 1 is "
                "needed",
            )

    def training(self, *fields: str) -> None:
        """Checks sections with the fields of `base.training_settings`."""
        for field in fields:
            self.at_least(
                1,
                *(
                    f"{field}.{name}"
                    for name in (
                        "epochs",
                        "batch_size",
                        "log_every",
                        "checkpoint_every",
                    )
                ),
            )
            self.above(0.0, f"{field}.learning_rate", f"{field}.clip_norm")
            self.at_least(0.0, f"{field}.weight_decay")
            self.share(f"{field}.warmup")
            scales = self._get(f"{field}.learning_rate_scale")
            for name in scales if isinstance(scales, ml_collections.ConfigDict) else ():
                self.at_least(0.0, f"{field}.learning_rate_scale.{name}")

    def _get(self, field: str) -> Any:
        try:
            return operator.attrgetter(field)(self._settings)
        except AttributeError:
            return None


def schema_problems(
    settings: ml_collections.ConfigDict, default: ml_collections.ConfigDict, prefix: str = ""
) -> list[str]:
    """Finds fields that are unknown, missing or of the wrong type.

    Args:
      settings: the section to check.
      default: a section with all fields, and values of the right types.
      prefix: dotted name of the section, with a dot at the end, to put before the fields' names.

    Returns:
      A sentence for each mistake, which begins with the field's name.
    """
    problems = []
    for name in settings:
        if name not in default:
            hint = did_you_mean(name, default)
            hint = f". {hint}" if hint else f": it has {', '.join(default)}"
            section = prefix.rstrip(".") or "the config"
            problems.append(f"{prefix}{name} is not a field of {section}{hint}")
    for name, value in default.items():
        field = f"{prefix}{name}"
        if name not in settings:
            problems.append(f"{field} is missing; its default is {_shown(value)}")
        elif isinstance(value, ml_collections.ConfigDict):
            if not isinstance(settings[name], ml_collections.ConfigDict):
                problems.append(f"{field} is {settings[name]!r}; it must be a section")
            elif name not in _FREE:
                problems += schema_problems(settings[name], value, f"{field}.")
        elif not _is_like(settings[name], value):
            problems.append(
                f"{field} is {settings[name]!r}; a value like {_shown(value)} is needed"
            )
    return problems


def _is_like(value, default) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if _is_list(default):
        return _is_list(value)
    return isinstance(value, type(default))


def _shown(value) -> str:
    return "a section" if isinstance(value, ml_collections.ConfigDict) else repr(value)


def _is_list(value) -> bool:
    return isinstance(value, list | tuple)


def _is_number(value, whole: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)
