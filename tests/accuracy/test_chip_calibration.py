"""Calibration of chips without labels: it helps or is left out, and all commands give the same chip."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import onnxruntime
import pytest
from four_patterns import FourPatterns
from numpy.typing import NDArray
from places import FIVE_LAYER_CNN as MODEL
from rich.console import Console

import memcompile
from memcompile.accuracy import chip_calibration
from memcompile.accuracy.chip_calibration import Calibrator, obstacle
from memcompile.cli.main import main
from memcompile.data.digits import digits28
from memcompile.errors import UsageError
from memcompile.hardware.target import load_target
from memcompile.ir.batching import Batching
from memcompile.pipelines import Compilation
from memcompile.program.program import ChipState, Program
from memcompile.report.evaluation import evaluate
from memcompile.report.facts import Facts, program_facts
from memcompile.report.terminal_report import Form, quality_report
from memcompile.runtime.emulator import Effects, Emulator

PATTERNS = FourPatterns.drawn(84, 400)
IMAGES = PATTERNS.images


@pytest.fixture(scope="module")
def compilation(tmp_path_factory: pytest.TempPathFactory) -> Compilation:
    """On converters with large errors."""
    target = factories.make_target(adc={"gain_sigma_share": 0.15, "offset_sigma_codes": 3.0})
    return PATTERNS.compiled(tmp_path_factory.mktemp("calibration"), target, labelled=True)


def shown(facts: Facts) -> str:
    """Text of the report."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(quality_report(facts, Form()))
    return console.export_text()


def test_calibrated_chips_are_better_on_images_that_nothing_was_fitted_to(compilation: Compilation) -> None:
    calibrator = Calibrator(compilation.program, {"x": IMAGES[:200]})
    assert calibrator.images == 150
    wanted = Emulator.ideal(compilation.program).run(IMAGES[200:])["y"]
    errors = []
    for seed in range(4):
        found = calibrator.chip(seed)
        assert found.step.kept
        chips = (Emulator(program, seed) for program in (compilation.program, found.program))
        errors.append([np.square(chip.run(IMAGES[200:])["y"] - wanted).mean() for chip in chips])
    plain, calibrated = np.mean(errors, axis=0)
    assert calibrated < 0.8 * plain


def test_a_chip_that_gains_nothing_keeps_its_transfer(compilation: Compilation) -> None:
    perfect = replace(compilation.program, target=factories.target_without_errors())
    found = Calibrator(perfect, {"x": IMAGES}).chip(0)
    assert not found.step.kept
    assert found.program is perfect


def test_evaluation_has_both_rows(compilation: Compilation) -> None:
    args = (compilation.program, compilation.model, compilation.dataset)
    evaluation = evaluate(*args, seeds=4, budget=False)
    both, plain = evaluation.accuracy, evaluate(*args, seeds=4, calibrate=False, budget=False).accuracy
    assert both is not None
    assert plain is not None
    np.testing.assert_array_equal(both.transferred, plain.emulated)
    np.testing.assert_array_equal(plain.transferred, plain.emulated)
    assert both.emulated_mean > both.transferred.mean()
    assert (both.calibration.images, both.calibration.chips, both.calibration.obstacle) == (300, 4, "")
    assert plain.calibration.obstacle == "it was not asked for"
    facts = program_facts(compilation.program, evaluation)
    accuracy = facts["accuracy"]
    assert accuracy["emulated"] == both.emulated.tolist()
    assert accuracy["emulated_worst"] == both.emulated.min()
    assert accuracy["transferred_mean"] == pytest.approx(both.transferred.mean())
    assert "transferred to 4 chips" in shown(facts)
    assert "calibrated, without labels" in shown(facts)


def test_chips_are_compared_without_labels(compilation: Compilation) -> None:
    unlabelled = replace(compilation.dataset, labels=None)
    quality = evaluate(compilation.program, compilation.model, unlabelled, seeds=3).quality
    assert quality is not None
    assert quality.chip_outputs["y"].mean() > quality.transferred_outputs["y"].mean()
    assert quality.agreement["y"] > 0.9
    assert quality.chip_agreement["y"].shape == (3,)
    found = evaluate(compilation.program, compilation.model, unlabelled)
    text = shown(program_facts(compilation.program, found))
    assert "class of onnxruntime:" in text


def changed(program: Program, how: str) -> Program:
    """The program with one obstacle to calibration."""
    if how == "no layer":
        return replace(program, stages=())
    if how == "continuous":
        return replace(program, target=load_target("ideal"))
    if how == "transferred":
        return replace(program, chip=ChipState(np.zeros((1, 16, 128), np.float32), 0))
    if how == "segments":
        return factories.in_segments(program, [1], 4)
    assert how == "axes"
    return replace(program, layout=Batching({"x": 1}))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("no layer", "nothing of the program has errors"),
        ("continuous", "nothing of the program has errors"),
        ("transferred", "calibrated when it was tuned"),
        ("segments", "written anew for each batch"),
        ("axes", "do not lie along axis 0"),
    ],
)
def test_obstacles(compilation: Compilation, how: str, why: str) -> None:
    assert why in obstacle(changed(compilation.program, how), 400, generated=False)


def test_obstacles_of_data(compilation: Compilation, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compilation.program
    assert obstacle(program, 400, generated=False) == ""
    assert "there are no data" in obstacle(program, 400, generated=True)
    assert "that takes 8 images" in obstacle(program, 7, generated=False)
    monkeypatch.setattr(chip_calibration, "CONVERSIONS", 5 * program.conversions_per_image)
    assert "that takes 8 images" in obstacle(program, 400, generated=False)
    with pytest.raises(UsageError, match="chips of this program cannot be calibrated: that takes 8 images"):
        memcompile.calibrate(program, {"x": IMAGES})


def test_all_commands_have_the_same_chip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--max-loss", "none", "--effort", "fast"]
    compile_it = [str(MODEL), "-o", "n.mcp", *quick, "--seeds", "2", "--json", "n.json"]
    assert main(compile_it) == 0
    accuracy = json.loads(Path("n.json").read_text())["accuracy"]
    capsys.readouterr()
    assert main(["run", "n.mcp", "--seed", "1"]) == 0
    assert f"accuracy {accuracy['emulated'][1]:.2%}" in capsys.readouterr().out
    assert main(["run", "n.mcp", "--seed", "1", "--no-calibration"]) == 0
    assert f"accuracy {accuracy['transferred'][1]:.2%}" in capsys.readouterr().out
    program = memcompile.load("n.mcp")
    calibrated = memcompile.calibrate(program, seed=1)
    assert calibrated.calibration is not None
    for options, wanted in (([], calibrated), (["--no-calibration"], program)):
        assert main(["export", "n.mcp", "--onnx", "n.onnx", "--seed", "1", *options]) == 0
        x = digits28()[0][:20, None].astype(np.float32) / 255
        still = Emulator(wanted, 1, effects=Effects(read_noise=False))
        got = onnx_outputs(Path("n.onnx"), x)
        np.testing.assert_array_equal(got, still.run(x)["logits"])


def onnx_outputs(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of an exported chip in onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]
