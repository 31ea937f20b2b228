"""``memcompile compare``: figures side by side, marks, the best, and a page of the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import pytest

from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.figures import FORMS, at_key
from memcompile.html.comparison_page import ROWS, Row, comparison_page
from memcompile.html.numbers import typeset
from memcompile.report.facts import program_facts

BRACKETS = "[/red]<b>"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two programs, of which the second is the first in segments, and a report of each."""
    monkeypatch.chdir(tmp_path)
    program = factories.two_layer_program(np.random.default_rng(0), factories.make_target())
    first, *others = program.stages
    program = replace(program, stages=(replace(first, name=BRACKETS), *others))
    for name, each in (("a", program), ("b", factories.in_segments(program, (1,), batch=4))):
        each.save(tmp_path / f"{name}.mcp")
        accuracy = {"float": 0.9, "emulated_mean": 0.8 if name == "a" else 0.85}
        (tmp_path / f"{name}.json").write_text(json.dumps({**program_facts(each), "accuracy": accuracy}))
    return tmp_path


def table(text: str) -> dict[str, list[str]]:
    """Rows of a table: mark and figures by title."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {title: [mark, *figures] for mark, title, *figures in rows}


def test_programs_stand_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a.mcp", "b.mcp", "--all-layers"]) == 0
    out = capsys.readouterr().out
    rows = table(out)
    facts = [json.loads((folder / f"{name}.json").read_text()) for name in "ab"]
    for title, key, form in (
        ("segments", "/segments", "count"),
        ("energy of an image", "/cost/energy_pj", "energy_pj"),
        ("cells used", "/cells_used", "count"),
    ):
        values = [at_key(each, key) for each in facts]
        assert rows[title] == ["*" if values[0] != values[1] else "", *(FORMS[form](value) for value in values)]
    assert "accuracy, float" not in rows, "program files know nothing of it"
    assert rows["target"][1] == facts[0]["target"]
    assert not any("<b>" in line for line in out.splitlines() if "segments" in line)


def test_reports_have_accuracy_too_and_the_page_has_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a.json", "b.json", "--html", "c.html"]) == 0
    out = capsys.readouterr().out
    assert table(out)["accuracy, calibrated"] == ["*", "80.00%", "85.00%"]
    assert out.endswith("comparison written to c.html\n")
    page = (folder / "c.html").read_text(encoding="utf-8")
    found = re.search(r'id="data-facts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    facts = json.loads(found[1])
    numbers = re.findall(r'<data data-key="(.*?)" data-form="(.*?)" value="(.*?)">(.*?)</data>', page)
    assert len(numbers) >= 20
    for key, form, value, text in numbers:
        assert repr(at_key(facts, key)) == value
        assert typeset(FORMS[form](at_key(facts, key))) == text
    assert '<strong><data data-key="/programs/1/accuracy/emulated_mean"' in page
    assert "<b>" not in page


def test_the_best_is_found_where_figures_differ() -> None:
    row = Row("rate", "/rate", "figure", True)
    assert row.best([{"rate": 1}, {"rate": 3}, {"rate": 3}]) == {1, 2}
    assert row.best([{"rate": 3}, {"rate": 3}]) == set()
    assert row.best([{"rate": None}, {"rate": 3}]) == set()
    assert Row("time", "/rate", "figure", False).best([{"rate": 1}, {"rate": 3}, {}]) == {0}
    assert Row("cells", "/rate", "figure").best([{"rate": 1}, {"rate": 3}]) == set()
    assert Row("bound", "/rate", "figure", of_nothing=0).text({"rate": 0}) == ""


def test_figures_without_constants_are_not_ranked() -> None:
    row = next(row for row in ROWS if row.title == "energy of an image")
    known, other, unknown = ({"cost": {"energy_pj": value}} for value in (2.0, 3.0, None))
    assert row.best([known, other]) == {0}
    assert row.best([known, other, unknown]) == set()
    assert row.text(unknown) == "no data"


def test_what_cannot_be_compared_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "list.json").write_text('{"layers": [3], "model": "m", "target": "t"}')
    (folder / "nan.json").write_text('{"layers": [], "model": "m", "target": "t", "chips": NaN}')
    for arguments, words in (
        (["a.mcp"], "compare takes two programs or more"),
        (["a.mcp", "list.json"], "list.json is no report"),
        (["a.mcp", "nan.json"], "nan.json holds numbers that no report has"),
        (["a.mcp", "b.mcp", "--html", "absent/c.html"], "or choose another with --html"),
    ):
        assert main(["compare", *arguments]) == UsageError.exit_code
        assert words in capsys.readouterr().err
    assert main(["compare", "a.mcp", "absent.mcp"]) != 0


def test_programs_of_one_name_are_told_apart_by_their_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x").mkdir()
    (folder / "x" / "a.mcp").write_bytes((folder / "b.mcp").read_bytes())
    assert main(["compare", "a.mcp", "x/a.mcp"]) == 0
    assert "x/a.mcp" in capsys.readouterr().out


@pytest.mark.parametrize(("rates", "logarithms"), [((2.0, 3.0), False), ((2.0, 3_000.0), True)])
def test_bars_far_apart_are_logarithms(rates: tuple[float, float], logarithms: bool) -> None:
    facts = [{"images_per_second": rate, "layers": [], "target": "t", "model": "m"} for rate in rates]
    page = comparison_page(["a", "b"], facts).decode()
    found = re.search(r'id="chart-comparison">.*?json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    figure = json.loads(found[1])
    assert (figure["layout"]["yaxis"].get("type") == "log") == logarithms
    assert [trace["y"] for trace in figure["data"]] == [[1.0], [rates[1] / rates[0]]]
