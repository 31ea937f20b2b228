"""Cells of arrays whose worst pairs were written again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from factories import layer_program, make_target, random_layer
from numpy.typing import NDArray

from memcompile.hardware.pair_corrections import MOST_CORRECTIONS, limit_sigmas
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator

GEOMETRY = Geometry(6, 5, (3,), (24,))
NO_FAULTS = {"stuck_low_share": 0.0, "stuck_high_share": 0.0}
CHIPS = 8


def target_of(share: float, faults: dict[str, float] | None = None, **programming: Any) -> Target:
    sizes = {"sigma_us": 0.6, "error_stays": True, "write_again_share": share, **programming}
    return make_target(programming=sizes, faults=faults or NO_FAULTS)


def program_of(target: Target, slices: int = 1, window: int = 1) -> Program:
    rng = np.random.default_rng(3)
    layer = random_layer(rng, GEOMETRY, target, slices=slices, unrollings=[Unrolling(GEOMETRY, (window,))])
    return layer_program(rng, layer, target)


def weight_errors(program: Program, seed: int, **given: Any) -> NDArray[np.float64]:
    """Errors of all weights of a chip in levels of the lowest slice, structural zeros not included."""
    pairs = program.cell_map.pairs()
    base = float(program.layers[0].base)
    devices = Emulator(program, seed, **given).machine.devices
    units = np.concatenate([devices.array(number).ravel() for number in range(program.cell_map.arrays)])
    cells_us = units.astype(np.float64) * devices.converter.unit_us
    held = (cells_us[pairs.plus] - cells_us[pairs.minus]) / program.target.cell.level_step_us - pairs.digit
    first = pairs.plus - 2 * pairs.slice.astype(np.int64)
    _, weight = np.unique(first, return_inverse=True)
    return np.bincount(weight, held * base**pairs.slice)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_errors_end_below_the_limit(share: float, slices: int) -> None:
    program = program_of(target_of(share), slices)
    sigma = 0.6 / program.target.cell.level_step_us
    errors = np.abs([weight_errors(program, seed) for seed in range(CHIPS)])
    limit = limit_sigmas(share)
    wrong = math.erfc(limit / 2) * math.erfc(limit / math.sqrt(2)) ** MOST_CORRECTIONS
    assert (errors > limit * sigma + 0.01).mean() < 2 * wrong + 0.003
    plain = program_of(target_of(0.0), slices)
    assert np.square(errors).mean() < 0.5 * np.square([weight_errors(plain, seed) for seed in range(CHIPS)]).mean()


def test_structural_zeros_are_corrected_too() -> None:
    def spread(share: float) -> float:
        program = program_of(target_of(share), window=4)
        pairs = program.cell_map.pairs(blanks=True)
        assert len(pairs.plus) > 100
        devices = Emulator(program, 1).machine.devices
        units = np.concatenate([devices.array(number).ravel() for number in range(program.cell_map.arrays)])
        return float(np.square(units[pairs.plus].astype(float) - units[pairs.minus]).mean())

    assert spread(1.0) < 0.15 * spread(0.0)


@pytest.mark.parametrize("slices", [1, 2])
def test_the_other_cell_makes_up_for_a_stuck_one(slices: int) -> None:
    """Errors of writing switched off: only what the other cell does not reach is left."""
    faults = {"stuck_low_share": 0.0, "stuck_high_share": 0.04}
    effects = Effects(programming_error=False)
    program = program_of(target_of(1.0, faults), slices)
    plain = replace(program, target=target_of(0.0, faults))
    left, before = (
        np.square([weight_errors(one, seed, effects=effects) for seed in range(CHIPS)]).mean()
        for one in (program, plain)
    )
    assert 0 < left < 0.3 * before


def test_executors_agree() -> None:
    faults = {"stuck_low_share": 0.01, "stuck_high_share": 0.01}
    target = target_of(1.0, faults).with_(read_noise__sigma_us=0.0)
    program = program_of(target, 2, 4)
    x = np.random.default_rng(0).normal(size=(5, 6, 24)).astype(np.float32)
    name = next(iter(program.inputs))
    fast, literal = (Emulator(program, 4, executor=way).run({name: x}) for way in ("fast", "literal"))
    for output, values in fast.items():
        np.testing.assert_array_equal(values, literal[output])


def test_numbers_belong_to_a_write() -> None:
    """Another chip and another write have other errors; the same ones have the same."""
    program = program_of(target_of(1.0))
    first, again, other, anew = (
        weight_errors(program, seed, writes=writes) for seed, writes in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - anew).max() > 0.01
