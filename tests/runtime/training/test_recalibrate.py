"""Recalibration of lines, of a new chip and of an aged one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.data.loader import Dataset
from memcompile.hardware.target import Target, load_target
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.runtime.training.recalibrate import recalibrate
from memcompile.runtime.training.transfer import transfer
from memcompile.tuning import TuningPlan, refresh, tune


def test_recalibration_keeps_a_perfect_chip(perfect: Program, test_digits: Dataset) -> None:
    chip, _ = transfer(perfect, seed=0)
    fitted = recalibrate(chip, test_digits.inputs)
    assert fitted.calibration is not None
    for corrections in fitted.calibration.layers:
        np.testing.assert_allclose(corrections.gain, 1, rtol=1e-5)
        np.testing.assert_allclose(corrections.offset, 0, atol=1e-4)


def test_recalibration_undoes_a_wrong_scale(perfect: Program, test_digits: Dataset) -> None:
    """A chip whose first layer reads 20 % high and shifted gets its outputs back."""
    chip, _ = transfer(perfect, seed=0)
    ideal = Emulator.ideal(perfect).run(test_digits.inputs)
    assert chip.chip is not None
    cells = chip.chip.conductances_us.copy()
    # Levels above g_min grow by a tenth everywhere: every weight does, and so every channel's scale.
    cells = 2.0 + (cells - 2.0) * np.float32(1.1)
    wrong = replace(chip, chip=replace(chip.chip, conductances_us=cells))
    fitted = recalibrate(wrong, test_digits.inputs)
    error = [
        np.abs(Emulator(p, effects=Effects(adc=False)).run(test_digits.inputs)["logits"] - ideal["logits"]).mean()
        for p in (wrong, fitted)
    ]
    assert error[1] < 0.1 * error[0]


def test_refresh_wins_back_what_drift_took(test_digits: Dataset, digits: Dataset) -> None:
    values = load_target("yao2020").model_dump()
    values["drift"] = {"exponent_mean": 0.1, "exponent_sigma": 0.01, "reference_s": 1.0}
    program = memcompile.compile(MODEL, Target.model_validate(values), max_loss=None)
    some = digits.head(200)
    tuned = tune(program, some.inputs, some.labels, TuningPlan(200, options=TuningOptions(epochs=0), seed=3)).program
    refreshed, steps = refresh(tuned, some.inputs, 7200.0)
    assert [step.step for step in steps] == ["refresh"]
    assert steps[-1].kept
    assert tuned.chip is not None
    assert refreshed.chip is not None
    np.testing.assert_array_equal(refreshed.chip.conductances_us, tuned.chip.conductances_us)
    fresh = Emulator(tuned, 3).run(test_digits.inputs)["logits"]
    error = [
        np.abs(Emulator(chip, 3, time_s=7200.0).run(test_digits.inputs, first_image=900)["logits"] - fresh).mean()
        for chip in (tuned, refreshed)
    ]
    assert error[1] < 0.4 * error[0]
