"""The notebook of the examples: it runs, shows what it says, and is stored without outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from places import FIVE_LAYER_CNN, REPOSITORY
from scripts import run_notebook

NOTEBOOK = REPOSITORY / "examples" / "notebook.ipynb"


@pytest.mark.slow
def test_all_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIVE_LAYER_CNN, tmp_path)
    cells = run_notebook(NOTEBOOK)
    out, errors = capsys.readouterr()
    assert errors == ""
    assert "one image every " in out
    assert "chip 0 after tuning:" in out
    shown = [cell.value for cell in cells if cell.value is not None]
    kinds = [type(value).__name__ for value in shown]
    assert kinds == ["Program", "ReportPage", "Figure", "Evaluation", "ReportPage", "TuningResult"]
    assert all(value._repr_html_().startswith("<") for value in shown if type(value).__name__ != "Figure")
    assert {path.name for path in tmp_path.iterdir()} == {FIVE_LAYER_CNN.name}, "it leaves nothing behind"


def test_it_is_stored_without_outputs() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_its_links_lead_somewhere() -> None:
    text = "".join(line for cell in json.loads(NOTEBOOK.read_text())["cells"] for line in cell["source"])
    for link in ("../docs/tutorial.md", "../docs/api.md"):
        assert f"]({link})" in text.replace("\n", " ")
        assert (NOTEBOOK.parent / link).is_file()
