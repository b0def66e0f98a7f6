"""Figures of an experiment as text tables.

`titles` gives the name that a table shows for each model, in the order of its rows. It may hold
models that have no figures; they get no row.
"""

import math
from collections.abc import Mapping, Sequence

from mmgc_jax.evaluation.results import SHARES, is_fusion

_COLUMNS = (
    ("auc_macro", "AUC macro"),
    ("auc_micro", "AUC micro"),
    ("map", "mAP"),
    ("f1_micro", "F1 micro"),
    ("f1_macro", "F1 macro"),
)
_ALL_MOVIES = "all movies that have what the model looks at"
_BOTH_MODALITIES = "movies with both plot and poster"


def all_tables(
    results: Mapping[str, dict],
    missing: Mapping[str, dict],
    titles: Mapping[str, str],
    split: str,
    notes: Sequence[str] = (),
) -> str:
    """Joins all tables of an experiment.

    Args:
      results: as `results.evaluate_models` returns them.
      missing: as `results.evaluate_missing` returns them; may be empty.
      titles: title of each model.
      split: the split whose calibration error and F1 are shown.
      notes: lines that stand above the tables.
    """
    parts = list(notes)
    if missing:
        parts.append(missing_table(missing, titles))
    parts.append(calibration_table(split, results[split], titles))
    parts.append(f1_table(split, results[split], titles))
    parts += [table(name, figures, titles) for name, figures in results.items()]
    return "\n\n".join(parts)


def table(
    split: str, results: Mapping[str, dict], titles: Mapping[str, str], parts: str = "the folds"
) -> str:
    """Compares the models on one split; the last line is what fusion gains.

    Args:
      split: its name.
      results: its figures, one split of what `results.evaluate_models` returns.
      titles: title of each model.
      parts: what cross-validation averages over.
    """
    names = [name for name in titles if name in results]
    with_best = any("best_reachable_auc_macro" in results[name] for name in names)
    with_std = split == "cross_validation"
    width = _width(titles)
    header = f"{split.replace('_', '-'):<{width}}{'movies':>7}"
    for name, column in _COLUMNS:
        header += f"{column:>11}" + (f"{'+-':>7}" if with_std and name == "auc_macro" else "")
    lines = [header + (f"{'best AUC':>11}" if with_best else "")]

    def add(title, figures):
        row = f"{'  ' + title:<{width}}{figures['movies']:>7}"
        for name, _ in _COLUMNS:
            row += f"{figures[name]:>11.3f}"
            if with_std and name == "auc_macro":
                row += f"{figures['auc_macro_std']:>7.3f}"
        if with_best and "best_reachable_auc_macro" in figures:
            row += f"{figures['best_reachable_auc_macro']:>11.3f}"
        lines.append(row)

    for suffix, subtitle in (("", _ALL_MOVIES), ("_both", _BOTH_MODALITIES)):
        lines.append(subtitle)
        for name in names:
            add(titles[name], results[name + suffix])

    counted, counted_both = (_counted(results[name]) for name in ("fusion", "fusion_both"))
    lines.append(
        f"Macro averages run over the genres with a positive and a negative: {counted}; "
        f"with both, {counted_both}."
    )
    if with_std:
        lines.append(f"Each figure is the mean over {parts}; +- is its standard deviation.")
    if with_best:
        lines.append("best AUC: macro AUC of the true probabilities, the most that can be reached.")
    return "\n".join([*lines, _gain(results, titles, names)])


def _gain(results, titles, names) -> str:
    """Compares fusion with the best encoder on the movies with both modalities."""
    fused = results["fusion_both"]
    if not fused["movies"]:
        return "No movie has both, so what fusion gains is not known."
    aucs = {name: results[name + "_both"]["auc_macro"] for name in names if not is_fusion(name)}
    strongest = max(aucs, key=aucs.get)
    gain = fused["auc_macro"] - aucs[strongest]
    if not math.isfinite(gain):
        return (
            "No genre has a positive and a negative among the movies with both, so what fusion "
            "gains is not known."
        )
    verb, preposition = ("gains", "over") if gain >= 0 else ("loses", "against")
    return (
        f"Fusion {verb} {abs(gain):.3f} macro AUC {preposition} the best single model, "
        f"{titles[strongest]}, on the {fused['movies']} movies with both."
    )


def _counted(figures) -> str:
    least, most = figures["genres_counted"], figures.get("genres_counted_most")
    return f"{least}" if most in (None, least) else f"{least} to {most}"


def f1_table(split: str, results: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Compares F1 at 0.5 with F1 at the tuned thresholds, on one split."""
    averages = ("micro", "macro", "weighted", "samples")
    width = _width(titles)
    lines = [
        f"{split + ', F1':<{width}}{'at 0.5':>36}{'at the threshold of each genre':>36}",
        " " * width + "".join(f"{average:>9}" for average in 2 * averages),
    ]
    for suffix, subtitle in (("", _ALL_MOVIES), ("_both", _BOTH_MODALITIES)):
        lines.append(subtitle)
        for name in (name for name in titles if name in results):
            figures = results[name + suffix]
            values = [figures[f"f1_{average}{at}"] for at in ("", "_tuned") for average in averages]
            lines.append(_row(titles[name], values, width))
    return "\n".join(lines)


def calibration_table(split: str, results: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Compares expected calibration error before and after Platt scaling, on one split."""
    width = _width(titles)
    lines = [f"{split + ', calibration error':<{width}}{'before':>9}{'after':>9}"]
    for name in (name for name in titles if name in results):
        errors = [results[name][error] for error in ("ece_uncalibrated", "ece")]
        lines.append(_row(titles[name], errors, width))
    lines.append("Platt scaling and thresholds are fitted on the training part, out of fold.")
    return "\n".join(lines)


def missing_table(missing: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Shows macro AUC by the share of training movies that lose a modality.

    Args:
      missing: as `results.evaluate_missing` returns it.
      titles: title of each model.
    """
    width = _width(titles)
    lines = []
    for modality, of_models in missing.items():
        shares = "".join(f"{share:>9.0%}" for share in SHARES)
        lines.append(f"{modality + 's missing, AUC macro':<{width}}{shares}")
        lines += [_row(titles[name], values, width) for name, values in of_models.items()]
    lines.append(
        "Cross-validation on the movies with both plot and poster, the mean over the folds."
    )
    return "\n".join(lines)


def _row(title, values, width) -> str:
    return f"{'  ' + title:<{width}}" + "".join(f"{value:>9.3f}" for value in values)


def _width(titles) -> int:
    """The width of the first column: 28, or what the longest title needs."""
    return max([28, *(len("  " + title) for title in titles.values())])
