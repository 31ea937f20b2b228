"""The schedule of one image as a trace in the format of Chrome, which Perfetto opens.

Each chip is a process and each array a track, on which each tile is a slice from its first to its last step; where
slices would overlap, an array has further tracks. Flows lead from the first tile of a layer to the first of each layer
that reads its results. Counters show values in buffers and power. Segments follow each other, without the time of
writing between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import MappedLayer
from memcompile.program.flow import program_flow
from memcompile.program.program import Program
from memcompile.timing.buffers import held_alone
from memcompile.timing.timetable import Timetable, tile_turns

Event = dict[str, Any]
COUNTERS = "system"
"""Name of the process that counters belong to."""


def schedule_trace(program: Program) -> Event:
    """The trace as data; times are in microseconds, as the format asks for."""
    step_us = program.step_ns * 1e-3
    events = [] if not program.layers else [*_Slices(program, step_us).events(), *_counters(program, step_us)]
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "model": program.provenance.model,
            "target": program.target.name,
            "step_ns": program.step_ns,
            "latency_steps": program.placement.latency_steps,
        },
        "traceEvents": events,
    }


def trace_json(program: Program) -> bytes:
    """The trace as JSON."""
    return json.dumps(schedule_trace(program), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class _Slices:
    """Slices of tiles on tracks of arrays, and the flows between them."""

    def __init__(self, program: Program, step_us: float) -> None:
        self._program = program
        self._step_us = step_us
        self._tiles = program.placement.tiles
        timetable = Timetable(program.layers, program.placement, program.target)
        begins = _segment_begins(program)[self._tiles.segment]
        spans = [timetable.steps(tile)[[0, -1]] for tile in range(len(self._tiles))]
        self._first = np.array([span[0] for span in spans], np.int64) + begins
        self._last = np.array([span[1] for span in spans], np.int64) + begins
        self._loads = timetable.loads
        self._track = _tracks(self._tiles.array, self._first, self._last)

    def events(self) -> Iterator[Event]:
        yield from self._names()
        for tile in range(len(self._tiles)):
            yield self._slice(tile)
        for number, (source, target) in enumerate(layer_edges(self._program), start=1):
            yield from self._flow(number, source, target)

    def _place(self, tile: int) -> Event:
        """Process and thread of a tile: threads count through arrays, with further tracks behind all of them."""
        array = int(self._tiles.array[tile])
        chip = array // self._program.target.chip.arrays
        return {"pid": chip + 1, "tid": int(self._track[tile]) * self._program.cell_map.arrays + array + 1}

    def _names(self) -> Iterator[Event]:
        per_chip = self._program.target.chip.arrays
        for chip in np.unique(self._tiles.array // per_chip).tolist():
            yield _name("process_name", f"chip {chip}", chip + 1)
        known = {}
        for tile in range(len(self._tiles)):
            place = self._place(tile)
            known[place["tid"]] = (place, int(self._tiles.array[tile]), int(self._track[tile]))
        for tid, (place, array, track) in sorted(known.items()):
            further = f" ({track + 1})" if track else ""
            yield _name("thread_name", f"array {array % per_chip}{further}", place["pid"], tid)
            order = (array * (int(self._track.max()) + 1)) + track
            yield {
                "ph": "M",
                "name": "thread_sort_index",
                "pid": place["pid"],
                "tid": tid,
                "args": {"sort_index": order},
            }

    def _slice(self, tile: int) -> Event:
        tiles, layer = self._tiles, self._program.layers[int(self._tiles.layer[tile])]
        copy = f" #{int(tiles.replica[tile]) + 1}" if len(layer.replicas) > 1 else ""
        return {
            "ph": "X",
            "name": f"{layer.name}{copy}",
            "cat": "tile",
            "ts": self._at_us(self._first[tile]),
            "dur": self._at_us(self._last[tile] + 1 - self._first[tile]),
            **self._place(tile),
            "args": {
                "tile": tile,
                "matrix": int(tiles.matrix[tile]),
                "rows": f"{tiles.row_begin[tile]}..{tiles.row_end[tile] - 1}",
                "columns": f"{tiles.column_begin[tile]}..{tiles.column_end[tile] - 1}",
                "steps": int(self._loads[tile]),
                "waiting_steps": int(self._last[tile] + 1 - self._first[tile] - self._loads[tile]),
            },
        }

    def _flow(self, number: int, source: int, target: int) -> Iterator[Event]:
        """Arrow between the first tiles of two layers."""
        for phase, layer in (("s", source), ("f", target)):
            own = np.flatnonzero(self._tiles.layer == layer)
            tile = int(own[np.argmin(self._first[own])])
            event = {"ph": phase, "id": number, "name": "values", "cat": "flow", "ts": self._at_us(self._first[tile])}
            yield {**event, **self._place(tile), **({"bp": "e"} if phase == "f" else {})}

    def _at_us(self, steps: np.integer[Any]) -> float:
        return round(int(steps) * self._step_us, 6)


def _name(kind: str, name: str, pid: int, tid: int = 0) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _segment_begins(program: Program) -> NDArray[np.int64]:
    """Step in which each segment begins, [segments]; one 0 without segments."""
    latencies = [segment.latency_steps for segment in program.placement.segments] or [0]
    return np.concatenate([[0], np.cumsum(latencies)[:-1]]).astype(np.int64)


def _tracks(arrays: NDArray[np.int32], first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Track of each tile among those of its array: the first that is free, [tiles]."""
    track = np.zeros(len(arrays), np.int64)
    ends: dict[int, list[int]] = {}
    for tile in np.lexsort((last, first, arrays)).tolist():
        own = ends.setdefault(int(arrays[tile]), [])
        free = next((place for place, end in enumerate(own) if end < first[tile]), len(own))
        if free == len(own):
            own.append(0)
        own[free] = int(last[tile])
        track[tile] = free
    return track


