"""`memcompile tune` and `refresh`: what they print and write."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.accuracy.held_back import StepRecord
from memcompile.cli.main import main
from memcompile.cli.tune import curve_figure
from memcompile.data.loader import load_dataset
from memcompile.hardware.pulses import WriteReport
from memcompile.runtime.training.hybrid_training import EpochRecord
from memcompile.tuning import TuningResult


@pytest.fixture(scope="module")
def compiled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program file that the command line writes."""
    path = tmp_path_factory.mktemp("compiled") / "net.mcp"
    assert main([str(MODEL), "-o", str(path), "--max-loss", "none", "--no-evaluation", "--quiet"]) == 0
    return path


def test_command_line(
    compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    arguments = ["tune", "net.mcp", "--images", "300", "--epochs", "2", "--score-images", "200", "--json", "-"]
    assert main(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["accuracy"]) == {"ideal", "transferred", "tuned"}
    assert facts["training_images"] == 300
    assert [step["images"] for step in facts["steps"]] == [400] * len(facts["steps"])
    assert {"recalibrate", "tune in situ"} <= {step["step"] for step in facts["steps"]}
    assert len(facts["epochs"]) == 2
    took, retuned = facts["transfer"], facts["tuning"]
    assert took["energy_j"] > 0 < took["time_s"]
    assert retuned["cell_writes"] == sum(epoch["writes"] for epoch in facts["epochs"])
    assert retuned["pulses"] == sum(epoch["pulses"] for epoch in facts["epochs"])
    assert took["most_pulses_of_a_cell"] <= retuned["most_pulses_of_a_cell"]
    assert retuned["endurance_share"] == retuned["most_pulses_of_a_cell"] / 1e11
    tuned = memcompile.load(tmp_path / "net.tuned.mcp")
    assert tuned.chip is not None
    assert main(["run", "net.tuned.mcp", "--images", "50"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.mcp", "net.tuned.mcp"]


def test_lines_leave_out_what_the_target_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (resources.files("memcompile.hardware") / "targets" / "yao2020.toml").read_text(encoding="utf-8")
    pulses = text.partition("[write_verify]")[2].partition("[energy]")[0]
    for name, kept in {
        "bare": text.replace(f"[write_verify]{pulses}", ""),
        "everlasting": re.sub(r"(?m)^endurance_pulses = .*$", "", text),
    }.items():
        Path(f"{name}.toml").write_text(kept, encoding="utf-8")
        quick = ["--max-loss", "none", "--effort", "fast", "--no-evaluation", "--quiet"]
        assert main([str(MODEL), "--target", f"{name}.toml", "-o", "net.mcp", *quick]) == 0
        capsys.readouterr()
        assert main(["tune", "net.mcp", "--images", "20", "--epochs", "0", "--score-images", "20"]) == 0
        out = capsys.readouterr().out
        assert "endurance" not in out
        assert ("the target gives no pulses" in out) == (name == "bare")
        assert (re.search(r" [numk]?J\b", out) is not None) == (name == "everlasting")


def test_command_line_with_everything(
    compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    sizes = ["--images", "100", "--score-images", "100", "--json", "-"]
    options = ["--layers", "C3,last", "--digital-scales", "--patience", "2", "--write-again", "0.1"]
    assert main(["tune", "net.mcp", "--epochs", "1", "--write-again-by", "effect", *options, *sizes]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["transfer"]["cell_writes"] > 5500
    assert main(["refresh", "net.tuned.mcp", "--time", "2h", *sizes]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["time_s"] == 7200
    assert set(facts["accuracy"]) == {"fresh", "aged", "refreshed"}
    assert memcompile.load(tmp_path / "net.tuned.refreshed.mcp").chip is not None
    assert main(["refresh", "net.tuned.mcp", "--time", "2h", *sizes[:-2]]) == 0
    assert "7,200 s later" in capsys.readouterr().out
    assert main(["tune", "net.mcp", "--layers", "C9", *sizes]) == 2
    assert "no crossbar layer is called 'C9'" in capsys.readouterr().err


def test_images_held_back_are_not_counted_as_fitted(
    compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    program = memcompile.load("net.mcp")
    digits, (name,) = load_dataset(None, program.inputs), program.inputs
    for file, count in (("d.npz", 25), ("few.npz", 4)):
        np.savez(file, **{name: digits.inputs[name][:count]}, labels=digits.labels[:count])
    for command in ("tune net.mcp --epochs 0", "refresh net.tuned.mcp --time 2h"):
        assert main([*command.split(), "--data", "d.npz", "--test", "few.npz", "--json", "-"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["training_images"] == 20
        assert [step["images"] for step in facts["steps"]] == [5] * len(facts["steps"])
        assert main([*command.split(), "--data", "few.npz", "--test", "d.npz"]) == 0
        assert "undone, not shown to help\n  no images are held back to judge it on" in capsys.readouterr().out


def test_learning_curve(compiled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    shutil.copy(compiled_file, "net.mcp")
    arguments = ["tune", "net.mcp", "--images", "100", "--epochs", "1", "--score-images", "50", "--quiet"]
    assert main([*arguments, "--curve", "curve.png"]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--curve", "none/curve.png"]) == 2


@pytest.mark.parametrize(
    ("kept", "after", "title"),
    [
        (True, 0.9, "tuning kept: 5 images gained and 2 lost of 40 held back"),
        (False, 0.8, "tuning made nothing better on 40 images held back, and was undone"),
        (False, 0.85, "the last epoch was not the best: the cells went back to that"),
        (None, 0.0, "cells were not tuned"),
    ],
)
def test_the_curve_has_lines_to_compare_with(compiled_file: Path, kept: bool | None, after: float, title: str) -> None:
    pytest.importorskip("matplotlib")
    epochs = 0 if kept is None else 3
    records = tuple(EpochRecord(n, 1.0 / (n + 1), 0.7 + n / 10, 0, 0, 0.0, 0, 0.75 + n / 20) for n in range(epochs))
    step = StepRecord("tune in situ", bool(kept), 40, 0.8, after, 5, 2)
    none = WriteReport()
    result = TuningResult(
        memcompile.load(compiled_file), records, none, none, 0, 0, () if kept is None else (step,), none, 100
    )
    figure = curve_figure(result, {"ideal": 0.97, "transferred": 0.78, "tuned": 0.9}, 0.99)
    assert figure.get_suptitle() == title
    figure.canvas.draw()
    loss, shares = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in shares.lines}
    assert lines["ideal devices, test"][0] == pytest.approx(97)
    assert lines["after transfer, test"][0] == pytest.approx(78)
    assert lines["float, as reported"][0] == pytest.approx(99)
    assert ("before tuning, held back" in lines) == (kept is not None)
    assert len(lines["held back"]) == epochs
    assert all(float(tick).is_integer() for axes in (loss, shares) for tick in axes.get_xticks())
