"""Compares finished runs: averages seeds, and tells differences from chance.

    mmgc compare runs/demo
    mmgc compare runs/demo runs/demo_gated
    mmgc compare runs/seed_0 runs/seed_1 runs/seed_2
    mmgc compare runs/a runs/b runs/c --baseline=runs/b --split=test --stage=fusion --both

Runs that differ in their seed alone are averaged, and count as one; +- is the standard deviation
over the seeds. The others are compared with the first one, or with --baseline.

Figures have 95 % intervals, by bootstrap over the movies. So have differences, if both runs have
judged the same movies. An interval without 0 says that the trained models differ on movies like
these. How much the luck of training matters, it does not say; several seeds do.

Folders that `mmgc score` wrote can be compared, too.
"""

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import InputError, did_you_mean

if TYPE_CHECKING:  # slow to import; see `command_line`
    from mmgc_jax.evaluation.comparison import Estimate, Group
    from mmgc_jax.runtime.files import Path

_SPLITS = ("cross_validation", "validation", "test", "scored")
_WIDTH = 100
_LEAST_NAME, _MOST_NAME = 28, 40
_MOST_FIELDS = 8
# The figures whose differences are shown; more would not fit into 100 columns.
_DIFFERENCES = ("auc_macro", "auc_steady", "map")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "baseline", None, "Run that the others are compared with. Without it, the first one.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "split", None, _SPLITS,
        "Movies to compare on. Without it, the first of these that all runs have.",
        flag_values=values,
    )  # fmt: skip
    command_line.define_list(
        values, "stage", "Models to compare, such as fusion,plot. Without it, all."
    )
    flags.DEFINE_bool(
        "both", False, "Whether to compare only on movies with both plot and poster; otherwise "
        "each model on the movies that have its modality.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "resamples", 1000, "Number of resamples of the movies.", lower_bound=100,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Seed of the resamples.", lower_bound=0, flag_values=values)
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    from mmgc_jax.encoders import registry
    from mmgc_jax.runtime.files import as_path

    registry.import_modules(values.encoder_modules)
    print(
        compare(
            [as_path(folder) for folder in arguments],
            baseline=values.baseline and as_path(values.baseline),
            split=values.split,
            stages=values.stage,
            both=values.both,
            resamples=values.resamples,
            seed=values.seed,
        )
    )


