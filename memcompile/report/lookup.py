"""Where a weight sits: chip, array, lines, polarity, slice, level and conductance of its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memcompile.errors import UsageError
from memcompile.ir.graph import MappedLayer
from memcompile.program.program import Program


@dataclass(frozen=True)
class WeightCell:
    """One cell that holds a part of a weight; the level of a continuous cell is its share of the window.

    ``segment`` says when it does so; it is 0 where all arrays are written once.
    """

    replica: int
    segment: int
    chip: int
    array: int
    input_line: int
    output_line: int
    slice: int
    polarity: str
    level: int | float
    conductance_us: float


def find_weight(program: Program, layer_name: str, output: int, kernel_input: int) -> list[WeightCell]:
    """All cells of one weight, in all copies.

    Parameters
    ----------
    output
        Output channel.
    kernel_input
        Input of the kernel, counted over (input channel of the group, *kernel tap).

    Raises
    ------
    UsageError
        No such layer, output channel or kernel input.
    """
    names = [layer.name for layer in program.layers]
    if layer_name not in names:
        raise UsageError(f"no crossbar layer is called {layer_name!r}; the layers are {', '.join(names) or 'none'}")
    number = names.index(layer_name)
    layer = program.layers[number]
    geometry = layer.geometry
    for what, value, limit in (
        ("output channel", output, geometry.out_channels),
        ("kernel input", kernel_input, geometry.group_rows),
    ):
        if not 0 <= value < limit:
            raise UsageError(f"layer {layer_name} has no {what} {value}; they count from 0 to {limit - 1}")
    return [
        cell
        for replica in range(len(layer.replicas))
        for cell in _copy_cells(program, number, replica, output, kernel_input)
    ]


def _copy_cells(program: Program, number: int, copy: int, output: int, kernel_input: int) -> Iterator[WeightCell]:
    layer = program.layers[number]
    tiles = program.placement.tiles
    for matrix, row, column in _matrix_places(layer, copy, output, kernel_input):
        tile = np.flatnonzero(
            (tiles.layer == number)
            & (tiles.replica == copy)
            & (tiles.matrix == matrix)
            & (tiles.row_begin <= row)
            & (row < tiles.row_end)
            & (tiles.column_begin <= column)
            & (column < tiles.column_end)
        )[0]
        input_line = int(tiles.input_line[tile] + row - tiles.row_begin[tile])
        lines = layer.slices * program.target.array.lines_per_pair
        first_line = int(tiles.output_line[tile] + lines * (column - tiles.column_begin[tile]))
        place = (int(tiles.segment[tile]), int(tiles.array[tile]))
        yield from _pair_cells(program, layer, copy, place, input_line, first_line, output, kernel_input)


def _matrix_places(layer: MappedLayer, copy: int, output: int, kernel_input: int) -> list[tuple[int, int, int]]:
    """(matrix, row, column) of every place a copy's matrices hold the weight: several with parallel windows."""
    geometry = layer.geometry
    group, column = divmod(output, geometry.group_columns)
    marker = np.zeros((geometry.groups, geometry.group_rows, geometry.group_columns), bool)
    marker[group, kernel_input, column] = True
    return [(int(m), int(r), int(c)) for m, r, c in np.argwhere(layer.replicas[copy].unrolling.expand(marker))]


def _pair_cells(
    program: Program,
    layer: MappedLayer,
    copy: int,
    written: tuple[int, int],
    input_line: int,
    first_line: int,
    output: int,
    kernel_input: int,
) -> Iterator[WeightCell]:
    """The cells of one weight in one tile, which is ``written`` to (segment, array)."""
    segment, array = written
    group, column = divmod(output, layer.geometry.group_columns)
    cell = program.target.cell
    for place in range(layer.slices):
        for polarity, sign in enumerate("+-"):
            level = layer.cells[polarity, place, group, kernel_input, column].item()
            yield WeightCell(
                replica=copy,
                segment=segment,
                chip=array // program.target.chip.arrays,
                array=array % program.target.chip.arrays,
                input_line=input_line,
                output_line=first_line + (2 * place + polarity) // program.target.array.cells_per_crossing,
                slice=place,
                polarity=sign,
                level=level,
                conductance_us=cell.g_min_us + level * cell.level_step_us,
            )
