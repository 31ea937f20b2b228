"""Voltage drop along lines against a direct solution of Kirchhoff's equations, and against ngspice."""

from __future__ import annotations

import shutil
from pathlib import Path

import factories
import numpy as np
import pytest
from circuits import ngspice_currents, nodal_solution_us, resistors

from memcompile.hardware.converter import Converter
from memcompile.ir.geometry import Geometry
from memcompile.runtime.effects.wires import effective_conductances_us
from memcompile.runtime.emulator import Effects, Emulator

SHAPES = [(16, 128), (128, 16), (64, 64), (5, 1), (1, 5), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("segments_ohm", "leads"), [((3.0, 0.2), (4, 7)), ((200.0, 90.0), (1, 3))])
def test_effective_conductances_solve_kirchhoffs_equations(
    shape: tuple[int, int], segments_ohm: tuple[float, float], leads: tuple[int, int]
) -> None:
    cells = np.random.default_rng(1).uniform(2, 20, shape)
    want = nodal_solution_us(cells, segments_ohm, leads)
    assert np.allclose(effective_conductances_us(cells, *segments_ohm, *leads), want, rtol=1e-10, atol=0)


def test_resistance_of_one_direction_only() -> None:
    cells = np.random.default_rng(2).uniform(2, 20, (12, 9))
    assert np.array_equal(effective_conductances_us(cells, 0.0, 0.0), cells)
    tiny = 1e-9
    for segments_ohm in ((0.0, 5.0), (5.0, 0.0)):
        want = nodal_solution_us(cells, (max(segments_ohm[0], tiny), max(segments_ohm[1], tiny)), (2, 3))
        assert np.allclose(effective_conductances_us(cells, *segments_ohm, 2, 3), want, rtol=1e-9, atol=0)


def test_open_cells_are_allowed() -> None:
    cells = np.random.default_rng(3).uniform(2, 20, (6, 8))
    cells[2], cells[:, 5] = 0.0, 0.0
    seen = effective_conductances_us(cells, 2.0, 3.0)
    assert np.allclose(seen[2], 0, atol=1e-12) and np.allclose(seen[:, 5], 0, atol=1e-12)
    assert (seen[cells > 0] > 0).all()


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
@pytest.mark.parametrize(
    ("shape", "segments_ohm"),
    [
        ((16, 128), (1.0, 1.0)),
        ((16, 128), (0.3, 4.0)),
        ((128, 16), (20.0, 4.0)),
        ((128, 16), (0.5, 0.5)),
        ((48, 48), (2.0, 1.0)),
        ((48, 48), (10.0, 30.0)),
    ],
)
def test_output_currents_match_ngspice(
    shape: tuple[int, int], segments_ohm: tuple[float, float], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    cells, volts = rng.uniform(2, 20, shape), 0.2 * rng.integers(0, 2, shape[0])
    elements = [f"R{k} {a} {b} {ohm:.12g}" for k, (a, b, ohm) in enumerate(resistors(cells, segments_ohm, (1, 1)))]
    currents = ngspice_currents(elements, volts, shape[1], tmp_path)
    want = volts @ effective_conductances_us(cells, *segments_ohm) * 1e-6
    assert np.allclose(currents, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("pairs", ["output_lines", "crossings"])
def test_a_tile_sees_the_wires_between_itself_and_the_ends_of_its_lines(pairs: str) -> None:
    """Both cells of a crossing are on input wires of their own, driven with opposite voltages."""
    rng = np.random.default_rng(5)
    wires = {"input_segment_ohm": 20.0, "output_segment_ohm": 30.0}
    target = factories.make_target(wires=wires, array={"pairs": pairs})
    each = target.array.cells_per_crossing
    layer = factories.random_layer(rng, Geometry(6, 4, (1,), (1,), layout="channels_last"), target)
    program = factories.layer_program(rng, layer, target)
    only = Effects(**{**vars(Effects.none()), "wires": True})
    devices = Emulator(program, effects=only).machine.devices
    unit_us = Converter.exact(target).unit_us
    table = program.placement.tiles
    for row in range(len(table)):
        cells = target.cell.g_min_us + devices.levels(int(table.array[row])) * target.cell.level_step_us
        here = np.zeros_like(cells) + 1e-12  # switched off by their transistors
        rows, columns = devices.cells(row).shape
        top, left = int(table.input_line[row]), each * int(table.output_line[row])
        block = (slice(top, top + rows), slice(left, left + columns))
        here[block] = cells[block]
        if each == 1:
            want = nodal_solution_us(here, (20.0, 30.0), (1, 1))[block]
        else:
            by_wire = np.stack([here[:, 0::2], here[:, 1::2]], axis=1).reshape(2 * len(here), -1)
            solved = nodal_solution_us(by_wire, (20.0, 30.0), (1, 1))
            want = (solved[0::2] - solved[1::2])[block[0], left // 2 : (left + columns) // 2]
        assert np.allclose(devices.tile(row) * unit_us, want, rtol=1e-4, atol=1e-4)
