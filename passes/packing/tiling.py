"""Largest tile of an array, and cuts of weight matrices into tiles of that size."""

from __future__ import annotations

from memcompile.errors import CapacityError
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.graph import Cut


def tile_limits(target: Target, slices: int) -> tuple[int, int]:
    """Most rows and columns of a tile: rows that are driven at once, columns that have their lines in one array.

    Raises
    ------
    CapacityError
        The pairs of one weight need more output lines than an array has.
    """
    array = target.array
    columns = array.output_lines // (array.lines_per_pair * slices)
    if columns == 0:
        raise CapacityError(
            f"one weight of {slices} slices needs {array.lines_per_pair * slices} {array.output_line_name}s, "
            f"an array of {target.name} has {array.output_lines}; "
            f"use --slices {array.output_lines // array.lines_per_pair} or fewer"
        )
    return array.driven_lines, columns


def largest_bundle(geometry: Geometry, rows: int, columns: int) -> int:
    """Most groups whose block diagonal fits one tile (1 if not even one group fits)."""
    return max(1, min(geometry.groups, rows // geometry.group_rows, columns // geometry.group_columns))


def full_cut(unrolling: Unrolling, rows: int, columns: int) -> Cut:
    """Cut into tiles of ``rows`` x ``columns``, with the remainder in the last ones."""
    return Cut(
        rows=(*range(0, unrolling.rows, rows), unrolling.rows),
        columns=(*range(0, unrolling.columns, columns), unrolling.columns),
    )
