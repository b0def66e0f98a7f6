"""Formats the figures of a scored table, with their confidence intervals, as text tables."""

from collections.abc import Mapping, Sequence

from mmgc_jax.evaluation import bootstrap, tables
from mmgc_jax.evaluation.saved import SCORED

# The columns of `tables` whose figures have intervals.
COLUMNS = {name: title for name, title in tables.COLUMNS if name in bootstrap.FIGURES}
_TUNED_COLUMNS = {
    "f1_micro_tuned": "micro",
    "f1_macro_tuned": "macro",
    "f1_weighted_tuned": "weighted",
    "f1_samples_tuned": "samples",
}
_HYPHEN = f"fewer than {bootstrap.LEAST_MOVIES} movies, or no difference between the resamples"


def all_tables(
    results: Mapping[str, dict], titles: Mapping[str, str], notes: Sequence[str] = ()
) -> str:
    """Returns all tables: the screen, and F1 and calibration error.

    Args:
      results: `{model: figures with intervals}`, as `bootstrap.with_intervals` adds them.
      titles: title of each model.
      notes: lines to print below the first tables.
    """
    titles = _of_scored(results, titles)
    parts = [
        screen(results, titles, notes),
        tables.f1_table(SCORED, results, titles),
        "\n".join(_intervals(results, titles, "95 %, F1 at thresholds", _TUNED_COLUMNS)),
        tables.calibration_table(SCORED, results, titles),
    ]
    return "\n\n".join(filter(None, parts))


def screen(
    results: Mapping[str, dict], titles: Mapping[str, str], notes: Sequence[str] = ()
) -> str:
    """Returns the comparison of the models, and the intervals of the same figures.

    Args:
      results: as in `all_tables`.
      titles: title of each model.
      notes: lines to print below.
    """
    titles = _of_scored(results, titles)
    intervals = _intervals(results, titles, "95 % intervals", COLUMNS)
    if not intervals:
        intervals = [f"No intervals: {_HYPHEN}."]
    else:
        intervals.append(
            "Percentile bootstrap over movies. Intervals of genres with few movies are too narrow."
        )
        if any(line.endswith(" -") or " - " in line for line in intervals):
            intervals.append(f"Hyphens: {_HYPHEN}.")
    comparison = tables.table(SCORED, results, titles).rstrip("\n")
    return "\n\n".join([comparison, "\n".join(intervals), *(["\n".join(notes)] if notes else [])])


def _of_scored(results, titles) -> dict[str, str]:
    """Returns the titles of the models that have scored any movie."""
    return {name: title for name, title in titles.items() if results[name]["movies"]}


def _intervals(results, titles, name, columns) -> list[str]:
    """Returns the lines of a table with a cell such as `0.903-0.921` for each figure.

    Intervals that say too little are hyphens; the table is empty if all are.
    """
    width = max(28, *(len(title) + 2 for title in titles.values()))
    lines = [f"{name:<{width}}" + "".join(f"{column:>14}" for column in columns.values())]
    models = [model for model in titles if model in results]
    any_shown = False
    for suffix, subtitle in tables.parts(results, models):
        lines.append(subtitle)
        for model in models:
            figures = results[model + suffix]
            limits = [figures[f"{figure}_interval"] for figure in columns]
            cells = [_limits(figures["movies"], *pair) for pair in limits]
            any_shown |= any(cell != "-" for cell in cells)
            row = "".join(f"{cell:>14}" for cell in cells)
            lines.append(f"{'  ' + titles[model]:<{width}}{row}")
    return lines if any_shown else []


def _limits(movies: int, low: float, high: float) -> str:
    if not bootstrap.is_shown(movies, low, high):
        return "-"
    return f"{tables.number(low)}-{tables.number(high)}"
