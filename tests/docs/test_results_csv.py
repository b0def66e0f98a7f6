"""The CSV files of results agree with the tables of the manual.

A comment above a table of the manual names its file and the rows that the table shows:

    <!-- results/talk.csv split=validation -->
"""

import csv
import datetime
import functools
import math
import pathlib
import re
import shlex

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"
FILES = {file.name: file for file in sorted((DOCS / "results").glob("*.csv"))}
PAGES = sorted(DOCS.glob("*.md"))

_MEASURED = ("command", "date", "machine")
_MODEL = ("model", "split", "movies_with", "movies", "auc_macro", "auc_steady", "auc_steady_low",
          "auc_steady_high")  # fmt: skip
_SCORES = ("map", "f1_micro", "f1_macro", "f1_micro_tuned", "f1_macro_tuned")
_LOST = tuple(f"auc_macro_{percent}" for percent in (0, 25, 50, 75, 100))

COLUMNS = {
    "talk.csv": (*_MODEL, *_SCORES, *_MEASURED),
    "best.csv": (*_MODEL, *_SCORES, *_MEASURED),
    "demo.csv": (*_MODEL, *_SCORES, "auc_macro_reachable", *_MEASURED),
    "talk_comparisons.csv": ("model", "split", "movies_with", "movies", "seeds", "folds",
                             "auc_steady", "auc_steady_std", *_MEASURED),
    "learning_curves.csv": ("model", "movies_with", "movies", "auc_steady_1000", "auc_steady_2000",
                            "auc_steady_4228", *_MEASURED),
    "missing_modalities.csv": ("config", "missing", "model", *_LOST, *_MEASURED),
    "calibration.csv": ("model", "split", "ece_uncalibrated", "ece", *_MEASURED),
    "ablations.csv": ("change", "option", "model", "seeds", "auc_steady", "auc_steady_std",
                      "in_config", *_MEASURED),
    "earlier_ablations.csv": ("change", "field", "model", "measured_on", "auc_macro_before",
                              "auc_macro_after", "in_config", "date"),
    "mmimdb.csv": ("model", "modalities", "f1_micro", "f1_macro", "f1_weighted", "f1_samples",
                   "source"),
    "mmimdb_data.csv": ("step", "movies", "seconds", "movies_per_second", "cpu_seconds", "peak_mb",
                        *_MEASURED),
    "speed.csv": ("workload", "unit", "ours", "against", "theirs", "ratio", "ratio_least",
                  "ratio_most", "target", "pairs", *_MEASURED, "versions"),
    "memory.csv": ("parameters", "placement", "devices", "state_mb", "step_1_poster_mb",
                   "step_2_posters_mb", *_MEASURED),
}  # fmt: skip
# Columns that identify a row.
KEYS = {
    "missing_modalities.csv": ("config", "missing", "model"),
    "ablations.csv": ("change", "model"),
    "earlier_ablations.csv": ("change", "model", "measured_on"),
    "learning_curves.csv": ("model", "movies_with"),
    "mmimdb.csv": ("model",),
    "calibration.csv": ("model", "split"),
    "mmimdb_data.csv": ("step",),
    "speed.csv": ("workload", "against", "machine"),
    "memory.csv": ("parameters", "placement"),
}
_MODEL_KEY = ("model", "split", "movies_with")
# Cells of these columns may be empty: not measured, or not published.
OPTIONAL = {
    "demo.csv": ("auc_macro_reachable",),
    "ablations.csv": ("option",),
    "earlier_ablations.csv": ("field",),
    "mmimdb.csv": ("f1_micro", "f1_weighted", "f1_samples"),
    "speed.csv": ("target",),
}

# The form of a cell, by the names of columns; all others hold text.
SCORE = re.compile(r"auc_.*|map|f1_.*|ece.*")
COUNT = re.compile(r"movies|seeds|folds|pairs|parameters|devices|.*_mb")
AMOUNT = re.compile(r"seconds|movies_per_second|cpu_seconds|ours|theirs|ratio.*|target")
CHOICES = {
    "split": {"cross-validation", "validation", "test"},
    "movies_with": {"any", "both"},
    "config": {"talk", "best"},
    "missing": {"plot", "poster"},
    "in_config": {"yes", "no"},
    "placement": {"copied", "split"},
    "unit": {"posters/s", "plots/s", "movies/s", "movies/min"},
}

# The column that a header of the manual's tables stands for.
HEADERS = {
    "Model": "model", "Movies": "movies", "Movies with": "movies_with",
    "AUC macro": "auc_macro", "±": "auc_steady_std", "mAP": "map", "AUC steady": "auc_steady",
    "AUC micro": "auc_micro", "Low": "auc_steady_low", "High": "auc_steady_high",
    "F1 micro": "f1_micro", "F1 macro": "f1_macro", "F1 weighted": "f1_weighted",
    "F1 samples": "f1_samples", "F1 micro, tuned": "f1_micro_tuned",
    "F1 macro, tuned": "f1_macro_tuned", "Best AUC": "auc_macro_reachable",
    "0 %": "auc_macro_0", "25 %": "auc_macro_25", "50 %": "auc_macro_50",
    "75 %": "auc_macro_75", "100 %": "auc_macro_100",
    "ECE before": "ece_uncalibrated", "ECE after": "ece",
    "Date": "date", "1,000": "auc_steady_1000", "2,000": "auc_steady_2000",
    "4,228": "auc_steady_4228", "Option": "option", "Seeds": "seeds",
    "Change": "change", "Measured on": "measured_on", "Before": "auc_macro_before",
    "After": "auc_macro_after", "In config": "in_config",
    "Modalities": "modalities", "Source": "source",
    "Step": "step", "Seconds": "seconds", "Movies/s": "movies_per_second",
    "CPU s": "cpu_seconds", "Peak MB": "peak_mb",
    "Workload": "workload", "Ours": "ours", "Against": "against", "Theirs": "theirs",
    "Ratio": "ratio", "From": "ratio_least", "To": "ratio_most", "Target": "target",
    "Parameters": "parameters", "Placement": "placement", "State": "state_mb",
    "Step, 1 poster": "step_1_poster_mb", "Step, 2 posters": "step_2_posters_mb",
}  # fmt: skip
# A row whose first cell is empty has these of the row above.
REPEATED = ("workload", "ours")

