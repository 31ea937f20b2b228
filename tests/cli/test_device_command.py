"""`memcompile device` from files to a target, and what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from memcompile.cli.main import main
from memcompile.hardware.target import load_target


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pairs, reads and retention of one chip."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    goals = rng.uniform(2.0, 20.0, 120)
    pairs = [f"{goal:.5f},{goal + 0.5 * rng.standard_normal():.5f}" for goal in goals]
    pairs[7] = "15.0,2.0"
    reads = [f"{cell},{5 + cell + 0.1 * rng.standard_normal():.5f}" for cell in range(10) for _ in range(8)]
    times = [
        f"{cell},{t},{(2 + cell / 4) * t ** -(0.05 + 0.01 * rng.standard_normal()):.5f}"
        for cell in range(60)
        for t in (1, 100)
    ]
    for name, titles, rows in (
        ("pairs.csv", "target_us,measured_us", pairs),
        ("reads.csv", "cell,read_us", reads),
        ("later.csv", "cell,time_s,read_us", times),
    ):
        (tmp_path / name).write_text("\n".join([titles, *rows]) + "\n", encoding="utf-8")
    return tmp_path


def test_files_become_a_target_with_a_picture_and_facts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--reads", "reads.csv", "--retention", "later.csv", "--base", "hermes"]
    extra = ["--plot", "fit.png", "--json", "facts.json"]
    assert main(["device", "pairs.csv", *options, *extra, "-o", "my chip.toml"]) == 0
    said = capsys.readouterr().out
    assert "line 9: 2 uS where 15 uS was aimed at" in said
    assert "1 outliers left out (1 stuck low, 0 stuck high)" in said
    assert "120 pairs of pairs.csv: window" in said
    assert "60 reads after writing of later.csv: power law" in said
    assert "KS distance" in said
    assert "next: memcompile MODEL.onnx --target 'my chip.toml'" in said
    target = load_target("my chip.toml")
    assert target.name == "my_chip"
    assert target.array == load_target("hermes").array
    assert target.programming.sigma_us == pytest.approx(0.5, rel=0.2)
    assert target.faults.stuck_low_share == pytest.approx(1 / 120)
    assert target.sources["read_noise.sigma_us"] == "measured, N=80, reads.csv"
    assert target.drift is not None
    assert target.drift.exponent_mean == pytest.approx(0.05, abs=0.01)
    assert (files / "fit.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((files / "facts.json").read_text(encoding="utf-8"))
    assert facts["pairs"]["outliers"][0]["line"] == 9
    assert facts["retention"]["law"] == "power law"
    assert set(facts["pairs"]["spread"]) == {"form", "values", "errors"}


def test_same_files_give_the_same_target(files: Path) -> None:
    assert main(["device", "pairs.csv", "-o", "a.toml", "--quiet"]) == 0
    first = (files / "a.toml").read_bytes()
    assert main(["device", "pairs.csv", "-o", "a.toml", "--quiet"]) == 0
    assert (files / "a.toml").read_bytes() == first


def test_mistakes_are_one_message_and_leave_nothing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "bad.csv").write_text("target_us,measured_us\n1,x\n", encoding="utf-8")
    cases = (
        (["bad.csv", "-o", "m.toml"], 4, "bad.csv, line 2, column 'measured_us': 'x' is not a number"),
        (["pairs.csv", "-o", "m.txt"], 2, "a target file ends in .toml"),
        (["pairs.csv", "-o", "none/m.toml"], 2, "the folder none does not exist"),
        (["pairs.csv", "-o", "m.toml", "--base", "yao"], 2, "no target is called 'yao'"),
        (["pairs.csv", "-o", "m.toml", "--reads", "pairs.csv"], 4, "no column says cell"),
    )
    for arguments, code, message in cases:
        assert main(["device", *arguments]) == code
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1
    assert not list(files.glob("m.*"))


def test_picture_needs_an_extra(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["device", "pairs.csv", "-o", "m.toml", "--plot", "fit.png"]) == 2
    assert "pip install 'memcompile[plot]'" in capsys.readouterr().err
    assert not (files / "m.toml").exists()
