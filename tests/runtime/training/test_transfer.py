"""Transfer: cells as they are written, what writing costs, and what a chip keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import target_without_errors
from numpy.typing import NDArray

from memcompile.data.loader import Dataset
from memcompile.hardware.pulses import WriteReport
from memcompile.hardware.target import Target, load_target
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.runtime.cells.devices import Devices
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.transfer import transfer


@pytest.mark.parametrize("name", ["program", "two_slices"])
def test_wiring_lists_what_the_placed_arrays_hold(name: str, request: pytest.FixtureRequest) -> None:
    program: Program = request.getfixturevalue(name)
    emulator = Emulator.ideal(program)
    devices: Devices = emulator.machine.devices
    arrays = int(program.placement.tiles.array.max()) + 1
    levels = np.stack([devices.levels(number) for number in range(arrays)]).astype(np.int16)
    pairs = program.cell_map.pairs()
    np.testing.assert_array_equal(levels.reshape(-1)[pairs.plus] - levels.reshape(-1)[pairs.minus], pairs.digit)
    assert len(np.unique(np.concatenate([pairs.plus, pairs.minus]))) == 2 * len(pairs.plus)
    copies = sum(
        layer.geometry.weights * replica.unrolling.window_outputs * layer.slices
        for layer in program.layers
        for replica in layer.replicas
    )
    assert len(pairs.plus) == copies


def test_transfer_leaves_the_programming_error(program: Program) -> None:
    chip, writer = transfer(program, seed=3)
    assert chip.chip is not None
    pairs, cell = program.cell_map.pairs(), program.target.cell
    nominal = cell.g_min_us + np.maximum(pairs.digit, 0) * cell.level_step_us
    error = chip.chip.conductances_us.reshape(-1)[pairs.plus] - nominal
    error = error[np.abs(error) < 8 * program.target.programming.sigma_us]  # without the stuck cells
    # 6 standard errors: a false alarm in 10^8 runs, and the seed is fixed anyway.
    spread = program.target.programming.sigma_us
    assert abs(error.mean()) < 6 * spread / np.sqrt(len(error))
    assert abs(error.std() / spread - 1) < 6 / np.sqrt(2 * len(error))
    report = writer.take_report()
    assert report.writes == 2 * len(pairs.plus)
    assert writer.take_report() == WriteReport()


def test_transfer_counts_the_pulses_of_each_cell(program: Program) -> None:
    """Counted again from the levels, on devices without errors: a cell that adds or subtracts starts at g_min."""
    program = replace(program, target=target_without_errors())
    _, writer = transfer(program, seed=3)
    pairs, spec, cell = program.cell_map.pairs(), program.target.write_verify, program.target.cell
    assert spec is not None
    by_level = [
        next(n for n in range(500) if level * cell.level_step_us - n * spec.set_step_us <= spec.margin_us)
        for level in range(cell.levels)
    ]
    assert by_level == [0, 4, 9, 13, 18, 22, 27, 31]
    levels = np.abs(pairs.digit)
    expected = np.array(by_level)[levels]
    report = writer.take_report()
    assert report.pulses == expected.sum()
    held = np.where(pairs.digit > 0, pairs.plus, pairs.minus)
    assert np.array_equal(writer.cell_pulses.reshape(-1)[held], expected)
    assert writer.cell_pulses.sum() == report.pulses
    energy = sum(
        spec.set_voltage_v**2 * (cell.g_min_us + k * spec.set_step_us) * 1e-6 * spec.pulse_ns * 1e-9
        for n in expected.tolist()
        for k in range(n)
    )
    assert report.pulse_energy_j == pytest.approx(energy)
    reads = report.writes + report.pulses
    assert report.time_s(spec, 1) == pytest.approx((report.pulses * 50 + reads * 50) * 1e-9)
    assert report.time_s(spec, 4) == pytest.approx(report.time_s(spec, 1) / 4)
    energy_spec = program.target.energy
    assert energy_spec is not None
    assert report.energy_j(program.target) == pytest.approx(energy + reads * energy_spec.phase_pj(1, 1) * 1e-12)


def test_a_target_without_pulses_prices_no_write(program: Program) -> None:
    target = program.target.model_copy(update={"write_verify": None})
    chip, writer = transfer(replace(program, target=target), seed=3)
    priced, _ = transfer(program, seed=3)
    assert chip.chip is not None
    assert priced.chip is not None
    np.testing.assert_array_equal(chip.chip.conductances_us, priced.chip.conductances_us)
    report = writer.take_report()
    assert report.writes > 0
    assert (report.pulses, report.pulse_energy_j, writer.cell_pulses.max()) == (0, 0.0, 0)
    assert report.energy_j(target.model_copy(update={"energy": None})) is None


def test_transfer_is_decided_by_the_seed(program: Program) -> None:
    first, again, other = (transfer(program, seed)[0] for seed in (1, 1, 2))
    assert encode_program(first) == encode_program(again)
    assert encode_program(first) != encode_program(other)


def test_transfer_without_errors_is_ideal(perfect: Program, test_digits: Dataset) -> None:
    chip, _ = transfer(perfect, seed=0)
    ideal = Emulator.ideal(perfect).run(test_digits.inputs)
    outputs = Emulator(chip).run(test_digits.inputs)
    np.testing.assert_array_equal(outputs["logits"], ideal["logits"])


def test_lower_slice_absorbs_the_error_of_the_upper(two_slices: Program) -> None:
    pairs = two_slices.cell_map.pairs()
    base = two_slices.layers[0].base
    spread = []
    for correct in (False, True):
        _, writer = transfer(two_slices, seed=5, correct_slices=correct)
        held = writer.measure_pairs(pairs.plus, pairs.minus)
        error = held - pairs.digit
        whole = np.zeros(len(pairs.plus))
        upper = np.flatnonzero(pairs.slice == 1)
        lower = np.searchsorted(pairs.plus, pairs.plus[upper] - 2, sorter=np.argsort(pairs.plus))
        lower = np.argsort(pairs.plus)[lower]
        whole = error[lower] + base * error[upper]
        spread.append(np.median(np.abs(whole)))
    assert spread[1] < 0.4 * spread[0]


def test_a_chip_keeps_its_faults_and_drift_whatever_noise_it_is_read_with(
    program: Program, test_digits: Dataset
) -> None:
    """So `run --time` reads the chip that `tune` wrote and `refresh` fits, with any --seed."""
    values = load_target("yao2020").model_dump()
    values["drift"] = {"exponent_mean": 0.1, "exponent_sigma": 0.1, "reference_s": 1.0}
    values["faults"] = {"stuck_low_share": 0.01, "stuck_high_share": 0.01}
    chip, _ = transfer(replace(program, target=Target.model_validate(values)), seed=3)
    assert chip.chip is not None
    images = test_digits.head(20).inputs

    def aged(program: Program, seed: int, *, noise: bool = False) -> NDArray[np.float32]:
        return Emulator(program, seed, effects=Effects(read_noise=noise), time_s=7200.0).run(images)["logits"]

    np.testing.assert_array_equal(aged(chip, 0), aged(chip, 3))
    assert (aged(chip, 0, noise=True) != aged(chip, 3, noise=True)).any()
    other = replace(chip, chip=replace(chip.chip, seed=4))
    assert (aged(other, 3) != aged(chip, 3)).any()
