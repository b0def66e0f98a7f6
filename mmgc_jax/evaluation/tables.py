"""Formats the figures of an experiment as text tables.

`titles` maps the name of each model to the title that a table shows, in the order of the rows.
Models without figures get no row.
"""

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence

from mmgc_jax.evaluation import bootstrap
from mmgc_jax.evaluation.metrics import LEAST_STEADY
from mmgc_jax.evaluation.results import SHARES, is_fusion
from mmgc_jax.runtime.files import Path, relative_to_here

COLUMNS = (
    ("auc_macro", "AUC macro"),
    ("auc_steady", "AUC steady"),
    ("map", "mAP"),
    ("f1_micro", "F1 micro"),
    ("f1_macro", "F1 macro"),
)
# How sentences call the sources of movies, `config.data.source`.
SOURCES = {
    "talk": "a subset of Multimodal IMDb",
    "mmimdb": "MM-IMDb (arXiv 1702.01992)",
    "synthetic": "made-up movies, whose words and figures stand for genres",
    "table": "a table of movies",
}
_BEST = "best_reachable_auc_macro"
# The parts of a table: a suffix of the names of models, and a subtitle; see `parts`.
_PARTS = (
    ("", "movies that have what the model reads"),
    ("_both", "movies with both plot and poster"),
)
_LEAST_WIDTH = 28  # of the first column
_F1_NOTE = (
    "F1 counts genres with a probability of at least 0.5; "
    "mmgc predict uses each genre's own threshold."
)

# The size of the final screen.
_SCREEN_LINES, _SCREEN_COLUMNS = 39, 100  # the line of the report follows


