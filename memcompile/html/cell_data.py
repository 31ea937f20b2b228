"""Cells as data for the floor plan: level, weight and conductance of each, of as many arrays as a page holds.

Arrays that hold the same weights are listed once where there are too many for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.html.mapping_data import ArrayKinds
from memcompile.program.program import Program
from memcompile.runtime.effects.stuck_cells import stick
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.kernels.compiled import only_loaded_kernels

MOST_CELLS = 600_000
"""Cells that a page lists, about two bytes each when compressed."""
BLANK, UNUSED = -1, -2
"""Numbers of weights for structural zeros of parallel windows, and for cells that no tile takes."""
SHARES = 250
"""Steps in which the share of a continuous cell is written."""
CONDUCTANCE_STEPS = 65_535


@dataclass(frozen=True, eq=False)
class CellData:
    """Cells of some arrays: what scripts need to know of them, and their bytes.

    The bytes are int32 weights, uint16 programmed conductances and uint8 levels, each [arrays, input lines, columns of
    cells].
    """

    facts: dict[str, Any]
    content: bytes


def cell_data(program: Program, kinds: ArrayKinds, seed: int) -> CellData | None:
    """Cells of all arrays, or of the first of each kind while they last; None where not even one array fits.

    Parameters
    ----------
    seed
        Chip whose programmed conductances and stuck cells are shown; that of a transferred program is its own.
    """
    chosen = _chosen(program, kinds)
    if not chosen:
        return None
    seed = seed if program.chip is None else program.chip.seed
    # Where nothing was emulated, the page would spend most of its time on loading kernels.
    with only_loaded_kernels():
        return _cells(program, kinds, seed, chosen)


def _cells(program: Program, kinds: ArrayKinds, seed: int, chosen: list[int]) -> CellData:
    cell, continuous = program.target.cell, program.target.cell.continuous
    devices = Emulator(program, seed).machine.devices
    places = [divmod(place, program.cell_map.arrays) for place in chosen]
    levels = np.stack([devices.levels(array, segment) for segment, array in places])
    conductances_us = np.stack(
        [devices.array(array, segment).astype(np.float64) * devices.converter.unit_us for segment, array in places]
    )
    most_us = float(conductances_us.max(initial=cell.g_max_us))
    step_us = most_us / CONDUCTANCE_STEPS
    weights = _weights(program, chosen)
    facts = {
        "places": chosen,
        "all": len(chosen) == int((kinds.kind >= 0).sum()),
        "seed": seed,
        "continuous": continuous,
        "level_step": 1 / SHARES if continuous else 1,
        "g_min_us": cell.g_min_us,
        "level_step_us": cell.level_step_us,
        "highest": SHARES if continuous else program.target.signed_levels,
        "conductance_step_us": step_us,
        "stuck": _stuck(program, places, seed) if devices.effects.stuck_cells else [],
    }
    shown = np.rint(levels * SHARES) if continuous else levels
    content = (
        weights.astype("<i4").tobytes(),
        np.rint(np.clip(conductances_us / step_us, 0, CONDUCTANCE_STEPS)).astype("<u2").tobytes(),
        shown.astype(np.uint8).tobytes(),
    )
    return CellData(facts, b"".join(content))


def _chosen(program: Program, kinds: ArrayKinds) -> list[int]:
    """Places of arrays, segment by segment."""
    fitting = MOST_CELLS // program.target.array.cells
    used = np.flatnonzero(kinds.kind.reshape(-1) >= 0)
    if len(used) <= fitting:
        return [int(place) for place in used]
    # Those that there are most of tell most.
    order = np.argsort(-kinds.count, kind="stable")[:fitting]
    return sorted(int(place) for place in kinds.first[order])


def _weights(program: Program, places: list[int]) -> NDArray[np.int32]:
    """Number of the weight of each cell, [places, input lines, columns of cells]."""
    array, cell_map, tiles = program.target.array, program.cell_map, program.placement.tiles
    found = np.full((len(places), array.input_lines, array.cell_columns), UNUSED, np.int32)
    number = {place: row for row, place in enumerate(places)}
    of_tiles = tiles.segment.astype(np.int64) * cell_map.arrays + tiles.array
    for tile, weights in cell_map.blocks(np.flatnonzero(np.isin(of_tiles, places)).tolist()):
        block = found[number[int(of_tiles[tile])], cell_map.input_lines_of(tile), cell_map.cell_columns_of(tile)]
        block[:] = np.repeat(weights, block.shape[1] // weights.shape[1], axis=1)
    return found


def _stuck(program: Program, places: list[tuple[int, int]], seed: int) -> list[list[int]]:
    """Stuck cells as pairs of a place in the list and a flat cell of its array."""
    array = program.target.array
    found = []
    for row, (_, number) in enumerate(places):
        stuck = stick(np.zeros((array.input_lines, array.cell_columns), np.uint8), program.target, number, seed)
        found += [[row, int(cell)] for cell in np.flatnonzero(stuck)]
    return found