def layer_edges(program: Program) -> list[tuple[int, int]]:
    """Pairs of crossbar layers of which the second reads results of the first, through digital stages if need be."""
    sources: dict[str, frozenset[int]] = {}
    edges, number = set(), 0
    for stage in program.stages:
        read = frozenset(layer for value in stage.inputs for layer in sources.get(value, ()))
        if isinstance(stage, MappedLayer):
            edges |= {(source, number) for source in read}
            read = frozenset([number])
            number += 1
        sources.update(dict.fromkeys(stage.outputs, read))
    return sorted(edges)


def _counters(program: Program, step_us: float) -> Iterator[Event]:
    """Values in buffers, and power where the target gives energies; an event wherever a figure changes."""
    series: dict[str, tuple[str, NDArray[Any]]] = {
        "values in buffers": ("values", held_alone(program_flow(program), program.placement, program.target))
    }
    power_mw = power_of_steps_mw(program)
    if power_mw is not None:
        series["power, mW"] = ("mW", power_mw)
    yield _name("process_name", COUNTERS, 0)
    for name, (unit, values) in series.items():
        changes = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
        for step in changes.tolist():
            yield _counter(name, unit, step * step_us, values[step].item())
        yield _counter(name, unit, len(values) * step_us, 0)


def _counter(name: str, unit: str, ts: float, value: float) -> Event:
    return {"ph": "C", "name": name, "pid": 0, "tid": 0, "ts": round(ts, 6), "args": {unit: value}}


def power_of_steps_mw(program: Program) -> NDArray[np.float64] | None:
    """Mean power of the arrays in each step of one image alone, in milliwatts, [steps]; None without energies."""
    spec = program.target.scaled_energy
    if spec is None:
        return None
    tiles, cell_map = program.placement.tiles, program.cell_map
    timetable = Timetable(program.layers, program.placement, program.target)
    begins = _segment_begins(program)[tiles.segment]
    phases = np.array([layer.quantizer.phase_count for layer in program.layers])[tiles.layer]
    turns = tile_turns(program.layers, tiles, program.target)
    line_pj = spec.sample_hold_pj + spec.conversion_pj + spec.shift_add_pj
    of_product_pj = spec.cell_pj * cell_map.cells + line_pj * cell_map.widths
    step_pj = phases * (spec.array_pj + spec.driver_pj * tiles.heights + of_product_pj / turns)
    total_pj = np.zeros(max(program.placement.latency_steps, 1))
    for tile in range(len(tiles)):
        total_pj[timetable.steps(tile) + begins[tile]] += step_pj[tile]
    # A picojoule in a nanosecond is a milliwatt.
    return total_pj / program.step_ns
