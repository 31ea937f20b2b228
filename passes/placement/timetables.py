"""Schedules the steps of each tile: list schedule of one image, and the pipelined steady state.

For one image a tile may work on a window as soon as the inputs of that window exist and its array is free. Layers
are served in network order, so an array that holds tiles of several layers works on the earliest layer that has
something to do; within a layer, windows that can be read first go first. A window takes a tile as many steps as its
output lines take turns. All tiles of one replica wait for the same inputs, so arrays that hold tiles of the same
replicas have the same timetable, which is found once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import TileTable
from memcompile.timing.dataflow_steps import Flow, Steps, last_step
from memcompile.timing.timetable import last_turns


@dataclass(frozen=True, eq=False)
class OneImage:
    """The timetable of one image alone.

    ``tables`` are the distinct timetables, each the step of every turn of every window of a tile in the order of
    its replica's windows; ``table`` is the number of each tile's, [tiles]. ``latency`` is the first
    step after the last.
    """

    tables: tuple[Steps, ...]
    table: NDArray[np.int64]
    latency: int


def one_image(flow: Flow, tiles: TileTable, turns: NDArray[np.int64], layers: range | None = None) -> OneImage:
    """Serve layers in order; each tile works as soon as its inputs exist and its array is free.

    ``turns`` are the steps of each tile for a window, [tiles]. With ``layers`` only these are served, with the
    given tiles; values of other layers exist from the start.
    """
    scheduler = _Scheduler(tiles, turns)
    values = flow.walk(scheduler.work, layers)
    ends = [table[-1:] + 1 for table in scheduler.tables]
    return OneImage(tuple(scheduler.tables), scheduler.table, last_step(values, ends))


class _Scheduler:
    """Places the windows of one layer after the other into the free steps of arrays."""

    def __init__(self, tiles: TileTable, turns: NDArray[np.int64]) -> None:
        self.tiles, self.turns = tiles, turns
        self.tables: list[Steps] = []
        self.table = np.full(len(tiles), -1, np.int64)
        self.edges = np.searchsorted(tiles.layer, np.arange(int(tiles.layer.max(initial=-1)) + 2))
        # Arrays in the same state are busy in the same steps.
        self.states: list[Steps] = [np.zeros(0, np.int64)]
        self.state = np.zeros(int(tiles.array.max(initial=-1)) + 1, np.int64)

    def work(self, layer: int, ready: Sequence[Steps]) -> list[Steps]:
        """Steps after which the results of each window of each replica exist."""
        done = [np.zeros(len(steps), np.int64) for steps in ready]
        known: dict[tuple[int, bytes], tuple[tuple[int, ...], int]] = {}
        for array, rows in self._by_array(layer):
            copies, turns = self.tiles.replica[rows], self.turns[rows]
            key = int(self.state[array]), copies.tobytes() + turns.tobytes()
            if key not in known:
                work = list(zip(copies.tolist(), turns.tolist(), strict=True))
                known[key] = self._place(key[0], [np.repeat(ready[copy], each) for copy, each in work])
                for (copy, each), table in zip(work, known[key][0], strict=True):
                    np.maximum(done[copy], last_turns(self.tables[table], each) + 1, out=done[copy])
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
        # A stable sort merges what is in order already.
        self.states.append(np.sort(np.concatenate([self.states[state], *steps]), kind="stable"))
        return tuple(range(first, len(self.tables))), len(self.states) - 1


def take_turns(busy: Steps, ready: Sequence[Steps]) -> list[Steps]:
    """Steps of the windows of some tiles of one array, one turn of one window a step, none early.

    Parameters
    ----------
    busy
        Steps in which the array is taken already, ascending.
    ready
        Per tile: first step in which each of its windows can be read, as often as it takes turns.

    Returns
    -------
    Per tile: step of each turn of each window, ascending. Every free step computes a window if one can
    be read; windows that could be read first go first.
    """
    waits = np.concatenate([np.maximum.accumulate(steps) for steps in ready])
    order = np.arange(len(waits))
    if len(ready) > 1:  # the windows of one tile are in order
        order = np.lexsort((np.concatenate([np.arange(len(steps)) for steps in ready]), waits))
    # Count free steps only: the n-th is at n plus the busy ones before it.
    free = waits[order] - np.searchsorted(busy, waits[order])
    count = np.arange(len(free))
    place = count + np.maximum.accumulate(free - count)
    steps = np.empty(len(free), np.int64)
    steps[order] = place + np.searchsorted(busy - np.arange(len(busy)), place, side="right")
    return np.split(steps, np.cumsum([len(item) for item in ready])[:-1])


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The pipelined steady state: images follow each other at an interval.

    A tile begins in step ``lag * interval + slot`` after the entry of an image, both [tiles], and works
    without a pause from there on. ``interval`` is the most steps of an array, ``latency`` the
    steps from an image's entry to its last result.
    """

    slot: NDArray[np.int64]
    lag: NDArray[np.int64]
    interval: int
    latency: int


