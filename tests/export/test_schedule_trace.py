"""The schedule as a trace: each tile once, no overlap on a track, valid events, energies that add up."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import factories
import numpy as np
import pytest
from places import FIVE_LAYER_CNN

from memcompile.export.schedule_trace import layer_edges, power_of_steps_mw, trace_json
from memcompile.pipelines import compile_model
from memcompile.program.flow import program_flow
from memcompile.program.program import Program
from memcompile.report.cost import program_cost
from memcompile.timing.buffers import buffer_sizes, held_alone
from memcompile.timing.timetable import Timetable

Event = dict[str, Any]
FIELDS = {
    "M": {"name", "pid", "tid", "args"},
    "X": {"name", "cat", "ts", "dur", "pid", "tid", "args"},
    "s": {"name", "cat", "id", "ts", "pid", "tid"},
    "f": {"name", "cat", "id", "ts", "pid", "tid", "bp"},
    "C": {"name", "ts", "pid", "tid", "args"},
}
"""Fields of each phase by the description of the format."""


def program_of(case: str) -> Program:
    if case == "compiled":
        return compile_model(FIVE_LAYER_CNN, check=False).program
    rng = np.random.default_rng(3)
    program = factories.two_layer_program(rng, factories.make_target())
    return factories.in_segments(program, (1,), batch=4) if case == "segmented" else program


@pytest.fixture(scope="module", params=["compiled", "by hand", "segmented"])
def case(request: pytest.FixtureRequest) -> tuple[Program, list[Event]]:
    program = program_of(request.param)
    return program, json.loads(trace_json(program))["traceEvents"]


def slices(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ph"] == "X"]


def test_every_event_has_the_fields_of_its_phase(case: tuple[Program, list[Event]]) -> None:
    for event in case[1]:
        assert event.keys() == FIELDS[event["ph"]] | {"ph"}
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event.get("ts", 0) >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())


def test_every_tile_is_there_once_in_its_steps(case: tuple[Program, list[Event]]) -> None:
    program, events = case
    found = slices(events)
    assert [event["args"]["tile"] for event in found] == list(range(len(program.placement.tiles)))
    timetable, tiles = Timetable(program.layers, program.placement, program.target), program.placement.tiles
    latencies = [segment.latency_steps for segment in program.placement.segments]
    for tile, event in enumerate(found):
        steps = timetable.steps(tile) + sum(latencies[: tiles.segment[tile]])
        step_us = program.step_ns * 1e-3
        assert event["ts"] == pytest.approx(steps[0] * step_us)
        assert event["ts"] + event["dur"] == pytest.approx((steps[-1] + 1) * step_us)
        assert event["args"]["steps"] == len(steps)
        assert event["args"]["waiting_steps"] == (np.diff(steps) - 1).sum()
        assert event["pid"] == tiles.array[tile] // program.target.chip.arrays + 1


def test_no_slices_overlap_on_a_track(case: tuple[Program, list[Event]]) -> None:
    tracks = defaultdict(list)
    for event in slices(case[1]):
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        spans.sort()
        assert all(end <= begin + 1e-9 for (_, end), (begin, _) in itertools.pairwise(spans))
    names = {(event["pid"], event["tid"]) for event in case[1] if event["name"] == "thread_name"}
    assert names == set(tracks)


def test_flows_lead_from_layer_to_layer(case: tuple[Program, list[Event]]) -> None:
    program, events = case
    edges = layer_edges(program)
    assert edges == [(number, number + 1) for number in range(len(program.layers) - 1)]
    spans = [(event["pid"], event["tid"], event["ts"], event["ts"] + event["dur"]) for event in slices(events)]
    ends: dict[int, dict[str, Event]] = defaultdict(dict)
    for event in events:
        if event["ph"] in "sf":
            ends[event["id"]][event["ph"]] = event
            at = (event["pid"], event["tid"])
            assert any(span[:2] == at and span[2] <= event["ts"] < span[3] for span in spans)
    assert len(ends) == len(edges)
    assert all(pair["s"]["ts"] <= pair["f"]["ts"] for pair in ends.values())


def test_power_adds_up_to_the_energy_of_an_image(case: tuple[Program, list[Event]]) -> None:
    program, _ = case
    power_mw, cost = power_of_steps_mw(program), program_cost(program)
    assert power_mw is not None
    assert cost.energy_pj is not None
    of_arrays = sum(energy for part, energy in cost.energy_pj.items() if part != "writing")
    assert power_mw.sum() * program.step_ns == pytest.approx(of_arrays)


def test_counters_follow_the_buffers(case: tuple[Program, list[Event]]) -> None:
    program, events = case
    flow = program_flow(program)
    held = held_alone(flow, program.placement, program.target)
    assert held.max() == buffer_sizes(flow, program.placement, program.target).alone
    values = [event["args"]["values"] for event in events if event["name"] == "values in buffers"]
    assert max(values) == held.max()
    assert values[-1] == 0


def test_a_network_without_layers_has_an_empty_trace() -> None:
    program = program_of("by hand")
    none = replace(program.placement, tiles=program.placement.tiles.take(np.zeros(0, np.int64)))
    empty = replace(program, stages=(factories.digital_stage("relu", "Relu", "x", "y", 4),), placement=none)
    assert json.loads(trace_json(empty))["traceEvents"] == []
