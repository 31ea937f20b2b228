"""Packs few tiles into few arrays exactly, with CP-SAT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memcompile.passes.packing.first_fit import Fill, Packing, TileShape
from memcompile.passes.packing.shelves import distribute_on_shelves
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver


@dataclass(frozen=True)
class ExactPacking:
    """A packing if one was found, and True if it is proven that there is none."""

    packing: Packing | None
    impossible: bool


def pack_exactly(
    shapes: Sequence[TileShape], lines: tuple[int, int], arrays: int, interval: int, effort: float
) -> ExactPacking:
    """Distribute tiles over ``arrays`` arrays and arrange the tiles of each.

    The distribution limits steps, cells, and output lines under tiles higher than half an array
    (no two such tiles share a line). These limits are necessary; the rectangles of each array are
    then arranged. If that fails, a second distribution arranges each array in two shelves at most,
    whose limits are sufficient.

    Parameters
    ----------
    interval
        Most steps of an array.
    effort
        Limit of each solve in the solver's deterministic time.
    """
    contents, impossible = _distribute(shapes, lines, arrays, interval, effort)
    if contents is None:
        return ExactPacking(None, impossible)
    arranged = [arrange(shapes, content, lines, effort) for content in contents]
    fills: Sequence[Fill | None] | None = arranged
    if None in arranged:
        fills = distribute_on_shelves(shapes, lines, arrays, interval, effort)
    if fills is None:
        return ExactPacking(None, False)
    return ExactPacking(Packing(tuple((fill, 1) for fill in fills if fill is not None and fill.tiles)), False)


def _distribute(
    shapes: Sequence[TileShape], lines: tuple[int, int], arrays: int, interval: int, effort: float
) -> tuple[list[list[int]] | None, bool]:
    """Number of tiles of each shape per array; else None, and True if it is proven that there is none."""
    model = cp_sat.new_model()
    counts = _counts(model, shapes, lines, arrays)
    for array in range(arrays):
        pairs = [(shape, count[array]) for shape, count in zip(shapes, counts, strict=True)]
        tall = [(shape, count) for shape, count in pairs if 2 * shape.height > lines[0]]
        model.add(sum(shape.load * count for shape, count in pairs) <= interval)
        model.add(sum(shape.height * shape.width * count for shape, count in pairs) <= lines[0] * lines[1])
        model.add(sum(shape.width * count for shape, count in tall) <= lines[1])
    solver = Solver(effort)
    status = solver.solve(model)
    if status not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
        return None, status == cp_sat.INFEASIBLE
    return [[solver.value(count[array]) for count in counts] for array in range(arrays)], False


def _counts(
    model: cp_sat.CpModel, shapes: Sequence[TileShape], lines: tuple[int, int], arrays: int
) -> list[list[cp_sat.IntVar]]:
    """Variables for the tiles of each shape in each array: at most as many as fit, in total all of the shape."""
    counts = []
    for shape in shapes:
        fit = (lines[0] // shape.height) * (lines[1] // shape.width)
        counts.append([model.new_int_var(0, min(shape.count, fit), "") for _ in range(arrays)])
        model.add(sum(counts[-1]) == shape.count)
    return counts


def arrange(shapes: Sequence[TileShape], content: Sequence[int], lines: tuple[int, int], effort: float) -> Fill | None:
    """Find lines for the tiles of one array, without overlap; None if the solver finds none."""
    tiles = [number for number, count in enumerate(content) for _ in range(count)]
    model = cp_sat.new_model()
    corners, boxes_y, boxes_x = [], [], []
    for number in tiles:
        height, width = shapes[number].height, shapes[number].width
        line = model.new_int_var(0, lines[0] - height, "")
        output = model.new_int_var(0, lines[1] - width, "")
        boxes_y.append(model.new_fixed_size_interval_var(line, height, ""))
        boxes_x.append(model.new_fixed_size_interval_var(output, width, ""))
        corners.append((line, output))
    model.add_no_overlap_2d(boxes_x, boxes_y)
    solver = Solver(effort)
    if solver.solve(model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
        return None
    placed = tuple(
        (number, solver.value(line), solver.value(output))
        for number, (line, output) in zip(tiles, corners, strict=True)
    )
    return Fill(placed, (), sum(shapes[number].load for number in tiles))
