"""The mapping as data for the canvases of a page: tiles with their places and steps, and arrays that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.html.charts import colour_of
from memcompile.program.program import Program

COLUMNS = (
    "layer",
    "replica",
    "matrix",
    "row_begin",
    "row_end",
    "column_begin",
    "column_end",
    "segment",
    "array",
    "input_line",
    "output_line",
    "slot",
    "start",
    "rhythm",
)
"""Columns of the tile table that a page gets; `loads` and `last` follow."""
MOST_PAUSES = 200_000
"""Rows of the table of pauses beyond which a page shows a tile of one image alone from its first to its last step."""


@dataclass(frozen=True, eq=False)
class ArrayKinds:
    """Arrays whose tiles hold the same weights in the same places.

    ``kind`` is that of each array in each segment, int32 [segments, arrays], -1 where an array is empty; ``first`` is
    the flat place of the first array of each kind, and ``count`` the arrays of it, both int64 [kinds].
    """

    kind: NDArray[np.int32]
    first: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, program: Program) -> ArrayKinds:
        """Find the kinds, in the order of their first arrays."""
        tiles, arrays = program.placement.tiles, program.cell_map.arrays
        segments = max(1, len(program.placement.segments))
        kinds = np.full(segments * arrays, -1, np.int32)
        place = tiles.segment.astype(np.int64) * arrays + tiles.array
        order = np.lexsort((tiles.output_line, tiles.input_line, place))
        names = ("matrix", "row_begin", "row_end", "column_begin", "column_end", "input_line", "output_line")
        held = np.stack([tiles.layer, _windows(program), *(getattr(tiles, name) for name in names)], axis=1)[order]
        places, begins = np.unique(place[order], return_index=True)
        ends = np.append(begins[1:], len(order))
        known: dict[bytes, int] = {}
        first = []
        for where, begin, end in zip(places.tolist(), begins.tolist(), ends.tolist(), strict=True):
            key = held[begin:end].tobytes()
            if key not in known:
                known[key] = len(known)
                first.append(where)
            kinds[where] = known[key]
        count = np.bincount(kinds[kinds >= 0], minlength=len(known)).astype(np.int64)
        return cls(kinds.reshape(segments, arrays), np.array(first, np.int64), count)


def _windows(program: Program) -> NDArray[np.int32]:
    """Number of the unrolling of each tile's replica among those of its layer, [tiles]."""
    tiles = program.placement.tiles
    numbers = np.zeros((len(program.layers), max((len(x.replicas) for x in program.layers), default=0)), np.int32)
    for number, layer in enumerate(program.layers):
        unrollings = [(replica.unrolling.window, replica.unrolling.bundle) for replica in layer.replicas]
        known = {each: place for place, each in enumerate(dict.fromkeys(unrollings))}
        numbers[number, : len(unrollings)] = [known[each] for each in unrollings]
    found: NDArray[np.int32] = numbers[tiles.layer, tiles.replica]
    return found


def mapping_facts(program: Program, kinds: ArrayKinds) -> dict[str, Any]:
    """Shape of the system and names of its layers."""
    placement, array = program.placement, program.target.array
    parts = placement.segments or (placement,)
    return {
        "columns": [*COLUMNS, "load", "last"],
        "tiles": len(placement.tiles),
        "pauses": len(_pauses(program)),
        "chips": placement.chips,
        "arrays_per_chip": program.target.chip.arrays,
        "arrays": program.cell_map.arrays,
        "input_lines": array.input_lines,
        "output_lines": array.output_lines,
        "cells_per_crossing": array.cells_per_crossing,
        "input_line_name": array.input_line_name,
        "output_line_name": array.output_line_name,
        "intervals": [part.initiation_interval_steps for part in parts],
        "latencies": [part.latency_steps for part in parts],
        "kinds": [[int(first), int(count)] for first, count in zip(kinds.first, kinds.count, strict=True)],
        "layers": [
            {
                "name": layer.name,
                "colour": colour_of(number),
                "slices": layer.slices,
                "lines": int(program.cell_map.column_lines[number]),
                "rows": layer.geometry.group_rows,
                "columns": layer.geometry.group_columns,
                "replicas": len(layer.replicas),
            }
            for number, layer in enumerate(program.layers)
        ],
    }


def mapping_bytes(program: Program, kinds: ArrayKinds) -> bytes:
    """Tiles, pauses and kinds, int32: [columns, tiles], [pauses, 3], [segments, arrays]."""
    tiles = program.placement.tiles
    loads = program.tile_loads
    columns = [getattr(tiles, name) for name in COLUMNS]
    table = np.stack([*columns, loads, _last_steps(program)], axis=0) if len(tiles) else np.zeros((0, 0))
    parts = (table, _pauses(program), kinds.kind)
    return b"".join(np.ascontiguousarray(part, "<i4").tobytes() for part in parts)


def _pauses(program: Program) -> NDArray[np.int32]:
    pauses = program.placement.pauses
    return pauses if len(pauses) <= MOST_PAUSES else pauses[:0]


def _last_steps(program: Program) -> NDArray[np.int64]:
    """Last step of each tile for one image alone, [tiles]."""
    tiles, loads = program.placement.tiles, program.tile_loads
    pauses = program.placement.pauses.astype(np.int64)
    keys, inverse = np.unique(np.stack([tiles.rhythm, loads], axis=1), axis=0, return_inverse=True)
    waits = np.zeros(len(keys), np.int64)
    for place, (rhythm, load) in enumerate(keys.tolist()):
        first, last = np.searchsorted(pauses[:, 0], (rhythm, rhythm + 1))
        own = pauses[first:last]
        waits[place] = own[own[:, 1] < load, 2].sum()
    ends: NDArray[np.int64] = tiles.start + loads - 1 + waits[inverse.reshape(-1)]
    return ends
