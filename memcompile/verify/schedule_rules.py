"""The verifier's rules of schedules: arrays do one thing a step, and nothing is read before it exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.ir.graph import Placement
from memcompile.ir.placement import Part
from memcompile.timing.dataflow_steps import Flow, Steps
from memcompile.timing.timetable import Timetable, last_turns
from memcompile.verify.violation import Violation

SHOWN = 10


def schedule_violations(flow: Flow, placement: Placement, target: Target) -> list[Violation]:
    """All violations of a schedule whose tiles are placed and have all their steps."""
    found = list(_pauses(placement))
    for part in () if found else placement.parts():
        found += _violations_of_part(flow, part, target)
    return found


def _violations_of_part(flow: Flow, part: Part, target: Target) -> list[Violation]:
    timetable = Timetable(flow.layers, part.placement, target)
    found = [*_steady_conflicts(part, timetable.loads), *_conflicts(part, timetable)]
    if not found:
        found += _early_reads(flow, part, timetable)
        found += _early_reads_in_pipeline(flow, part, timetable)
    return found or list(_idle_ends(part, timetable))


def _pauses(placement: Placement) -> Iterator[Violation]:
    pauses = placement.pauses.astype(np.int64)
    order = pauses[:, 0] * (1 << 32) + pauses[:, 1]
    if (pauses < 1).any() or (np.diff(order) <= 0).any():
        yield Violation("pauses-ascending", "pauses", "are not positive, or not in order of rhythm and window")


def _idle_ends(part: Part, timetable: Timetable) -> Iterator[Violation]:
    """A schedule that goes on after its last tile has worked, or an interval longer than the work of all tiles."""
    placement, tiles = part.placement, part.placement.tiles
    if not len(tiles):
        return
    keys = np.unique(np.stack([tiles.start, tiles.rhythm, timetable.loads], axis=1), axis=0)
    last = max((int(timetable.steps_of(*key)[-1]) for key in keys.tolist() if key[2]), default=0)
    if placement.latency_steps > last + 1:
        what = f"the last tile works in step {last}, the schedule has {placement.latency_steps} steps"
        yield Violation("idle-ends", "schedule", what)
    work = int(timetable.loads.sum())
    if placement.initiation_interval_steps > work:
        what = f"all tiles together work {work} steps, the interval has {placement.initiation_interval_steps}"
        yield Violation("idle-ends", "schedule", what)


def _conflicts(part: Part, timetable: Timetable) -> Iterator[Violation]:
    """Tiles of one array that work in the same step of the schedule of one image."""
    placement, rows = part.placement, part.rows
    tiles, seen = placement.tiles, set()
    order = np.argsort(tiles.array, kind="stable")
    keys = np.stack([tiles.start, tiles.rhythm, timetable.loads], axis=1).astype(np.int64)
    for group in np.split(order, np.flatnonzero(np.diff(tiles.array[order])) + 1):
        content = keys[group].tobytes()
        if content in seen:  # checked with another array
            continue
        seen.add(content)
        steps = np.concatenate([timetable.steps(tile) for tile in group.tolist()])
        owner = np.repeat(group, timetable.loads[group])
        late = np.flatnonzero(steps >= placement.latency_steps)
        if len(late):
            what = f"works in step {steps[late[0]]}, the schedule has {placement.latency_steps}"
            yield Violation("inside-schedule", f"tile {rows[owner[late[0]]]}", what)
        by_step = np.argsort(steps, kind="stable")
        clash = np.flatnonzero(np.diff(steps[by_step]) == 0)
        if len(clash):
            first, second = by_step[clash[0]], by_step[clash[0] + 1]
            what = f"work in array {tiles.array[owner[first]]} in step {steps[first]}"
            yield Violation("one-tile-a-step", f"tiles {rows[owner[first]]} and {rows[owner[second]]}", what)


def _steady_conflicts(part: Part, loads: NDArray[np.int64]) -> Iterator[Violation]:
    """Tiles of one array that work in the same step of the interval."""
    tiles, length, rows = part.placement.tiles, part.placement.initiation_interval_steps, part.rows
    slot = tiles.slot.astype(np.int64)
    outside = (slot >= length) | (loads > length)
    for tile in np.flatnonzero(outside)[:SHOWN]:
        what = f"slot {slot[tile]} or {loads[tile]} steps exceed the interval of {length}"
        yield Violation("inside-schedule", f"tile {rows[tile]}", what)
    if outside.any():
        return
    # Turns that go beyond the end of the interval go on at its beginning.
    round_again = np.flatnonzero(slot + loads > length)
    owner = np.concatenate([np.arange(len(slot)), round_again])
    begin = np.concatenate([slot, np.zeros(len(round_again), np.int64)])
    end = np.concatenate([np.minimum(slot + loads, length), (slot + loads)[round_again] - length])
    order = np.lexsort((begin, tiles.array[owner]))
    owner, begin, end = owner[order], begin[order], end[order]
    clash = (tiles.array[owner][1:] == tiles.array[owner][:-1]) & (begin[1:] < end[:-1])
    for place in np.flatnonzero(clash)[:SHOWN]:
        pair = f"tiles {rows[owner[place]]} and {rows[owner[place + 1]]}"
        what = f"work in array {tiles.array[owner[place]]} in the same step (slot)"
        yield Violation("one-tile-a-step", pair, what)


def _early_reads(flow: Flow, part: Part, timetable: Timetable) -> list[Violation]:
    tiles = part.placement.tiles

    def steps_of(rows: NDArray[np.int64]) -> Iterator[tuple[int, Steps]]:
        keys = np.stack([tiles.start[rows], tiles.rhythm[rows], timetable.loads[rows]], axis=1)
        distinct, where = np.unique(keys, axis=0, return_index=True)
        for (start, rhythm, load), row in zip(distinct.tolist(), rows[where].tolist(), strict=True):
            yield row, timetable.steps_of(start, rhythm, load)

    return _walk(flow, part, steps_of, timetable.turns, "")


def _early_reads_in_pipeline(flow: Flow, part: Part, timetable: Timetable) -> list[Violation]:
    tiles, interval = part.placement.tiles, part.placement.initiation_interval_steps
    first = tiles.lag.astype(np.int64) * interval + tiles.slot

    def steps_of(rows: NDArray[np.int64]) -> Iterator[tuple[int, Steps]]:
        keys = np.stack([first[rows], timetable.loads[rows]], axis=1)
        distinct, where = np.unique(keys, axis=0, return_index=True)
        for (begin, load), row in zip(distinct.tolist(), rows[where].tolist(), strict=True):
            yield row, begin + np.arange(load)

    return _walk(flow, part, steps_of, timetable.turns, " of the steady state")


StepsOf = Callable[[NDArray[np.int64]], Iterator[tuple[int, Steps]]]
"""Function from the rows of one replica's tiles to a row and its steps, for each different timetable.

