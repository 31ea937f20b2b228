"""Cost of one pass of a batch of images where the arrays are written segment by segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.pulses import LevelWrites, WriteReport
from memcompile.hardware.target import WriteVerifySpec
from memcompile.ir.graph import TileTable
from memcompile.program.program import Program
from memcompile.program.tile_writes import sums_of_tiles, sums_of_weights
from memcompile.runtime.cells.array_contents import ArrayContents


@dataclass(frozen=True)
class SegmentCost:
    """One segment in a pass: its tiles, the cost of writing and erasing them, and the time of both parts.

    ``computing_us`` is that of the whole batch, with the steps in which the pipeline fills.
    """

    tiles: int
    arrays: int
    cells: int
    writing: WriteReport
    writing_us: float
    computing_us: float


@dataclass(frozen=True)
class PassCost:
    """One pass: all segments are written and a batch of images goes through them.

    ``writing`` sums up the segments, with its energy; ``most_pulses`` is that of the cell that gets most.
    """

    batch: int
    segments: tuple[SegmentCost, ...]
    writing: WriteReport
    most_pulses: int

    @property
    def writing_us(self) -> float:
        """Time in which arrays are written, in microseconds."""
        return sum(segment.writing_us for segment in self.segments)

    @property
    def computing_us(self) -> float:
        """Time in which images are worked on, in microseconds."""
        return sum(segment.computing_us for segment in self.segments)

    @property
    def time_us(self) -> float:
        """Duration of the pass, in microseconds."""
        return self.writing_us + self.computing_us


def pass_cost(program: Program) -> PassCost | None:
    """Cost of a pass; None where all arrays are written once, or the target gives no pulses."""
    spec, placement = program.target.write_verify, program.placement
    if spec is None or not placement.segments:
        return None
    levels = LevelWrites.and_back(program.target.cell, spec)
    segments = _segment_costs(program, levels, spec)
    counts = np.zeros(program.target.cell.levels, np.int64)
    for layer in program.layers:
        copies = sum(replica.unrolling.window_outputs for replica in layer.replicas)
        counts += copies * np.bincount(layer.cells.reshape(-1), minlength=len(counts))
    return PassCost(placement.batch, segments, levels.report(counts), _most_pulses(program, levels))


def _segment_costs(program: Program, levels: LevelWrites, spec: WriteVerifySpec) -> tuple[SegmentCost, ...]:
    placement, cells = program.placement, program.cell_map.cells
    writes, pulses = _of_tiles(program, levels.writes), _of_tiles(program, levels.pulses)
    found = []
    for segment, part in zip(placement.segments, placement.parts(), strict=True):
        tiles: TileTable = part.placement.tiles
        writing = WriteReport(int(writes[part.rows].sum()), int(pulses[part.rows].sum()))
        found.append(
            SegmentCost(
                tiles=len(tiles),
                arrays=len(np.unique(tiles.array)),
                cells=int(cells[part.rows].sum()),
                writing=writing,
                writing_us=writing.time_s(spec, placement.chips) * 1e6,
                computing_us=segment.steps(placement.batch) * program.step_ns * 1e-3,
            )
        )
    return tuple(found)


def _of_tiles(program: Program, of_level: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of a quantity of cells, given for each level, over each tile, [tiles]."""
    found = [np.zeros(0, np.int64)]
    for layer in program.layers:
        of_weight = sums_of_weights(layer, of_level)
        # In the order of the tile table: replica, matrix, rows, columns.
        found += [sums_of_tiles(of_weight, copy.unrolling, copy.cut).ravel() for copy in layer.replicas]
    return np.concatenate(found)


def _most_pulses(program: Program, levels: LevelWrites) -> int:
    """Pulses of the cell that gets most in a pass, over all segments that use it."""
    contents, tiles, array = ArrayContents(program), program.placement.tiles, program.target.array
    total = np.zeros((int(tiles.array.max(initial=-1)) + 1, array.input_lines, array.cell_columns), np.int64)
    for segment, number in np.unique(np.stack([tiles.segment, tiles.array], axis=1), axis=0).tolist():
        total[number] += levels.pulses[contents.levels(number, segment)]
    return int(total.max(initial=0))
