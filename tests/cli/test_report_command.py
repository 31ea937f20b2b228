"""The files of a report: its page beside the program, the trace, and ``memcompile report``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import models
import pytest

from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.report.lifetime import age_text

QUIET = "--no-check --effort fast --max-loss none"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(models.conv_bn().SerializeToString())
    return tmp_path


def facts_of(page: Path) -> dict[str, object]:
    found = re.search(r'id="data-facts">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"m.onnx"}


def test_a_compile_ends_with_the_name_of_its_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"m.onnx {QUIET} --seeds 1 -o net.mcp --json net.json".split()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report written to net.html"
    assert facts_of(folder / "net.html") == json.loads((folder / "net.json").read_text())
    assert "memcompile compile m.onnx" in (folder / "net.html").read_text()
    assert main(["report", "net.mcp", "-o", "again.html", "--facts", "net.json"]) == 0
    assert capsys.readouterr().out == "report written to again.html\n"
    assert facts_of(folder / "again.html") == facts_of(folder / "net.html")
    assert main(["report", "net.mcp"]) == 0
    assert facts_of(folder / "net.html")["output_sqnr_db"] is None, "a program does not know what was measured"


def test_no_page_where_none_is_wanted(folder: Path) -> None:
    assert main(f"m.onnx {QUIET} --no-evaluation --quiet --html none".split()) == 0
    assert names(folder) == {"m.yao2020.mcp"}
    assert main(f"m.onnx {QUIET} --no-evaluation --quiet -o /dev/null".split()) == 0
    assert names(folder) == {"m.yao2020.mcp"}


def test_the_trace_is_written_where_it_is_wanted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"m.onnx {QUIET} --no-evaluation --html p.html --trace t.json".split()) == 0
    assert names(folder) == {"m.yao2020.mcp", "p.html", "t.json"}
    assert "trace written to t.json" in capsys.readouterr().out
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


@pytest.mark.parametrize("option", ["--html", "--trace"])
def test_files_that_cannot_be_written_are_refused_at_once(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["m.onnx", option, "absent/file"]) == UsageError.exit_code
    assert f"or choose another with {option}" in capsys.readouterr().err
    assert names(folder) == set()


def test_facts_have_to_be_a_report_of_the_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"m.onnx {QUIET} --seeds 1 -o net.mcp --json net.json --html none --quiet".split()) == 0
    facts = json.loads((folder / "net.json").read_text())
    some = {key: value for key, value in facts.items() if key != "accuracy"}
    for text, words in (
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is no report"),
        (json.dumps({**facts, "arrays_used": 77}), "is of another program: its arrays_used is 77"),
        (json.dumps(some), "lacks accuracy; another version wrote it"),
        (json.dumps({**facts, "layers": []}), "lacks layers"),
        (json.dumps({**facts, "accuracy": 3}), "is not what this version of memcompile writes"),
        (json.dumps({**facts, "operators": [{"name": {}}]}), "is not what this version of memcompile writes"),
        (json.dumps({**facts, "output_sqnr_db": {"y": float("nan")}}), "is not what this version"),
    ):
        if text is not None:
            (folder / "f.json").write_text(text)
        assert main(["report", "net.mcp", "--facts", "f.json", "-o", "page.html"]) == UsageError.exit_code
        assert words in capsys.readouterr().err
        assert not (folder / "page.html").exists()


def test_accuracy_against_age_comes_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"m.onnx {QUIET} --no-evaluation --quiet --html none -o net.mcp".split()) == 0
    age = {"age_s": 3600.0, "mean": 0.9, "spread": 0.01, "accuracies": [0.9]}
    life = {"data": "digits", "images": 9, "chips": 2, "calibrated": True, "ages": [age], "refresh": None}
    (folder / "life.json").write_text(json.dumps(life))
    assert main(["report", "net.mcp", "--life", "life.json", "--quiet"]) == 0
    page = (folder / "net.html").read_text(encoding="utf-8")
    assert '<data data-key="/life/ages/0/mean" data-form="accuracy" value="0.9">90.00%</data>' in page
    assert facts_of(folder / "net.html")["life"] == life
    assert age_text(3600.0) in page
    for wrong in ("[1]", json.dumps({**life, "ages": [{"age_s": "x"}]}), '{"ages": []}'):
        (folder / "life.json").write_text(wrong)
        assert main(["report", "net.mcp", "--life", "life.json"]) == UsageError.exit_code
        assert "life.json is not what this version of memcompile writes" in capsys.readouterr().err