The steps of a row are those of all turns of its windows.
"""


def _walk(flow: Flow, part: Part, steps_of: StepsOf, turns: NDArray[np.int64], where: str) -> list[Violation]:
    """Tiles that work on a window before its inputs exist; what other segments make exists from the first step on."""
    tiles, found = part.placement.tiles, list[Violation]()
    edges = np.searchsorted(tiles.layer, np.arange(len(flow.layers) + 1))

    def work(layer: int, ready: Sequence[Steps]) -> list[Steps]:
        rows = np.arange(edges[layer], edges[layer + 1])
        done = []
        for copy, exist in enumerate(ready):
            last = np.zeros(len(exist), np.int64)
            own = rows[tiles.replica[rows] == copy]
            for row, steps in steps_of(own) if len(own) else ():
                first = steps[:: int(turns[row])]
                early = np.flatnonzero(first < exist)
                if len(early) and len(found) < SHOWN:
                    window = int(early[0])
                    what = f"reads in step {first[window]}{where} what exists from step {exist[window]} on"
                    where_in_copy = f"(its window number {window})"
                    found.append(Violation("inputs-exist", f"tile {part.rows[row]}", f"{what} {where_in_copy}"))
                np.maximum(last, last_turns(steps, int(turns[row])) + 1, out=last)
            done.append(last)
        return done

    flow.walk(work, part.layers)
    return found
