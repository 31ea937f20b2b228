"""``memcompile MODEL --target A,B``: a program each, one comparison, failures as rows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import models
import numpy as np
import pytest
from models import float_model, node

import memcompile
from memcompile.cli.main import main
from memcompile.cli.several_targets import split_targets
from memcompile.figures import FORMS, at_key
from memcompile.html.comparison_page import ROWS
from memcompile.html.numbers import typeset
from memcompile.program.file import encode_program

QUICK = ["--no-evaluation", "--effort", "fast", "--max-loss", "none"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small model ``m.onnx``, and one with more weights than a chip of yao2020 holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    (tmp_path / "m.onnx").write_bytes(models.conv_bn().SerializeToString())
    weights = np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32)
    large = float_model([node("MatMul", "x w", "y")], (1, 300), {"w": weights})
    (tmp_path / "large.onnx").write_bytes(large.SerializeToString())
    return tmp_path


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".onnx"}


def test_each_target_gets_its_program_and_all_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["m.onnx", "--target", "hermes, yao2020", "--json", "all.json", *QUICK]) == 0
    out, errors = capsys.readouterr()
    programs = {f"m.{name}.{kind}" for name in ("hermes", "yao2020") for kind in ("mcp", "html")}
    assert written(folder) == {*programs, "m.compare.html", "all.json"}
    reports = json.loads((folder / "all.json").read_text())
    assert [report["target"] for report in reports] == ["hermes", "yao2020"]
    rows = {line.split("│")[2].strip(): line for line in out.splitlines() if line.count("│") == 5}
    for row in ROWS:
        if row.title in rows:
            assert [text.strip() for text in rows[row.title].split("│")[3:5]] == [row.text(each) for each in reports]
    assert len(rows) > 8
    assert [line.split(" (")[0] for line in errors.splitlines()] == [
        "phase 1 of 3: reading model and data",
        "phase 2 of 3: hermes",
        "phase 3 of 3: yao2020",
    ]
    page = (folder / "m.compare.html").read_text(encoding="utf-8")
    for key, form, value, text in re.findall(
        r'<data data-key="/programs(.*?)" data-form="(.*?)" value="(.*?)">(.*?)<', page
    ):
        assert repr(at_key(reports, key)) == value
        assert typeset(FORMS[form](at_key(reports, key))) == text
    assert 'id="failed"' not in page


def test_programs_are_those_of_one_target_each(folder: Path) -> None:
    assert main(["m.onnx", "--target", "neurram,isaac", "--html", "none", "--quiet", *QUICK]) == 0
    assert written(folder) == {"m.neurram.mcp", "m.isaac.mcp"}
    together = {name: encode_program(memcompile.load(name)) for name in written(folder)}
    for target in ("neurram", "isaac"):
        assert main(["m.onnx", "--target", target, "--html", "none", "--quiet", *QUICK]) == 0
        assert encode_program(memcompile.load(f"m.{target}.mcp")) == together[f"m.{target}.mcp"]


def test_a_target_that_fails_is_a_row_with_its_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "large.onnx",
        "--target",
        "yao2020,hermes,ideal",
        "--chips",
        "1",
        "--slices",
        "2",
        "--json",
        "-",
        *QUICK,
    ]
    assert main(arguments) == 7, "that of the first"
    out, errors = capsys.readouterr()
    yao2020, hermes, ideal = json.loads(out)
    assert hermes["target"] == "hermes"
    assert (yao2020["target"], yao2020["exit_code"]) == ("yao2020", 7)
    assert (ideal["target"], ideal["exit_code"]) == ("ideal", 2)
    for failed in (yao2020, ideal):
        assert f"memcompile: error: {failed['target']}: {failed['error']}" in errors
    assert written(folder) == {"large.hermes.mcp", "large.hermes.html", "large.compare.html"}
    page = (folder / "large.compare.html").read_text(encoding="utf-8")
    assert 'id="failed"' in page
    assert "one pair of ideal holds any weight" in page
    shown = [word for word in arguments if word not in ("--json", "-")]
    assert main([*shown, "--html", "c.html"]) == 7
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.count("│") == 4]
    assert {"yao2020", "ideal"} <= set(rows)
    assert (folder / "c.html").exists()


def test_where_all_fail_there_is_nothing_to_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["large.onnx", "--target", "ideal,yao2020", "--chips", "1", "--slices", "2", *QUICK]) == 2
    out = capsys.readouterr().out
    assert "no program" in out
    assert "comparison written" not in out
    assert written(folder) == set()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target", "hermes,yao202"], 2, "no target is called 'yao202'"),
        (["--target", "hermes,yao2020", "-o", "p.mcp"], 2, "-o names a file of one program"),
        (["--target", "hermes,yao2020", "--trace", "t.json"], 2, "--trace names a file of one program"),
        (["--target", "hermes,yao2020", "--dump-ir", "ir"], 2, "--dump-ir names a file of one program"),
        (["--target", "hermes,isaac,hermes"], 2, "--target names 'hermes' and another target whose program is"),
        (["--target", "hermes,isaac", "--html", "none/there.html"], 2, "the folder none does not exist"),
        (["--target", ","], 2, "no target is called ','"),
    ],
)
def test_mistakes_are_found_before_the_work(
    options: list[str], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["m.onnx", *options, *QUICK]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert written(folder) == set()


def test_a_model_that_cannot_be_read_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["missing.onnx", "--target", "hermes,isaac", *QUICK]) == 3
    assert capsys.readouterr().err.count("missing.onnx does not exist") == 1


def test_a_file_may_have_a_comma_in_its_name(folder: Path) -> None:
    own = folder / "a,b.toml"
    shutil.copy(Path(memcompile.__file__).parent / "hardware" / "targets" / "hermes.toml", own)
    assert split_targets("a,b.toml") == ["a,b.toml"]
    assert split_targets("hermes,a,b.toml") == ["hermes", "a", "b.toml"]
    assert split_targets(" hermes , isaac ,") == ["hermes", "isaac"]
    assert split_targets("hermes") == ["hermes"]