TABLE = re.compile(r"<!-- results/(?P<file>\w+\.csv)(?P<where>.*?) -->\n\n(?P<lines>(?:\|.*\n)+)")


@functools.cache
def rows_of(name: str) -> list[dict[str, str]]:
    with FILES[name].open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def tables() -> list:
    """Returns the text of a page and the match of `TABLE` for each table with a source."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in TABLE.finditer(text):
            name = f"{page.name}-{match['file']}{match['where']}".replace(" ", "-")
            found.append(pytest.param(text, match, id=name))
    return found


def in_file(match: re.Match) -> list[dict[str, str]]:
    """Returns the rows of the file that a table is to show."""
    where = dict(word.split("=", 1) for word in shlex.split(match["where"]))
    rows = rows_of(match["file"])
    assert where.keys() <= rows[0].keys()
    return [row for row in rows if where.items() <= row.items()]


def on_page(match: re.Match) -> list[dict[str, str]]:
    """Returns the rows that a table shows, by column."""
    headers, rule, *lines = (
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in match["lines"].splitlines()
    )
    assert all(set(cell) <= set("-:") for cell in rule)
    rows = []
    for cells in lines:
        row = dict(zip((HEADERS[header] for header in headers), cells, strict=True))
        if not cells[0]:
            row |= {column: rows[-1][column] for column in REPEATED}
        rows.append(row)
    return rows


def test_columns_are_known_for_every_file():
    assert COLUMNS.keys() == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_columns_and_rows(name):
    with FILES[name].open(encoding="utf-8", newline="") as stream:
        header, *lines = csv.reader(stream, strict=True)
    assert tuple(header) == COLUMNS[name]
    assert lines and all(len(line) == len(header) for line in lines)
    rows = rows_of(name)
    keys = [tuple(row[column] for column in KEYS.get(name, _MODEL_KEY)) for row in rows]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", FILES)
def test_cells(name):
    for row in rows_of(name):
        for column, cell in row.items():
            assert cell == cell.strip(), row
            if not cell:
                assert column in OPTIONAL.get(name, ()), (row, column)
            elif SCORE.fullmatch(column):
                assert re.fullmatch(r"0\.\d{3}", cell), (row, column)
            elif COUNT.fullmatch(column):
                assert re.fullmatch(r"[1-9]\d*", cell), (row, column)
            elif AMOUNT.fullmatch(column):
                assert math.isfinite(float(cell)) and float(cell) > 0, (row, column)
            elif column == "date":
                assert cell == datetime.date.fromisoformat(cell).isoformat()
            elif column in CHOICES:
                assert cell in CHOICES[column], row


def test_figures_that_depend_on_each_other():
    for row in rows_of("speed.csv"):
        assert float(row["ratio_least"]) <= float(row["ratio"]) <= float(row["ratio_most"])
    for name in ("talk.csv", "best.csv"):
        for row in rows_of(name):
            config = name.removesuffix(".csv")
            assert f"--config={config} " in row["command"]
    for row in rows_of("missing_modalities.csv"):
        whole = [
            other["auc_macro"]
            for other in rows_of(f"{row['config']}.csv")
            if (other["model"], other["split"], other["movies_with"])
            == (row["model"], "cross-validation", "both")
        ]
        assert whole == [row["auc_macro_0"]]


@pytest.mark.parametrize(("text", "match"), tables())
def test_table_equals_its_file(text, match):
    del text
    wanted, shown = in_file(match), on_page(match)
    assert wanted and len(shown) == len(wanted)
    for found, row in zip(shown, wanted, strict=True):
        for column, cell in found.items():
            number = COUNT.fullmatch(column) or AMOUNT.fullmatch(column)
            assert (cell.replace(",", "") if number else cell) == row[column], (column, row)


@pytest.mark.parametrize(("text", "match"), tables())
def test_command_date_and_machine_stand_beside_the_table(text, match):
    start = text.rindex("\n## ", 0, match.start())
    end = text.find("\n## ", match.end())
    section = text[start : None if end < 0 else end]
    # Spaces and the ends of lines are the same, and quotation marks stay.
    words = set(text.replace("\\\n", " ").replace("`", " ").split())
    for row in in_file(match):
        for fact in ("date", "machine"):
            assert row.get(fact, "") in " ".join(section.split()), row
        assert set(row.get("command", "").split()) <= words, row


def test_every_row_is_shown_in_one_table():
    shown = {name: [] for name in FILES}
    for _, match in (parameters.values for parameters in tables()):
        shown[match["file"]] += in_file(match)
    for name, rows in shown.items():
        key = sorted(map(str, rows_of(name)))
        assert sorted(map(str, rows)) == key, name


def test_results_page_lists_every_file():
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+\.csv)`\]\(results/(\w+\.csv)\)", page, re.MULTILINE)
    assert sorted(name for name, _ in listed) == list(FILES)
    assert all(name == target for name, target in listed)
