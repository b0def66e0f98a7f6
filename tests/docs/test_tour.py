"""The notebook docs/tour.ipynb runs from the first cell to the last."""

import json
import re

import pytest

from tests.docs import pages

TOUR = pages.ROOT / "docs" / "tour.ipynb"


@pytest.fixture
def cells():
    return json.loads(TOUR.read_text(encoding="utf-8"))["cells"]


def test_it_is_kept_with_the_outputs_of_one_whole_run(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    # Warnings, and whatever else libraries have to say.
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert TOUR.stat().st_size < 1_000_000


def test_it_says_nothing_of_the_machine_that_it_was_run_on(cells):
    assert not re.search(r"/(root|home|tmp|work)/", TOUR.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_it_runs(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[docs]'")
    pytest.importorskip("ipykernel", reason="pip install -e '.[docs]'")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert (tmp_path / "runs" / "tour" / "results.json").exists()
    # Bars are drawn on standard error; warnings of libraries are not to be seen there.
    shown = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stderr"
    )
    assert not re.search(r"WARNING|Warning|absl|ownloading", shown), shown
