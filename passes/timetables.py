"""Finds when each tile works: list schedules of one image, and the pipelined steady state.

For one image a tile may work on a window as soon as the inputs of that window exist and its array
is free. Layers are served in network order, so an array that holds tiles of several layers works
on the earliest layer that has something to do; within a layer, windows that can be read first go
first. All tiles of one copy wait for the same inputs, so arrays that hold tiles of the same copies
have the same timetable, which is found once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.dataflow_steps import Flow, Steps, last_step
from memcompile.ir import TileTable


@dataclass(frozen=True, eq=False)
class OneImage:
    """The timetable of one image alone.

    ``tables`` are the distinct timetables, each the step of every window of a tile in the order of
    its copy's windows; ``table`` is the number of each tile's, [tiles]. ``latency`` is the first
    step after the last.
    """

    tables: tuple[Steps, ...]
    table: NDArray[np.int64]
    latency: int


def one_image(flow: Flow, tiles: TileTable, layers: range | None = None) -> OneImage:
    """Serve layers in order; each tile works as soon as its inputs exist and its array is free.

    With ``layers`` only these are served, with the tiles given, and all that is made elsewhere exists.
    """
    scheduler = _Scheduler(tiles)
    values = flow.walk(scheduler.work, layers)
    ends = [table[-1:] + 1 for table in scheduler.tables]
    return OneImage(tuple(scheduler.tables), scheduler.table, last_step(values, ends))


class _Scheduler:
    """Places the windows of one layer after the other into the free steps of arrays."""

    def __init__(self, tiles: TileTable) -> None:
        self.tiles = tiles
        self.tables: list[Steps] = []
        self.table = np.full(len(tiles), -1, np.int64)
        self.edges = np.searchsorted(tiles.layer, np.arange(int(tiles.layer.max(initial=-1)) + 2))
        # Arrays in the same state are busy in the same steps.
        self.states: list[Steps] = [np.zeros(0, np.int64)]
        self.state = np.zeros(int(tiles.array.max(initial=-1)) + 1, np.int64)

    def work(self, layer: int, ready: Sequence[Steps]) -> list[Steps]:
        """Steps after which the results of each window of each copy exist."""
        done = [np.zeros(len(steps), np.int64) for steps in ready]
        known: dict[tuple[int, bytes], tuple[tuple[int, ...], int]] = {}
        for array, rows in self._by_array(layer):
            copies = self.tiles.replica[rows]
            key = int(self.state[array]), copies.tobytes()
            if key not in known:
                known[key] = self._place(key[0], [ready[copy] for copy in copies.tolist()])
                for copy, table in zip(copies.tolist(), known[key][0], strict=True):
                    np.maximum(done[copy], self.tables[table] + 1, out=done[copy])
            self.table[rows], self.state[array] = known[key]
        return done

    def _by_array(self, layer: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Arrays that hold tiles of a layer, with their rows of the tile table."""
        rows = np.arange(self.edges[layer], self.edges[layer + 1])
        arrays = self.tiles.array[rows]
        order = np.argsort(arrays, kind="stable")
        edges = np.flatnonzero(np.diff(arrays[order])) + 1
        return [(int(self.tiles.array[group[0]]), group) for group in np.split(rows[order], edges) if len(group)]

    def _place(self, state: int, ready: Sequence[Steps]) -> tuple[tuple[int, ...], int]:
        steps = take_turns(self.states[state], ready)
        first = len(self.tables)
        self.tables += steps
        self.states.append(np.sort(np.concatenate([self.states[state], *steps])))
        return tuple(range(first, len(self.tables))), len(self.states) - 1


def take_turns(busy: Steps, ready: Sequence[Steps]) -> list[Steps]:
    """Steps of the windows of some tiles of one array, one window a step, none early.

    Parameters
    ----------
    busy
        Steps in which the array is taken already, ascending.
    ready
        Per tile: first step in which each of its windows can be read, [windows].

    Returns
    -------
    Per tile: step of each window, ascending. Some window is worked on in every free step in which
    one can be; windows that could be read first go first.
    """
    waits = np.concatenate([np.maximum.accumulate(steps) for steps in ready])
    turns = np.concatenate([np.arange(len(steps)) for steps in ready])
    order = np.lexsort((turns, waits))
    # Count free steps only: the n-th is at n plus the busy ones before it.
    free = waits[order] - np.searchsorted(busy, waits[order])
    count = np.arange(len(free))
    place = count + np.maximum.accumulate(free - count)
    steps = np.empty(len(free), np.int64)
    steps[order] = place + np.searchsorted(busy - np.arange(len(busy)), place, side="right")
    return np.split(steps, np.cumsum([len(item) for item in ready])[:-1])


def turns_of_arrays(arrays: NDArray[np.int32], loads: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """First step of each tile within the interval, and the interval.

    The tiles of an array follow each other in table order, each for its load of steps.
    """
    if not len(arrays):
        return np.zeros(0, np.int64), 0
    order = np.argsort(arrays, kind="stable")
    sorted_loads = loads[order]
    busy = np.bincount(arrays, weights=loads).astype(np.int64)
    before = np.cumsum(busy) - busy
    first = np.empty(len(arrays), np.int64)
    first[order] = np.cumsum(sorted_loads) - sorted_loads - before[arrays[order]]
    return first, int(busy.max())


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The pipelined steady state.

    ``lag`` is the number of intervals by which each tile is behind the entry of the image it works
    on, [tiles]; ``latency`` the steps from an image's entry to its last result.
    """

    lag: NDArray[np.int64]
    latency: int


def pipeline(
    flow: Flow, tiles: TileTable, slot: NDArray[np.int64], interval: int, layers: range | None = None
) -> Pipeline:
    """The smallest lags with which no tile reads what does not exist yet; ``layers`` as in :func:`one_image`."""
    lag = np.zeros(len(tiles), np.int64)
    edges = np.searchsorted(tiles.layer, np.arange(len(flow.layers) + 1))
    ends: list[int] = []

    def work(layer: int, ready: Sequence[Steps]) -> list[Steps]:
        rows = np.arange(edges[layer], edges[layer + 1])
        if not len(rows):
            return [np.zeros(len(steps), np.int64) for steps in ready]
        need = np.array([int(np.max(steps - np.arange(len(steps)), initial=0)) for steps in ready])
        lag[rows] = np.maximum(0, -((slot[rows] - need[tiles.replica[rows]]) // interval))
        first = lag[rows] * interval + slot[rows]
        last = np.zeros(len(ready), np.int64)
        np.maximum.at(last, tiles.replica[rows], first)
        done = [begin + 1 + np.arange(len(steps)) for begin, steps in zip(last.tolist(), ready, strict=True)]
        ends.extend(int(steps.max(initial=0)) for steps in done)
        return done

    values = flow.walk(work, layers)
    return Pipeline(lag, last_step(values, ends))