def compare(
    folders: Sequence["Path"],
    *,
    baseline: "Path | None" = None,
    split: str | None = None,
    stages: Sequence[str] = (),
    both: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> str:
    """Compares runs, and returns the tables.

    Args:
      folders: working directories of finished runs, or folders that `mmgc score` wrote.
      baseline: the one that the others are compared with; None: the first.
      split: `cross_validation`, `validation`, `test` or `scored`; None: the first of these that all
        runs have.
      stages: names of models; empty: all.
      both: whether to compare on the movies with both modalities.
      resamples: number of resamples of the movies.
      seed: of the resamples.

    Raises:
      InputError: if a run cannot be read, or does not have the split or the models.
    """
    from mmgc_jax.evaluation import comparison, tables

    runs = comparison.read(folders)
    split = comparison.common_split(runs, split)
    groups = comparison.group(runs)
    averages = [comparison.average(group, split) for group in groups]
    titles = _titles(groups, averages, stages)
    first = _baseline(groups, baseline)
    models = {name + "_both" * both: title for name, title in titles.items()}
    names = _names(groups)
    intervals = comparison.Intervals(split, resamples, seed)
    if len(groups) == 1 and not stages and not both:
        parts = [tables.table(split, averages[0], titles, len(runs))]
        models |= {f"{name}_both": f"{title}, with both" for name, title in titles.items()}
        models = {name: title for name, title in models.items() if averages[0][name]["movies"]}
    else:
        parts = [_table(split, groups, averages, models, names, both)]
    parts.append(_intervals(groups, averages, models, names, intervals))
    if len(groups) > 1:
        parts.append(_differences(groups, averages, first, models, names, intervals))
        parts.append(_reasons(groups, first))
    return "\n\n".join(filter(None, parts))


def _titles(
    groups: Sequence["Group"], averages: Sequence[Mapping], stages: Sequence[str]
) -> dict[str, str]:
    """Returns the titles of all models that a group has figures of, or of `stages`."""
    found: dict[str, list[str]] = {}
    for group, averaged in zip(groups, averages):
        for name, title in _titles_of(group.runs[0].folder / "config.json").items():
            if name in averaged:
                found.setdefault(name, []).append(title)
    for name in stages:
        if name not in found:
            hint = did_you_mean(name, found) or f"They have: {', '.join(found)}."
            raise InputError(f"--stage={name}: none of the runs has it. {hint}")
    # The same name may be of different kinds.
    titles = {name: " / ".join(dict.fromkeys(of_runs)) for name, of_runs in found.items()}
    return {name: titles[name] for name in stages or titles}


def _titles_of(file: "Path") -> dict[str, str]:
    """Returns the titles of a run's encoders and fusions."""
    import ml_collections

    from mmgc_jax.encoders import fusion
    from mmgc_jax.runtime.files import read_json

    advice = "Choose another run, or compare with the version that made this one."
    config = ml_collections.ConfigDict(read_json(file, advice))
    try:
        return fusion.titles(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a config of this version: {error}. {advice}") from error


def _baseline(groups: Sequence["Group"], wanted: "Path | None") -> "Group":
    """Returns the group of a run, or the first one."""
    if wanted is None:
        return groups[0]
    for group in groups:
        if any(os.path.normpath(run.folder) == os.path.normpath(wanted) for run in group.runs):
            return group
    runs = [run.name for group in groups for run in group.runs]
    raise InputError(f"--baseline={wanted} is none of the runs: {', '.join(runs)}.")


def _names(groups: Sequence["Group"]) -> list[str]:
    """Returns the names of groups in tables; the beginning of long ones is cut."""
    longest = _MOST_NAME - 2
    names = [group.name for group in groups]
    return [name if len(name) <= longest else "..." + name[3 - longest :] for name in names]


def _table(
    split: str,
    groups: Sequence["Group"],
    averages: Sequence[Mapping],
    models: Mapping[str, str],
    names: Sequence[str],
    both: bool,
) -> str:
    """Shows the figures of all models, a row for each group."""
    from mmgc_jax.evaluation.score_tables import COLUMNS

    width = _width(names)
    header = f"{split.replace('_', '-'):<{width}}{'seeds':>6}{'movies':>8}"
    for figure, column in COLUMNS.items():
        header += f"{column:>10}" + (f"{'+-':>6} " if figure == "auc_macro" else "")
    lines = [header]
    for model, title in models.items():
        lines.append(title)
        for group, averaged, name in zip(groups, averages, names):
            if model not in averaged:
                continue
            figures = averaged[model]
            row = f"{'  ' + name:<{width}}{len(group.runs):>6}{figures['movies']:>8}"
            for figure in COLUMNS:
                row += f"{figures[figure]:>10.3f}"
                if figure == "auc_macro":
                    std = figures.get("auc_macro_std")
                    row += " " * 7 if std is None else f"{std:>6.3f} "
            lines.append(row.rstrip())
    which = "with both plot and poster" if both else "that have what the model reads"
    lines.append(f"On the movies {which}.")
    for group, name in zip(groups, names):
        if len(group.runs) > 1:
            folders = ", ".join(run.name for run in group.runs)
            lines += _wrapped(
                f"{name} is the mean of {folders}, which differ in their seed alone; +- is the "
                "standard deviation."
            )
    return "\n".join(lines)


def _intervals(
    groups: Sequence["Group"],
    averages: Sequence[Mapping],
    models: Mapping[str, str],
    names: Sequence[str],
    intervals,
) -> str:
    """Shows the 95 % intervals of all models, a row for each group."""
    from mmgc_jax.evaluation.comparison import FIGURES, NotPaired
    from mmgc_jax.evaluation.score_tables import COLUMNS

    width = _width(names)
    lines = [f"{'95 % intervals':<{width}}" + "".join(f"{COLUMNS[f]:>17}" for f in FIGURES)]
    reasons: dict[str, None] = {}
    for model, title in models.items():
        rows = []
        for group, averaged, name in zip(groups, averages, names):
            if model not in averaged:
                continue
            try:
                found = intervals.figures(group, model)
            except NotPaired as reason:
                reasons[f"No interval: {str(reason).rstrip('.')}."] = None
                continue
            cells = (f"{found[f].low:.3f} to {found[f].high:.3f}" for f in FIGURES)
            rows.append(f"{'  ' + name:<{width}}" + "".join(f"{cell:>17}" for cell in cells))
        lines += [title, *rows] if rows else []
    lines = lines if len(lines) > 1 else []
    for reason in reasons:
        lines += _wrapped(reason)
    return "\n".join(lines)


def _differences(
    groups: Sequence["Group"],
    averages: Sequence[Mapping],
    first: "Group",
    models: Mapping[str, str],
    names: Sequence[str],
    intervals,
) -> str:
    """Shows the differences of all models to the baseline, with their intervals."""
    from mmgc_jax.evaluation.comparison import NotPaired, OtherMovies
    from mmgc_jax.evaluation.score_tables import COLUMNS

    baseline, by_group = names[groups.index(first)], list(zip(groups, averages, names))
    width = _width(names)
    lines = _wrapped(f"Differences to {baseline}, with their 95 % intervals")
    lines.append(" " * width + "".join(f"{COLUMNS[figure]:>24}" for figure in _DIFFERENCES))
    reasons: dict[str, None] = {}
    compared = False
    of_baseline = averages[groups.index(first)]
    for model, title in models.items():
        rows = []
        for group, averaged, name in by_group:
            if group is first or model not in averaged or model not in of_baseline:
                continue
            try:
                found = intervals.differences(group, first, model)
                cells = [_cell(found[figure]) for figure in _DIFFERENCES]
            except OtherMovies as reason:
                reasons[f"Not compared: {reason}."] = None
                continue
            except NotPaired as reason:
                reasons[f"No interval: {str(reason).rstrip('.')}."] = None
                cells = [
                    f"{averaged[model][figure] - of_baseline[model][figure]:+.3f}{' ' * 15}"
                    for figure in _DIFFERENCES
                ]
            rows.append((f"{'  ' + name:<{width}}" + "".join(f"{c:>24}" for c in cells)).rstrip())
        lines += [title, *rows] if rows else []
        compared |= bool(rows)
    if not compared:
        lines = []
    if any("*" in line for line in lines):
        lines += _wrapped(
            "*: the interval does not contain 0. Without any true difference, this is so for about "
            "1 in 20 intervals."
        )
    for reason in reasons:
        lines += _wrapped(reason)
    return "\n".join(lines)


def _cell(difference: "Estimate") -> str:
    """Formats a difference, such as `+0.004 [-0.001 +0.009]`; a star marks intervals without 0."""
    if not math.isfinite(difference.low):
        return f"{difference.value:+.3f}{' ' * 15}"
    mark = "*" if difference.low > 0 or difference.high < 0 else " "
    return f"{difference.value:+.3f}{mark}[{difference.low:+.3f} {difference.high:+.3f}]"


def _reasons(groups: Sequence["Group"], first: "Group") -> str:
    """Says in which fields the groups differ from the baseline."""
    from mmgc_jax.evaluation.comparison import fields_that_differ

    lines = []
    for group in groups:
        if group is first:
            continue
        fields = fields_that_differ(first.runs[0], group.runs[0])
        shown = [
            f"{name}: {_change(before, now, first.name, group.name)}"
            for name, (before, now) in list(fields.items())[:_MOST_FIELDS]
        ]
        if len(fields) > len(shown):
            shown.append(f"{len(fields) - len(shown)} more fields")
        lines += _wrapped(f"{group.name} differs from {first.name} in {'; '.join(shown)}.")
    return "\n".join(lines)


def _change(before, now, baseline: str, group: str) -> str:
    """Describes the values of a field in two runs; None if a run does not have the field."""
    if before is None or now is None:
        return f"only in {group if before is None else baseline}"
    return f"{_shortened(now)} instead of {_shortened(before)}"


def _shortened(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _width(names: Iterable[str]) -> int:
    return max([_LEAST_NAME, *(len(name) + 2 for name in names)])


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the arguments of a command line; None takes those of the process."""
    command_line.run(__doc__, define_flags, main, argv, operands=True)


if __name__ == "__main__":
    start()
