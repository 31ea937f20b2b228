"""Each device effect against its formula, and both executors against each other under it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from effect_sections import PULSES, SECTIONS, small_program
from numpy.typing import NDArray
from scipy import stats

from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.hardware.closed_loop import Written, write
from memcompile.hardware.conditions import Conditions
from memcompile.hardware.pulses import WriteReport, nominal_pulses
from memcompile.hardware.target import (
    DriftSpec,
    ProgrammingSpec,
    ReadDisturbSpec,
    RelaxationSpec,
    WriteVerifySpec,
    load_target,
)
from memcompile.program.file import save_program
from memcompile.runtime.effects.drift import drifted
from memcompile.runtime.effects.programming_error import with_programming_error
from memcompile.runtime.effects.read_disturb import disturbed
from memcompile.runtime.effects.relaxation import relaxed
from memcompile.runtime.effects.write_verify import cycles_of_array, step_shares
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.transfer import transfer

CELL = factories.make_target().cell
AGED = {"time_s": 100.0, "reads": 2e6}


@pytest.mark.parametrize("name", SECTIONS)
def test_executors_agree_bit_for_bit_without_read_noise(name: str) -> None:
    program, x = small_program(SECTIONS[name])
    effects = Effects(read_noise=False)
    fast = Emulator(program, 3, effects=effects, **AGED).run(x)["y"]
    literal = Emulator(program, 3, effects=effects, executor="literal", **AGED).run(x)["y"]
    assert np.array_equal(fast, literal)
    plain, _ = small_program({})
    assert not np.array_equal(Emulator(plain, 3, effects=effects).run(x)["y"], fast)


@pytest.mark.parametrize("name", SECTIONS)
def test_each_effect_has_a_switch(name: str) -> None:
    program, x = small_program(SECTIONS[name])
    switches = {
        "polynomial": "programming_error",
        "mean polynomial": "programming_error",
        "mean table": "programming_error",
        "proportional": "programming_error",
        "sigma table": "programming_error",
        "retention table": "retention",
        "drift by state": "drift",
        "write_verify": "programming_error",
        "dac": "dac_error",
        "adc": "adc_error",
        "range": "adc",
        "fixed range": "adc",
    }
    switch = switches.get(name, name.replace(" ", "_"))
    base = Effects(**{**vars(Effects.none()), "adc": name == "adc"})
    on = dataclasses.replace(base, **{switch: True})
    assert not np.array_equal(Emulator(program, effects=on, **AGED).run(x)["y"], Emulator.ideal(program).run(x)["y"])
    assert np.array_equal(Emulator(program, effects=base, **AGED).run(x)["y"], Emulator.ideal(program).run(x)["y"])


NOISES: dict[str, dict[str, Any]] = {
    "proportional": {"read_noise": {"sigma_us": 0.3, "proportional_share": 0.2}},
    "proportional and dac": {"read_noise": {"proportional_share": 0.2}, "input": {"dac_sigma_share": 0.2}},
    "state-independent and adc": {
        "read_noise": {"sigma_us": 1.5},
        "adc": {"gain_sigma_share": 0.2, "offset_sigma_codes": 2.0},
    },
    "dead lines": {"read_noise": {"sigma_us": 1.5}, "faults": SECTIONS["dead lines"]["faults"]},
    "step": {"read_noise": {"sigma_us": 1.0, "lasts": "step"}},
}


def _samples(sections: dict[str, Any], executor: str, adc: bool) -> np.ndarray:
    """Outputs of one position for 1,500 copies of an image on the same devices."""
    program, x = small_program(sections, slices=1)
    many = np.repeat(x[:1], 1500, axis=0)
    return Emulator(program, 5, effects=Effects(adc=adc), executor=executor).run(many)["y"][:, 0]


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("adc", [True, False])
def test_read_noise_has_one_distribution_on_both_executors(name: str, adc: bool) -> None:
    """Kolmogorov-Smirnov on 6 outputs: a false alarm in 6 of 10,000 seeds; the seed is fixed."""
    if name == "step":
        assert Emulator(small_program(NOISES[name])[0]).explain()["layer"].startswith("literal: read noise lasts")
        return
    fast, literal = (_samples(NOISES[name], executor, adc) for executor in ("fast", "literal"))
    for output in range(fast.shape[1]):
        assert stats.ks_2samp(fast[:, output], literal[:, output]).pvalue > 1e-4
    assert np.allclose(fast.std(axis=0), literal.std(axis=0), rtol=0.15)


@pytest.mark.parametrize("name", [*NOISES, "range", "fixed range"])
def test_compiled_kernels_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    program, x = small_program({**SECTIONS, **NOISES}[name])
    compiled = Emulator(program, 7).run(x)["y"]
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")
    assert np.array_equal(Emulator(program, 7).run(x)["y"], compiled)


GOALS = np.repeat(np.linspace(2.0, 20.0, 4), 5000).reshape(100, 200)


def test_programming_error_follows_its_formula() -> None:
    """Moments over 5,000 cells at four conductances, 5-sigma limits."""
    spec = ProgrammingSpec(sigma_us=0.3, sigma_proportional_share=0.05)
    assert np.allclose(spec.sigma_at_us(GOALS, CELL.reference_us), np.sqrt(0.09 + 0.0025 * GOALS**2))
    fit = ProgrammingSpec(sigma_us=0.3, sigma_polynomial_us=(0.348, 16.03, -43.853, 45.393, -16.815))
    x = GOALS / 20.0
    want = 0.348 + 16.03 * x - 43.853 * x**2 + 45.393 * x**3 - 16.815 * x**4
    assert np.allclose(fit.sigma_at_us(GOALS, CELL.reference_us), want)
    error = (with_programming_error(GOALS, spec, CELL, 3, 1) - GOALS).reshape(4, -1)
    sigma = np.sqrt(0.09 + 0.0025 * GOALS.reshape(4, -1)[:, 0] ** 2)
    assert (np.abs(error.mean(axis=1)) < 5 * sigma / np.sqrt(5000)).all()
    assert (np.abs(error.std(axis=1) / sigma - 1) < 5 / np.sqrt(10_000)).all()


@pytest.mark.parametrize(
    ("mean", "want"),
    [
        ({"mean_polynomial_us": (-0.5, 2.0, -1.0)}, lambda g: -0.5 + 2 * (g / 20) - (g / 20) ** 2),
        (
            {"mean_table_us": ((4.0, 0.4), (8.0, -0.3), (14.0, -0.9))},
            lambda g: np.interp(g, [4, 8, 14], [0.4, -0.3, -0.9]),
        ),
    ],
)
def test_the_mean_of_the_programming_error_may_depend_on_the_conductance(
    mean: dict[str, Any], want: Callable[[Any], Any]
) -> None:
    """Moments over 5,000 cells at four conductances, 5-sigma limits; a chip that is written has them, too."""
    spec = ProgrammingSpec(sigma_us=0.3, **mean)
    goals = GOALS.reshape(4, -1)[:, 0]
    error = (with_programming_error(GOALS, spec, CELL, 3, 1) - GOALS).reshape(4, -1)
    assert (np.abs(error.mean(axis=1) - want(goals)) < 5 * 0.3 / np.sqrt(5000)).all()
    assert (np.abs(error.std(axis=1) / 0.3 - 1) < 5 / np.sqrt(10_000)).all()
    program, _ = small_program({"programming": {"sigma_us": 0.0, **mean}}, slices=1)
    chip = transfer(program, 3)[0].chip
    assert chip is not None
    pairs = program.cell_map.pairs()
    held, level = chip.conductances_us.reshape(-1)[pairs.plus], np.maximum(pairs.digit.astype(float), 0)
    cell = program.target.cell
    wanted = cell.g_min_us + level * cell.level_step_us
    moved = program.target.programming.mean_at_us(wanted, cell.g_max_us)
    assert np.abs(moved).max() > 0.1
    assert np.allclose(held, np.maximum(wanted + moved, 0.0), atol=1e-5)


def test_relaxation_grows_to_its_final_size_along_one_path() -> None:
    spec = RelaxationSpec(sigma_us=0.2, time_constant_s=10.0)
    first, last = (relaxed(GOALS, spec, CELL, time, 0, 1) - GOALS for time in (10.0, 1e6))
    assert abs(last.std() / 0.2 - 1) < 5 / np.sqrt(2 * GOALS.size)
    assert np.allclose(first, last * np.sqrt(1 - np.exp(-1)), atol=1e-12)
    assert np.array_equal(relaxed(GOALS, spec, CELL, 0.0, 0, 1), GOALS)


def test_relaxation_may_depend_on_the_conductance() -> None:
    """Moments over 5,000 cells at four conductances, 5-sigma limits."""
    spec = RelaxationSpec(sigma_us=9.0, sigma_polynomial_us=(0.1, 0.5, -0.3), time_constant_s=10.0)
    moved = (relaxed(GOALS, spec, CELL, 1e6, 0, 1) - GOALS).reshape(4, -1)
    x = GOALS.reshape(4, -1)[:, 0] / 20.0
    sigma = 0.1 + 0.5 * x - 0.3 * x**2
    assert (np.abs(moved.mean(axis=1)) < 5 * sigma / np.sqrt(5000)).all()
    assert (np.abs(moved.std(axis=1) / sigma - 1) < 5 / np.sqrt(10_000)).all()


def test_neurram_has_the_published_error_after_a_second_and_after_a_day() -> None:
    """Polynomials of x = g / 40 uS from W. Wan et al. (2022), against what programming and relaxation leave."""
    target = load_target("neurram")
    assert target.relaxation is not None
    goals = np.repeat(np.linspace(8.0, 40.0, 5), 20_000).reshape(100, 1000)  # from where no cell ends at zero
    x = goals.reshape(5, -1)[:, 0] / 40.0
    written = with_programming_error(goals, target.programming, target.cell, 0, 1)
    day = relaxed(written, target.relaxation, target.cell, 86_400.0, 0, 1)
    for found, fit in (
        (written, (0.348, 16.03, -43.853, 45.393, -16.815)),
        (day, (0.701, 22.086, -50.773, 47.095, -16.458)),
    ):
        want = np.polynomial.polynomial.polyval(x, fit)
        assert np.allclose((found - goals).reshape(5, -1).std(axis=1), want, rtol=0.03)


def test_drift_follows_its_power_law() -> None:
    spec = DriftSpec(exponent_mean=0.05, exponent_sigma=0.01, reference_s=2.0)
    assert np.array_equal(drifted(GOALS, GOALS, spec, 2.0, 0, 1), GOALS)
    exponent = -np.log(drifted(GOALS, GOALS, spec, 200.0, 0, 1) / GOALS) / np.log(100.0)
    assert abs(exponent.mean() - 0.05) < 5 * 0.01 / np.sqrt(GOALS.size)
    assert abs(exponent.std() / 0.01 - 1) < 5 / np.sqrt(2 * GOALS.size)


def programmed(goals_us: NDArray[np.float64], spec: WriteVerifySpec) -> Written:
    """Cells of array 0 of chip 1, delivered at the lowest level, none of them stuck."""
    shares = step_shares(np.zeros(goals_us.shape, bool), spec, 0, 1)
    return write(np.full(goals_us.shape, CELL.g_min_us), goals_us, shares, spec, CELL, cycles_of_array(0, 1))


def test_write_verify_ends_within_the_margin_or_reports_a_failure() -> None:
    written = programmed(GOALS, PULSES)
    missed = np.abs(written.cells_us - GOALS) > PULSES.margin_us
    assert np.array_equal(missed, written.failed)
    assert written.failed.mean() < 0.001
    assert (written.pulses.reshape(4, -1)[0] == 0).all()  # delivered at g_min
    assert (written.pulses.reshape(4, -1)[3] >= 4).all()
    report = WriteReport.of(written.pulses, written.energy_j)
    assert report.time_s(PULSES, 1) == pytest.approx(written.pulses.sum() * 50e-9)
    assert report.pulses * 1.8**2 * 2e-6 * 50e-9 < report.pulse_energy_j < report.pulses * 2.0**2 * 25e-6 * 50e-9


def test_nominal_pulses_are_those_of_the_emulated_loop_where_pulses_do_not_vary() -> None:
    alike = PULSES.model_copy(update={"cycle_sigma_share": 0.0, "device_sigma_share": 0.0, "set_step_us": 0.9})
    goals = np.random.default_rng(0).uniform(CELL.g_min_us, CELL.g_max_us, (4, 50))
    written = programmed(goals, alike)
    pulses, energy_j = nominal_pulses(np.full(goals.shape, CELL.g_min_us), goals, alike)
    np.testing.assert_array_equal(pulses, written.pulses)
    np.testing.assert_allclose(energy_j, written.energy_j, rtol=1e-12)


def test_nominal_pulses_count_down_too_and_stop_at_the_last() -> None:
    start, goal = np.array([10.0, 10.0, 10.0, 20.0]), np.array([10.4, 9.6, 8.0, 2.0])
    pulses, energy_j = nominal_pulses(start, goal, PULSES.model_copy(update={"max_pulses": 20}))
    assert pulses.tolist() == [0, 0, 3, 20]  # 1.5 uS beyond the margin at 0.7 uS a pulse; 17.5 uS need 25
    assert energy_j[2] == pytest.approx(1.8**2 * (10.0 + 9.3 + 8.6) * 1e-6 * 50e-9)


def test_varying_pulses_take_a_little_more_than_nominal_ones() -> None:
    """Spread of 50 % from pulse to pulse and 30 % from cell to cell: what the nominal count leaves out."""
    pulses, energy_j = nominal_pulses(np.full(GOALS.shape, CELL.g_min_us), GOALS, PULSES)
    written = programmed(GOALS, PULSES)
    assert 1.0 < written.pulses.sum() / pulses.sum() < 1.3
    assert 1.0 < written.energy_j.sum() / energy_j.sum() < 1.3


def test_pulses_that_only_price_writes_leave_the_programming_error_alone() -> None:
    priced = {**PULSES.model_dump(), "emulated": False}
    arrays = [
        Emulator(small_program(sections)[0], 2).machine.devices.array(0)
        for sections in ({"write_verify": priced}, {}, {"write_verify": PULSES.model_dump()})
    ]
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])


def test_emulated_writing_reports_pulses_time_energy_and_failures() -> None:
    spec = {**PULSES.model_dump(), "max_pulses": 12, "verify_ns": 100.0}
    program, _ = small_program({"write_verify": spec}, slices=1)
    report = Emulator(program, 2).writing()
    assert report is not None
    devices, tiles = Emulator(program, 2).machine.devices, program.placement.tiles
    arrays = np.unique(tiles.array)
    goals = [CELL.g_min_us + devices.levels(int(number)) * CELL.level_step_us for number in arrays]
    missed = sum(
        int((np.abs(devices.array(int(number)) * devices.converter.unit_us - goal) > 0.5 + 1e-3).sum())
        for number, goal in zip(arrays, goals, strict=True)
    )
    assert report.writes == 2048 * len(arrays)
    assert report.failures > 50 and abs(report.failures - missed) <= 3  # stuck cells among the first, if any
    assert program.target.write_verify is not None
    want_s = (report.pulses * 50e-9 + (report.writes + report.pulses) * 100e-9) / program.placement.chips
    assert report.time_s(program.target.write_verify, program.placement.chips) == pytest.approx(want_s)
    assert report.pulse_energy_j > 0
    still = Effects(programming_error=False)
    assert Emulator(program, 2, effects=still).writing() is None
    assert Emulator(small_program({})[0], 2).writing() is None


def test_write_verify_gives_up_after_the_last_pulse() -> None:
    spec = PULSES.model_copy(update={"max_pulses": 3})
    written = programmed(GOALS, spec)
    assert written.pulses.max() == 3
    assert written.failed.reshape(4, -1)[3].all()


def test_dead_lines_have_the_stated_share_and_carry_nothing() -> None:
    program, _ = small_program({"faults": {"dead_input_line_share": 0.3, "dead_output_line_share": 0.1}})
    devices = Emulator(program, 2).machine.devices
    arrays = range(len(program.placement.tiles))
    dead_inputs = np.array([(devices.array(number) == 0).all(axis=1).mean() for number in arrays])
    dead_outputs = np.array([(devices.array(number) == 0).all(axis=0).mean() for number in arrays])
    assert abs(dead_inputs.mean() - 0.3) < 5 * np.sqrt(0.21 / (16 * len(arrays)))
    assert abs(dead_outputs.mean() - 0.1) < 5 * np.sqrt(0.09 / (128 * len(arrays)))


def test_offsets_reach_phases_without_a_driven_line() -> None:
    """An offset of +-3 codes gives every line a code even when no line is driven."""
    program, x = small_program({"adc": {"offset_sigma_codes": 3.0}})
    effects = Effects(**{**vars(Effects.none()), "adc": True, "adc_error": True})
    fast, literal = (
        Emulator(program, 1, effects=effects, executor=executor).run(0 * x)["y"] for executor in ("fast", "literal")
    )
    assert np.array_equal(fast, literal)
    assert not np.array_equal(fast, Emulator.ideal(program).run(0 * x)["y"])


@pytest.mark.parametrize(
    ("effects", "path"),
    [
        (Effects.none(), "product: nothing is switched on"),
        (Effects(**{**vars(Effects.none()), "adc": True}), "product: the converters resolve each level"),
        (Effects(adc=False), "linear: no converter"),
        (Effects(read_noise=False), "conversions: a converter per line and phase: table look-ups (programming error"),
        (Effects(), "conversions: a converter per line and phase: table look-ups, one Gaussian number per conversion"),
    ],
)
def test_explain_names_the_path_and_why(effects: Effects, path: str) -> None:
    program, _ = small_program({})
    assert Emulator(program, effects=effects).explain()["layer"].startswith(path)
    assert Emulator(program, effects=effects, executor="literal").explain()["layer"].startswith("literal: asked for")


def test_reads_shift_cells_by_a_number_of_their_own() -> None:
    """Moments over 20,000 cells, 5-sigma limits; what two million reads do is twice what one million do."""
    spec = ReadDisturbSpec(shift_us=0.5, sigma_us=0.2)
    middle = np.full((100, 200), 8.0)
    million, two = (disturbed(middle, spec, CELL, reads, 0, 1) - 8.0 for reads in (1e6, 2e6))
    assert abs(million.mean() - 0.5) < 5 * 0.2 / np.sqrt(million.size)
    assert abs(million.std() / 0.2 - 1) < 5 / np.sqrt(2 * million.size)
    assert np.allclose(two, 2 * million)
    assert np.array_equal(disturbed(middle, spec, CELL, 0.0, 0, 1), middle)
    ends = disturbed(np.array([[0.0, 19.9, 21.0]]), ReadDisturbSpec(shift_us=5.0), CELL, 1e6, 0, 1)
    assert ends.tolist() == [[5.0, 20.0, 21.0]], "no further than the end of the window, and none comes back"


def test_conditions_are_numbers_from_zero() -> None:
    program, _ = small_program({})
    with pytest.raises(UsageError, match="time_s -1 is out of range"):
        Emulator(program, time_s=-1)
    with pytest.raises(UsageError, match="reads inf is out of range"):
        Conditions(reads=float("inf"))
    with pytest.raises(UsageError, match="reads -1 is out of range"):
        Emulator(program, reads=-1)


def test_run_tells_what_emulated_writing_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, _ = small_program({"write_verify": {**PULSES.model_dump(), "max_pulses": 12}})
    save_program(program, tmp_path / "p.mcp")
    assert main(["run", str(tmp_path / "p.mcp"), "--images", "2"]) == 0
    report = Emulator(program).writing()
    assert report is not None
    out = " ".join(capsys.readouterr().out.split())
    assert f"writing: {report.writes:,} cells written with {report.pulses:,} pulses" in out
    assert f"{report.failures:,} cells missed the margin" in out