def pipeline(
    flow: Flow,
    tiles: TileTable,
    loads: NDArray[np.int64],
    turns: NDArray[np.int64],
    layers: range | None = None,
) -> Pipeline:
    """Begin each tile as soon as it can go on without a pause and its array has turns for it.

    Layers are served in network order; ``loads`` are the steps of each tile for an image, ``turns`` and ``layers``
    as in :func:`one_image`.
    """
    served = _Turns(tiles, loads, turns)
    values = flow.walk(served.work, layers)
    interval = max(served.interval, 1)
    latency = last_step(values, served.ends)
    return Pipeline(served.begin % interval, served.begin // interval, served.interval, latency)


Gap = tuple[int, int]
"""Free turns of an array that follow each other: the first one in the interval, and their number."""


@dataclass(frozen=True)
class ArrayTurns:
    """Free turns of an array, and total steps of the tiles that have no turns yet.

    Some gap has room for all of these together, so that each of them gets its turns in one piece.
    """

    gaps: tuple[Gap, ...]
    left: int


class _Turns:
    """Assigns the turns of arrays, tile by tile."""

    def __init__(self, tiles: TileTable, loads: NDArray[np.int64], turns: NDArray[np.int64]) -> None:
        self.tiles, self.loads, self.turns = tiles, loads, turns
        busy = np.bincount(tiles.array, weights=loads).astype(np.int64) if len(loads) else np.zeros(1, np.int64)
        self.interval = int(busy.max())
        self.begin = np.zeros(len(tiles), np.int64)
        self.ends: list[int] = []
        self.edges = np.searchsorted(tiles.layer, np.arange(int(tiles.layer.max(initial=-1)) + 2))
        self.arrays = [ArrayTurns(((0, self.interval),), int(steps)) for steps in busy]
        self.known: dict[tuple[ArrayTurns, int, int], tuple[int, ArrayTurns]] = {}

    def work(self, layer: int, ready: Sequence[Steps]) -> list[Steps]:
        """Steps after which the results of each window of each replica exist."""
        rows = np.arange(self.edges[layer], self.edges[layer + 1])
        # The tiles of a replica differ in the turns that a window takes, and most are alike.
        kinds, kind = np.unique(np.stack([self.tiles.replica[rows], self.turns[rows]]), axis=1, return_inverse=True)
        kind = kind.ravel()
        # With n turns a window, window i of a tile that begins in step b is read from step b + n i on.
        need = [
            int(np.max(ready[copy] - turns * np.arange(len(ready[copy])), initial=0))
            for copy, turns in kinds.T.tolist()
        ]
        first = np.array(need, np.int64)[kind]
        for row, earliest in zip(rows[np.argsort(first, kind="stable")].tolist(), np.sort(first).tolist(), strict=True):
            array = int(self.tiles.array[row])
            key = self.arrays[array], earliest, int(self.loads[row])
            if key not in self.known:
                self.known[key] = take_turn(*key, self.interval)
            self.begin[row], self.arrays[array] = self.known[key]
        last = np.zeros(len(need), np.int64)
        np.maximum.at(last, kind, self.begin[rows])
        done = [1 + np.arange(len(steps)) for steps in ready]
        for begin, (copy, turns) in zip(last.tolist(), kinds.T.tolist(), strict=True):
            np.maximum(done[copy], begin + turns * (1 + np.arange(len(done[copy]))), out=done[copy])
        self.ends.extend(int(steps.max(initial=0)) for steps in done)
        return done


def take_turn(turns: ArrayTurns, earliest: int, load: int, interval: int) -> tuple[int, ArrayTurns]:
    """First step, from ``earliest`` on, of ``load`` free turns in a row, and the turns that are then free.

    One of the gaps that stay has room for all tiles that are still to come: a gap is not cut in its
    middle where that would leave none.
    """
    left = turns.left - load
    if turns.gaps == ((0, interval),):  # cyclic, so that the rest is in one piece
        rest = ((earliest + load) % interval, interval - load)
        return earliest, ArrayTurns((rest,) if rest[1] else (), left)
    first, number = min(
        (_first_step(turns.gaps, number, earliest, load, left, interval), number)
        for number, (_, length) in enumerate(turns.gaps)
        if length >= load
    )
    assert first < math.inf, "some gap has room for all that is left"
    begin, (phase, length) = int(first), turns.gaps[number]
    before = (begin - phase) % interval
    after = ((phase + before + load) % interval, length - load - before)
    gaps = (*turns.gaps[:number], (phase, before), after, *turns.gaps[number + 1 :])
    return begin, ArrayTurns(tuple(sorted(gap for gap in gaps if gap[1])), left)


def _first_step(gaps: Sequence[Gap], number: int, earliest: int, load: int, left: int, interval: int) -> float:
    """First step from ``earliest`` on with turns in one gap; infinite if the remaining load would have no room."""
    phase, length = gaps[number]
    spare = length - load
    elsewhere = any(size >= left for at, (_, size) in enumerate(gaps) if at != number)
    # Offsets in the gap that leave room: anywhere, or near enough to its beginning or its end.
    ranges = [(0, spare)] if elsewhere else [(0, spare - left), (left, spare)]
    offset = (earliest - phase) % interval
    waits = [0 if low <= offset <= high else (low - offset) % interval for low, high in ranges if low <= high]
    return earliest + min(waits, default=math.inf)
