"""Place of a weight: chip, array, lines, polarity, slice, level and conductance of its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memcompile.errors import UsageError
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
    """All cells of one weight, in all replicas.

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
    """Cells of one weight in one replica, in the order of its matrices, their rows and columns."""
    tiles, cell_map, geometry = program.placement.tiles, program.cell_map, program.layers[number].geometry
    group, column = divmod(output, geometry.group_columns)
    weight = (group * geometry.group_rows + kernel_input) * geometry.group_columns + column
    places = []
    of_replica = np.flatnonzero((tiles.layer == number) & (tiles.replica == copy)).tolist()
    for tile, weights in cell_map.blocks(of_replica):
        rows, columns = np.nonzero(weights == weight)
        first = cell_map.first_cells(tile, rows, columns)
        in_matrix = (tiles.row_begin[tile] + rows, tiles.column_begin[tile] + columns)
        places += [(int(tiles.matrix[tile]), int(r), int(c), int(f)) for r, c, f in zip(*in_matrix, first, strict=True)]
    for *_, first_cell in sorted(places):
        yield from _pair_cells(program, number, copy, first_cell, (group, kernel_input, column))


def _pair_cells(
    program: Program, number: int, copy: int, first_cell: int, weight: tuple[int, int, int]
) -> Iterator[WeightCell]:
    """The cells of one weight (group, kernel input, output channel of the group) in one place."""
    layer, target = program.layers[number], program.target
    where = program.cell_map.addresses(first_cell + np.arange(2 * layer.slices))
    for place in range(layer.slices):
        for polarity, sign in enumerate("+-"):
            cell = 2 * place + polarity
            level = layer.cells[(polarity, place, *weight)].item()
            yield WeightCell(
                replica=copy,
                segment=int(where.segment[cell]),
                chip=int(where.array[cell]) // target.chip.arrays,
                array=int(where.array[cell]) % target.chip.arrays,
                input_line=int(where.input_line[cell]),
                output_line=int(where.output_line[cell]),
                slice=place,
                polarity=sign,
                level=level,
                conductance_us=target.cell.g_min_us + level * target.cell.level_step_us,
            )
