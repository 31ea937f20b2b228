"""``memcompile explore`` and ``memcompile population`` on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from models import digit_samples, small_digits

from memcompile.cli.main import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("digits.onnx").write_bytes(small_digits().SerializeToString())
    np.savez("digits.npz", **digit_samples())
    return tmp_path


EXPLORE = "explore digits.onnx --data digits.npz --images 100 --workers 0 --set replicate.effort=fast --no-calibration"


def test_the_front_comes_with_commands_that_compile_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"{EXPLORE} --vary adc.bits=6,8 --vary slices=1,2 --chips-sampled 3")) == 0
    printed = capsys.readouterr().out
    assert "4 points, 3 chips of each near the front, 100 images" in printed
    assert "expected time about" in printed
    assert "chips were emulated" in printed
    commands = [line.partition(": ")[2] for line in printed.splitlines() if ": memcompile " in line]
    rows = [json.loads(line) for line in Path("digits.explore/results.jsonl").read_text().splitlines()]
    front = [row for row in rows if row["front"]]
    assert len(commands) == len(front) > 0
    assert all(f"{row['point']}" in Path("digits.explore/explore.html").read_text() for row in rows)
    words = shlex.split(commands[0])[1:]
    assert (
        main([*words, "--json", "report.json", "--images", "100", "--seeds", "3", "--no-calibration", "--quiet"]) == 0
    )
    report = json.loads(Path("report.json").read_text())
    assert report["accuracy"]["emulated"] == front[0]["accuracy.emulated"]
    assert report["cost"]["energy_pj"] == front[0]["cost.energy_pj"]


def test_all_errors_come_before_anything_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"{EXPLORE} --vary adc.bits=0 --vary slices=7")) == 2
    error = capsys.readouterr().err
    assert "2 errors" in error
    assert "Traceback" not in error
    assert not Path("digits.explore").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--vary adc.bits=6,7 --set adc.bits", 2, "not of the form NAME.FIELD=VALUE"),
        ("--vary adc.bits=6,7 --where 'energie < 2' --chips-sampled 0", 2, "no key 'energie'"),
        ("--vary adc.bits=6,7 -o digits.npz", 8, "digits.npz"),
        ("--vary adc.bits=6,7 --data none.npz", 4, "none.npz"),
        ("--vary adc.bits=6,7 --sampler dice --trials 3 --chips-sampled 0", 2, "no sampler"),
        ("--vary adc.bits=6,7 --target nowhere", 2, "no target is called"),
        ("--vary adc.bits=6,7 --set array.input_lines=0", 5, "array.input_lines = 0"),
    ],
)
def test_a_mistake_is_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, message: str
) -> None:
    assert main(shlex.split(f"{EXPLORE} {words}")) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_population_has_a_yield_and_seeds_that_reproduce_chips(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split("digits.onnx --data digits.npz --no-evaluation --max-loss none -o d.mcp --quiet")) == 0
    line = "population d.mcp --data digits.npz --chips 12 --images 100 --accept 70% --workers 0 --seed 5"
    assert main(shlex.split(line)) == 0
    printed = capsys.readouterr().out
    assert "95% interval of all chips" in printed
    facts = json.loads(Path("d.population/population.json").read_text())
    assert facts["acceptance"]["chips"] == facts["chips"] == 12
    assert len(Path("d.population/chips.csv").read_text().splitlines()) == 13
    worst, command = next(line.strip().split("  ", 1) for line in printed.splitlines() if "memcompile run" in line)
    assert main(shlex.split(command)[1:]) == 0
    assert f"accuracy {worst} on" in capsys.readouterr().out


def test_a_population_tunes_its_chips(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("digits.onnx --data digits.npz --no-evaluation --max-loss none -o d.mcp --quiet")) == 0
    assert (
        main(
            shlex.split("population d.mcp --data digits.npz --chips 2 --images 60 --tune --tune-images 150 --workers 0")
        )
        == 0
    )
    assert "after tuning" in capsys.readouterr().out
