"""Export of a program's conductances, for programming real arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.program.program import Program


def conductance_arrays(program: Program) -> dict[str, NDArray[Any]]:
    """Target conductances of all arrays, with an index of what each cell holds.

    Returns
    -------
    ``conductances_us``
        [arrays, input_lines, output_lines] float32, in microsiemens; cells of no weight are at
        the lowest conductance. [segments, arrays, input_lines, output_lines] if the arrays are written
        in segments. A last axis [polarity] follows if both cells of a pair are at one crossing.
    ``index``
        [cells, 8] int32, a row per cell that holds a part of a weight: layer, weight (flat in
        [groups, kernel inputs, output channels of the group]), slice, polarity (0 adds, 1 is
        subtracted), array, input line, output line, level (0 for continuous cells, which have none);
        a ninth column holds the segment if there are segments.
    ``index_columns``, ``layers``
        Names of the index's columns, and of the layers.
    """
    cell, array = program.target.cell, program.target.array
    cell_map, segments = program.cell_map, len(program.placement.segments)
    arrays, pairs = cell_map.arrays, cell_map.pairs()
    conductances = np.full(max(1, segments) * arrays * array.cells, cell.g_min_us, np.float32)
    rows = []
    for polarity, cells, sign in ((0, pairs.plus, 1), (1, pairs.minus, -1)):
        level = np.maximum(sign * pairs.digit.astype(np.float64), 0)
        conductances[cells] = cell.g_min_us + level * cell.level_step_us
        where, same = cell_map.addresses(cells), np.full(len(cells), polarity)
        if cell.continuous:
            level = np.zeros_like(level)
        lines = (where.array, where.input_line, where.output_line)
        held = (pairs.layer, pairs.weight, pairs.slice, same, *lines, level, where.segment)
        rows.append(np.stack(held, axis=1))
    index = np.concatenate(rows).astype(np.int32)
    index = index[np.lexsort(index.T[[6, 5, 4, 8]])]
    names = ("layer", "weight", "slice", "polarity", "array", "input_line", "output_line", "level", "segment")
    shape = (segments, arrays, *array.cell_axes) if segments else (arrays, *array.cell_axes)
    shown = len(names) if segments else len(names) - 1
    return {
        "conductances_us": conductances.reshape(shape),
        "index": index[:, :shown],
        "index_columns": np.array(names[:shown]),
        "layers": np.array([layer.name for layer in program.layers]),
    }


def programming_list(program: Program) -> Iterator[str]:
    """Lines of a CSV file with every cell that holds a part of a weight, in the order of arrays and lines.

    Columns are the place (segment where arrays are written in segments, array, input_line, output_line, and polarity
    where both cells of a pair are at one crossing), target_us, and what the cell holds.
    """
    arrays = conductance_arrays(program)
    columns = arrays["index_columns"].tolist()
    at = {name: columns.index(name) for name in columns}
    crossings = program.target.array.cells_per_crossing > 1
    places = [*(["segment"] if "segment" in at else []), "array", "input_line", "output_line"]
    axes = [*places, "polarity"] if crossings else places
    yield ",".join([*places, "polarity", "target_us", "layer", "weight", "slice", "level"])
    index = arrays["index"]
    conductances = arrays["conductances_us"][tuple(index[:, at[name]] for name in axes)]
    layers = [_quoted(str(name)) for name in arrays["layers"]]
    shown = [at[name] for name in (*places, "polarity", "layer", "weight", "slice", "level")]
    for row, target_us in zip(index[:, shown].tolist(), conductances.tolist(), strict=True):
        *place, layer, weight, slice_, level = row
        yield ",".join([*map(str, place), f"{target_us:.6g}", layers[layer], str(weight), str(slice_), str(level)])


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text
