"""Device effects two by two: the same bits on both executors, and one distribution of read noise."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import factories
import numpy as np
import pytest
from scipy import stats

from memcompile.hardware.target import CellSpec, DriftSpec, ProgrammingSpec, RelaxationSpec
from memcompile.ir.geometry import Geometry
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator

AGED = {"time_s": 100.0, "reads": 2e6}
PULSES = {
    "set_step_us": 0.8,
    "reset_step_us": 0.7,
    "cycle_sigma_share": 0.5,
    "device_sigma_share": 0.3,
    "margin_us": 0.5,
    "max_pulses": 200,
    "pulse_ns": 50.0,
    "set_voltage_v": 2.0,
    "reset_voltage_v": 1.8,
    "emulated": True,
}
STATIC: dict[str, dict[str, Any]] = {
    "programming error": {"programming": {"sigma_us": 1.0}},
    "polynomial error": {"programming": {"sigma_polynomial_us": [0.348, 16.03, -43.853, 45.393, -16.815]}},
    "pulses": {"write_verify": PULSES},
    "stuck cells": {"faults": {"stuck_low_share": 0.1, "stuck_high_share": 0.1}},
    "dead lines": {"faults": {"dead_input_line_share": 0.2, "dead_output_line_share": 0.2}},
    "relaxation": {"relaxation": {"sigma_us": 0.7, "time_constant_s": 10.0}},
    "drift": {"drift": {"exponent_mean": 0.05, "exponent_sigma": 0.02, "reference_s": 1.0}},
    "retention": {"retention": {"reference_s": 1.0, "mean_per_ln_us": -0.1, "sigma_us": 0.5}},
    "flicker noise": {"flicker_noise": {"share_table": [[20.0, 0.05]], "read_s": 250e-9, "first_read_s": 20.0}},
    "read disturb": {"read_disturb": {"shift_us": 0.4, "sigma_us": 0.3}},
    "dac error": {"input": {"dac_sigma_share": 0.1}},
    "adc error": {"adc": {"gain_sigma_share": 0.05, "offset_sigma_codes": 1.0}},
    "short range": {"adc": {"range": "fixed", "range_share": 0.08}},
    "wires": {"wires": {"input_segment_ohm": 20.0, "output_segment_ohm": 10.0}},
    "pairs on crossings": {"array": {"pairs": "crossings"}},
    "several bits": {"input": {"bits": 4, "bits_per_phase": 2}},
    "nonlinear cells": {"cell": {"nonlinearity_per_v": 12.0}, "input": {"bits": 4, "bits_per_phase": 2}},
}
"""Each effect by itself, on a chip without programming error, stuck cells and read noise."""
NOISES: dict[str, dict[str, Any]] = {
    "state-independent": {"read_noise": {"sigma_us": 1.5}},
    "proportional": {"read_noise": {"sigma_us": 0.2, "proportional_share": 0.2}},
    "whole step": {"read_noise": {"sigma_us": 1.5, "lasts": "step"}},
}
CLEAN: dict[str, dict[str, Any]] = {
    "programming": {"sigma_us": 0.0},
    "faults": {"stuck_low_share": 0.0, "stuck_high_share": 0.0},
    "read_noise": {"sigma_us": 0.0},
    "drift": {"exponent_mean": 0.0, "exponent_sigma": 0.0, "reference_s": 1.0},
    "array": {"output_lines": 32},
}


@cache
def program_with(*names: str) -> tuple[Program, np.ndarray]:
    """A layer of 24 inputs and 3 outputs on a chip with these effects, and four images."""
    sections: dict[str, dict[str, Any]] = {}
    for part in (CLEAN, *({**STATIC, **NOISES}[name] for name in names)):
        for section, values in part.items():
            sections[section] = {**sections.get(section, {}), **values}
    rng = np.random.default_rng(1)
    target = factories.make_target(**sections)
    layer = factories.random_layer(rng, Geometry(24, 3, (1,), (1,), layout="channels_last"), target)
    x = rng.integers(0, 1 << target.input.bits, (4, 1, 24)).astype(np.float32)
    return factories.layer_program(rng, layer, target), x


@cache
def run(names: tuple[str, ...], executor: str, images: int = 0, seed: int = 5, **switches: bool) -> np.ndarray:
    """Outputs of the four images, or of so many copies of the first."""
    program, x = program_with(*names)
    inputs = np.repeat(x[:1], images, axis=0) if images else x
    effects = Effects(**switches)
    return Emulator(program, seed, effects=effects, executor=executor, **AGED).run(inputs)["y"][:, 0]  # type: ignore[arg-type]


PAIRS = list(itertools.combinations(STATIC, 2))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_effects_leave_the_same_bits_on_both_executors(pair: tuple[str, str]) -> None:
    """Devices are the same, so that any difference is a wrong order of effects, or one left out."""
    assert np.array_equal(run(pair, "fast"), run(pair, "literal"))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_neither_of_two_effects_hides_the_other(pair: tuple[str, str]) -> None:
    """Four programmes, with each subset of the pair, give four results; those that change no current may not."""
    kinds = {tuple(run(names, "fast").ravel().tolist()) for names in ((), pair[:1], pair[1:], pair)}
    same_currents = {"several bits", "nonlinear cells", "pairs on crossings"}
    replaced = {"programming error", "polynomial error", "pulses"}  # one takes the place of the other
    fewer = len(set(pair) & same_currents) + (len(set(pair) & replaced) == 2)
    assert len(kinds) >= 4 - fewer


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("effect", STATIC)
def test_read_noise_with_another_effect_has_one_distribution(effect: str, noise: str) -> None:
    """Fast against literal, 400 reads of 3 outputs: Kolmogorov-Smirnov, mean and standard deviation.

    153 tests each at a level of 1e-5 (5 sigma for the moments of a Gaussian): with another seed
    this file would raise a false alarm in about 3 of 1,000 cases. The seed is fixed.
    """
    fast, literal = (run((effect, noise), executor, 400) for executor in ("fast", "literal"))
    for output in range(fast.shape[1]):
        a, b = fast[:, output], literal[:, output]
        if a.std() == b.std() == 0:
            assert effect == "dead lines" and a[0] == b[0]
            continue
        assert stats.ks_2samp(a, b).pvalue > 1e-5
        spread = np.sqrt((a.var() + b.var()) / len(a))
        assert abs(a.mean() - b.mean()) < 5 * spread
        assert abs(np.log(a.std() / b.std())) < 5 / np.sqrt(len(a))


@pytest.mark.parametrize("effect", ["programming error", "drift", "wires", "nonlinear cells"])
def test_read_noise_without_converters_has_one_distribution(effect: str) -> None:
    """As above without converters: 24 tests at 1e-5."""
    for noise in ("state-independent", "proportional"):
        fast, literal = (run((effect, noise), executor, 400, adc=False) for executor in ("fast", "literal"))
        for output in range(fast.shape[1]):
            assert stats.ks_2samp(fast[:, output], literal[:, output]).pvalue > 1e-5


def many_cells(*names: str) -> tuple[np.ndarray, np.ndarray, CellSpec]:
    """Conductances of all cells of 40 chips, and the levels they are programmed to; in microsiemens."""
    program, _ = program_with(*names)
    found, levels = [], []
    for seed in range(40):
        devices = Emulator(program, seed, effects=Effects(adc=False), **AGED).machine.devices
        for number in np.unique(program.placement.tiles.array).tolist():
            found.append(devices.array(number) * devices.converter.unit_us)
            levels.append(devices.levels(number))
    cell = program.target.cell
    goals = cell.g_min_us + np.stack(levels).astype(float) * cell.level_step_us
    return np.stack(found), goals, cell


def test_variances_of_independent_effects_add_up() -> None:
    """Programming error of 1.0 uS and relaxation to 0.7 uS at cells far from zero; 5-sigma limits."""
    found, goals, _ = many_cells("programming error", "relaxation")
    error = (found - goals)[goals > 8]
    want = np.sqrt(1.0 + 0.49 * -np.expm1(-10.0))
    assert abs(error.mean()) < 5 * want / np.sqrt(error.size)
    assert abs(error.std() / want - 1) < 5 / np.sqrt(2 * error.size)


def test_stuck_cells_neither_err_nor_relax_nor_drift() -> None:
    found, goals, cell = many_cells("stuck cells", "programming error")
    aged, _, _ = many_cells("stuck cells", "drift")
    for values in (found, aged):
        off_goal = np.abs(values - goals) > 1e-3
        stuck_high = (np.abs(values - cell.g_max_us) < 1e-3) & (goals < cell.g_max_us)
        assert abs(stuck_high.mean() / (goals < cell.g_max_us).mean() - 0.1) < 5 * np.sqrt(0.09 / goals.size)
        assert off_goal.mean() > 0.5


def test_stuck_cells_have_the_stated_shares() -> None:
    found, goals, cell = many_cells("stuck cells", "short range")
    for where, stuck_us in ((goals > cell.g_min_us, cell.g_min_us), (goals < cell.g_max_us, cell.g_max_us)):
        share = (np.abs(found[where] - stuck_us) < 1e-3).mean()
        assert abs(share - 0.1) < 5 * np.sqrt(0.09 / where.sum())


def test_converter_and_driver_errors_have_the_stated_moments() -> None:
    """5-sigma limits over the lines of 400 chips."""
    program, _ = program_with("dac error", "adc error")
    drawn: dict[str, list[np.ndarray]] = {"voltages": [], "gains": [], "offsets": []}
    for seed in range(400):
        devices = Emulator(program, seed).machine.devices
        for name, values in drawn.items():
            values.append(getattr(devices, name)(0))
    for name, mean, sigma in (("voltages", 1.0, 0.1), ("gains", 1.0, 0.05), ("offsets", 0.0, 1.0)):
        values = np.concatenate(drawn[name])
        assert abs(values.mean() - mean) < 5 * sigma / np.sqrt(values.size)
        assert abs(values.std() / sigma - 1) < 5 / np.sqrt(2 * values.size)


def test_no_two_effects_share_their_random_numbers() -> None:
    """Errors of the same cells on the same chip by different effects are not correlated; 5-sigma limits."""
    errors = []
    for name in ("programming error", "relaxation", "drift"):
        found, goals, _ = many_cells(name)
        errors.append((found - goals)[goals > 8])
    for a, b in itertools.combinations(errors, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_specs_are_those_of_the_formulas() -> None:
    """The sizes used above are what the target files call them."""
    program, _ = program_with("relaxation", "programming error")
    target = program.target
    assert target.programming == ProgrammingSpec(sigma_us=1.0, error_stays=True)
    assert target.relaxation == RelaxationSpec(sigma_us=0.7, time_constant_s=10.0)
    assert target.drift == DriftSpec(exponent_mean=0.0, exponent_sigma=0.0, reference_s=1.0)
