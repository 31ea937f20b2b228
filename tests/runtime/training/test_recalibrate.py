"""Recalibration of lines, of a new chip and of an aged one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.data.loader import Dataset
from memcompile.errors import UsageError
from memcompile.hardware.target import Target, load_target
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.runtime.training.recalibrate import Reference, recalibrate
from memcompile.runtime.training.transfer import transfer
from memcompile.tuning import TuningPlan, refresh, tune


def test_recalibration_keeps_a_perfect_chip(perfect: Program, test_digits: Dataset) -> None:
    chip, _ = transfer(perfect, seed=0)
    fitted = recalibrate(Emulator(chip), test_digits.inputs).program
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
    fitted = recalibrate(Emulator(wrong), test_digits.inputs).program
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


def test_a_calibrated_chip_shares_its_cells(program: Program, test_digits: Dataset) -> None:
    """Same bits as a chip that is written anew, and as it was without the corrections."""
    images = {name: array[:40] for name, array in test_digits.inputs.items()}
    chip = Emulator(program, 5)
    before = chip.run(images)["logits"]
    fitted = recalibrate(chip, images)
    after = fitted.run(images)["logits"]
    assert not np.array_equal(after, before)
    assert np.array_equal(after, Emulator(fitted.program, 5).run(images)["logits"])
    assert np.array_equal(chip.run(images)["logits"], before)
    assert np.array_equal(fitted.calibrated(None).run(images)["logits"], before)
    assert fitted.machine.devices is chip.machine.devices
    with pytest.raises(UsageError, match="calibrated for the chip of seed 5, not for that of seed 6"):
        Emulator(program, 6).calibrated(fitted.program.calibration)


def test_one_reference_serves_all_chips(
    program: Program, test_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept or computed anew, wanted values give the same corrections."""
    images = {name: array[:40] for name, array in test_digits.inputs.items()}
    alone = [recalibrate(Emulator(program, seed), images).program.calibration for seed in (1, 2)]
    for kept_bytes in (0, 200_000, 1 << 30):
        monkeypatch.setattr("memcompile.runtime.training.recalibrate.KEPT_BYTES", kept_bytes)
        reference = Reference(Emulator.ideal(program))
        for seed, wanted in zip((1, 2), alone, strict=True):
            found = recalibrate(Emulator(program, seed), images, reference=reference).program.calibration
            assert found is not None
            assert wanted is not None
            for one, other in zip(found.layers, wanted.layers, strict=True):
                assert np.array_equal(one.gain, other.gain)
                assert np.array_equal(one.offset, other.offset)
