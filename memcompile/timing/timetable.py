"""The schedule of one image alone: which tile works in which step on which window.

A tile works on the windows of its replica in order, one a step, from its ``start`` on; where its output lines share
converters, a window takes a step for each *turn* of the lines. Where it has to wait for inputs or for its array it
pauses; tiles with the same pauses have the same *rhythm*.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import Target
from memcompile.ir.graph import IntegerLayer, MappedLayer, PairedLayer, Placement, TileTable, no_pauses, read_only


def find_rhythms(tables: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rhythm of each timetable, and the table of pauses.

    Parameters
    ----------
    tables
        Per timetable: the step of each turn of each window, strictly ascending, [windows * turns].
    """
    known: dict[bytes, int] = {}
    numbers, blocks = [], []
    for steps in tables:
        gaps = np.diff(steps) - 1
        windows = np.flatnonzero(gaps)
        pauses = np.stack([windows + 1, gaps[windows]], axis=1).astype(np.int32)
        key = pauses.tobytes()
        if len(pauses) and key not in known:
            known[key] = len(known) + 1
            blocks.append(np.insert(pauses, 0, known[key], axis=1))
        numbers.append(known.get(key, 0))
    table = np.concatenate(blocks) if blocks else no_pauses()
    return np.array(numbers, np.int32), read_only(np.ascontiguousarray(table, np.int32))


class Timetable:
    """Reads the steps of tiles out of a placement."""

    def __init__(self, layers: Sequence[MappedLayer], placement: Placement, target: Target) -> None:
        self.tiles = placement.tiles
        self.turns = tile_turns(layers, placement.tiles, target)
        self.loads = tile_windows(layers, placement.tiles) * self.turns
        self._pauses = placement.pauses.astype(np.int64)

    def steps(self, tile: int) -> NDArray[np.int64]:
        """Step of each turn of each window of a tile, [windows * turns], strictly ascending."""
        return self.steps_of(int(self.tiles.start[tile]), int(self.tiles.rhythm[tile]), int(self.loads[tile]))

    def steps_of(self, start: int, rhythm: int, load: int) -> NDArray[np.int64]:
        """Steps of so many turns of windows from a start in a rhythm."""
        first, last = np.searchsorted(self._pauses[:, 0], (rhythm, rhythm + 1))
        pauses = self._pauses[first:last]
        pauses = pauses[pauses[:, 1] < load]
        waits = np.ones(load, np.int64)
        waits[:1] = start
        waits[pauses[:, 1]] += pauses[:, 2]
        return np.cumsum(waits)


def last_turns(steps: NDArray[np.int64], turns: int) -> NDArray[np.int64]:
    """Last step of each window, [windows], of the steps of all its turns, [windows * turns]."""
    return steps[turns - 1 :: turns]


def tile_turns(layers: Sequence[PairedLayer], tiles: TileTable, target: Target) -> NDArray[np.int64]:
    """Steps that each tile takes for a window, [tiles]."""
    return LineTurns.of(target).steps(tiles.widths(column_lines(layers, target)))


def tile_loads(layers: Sequence[MappedLayer], tiles: TileTable, target: Target) -> NDArray[np.int64]:
    """Steps of each tile per image, [tiles]: the windows of its replica, each with all its turns."""
    return tile_windows(layers, tiles) * tile_turns(layers, tiles, target)


def tile_windows(layers: Sequence[MappedLayer], tiles: TileTable) -> NDArray[np.int64]:
    """Windows that each tile works on per image, [tiles]: those of its replica."""
    most = max((len(layer.replicas) for layer in layers), default=0)
    windows = np.zeros((len(layers), most), np.int64)
    for number, layer in enumerate(layers):
        windows[number, : len(layer.replicas)] = [len(replica.windows) for replica in layer.replicas]
    return windows[tiles.layer, tiles.replica]


def column_lines(layers: Sequence[PairedLayer], target: Target) -> NDArray[np.int32]:
    """Output lines of a column of weights in each layer, [layers]: the pairs of all its slices."""
    return np.array([layer.slices * target.array.lines_per_pair for layer in layers], np.int32)


def step_ns(layers: Sequence[IntegerLayer], target: Target) -> float:
    """Duration of a step, in nanoseconds: all phases of the layer that has most."""
    return max((layer.quantizer.phase_count for layer in layers), default=0) * target.input.phase_ns
