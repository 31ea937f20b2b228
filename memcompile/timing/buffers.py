"""Sizes of the line buffers: the most values that wait at once between the layers.

An element of a value is held from the step on in which it can be read up to the last step in which something reads it.
What is read in the first step in which it can be, and never again, passes by and is not held. In the steady state
several images are under way, and elements of all of them are held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.ir.graph import MappedLayer, OnnxNode
from memcompile.ir.placement import Part, Placement
from memcompile.timing.dataflow_steps import Flow, Steps, later_of, latest_along, read_until, thin
from memcompile.timing.operator_reads import Found, Index, Shape, Span
from memcompile.timing.timetable import Timetable, last_turns, tile_turns, tile_windows


@dataclass(frozen=True)
class Buffer:
    """Most elements of one value that are held at once: of one image alone, and in the steady state."""

    value: str
    alone: int
    steady: int


@dataclass(frozen=True)
class Buffers:
    """Buffers of all values that are held at all, in network order, and the most that they hold together.

    ``alone`` and ``steady`` are the most elements in any step; buffers are largest in different
    steps, so their sum is more. With segments each figure is that of the segment with most.
    """

    values: tuple[Buffer, ...]
    alone: int
    steady: int


def buffer_sizes(flow: Flow, placement: Placement, target: Target) -> Buffers:
    """Buffers that a scheduled placement needs.

    The network's inputs are there from the first step on, its outputs are handed on as they come. Layers
    that lie in several segments exchange sums through memory of the host, which is not counted.
    """
    alone, steady = _Most(), _Most()
    for part in placement.parts():
        length, interval = part.placement.latency_steps, part.placement.initiation_interval_steps
        alone.add(_held(flow, part, _steps_alone(flow, part, target)), max(length, 1))
        steady.add(_held(flow, part, _steps_steady(flow, part, target)), max(interval, 1))
    names = [name for name in alone.by_value if alone.by_value[name] or steady.by_value.get(name)]
    values = tuple(Buffer(name, alone.by_value[name], steady.by_value.get(name, 0)) for name in names)
    return Buffers(values, alone.together, steady.together)


def held_alone(flow: Flow, placement: Placement, target: Target) -> NDArray[np.int64]:
    """Elements held together in each step of one image alone, segment after segment, [steps]."""
    parts = []
    for part in placement.parts():
        most = _Most()
        most.add(_held(flow, part, _steps_alone(flow, part, target)), max(part.placement.latency_steps, 1))
        parts.append(most.total)
    return np.concatenate(parts)


@dataclass
class _Most:
    """Most elements held at once, by value and of all values together.

    ``total`` are those of all values in each step of the part that was added last.
    """

    by_value: dict[str, int] = field(default_factory=dict)
    together: int = 0
    total: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, held: Iterator[tuple[str, Steps, Steps]], period: int) -> None:
        """Count elements held from one step until another, images following each other at a period."""
        total = np.zeros(period, np.int64)
        for name, begin, end in held:
            amounts = _amounts(begin, end, period)
            total += amounts
            self.by_value[name] = max(self.by_value.get(name, 0), int(amounts.max()))
        self.together = max(self.together, int(total.max()))
        self.total = total


def _amounts(begin: Steps, end: Steps, period: int) -> NDArray[np.int64]:
    """Elements held in each step of a period, [period]."""
    begin, end = np.broadcast_arrays(begin, end)
    alike, (begin, end) = begin.size, thin(begin, end)
    alike //= max(begin.size, 1)
    waits = end > begin
    begin, end = begin[waits], end[waits]
    # Whole periods hold an element of as many images all the time.
    whole, rest = np.divmod(end - begin, period)
    first = begin % period
    open_at = np.cumsum(
        np.bincount(first, minlength=2 * period) - np.bincount(first + rest, minlength=2 * period)[: 2 * period]
    )
    folded: NDArray[np.int64] = alike * (open_at[:period] + open_at[period:] + whole.sum())
    return folded


StepsOf = Callable[[NDArray[np.int64]], Iterator[tuple[int, Steps]]]
"""Function from the rows of one layer's tiles to pairs of a row and the last step of each of its windows.