def final_screen(
    results: Mapping[str, dict],
    titles: Mapping[str, str],
    split: str,
    workdir: Path,
    encoder_modules: Sequence[str] = (),
    interval: str = "",
) -> str:
    """Returns the text that a run ends with: the comparison of one split, and where the rest is.

    It fits into 40 lines of 100 columns, unless the path of the working directory is long. Of very
    many models those with the highest macro AUC are shown, and fusion.

    Args:
      results: as returned by `results.evaluate_models`.
      titles: title of each model.
      split: the split that is shown.
      workdir: working directory of the run.
      encoder_modules: modules of encoders that are not of this package; predictions need them.
      interval: the sentence of `interval_note`; may be empty.
    """
    figures = results[split]
    names = [name for name in titles if name in figures]
    longest = _SCREEN_COLUMNS - len(_header(split, 0, figures))
    titles = {name: _shortened(title, longest) for name, title in titles.items()}
    end = ["", *_places(workdir, encoder_modules)]
    notes = [*_notes(split, figures), _gain(figures, titles, names), _F1_NOTE, interval]
    notes = [line for note in notes for line in textwrap.wrap(note, _SCREEN_COLUMNS)]

    lines_of_one = len(parts(figures, names))
    left = _SCREEN_LINES - 1 - lines_of_one - len(notes + end)  # without header and subtitles
    if len(names) * lines_of_one > left:

        def badness(name: str) -> tuple:
            auc = figures[f"{name}_both"]["auc_macro"]
            return name != "fusion", math.isnan(auc), -auc

        best = sorted(names, key=badness)[: (left - 1) // lines_of_one]
        notes.insert(0, f"{len(names) - len(best)} more models are in results.txt.")
        names = [name for name in names if name in best]
    return "\n".join([*_rows(split, figures, titles, names, longest), *notes, *end])


def interval_note(split: str, movies: int, low: float, high: float) -> str:
    """Returns a sentence on how far the macro AUC of fusion can be trusted.

    Args:
      split: the split that it is computed on, or `cross_validation`.
      movies: number of these movies.
      low: lower limit of its 95 % interval; NaN if it is not known.
      high: upper limit.
    """
    split = "training" if split == "cross_validation" else split
    if not bootstrap.is_shown(movies, low, high):
        return f"Too few {split} movies for an interval of fusion's macro AUC: {movies}."
    return (
        f"95 % interval of fusion's macro AUC: {number(low)} to {number(high)}, by bootstrap over "
        f"the {movies} {split} movies."
    )


def all_tables(
    results: Mapping[str, dict],
    missing: Mapping[str, dict],
    titles: Mapping[str, str],
    split: str,
    notes: Sequence[str] = (),
) -> str:
    """Returns all tables of an experiment; the first one compares the models on `split`.

    Args:
      results: as returned by `results.evaluate_models`.
      missing: as returned by `results.evaluate_missing`; may be empty.
      titles: title of each model.
      split: the split of the first table, and of the tables of F1 and calibration error.
      notes: lines to print below the tables.
    """
    texts = [table(split, results[split], titles)]
    texts += [table(name, results[name], titles) for name in results if name != split]
    texts.append(f1_table(split, results[split], titles))
    texts.append(calibration_table(split, results[split], titles))
    if missing:
        texts.append(missing_table(missing, titles))
    return "\n\n".join([*texts, *notes])


def table(
    split: str,
    results: Mapping[str, dict],
    titles: Mapping[str, str],
    seeds: int = 1,
) -> str:
    """Compares the models on one split; the last line is the gain of fusion.

    Args:
      split: name of the split.
      results: the figures of this split, as in the values of `results.evaluate_models`.
      titles: title of each model.
      seeds: number of runs that the figures are the means of.
    """
    names = [name for name in titles if name in results]
    notes = _notes(split, results, seeds)
    rows = _rows(split, results, titles, names)
    return "\n".join(filter(None, [*rows, *notes, _gain(results, titles, names)]))


def parts(results: Mapping[str, dict], names: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Returns the parts of a table: a suffix of the names of models, and a subtitle, for each.

    The second part, of movies with both modalities, is left out if it has no movies, or the same
    movies as the first: if all models have one modality, or all movies have both.
    """
    both = [results[f"{name}_both"]["movies"] for name in names]
    same = all(results[name]["movies"] == movies for name, movies in zip(names, both))
    return _PARTS[:1] if same or not any(both) else _PARTS


def number(value: float) -> str:
    """Formats a figure with three decimals; a figure that is not defined (NaN) is a hyphen."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _rows(
    split: str,
    results: Mapping[str, dict],
    titles: Mapping[str, str],
    names: Sequence[str],
    longest: float = math.inf,
) -> list[str]:
    """Returns the header of a comparison, and for each part a subtitle and a row for each model.

    Args:
      split: name of the split.
      results: its figures.
      titles: title of each model.
      names: the models with a row.
      longest: most columns that the titles may take; they must fit.
    """
    width = min(_width(titles), longest)
    with_std = _has_std(results)
    lines = [_header(split, width, results)]
    for suffix, subtitle in parts(results, names):
        lines.append(subtitle)
        for name in names:
            figures = results[name + suffix]
            row = f"{'  ' + titles[name]:<{width}}{figures['movies']:>7}"
            for column, _ in COLUMNS:
                row += f"{number(figures[column]):>11}"
                if with_std and column == "auc_macro":
                    row += f"{number(figures['auc_macro_std']):>7}"
            lines.append(row + (f"{number(figures[_BEST]):>10}" if _BEST in figures else ""))
    return lines


def _header(split: str, width: int, results: Mapping[str, dict]) -> str:
    line = f"{_name(split):<{width}}" if width else ""
    line += f"{'movies':>7}"
    for name, column in COLUMNS:
        line += f"{column:>11}"
        if _has_std(results) and name == "auc_macro":
            line += f"{'+-':>7}"
    return line + (f"{'best AUC':>10}" if _has_best(results) else "")


def _has_best(results: Mapping[str, dict]) -> bool:
    return any(_BEST in figures for figures in results.values())


def _has_std(results: Mapping[str, dict]) -> bool:
    return any("auc_macro_std" in figures for figures in results.values())


def _notes(split: str, results: Mapping[str, dict], seeds: int = 1) -> list[str]:
    """Returns the lines that explain a comparison."""
    notes = _genres_note(results)
    if split == "cross_validation":
        notes.append("Each movie is predicted by models that were not trained on it.")
    if _has_std(results):
        notes.append(f"Each figure is the mean over {seeds} seeds; +- is the standard deviation.")
    if _has_best(results):
        notes.append(
            "best AUC: macro AUC with the true probabilities, which are known of made-up movies."
        )
    return notes


def _genres_note(results: Mapping[str, dict]) -> list[str]:
    """Returns lines on the genres that averages leave out; none if they leave out none."""
    rows = [figures for figures in results.values() if figures["movies"]] or [*results.values()]
    num_genres = max(len(figures.get("per_genre", ())) for figures in rows)
    counted = [figures["genres_counted"] for figures in rows]
    steady = [figures["genres_steady"] for figures in rows]
    notes = []
    if min(counted) < num_genres or min(counted) < max(counted):
        notes.append(
            f"Macro averages and mAP are over {_span(counted)}: those with a positive and a "
            "negative movie."
        )
    if min(steady) < max(counted):
        notes.append(
            f"AUC steady is over {_span(steady)}: those with at least {LEAST_STEADY} of both."
        )
    return notes


def _span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{most} genres" if least == most else f"{least} to {most} genres in each row"


def _gain(results, titles, names) -> str:
    """Returns a sentence that compares fusion with the best encoder, on movies with both.

    It is empty if there is no fusion, or less than two encoders.
    """
    if "fusion" not in results or sum(not is_fusion(name) for name in names) < 2:
        return ""
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
    change = (
        f"gains {gain:.3f} macro AUC over" if gain > 0 else f"loses {-gain:.3f} macro AUC against"
    )
    if number(abs(gain)) == number(0.0):
        change = "neither gains nor loses against"
    return (
        f"Fusion {change} the best single model, {titles[strongest]}, on the {fused['movies']} "
        f"movies{' with both' if len(parts(results, names)) > 1 else ''}."
    )


def f1_table(split: str, results: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Compares F1 at 0.5 with F1 at the tuned thresholds, on one split."""
    averages = ("micro", "macro", "weighted", "samples")
    width = _width(titles)
    lines = [
        f"{_name(split) + ', F1':<{width}}{'at 0.5':>36}{'at the threshold of each genre':>36}",
        " " * width + "".join(f"{average:>9}" for average in 2 * averages),
    ]
    names = [name for name in titles if name in results]
    for suffix, subtitle in parts(results, names):
        lines.append(subtitle)
        for name in names:
            figures = results[name + suffix]
            values = [figures[f"f1_{average}{at}"] for at in ("", "_tuned") for average in averages]
            lines.append(_row(titles[name], values, width))
    return "\n".join(lines)


def calibration_table(split: str, results: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Compares expected calibration error before and after Platt scaling, on one split."""
    width = _width(titles)
    lines = [f"{_name(split) + ', calibration error':<{width}}{'before':>9}{'after':>9}"]
    for name in (name for name in titles if name in results):
        errors = [results[name][error] for error in ("ece_uncalibrated", "ece")]
        lines.append(_row(titles[name], errors, width))
    lines.append("Platt scaling and thresholds are fitted out-of-fold, on other training movies.")
    return "\n".join(lines)


def missing_table(missing: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Shows macro AUC by the share of training movies that lose a modality.

    Args:
      missing: as returned by `results.evaluate_missing`.
      titles: title of each model.
    """
    width = _width(titles)
    lines = []
    for modality, of_models in missing.items():
        shares = "".join(f"{share:>9.0%}" for share in SHARES)
        lines.append(f"{modality + 's missing, AUC macro':<{width}}{shares}")
        lines += [_row(titles[name], values, width) for name, values in of_models.items()]
    lines.append("Cross-validation on the movies with both plot and poster.")
    return "\n".join(lines)


def _name(split: str) -> str:
    return split.replace("_", "-")


def _row(title, values, width) -> str:
    return f"{'  ' + title:<{width}}" + "".join(f"{number(value):>9}" for value in values)


def _width(titles) -> int:
    """Returns the width of the first column: 28 columns, or what the longest title needs."""
    return max([_LEAST_WIDTH, *(len("  " + title) for title in titles.values())])


def _shortened(title: str, width: int) -> str:
    """Cuts a title, so that it fits into the first column of a width."""
    longest = width - len("  ")
    return title if len(title) <= longest else title[: longest - 3] + "..."


def _places(workdir: Path, encoder_modules: Sequence[str]) -> list[str]:
    """Returns lines that say where all results are, and how to predict."""
    workdir = relative_to_here(workdir)
    flags = [f"--workdir={shlex.quote(str(workdir))}"]
    flags += [f"--encoder_modules={shlex.quote(module)}" for module in encoder_modules]
    return [
        f"All tables:  {workdir / 'results.txt'}",
        f"Figures:     {workdir / 'figures'}",
        f'To predict:  mmgc predict {" ".join(flags)} --plot="..."',
    ]
