"""Cells that hold no weight, of parallel windows: their error is a share of that of written cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from factories import layer_program, make_target, random_layer

from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.transfer import transfer

GEOMETRY = Geometry(2, 3, (3,), (9,))
WINDOW = Unrolling(GEOMETRY, (3,))
NO_FAULTS = {"stuck_low_share": 0.0, "stuck_high_share": 0.0}


def program_of(**programming: Any) -> Program:
    target = make_target(programming=programming, faults=NO_FAULTS)
    layer = random_layer(np.random.default_rng(3), GEOMETRY, target, unrollings=[WINDOW])
    return layer_program(np.random.default_rng(3), layer, target)


def errors_us(program: Program) -> dict[int, np.ndarray]:
    """Errors of the cells of each tile, [rows, output lines], in microsiemens."""
    devices = Emulator(program, seed=2).machine.devices
    exact = Emulator(program, seed=2, effects=Effects(programming_error=False)).machine.devices
    tiles = range(len(program.placement.tiles))
    return {row: devices.converter.unit_us * (devices.cells(row) - exact.cells(row)).astype(float) for row in tiles}


def test_only_blank_cells_are_spared() -> None:
    full, spared = program_of(sigma_us=0.4), program_of(sigma_us=0.4, blank_share=0.25)
    tiles, unit_us = full.placement.tiles, 2 * Emulator(full, seed=2).machine.converter.unit_us * 2.0**-10
    holds = np.repeat(WINDOW.expand(np.ones((1, 6, 3), bool))[0], 2, axis=1)  # rows, lines of pairs
    assert 0 < holds.mean() < 1
    before, after = errors_us(full), errors_us(spared)
    for row in before:
        rows = slice(tiles.row_begin[row], tiles.row_end[row])
        here = holds[rows, 2 * tiles.column_begin[row] : 2 * tiles.column_end[row]]
        assert np.array_equal(after[row][here], before[row][here])
        assert np.allclose(after[row][~here], 0.25 * before[row][~here], atol=unit_us)


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
def test_a_transferred_chip_has_the_same_spread(share: float) -> None:
    program = program_of(sigma_us=0.4, blank_share=share)
    chip = transfer(program, seed=2)[0].chip
    assert chip is not None
    pairs, flat = program.cell_map.pairs(), chip.conductances_us.reshape(-1)
    blank = np.ones(flat.shape, bool)
    blank[np.concatenate([pairs.plus, pairs.minus])] = False
    low_us = program.target.cell.g_min_us
    assert (flat[blank] - low_us).std() == pytest.approx(0.4 * share, rel=0.1, abs=1e-6)
    assert (flat[~blank][program_levels(program, pairs) == 0] - low_us).std() == pytest.approx(0.4, rel=0.35)


def program_levels(program: Program, pairs: Any) -> np.ndarray:
    """Levels aimed at in the cells that hold weights, in the order of their numbers."""
    numbers = np.concatenate([pairs.plus, pairs.minus])
    levels = np.concatenate([np.maximum(pairs.digit, 0), np.maximum(-pairs.digit, 0)])
    return levels[np.argsort(numbers)]


def test_transfer_knows_errors_that_depend_on_the_conductance() -> None:
    """Without a state-independent error a polynomial one is left."""
    program = program_of(sigma_us=0.0, sigma_polynomial_us=[0.0, 2.0])
    chip = transfer(program, seed=2)[0].chip
    assert chip is not None
    pairs = program.cell_map.pairs()
    numbers = np.sort(np.concatenate([pairs.plus, pairs.minus]))
    cell, levels = program.target.cell, program_levels(program, pairs)
    error = chip.conductances_us.reshape(-1)[numbers] - cell.g_min_us - levels * cell.level_step_us
    sigma = 2.0 * (cell.g_min_us + levels * cell.level_step_us) / cell.g_max_us
    assert (error / sigma).std() == pytest.approx(1.0, rel=0.25)