One for each different timetable: inputs are held until all turns of a window are through.
"""


def _steps_alone(flow: Flow, part: Part, target: Target) -> StepsOf:
    timetable, tiles = Timetable(flow.layers, part.placement, target), part.placement.tiles

    def steps_of(rows: NDArray[np.int64]) -> Iterator[tuple[int, Steps]]:
        keys = np.stack([tiles.replica[rows], tiles.start[rows], tiles.rhythm[rows], timetable.turns[rows]], axis=1)
        for row in rows[np.unique(keys, axis=0, return_index=True)[1]].tolist():
            yield row, last_turns(timetable.steps(row), int(timetable.turns[row]))

    return steps_of


def _steps_steady(flow: Flow, part: Part, target: Target) -> StepsOf:
    tiles = part.placement.tiles
    windows, turns = tile_windows(flow.layers, tiles), tile_turns(flow.layers, tiles, target)
    first = tiles.lag.astype(np.int64) * part.placement.initiation_interval_steps + tiles.slot

    def steps_of(rows: NDArray[np.int64]) -> Iterator[tuple[int, Steps]]:
        keys = np.stack([tiles.replica[rows], first[rows], turns[rows]], axis=1)
        for row in rows[np.unique(keys, axis=0, return_index=True)[1]].tolist():
            yield row, int(first[row]) + int(turns[row]) * np.arange(1, int(windows[row]) + 1) - 1

    return steps_of


def _held(flow: Flow, part: Part, steps_of: StepsOf) -> Iterator[tuple[str, Steps, Steps]]:
    """First and last step in which each element of each value is held."""
    tiles = part.placement.tiles
    edges = np.searchsorted(tiles.layer, np.arange(len(flow.layers) + 1))
    until: dict[str, Steps] = {}
    begins: dict[str, Steps] = {}

    def note(name: str, begin: Steps, end: Steps) -> None:
        begins[name] = begin
        until[name] = later_of(until[name], end) if name in until else end

    def work(layer: int, ready: Sequence[Steps]) -> list[Steps]:
        reads[layer] = [np.full(len(steps), -1, np.int64) for steps in ready]
        for row, steps in steps_of(np.arange(edges[layer], edges[layer + 1])):
            latest = reads[layer][int(tiles.replica[row])]
            np.maximum(latest, steps, out=latest)
        return [steps + 1 for steps in reads[layer]]

    def watch(operator: OnnxNode, found: Found, before: Mapping[str, Steps], results: Mapping[str, Steps]) -> None:
        for name, end in _operator_needs(operator, found, before, results):
            note(name, before[name], end)

    reads: dict[int, list[Steps]] = {}
    values = flow.walk(work, part.layers, watch)
    for number, layer in enumerate(flow.layers):
        if number in reads:
            x = values[layer.inputs[0]]
            last = read_until(layer, x, reads[number])
            # A window that is worked on in the first step in which it can be takes its inputs as they come.
            note(layer.inputs[0], _of_layer(layer, x), _one_later(x, last))
    for name, begin in begins.items():
        yield name, begin, until[name]


def _of_layer(layer: MappedLayer, x: Steps) -> Steps:
    """Steps of a layer's input; where its shape is not known, of as many elements as the layer reads."""
    if x.ndim:
        return x
    return np.broadcast_to(x, (layer.geometry.in_channels, *layer.geometry.input_size))


def _one_later(x: Steps, last: Steps) -> Steps:
    """The step after ``last`` where that is later than the step in which an element exists, else that step."""
    begin, end = thin(*np.broadcast_arrays(x, last))
    return np.broadcast_to(np.where(end > begin, end + 1, begin), x.shape)


def _operator_needs(
    operator: OnnxNode, found: Found, before: Mapping[str, Steps], results: Mapping[str, Steps]
) -> Iterator[tuple[str, Steps]]:
    """Step in which the last result exists that depends on each element that an operator reads."""
    ends: dict[str, Steps] = {}
    for number, name in enumerate(operator.outputs):
        if not name:
            continue
        result = results[name]
        if number not in found:
            for read in (*operator.inputs, *operator.captures):
                if read in before:
                    ends[read] = later_of(ends.get(read, before[read]), np.asarray(result.max(initial=0)))
            continue
        for operand, reads in found[number].operands:
            read = operator.inputs[operand]
            ends[read] = later_of(ends.get(read, before[read]), _needed_until(before[read].shape, result, reads))
    yield from ends.items()


def _needed_until(shape: Shape, result: Steps, reads: Index | Span | None) -> Steps:
    """Step of the last result that reads each element of an operand of some shape; 0 for none."""
    if reads is None:
        return result
    if isinstance(reads, Span):
        # Of the axes along which the operand is repeated, too.
        lead = result.ndim - len(reads.shape)
        repeated = [axis for axis, size in enumerate(reads.shape, lead) if size == 1]
        along = latest_along(result, Span((*range(lead), *repeated), ()))
        kept = [1 if axis in reads.axes else size for axis, size in enumerate(shape)]
        return np.broadcast_to(along.reshape(kept), shape)
    reach, inside = np.zeros(math.prod(shape), np.int64), reads >= 0
    np.maximum.at(reach, reads[inside], np.broadcast_to(result, reads.shape)[inside])
    return reach.reshape(shape)
