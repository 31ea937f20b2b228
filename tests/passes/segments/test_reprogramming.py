"""Networks cut into segments: the best of all cuts, a bound below it, and programs that compute the same."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import models
import numpy as np
import pytest
import stages
from factories import make_target
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kept import Kept
from layer_graphs import chain, geometries, image_of, paired
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.cli.main import main
from memcompile.errors import CapacityError, UsageError
from memcompile.hardware.pulses import LevelWrites
from memcompile.hardware.target import Target, load_target
from memcompile.ir.geometry import Geometry, Unrolling
from memcompile.ir.pass_manager import PassContext
from memcompile.passes.cut_segments import CutSegments
from memcompile.passes.packing.tiling import full_cut
from memcompile.passes.place import Place
from memcompile.passes.replicate import Replicate
from memcompile.passes.schedule import Schedule
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.search.layer_graph import mapped_layers, tile_loads
from memcompile.passes.segments.costs import CutLayer, SegmentCosts, Stretch
from memcompile.passes.segments.plan import cut_points, plan_segments, stretches_between
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.program.file import decode_program, encode_program
from memcompile.program.program import Program
from memcompile.report.cost import program_cost
from memcompile.report.facts import program_facts
from memcompile.runtime.emulator import Emulator
from memcompile.verify.verifier import find_violations, verify_program

YAO = load_target("yao2020")


# --- the plan --------------------------------------------------------------------------------


@st.composite
def instances(draw: st.DrawFn) -> SegmentCosts:
    """A few layers of a few tiles on one to three small arrays."""
    lines = (4, 8)
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        geometry = Geometry(draw(st.integers(1, 9)), draw(st.integers(1, 6)), (1,), (draw(st.integers(1, 12)),))
        unrolling = Unrolling.im2col(geometry)
        option = ReplicaOption.of(unrolling, full_cut(unrolling, 4, 4), 2)
        heights, widths = np.diff(option.cut.rows), 2 * np.diff(option.cut.columns)
        pairs = np.array([(height, width) for width in widths for height in heights])
        sizes, size = np.unique(pairs, axis=0, return_inverse=True)
        times = draw(st.lists(st.integers(0, 50), min_size=option.tiles, max_size=option.tiles))
        named = tuple((int(height), int(width)) for height, width in sizes)
        layers.append(CutLayer(option, named, size.ravel(), np.array(times, np.float64)))
    return SegmentCosts(layers, lines, draw(st.integers(1, 3)), float(draw(st.sampled_from([0, 1, 7, 100]))))


def cost_of_cut(costs: SegmentCosts, points: list[tuple[int, int]], cut: tuple[int, ...]) -> float:
    total = 0.0
    for first, last in itertools.pairwise((0, *cut, len(points) - 1)):
        choice = costs.of(stretches_between(costs, points[first], points[last]))
        if choice is None:
            return np.inf
        total += choice.cost_ns
    return total


@settings(max_examples=80, deadline=None)
@given(instances())
def test_no_other_cut_is_cheaper(costs: SegmentCosts) -> None:
    points = cut_points(costs)
    assume(len(points) <= 13)
    inside = range(1, len(points) - 1)
    every = itertools.chain.from_iterable(itertools.combinations(inside, count) for count in range(len(inside) + 1))
    plan = plan_segments(costs)
    stretches = [stretch for segment in plan for stretch in segment.stretches]
    whole = [(layer, tile) for layer, item in enumerate(costs.layers) for tile in range(item.tiles)]
    assert [(s.layer, tile) for s in stretches for tile in range(s.begin, s.end)] == whole
    best = min(cost_of_cut(costs, points, cut) for cut in every)
    assert sum(segment.choice.cost_ns for segment in plan) == pytest.approx(best, rel=1e-12, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(instances())
def test_a_segment_costs_what_its_copies_take(costs: SegmentCosts) -> None:
    """Brute force over all copies of the layers of the first segment: none is undercut, the bound holds."""
    layers = range(min(2, len(costs.layers)))
    stretches = [Stretch(number, 0, costs.layers[number].tiles) for number in layers]
    choice = costs.of(stretches)
    if choice is None:
        return
    writing = sum(count * costs.write_ns(s) for count, s in zip(choice.copies, stretches, strict=True))
    assert choice.cost_ns == pytest.approx(writing + costs.interval_ns * choice.interval)
    cells_and_work = [costs.cells_and_work(stretch) for stretch in stretches]
    assert sum(count * cells for count, (cells, _) in zip(choice.copies, cells_and_work, strict=True)) <= costs.cells
    assert choice.interval * costs.arrays >= sum(work for _, work in cells_and_work)
    assert all(
        choice.interval >= -(-costs.layers[s.layer].windows // count)
        for count, s in zip(choice.copies, stretches, strict=True)
    )
    one = costs.of(stretches[:1])
    assert one is not None
    assert one.cost_ns <= choice.cost_ns + 1e-9


def test_copies_are_made_where_computing_is_worth_more_than_writing() -> None:
    geometry = Geometry(4, 4, (1,), (64,))
    option = ReplicaOption.of(Unrolling.im2col(geometry), full_cut(Unrolling.im2col(geometry), 4, 4), 2)
    layer = CutLayer(option, ((4, 8),), np.zeros(1, np.int64), np.array([100.0]))
    seldom, often = (SegmentCosts([layer], (4, 8), 4, price).of([Stretch(0, 0, 1)]) for price in (1.0, 100.0))
    assert seldom is not None
    assert often is not None
    assert (seldom.copies, seldom.interval, seldom.cost_ns) == ((1,), 64, 164.0)
    assert (often.copies, often.interval, often.cost_ns) == ((4,), 16, 400.0 + 1600.0)


# --- what writing takes ----------------------------------------------------------------------


def test_a_cell_is_written_from_the_lowest_level_and_brought_back() -> None:
    spec = YAO.write_verify
    assert spec is not None
    once, both = LevelWrites.once(YAO.cell, spec), LevelWrites.and_back(YAO.cell, spec)
    assert once.writes.tolist() == [1] * 8
    assert both.writes.tolist() == [1] + [2] * 7
    assert (once.pulses[0], both.pulses[0]) == (0, 0)
    # SET and RESET pulses are equally large there, so the way back takes as many.
    assert np.array_equal(both.pulses, 2 * once.pulses)
    assert (np.diff(once.pulses) > 0).all()
    assert both.time_ns(spec)[0] == spec.verify_ns
    assert both.time_ns(spec)[7] == both.pulses[7] * (spec.pulse_ns + spec.verify_ns) + 2 * spec.verify_ns


# --- programs --------------------------------------------------------------------------------


def small_target(**sections: dict) -> Target:
    return make_target(
        array={"input_lines": 8, "output_lines": 16},
        chip={"arrays": 2},
        **sections,
    )


def compiled_in_segments(batch: int) -> Program:
    return memcompile.compile(MODEL, small_target(), chips=1, batch=batch)


@cache
def reprogrammed(batch: int) -> Program:
    """The same, compiled once for all tests."""
    return compiled_in_segments(batch)


@pytest.fixture(scope="module")
def whole(kept: Kept) -> Program:
    return kept.program(MODEL, small_target())


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    images, _ = memcompile.data.loader.digits28()
    return images[:6, None].astype(np.float32) / 255


@pytest.mark.parametrize("batch", [1, 100, 100_000])
def test_a_reprogrammed_network_computes_what_the_whole_one_does(
    batch: int, whole: Program, digits: np.ndarray
) -> None:
    cut = reprogrammed(batch)
    assert whole.placement.chips > 1
    assert len(cut.placement.segments) > 1
    assert cut.placement.batch == batch
    assert cut.placement.tiles.array.max() < 2
    verify_program(cut)
    want = Emulator.ideal(whole).run(digits[:2])["logits"]
    for executor in ("fast", "literal"):
        assert np.array_equal(Emulator.ideal(cut, executor).run(digits[:2])["logits"], want)


def test_a_layer_larger_than_the_chip_lies_in_several_segments(digits: np.ndarray) -> None:
    tiles = reprogrammed(100).placement.tiles
    last = tiles.layer == 2
    assert int((tiles.heights[last] * 2 * (tiles.column_end - tiles.column_begin)[last]).sum()) > 2 * 8 * 16
    assert len(np.unique(tiles.segment[last])) > 1


@pytest.mark.parametrize("batch", [1, 30, 1000])
def test_the_certificate_is_the_time_of_a_pass(batch: int) -> None:
    program = reprogrammed(batch)
    (certificate,) = program.placement.certificates
    cost = program_cost(program)
    assert certificate.quantity == "pass_time_ns"
    assert cost.a_pass is not None
    assert certificate.value == pytest.approx(cost.a_pass.time_us * 1e3, abs=3)
    assert 0 < certificate.bound <= certificate.value
    assert cost.interval_us == pytest.approx(cost.a_pass.time_us / batch)
    assert cost.energy_pj is not None
    writing_j = cost.a_pass.writing.energy_j(program.target)
    assert cost.energy_pj["writing"] == pytest.approx((writing_j or 0) * 1e12 / batch)
    assert sum(segment.writing.pulses for segment in cost.a_pass.segments) == cost.a_pass.writing.pulses
    assert sum(segment.writing.writes for segment in cost.a_pass.segments) == cost.a_pass.writing.writes
    assert 0 < cost.a_pass.most_pulses <= 2 * 30 * len(program.placement.segments)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(geometries(), min_size=1, max_size=3),
    st.sampled_from([1, 3, 1000, 2**32]),
    st.floats(0.1, 1e4),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([1, 1, 4, 8]),
)
def test_no_pass_takes_less_than_the_bound(
    layers: list[Geometry], batch: int, pulse_ns: float, seed: int, windows: bool, sharing: int
) -> None:
    """Prices without a short form in binary, so that every sum is rounded."""
    array, adc = {"input_lines": 4, "output_lines": 8}, {"lines_per_converter": sharing}
    target = make_target(array=array, chip={"arrays": 1}, adc=adc)
    assert target.write_verify is not None
    pulses = target.write_verify.model_copy(
        update={"pulse_ns": pulse_ns, "verify_ns": pulse_ns / 3, "cells_at_once": 7}
    )
    target, rng = target.model_copy(update={"write_verify": pulses}), np.random.default_rng(seed)
    nodes = []
    for number, geometry in enumerate(layers):
        node = paired(f"l{number}", f"x{number}", f"y{number}", geometry, target, 1)
        cells = rng.integers(0, 8, node.cells.shape, np.uint8)
        cells[rng.integers(0, 2)] = 0  # the other polarity of all pairs
        nodes.append(replace(node, cells=cells))
    inputs, outputs = (tuple(name for node in nodes for name in getattr(node, side)) for side in ("inputs", "outputs"))
    types = {name: image_of(geometry) for name, geometry in zip(inputs, layers, strict=True)}
    graph = chain([], target).replace(nodes=tuple(nodes), inputs=inputs, outputs=outputs, types=types)
    context = PassContext(target=target, calibration={}, chips=1, batch=batch)
    for item in (TileMatrices(), CutSegments(windows), Replicate(effort="fast"), Place(), Schedule()):
        graph = item.run(graph, context)
        assert find_violations(graph, target) == []
    assert graph.placement is not None
    assume(graph.placement.segments)
    (certificate,) = graph.placement.certificates
    assert 0 < certificate.bound <= certificate.value
    # Without the waits of arrays for each other and for pipelines that fill, nothing is lost but the rounding.
    steps = sum(segment.steps(batch) for segment in graph.placement.segments)
    waits = steps - batch * int(tile_loads(mapped_layers(graph), graph.placement.tiles, target).sum())
    copies = max(len(layer.replicas) for layer in mapped_layers(graph))
    if waits == 0 and copies == 1:
        assert certificate.value - certificate.bound <= 3 + 2e-9 * certificate.value


def test_larger_batches_take_longer_segments_less_often() -> None:
    """Per image nothing gets slower, and computing takes fewer steps when writing is shared by more images."""
    programs = [reprogrammed(batch) for batch in (1, 100, 10_000)]
    costs = [program_cost(program) for program in programs]
    assert costs[0].interval_us > costs[1].interval_us > costs[2].interval_us
    steps = [program.placement.initiation_interval_steps for program in programs]
    assert steps[0] >= steps[1] >= steps[2]


def test_pulses_of_a_cell_add_up_over_the_segments_that_use_it() -> None:
    program = reprogrammed(10)
    levels = LevelWrites.and_back(program.target.cell, program.target.write_verify)
    devices = Emulator.ideal(program).machine.devices
    segments = range(len(program.placement.segments))
    pulses = np.stack([[levels.pulses[devices.levels(array, s)] for array in range(2)] for s in segments]).sum(axis=0)
    cost = program_cost(program).a_pass
    assert cost is not None
    assert cost.most_pulses == pulses.max()
    assert cost.writing.pulses == pulses.sum()


def test_a_residual_network_is_cut_where_its_data_allow() -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{number}": models.dyadic(rng, (6, 6, 3, 3)) for number in range(3)}
    nodes = [
        models.node("Conv", "x w0", "a", pads=[1, 1, 1, 1]),
        models.node("Relu", "a", "b"),
        models.node("Conv", "b w1", "c", pads=[1, 1, 1, 1]),
        models.node("Add", "c b", "d"),
        models.node("Conv", "d w2", "e", pads=[1, 1, 1, 1]),
        models.node("Add", "e x", "y"),
    ]
    model = models.float_model(nodes, ("N", 6, 6, 6), weights)
    feeds = {"x": models.images((5, 6, 6, 6))}
    context = stages.context_for(feeds, small_target(), chips=1, batch=3)
    graph = stages.run_verified(stages.import_model(model, feeds), stages.passes_through("schedule"), context)
    assert graph.placement is not None
    assert len(graph.placement.segments) > 2


def test_a_network_that_fits_is_not_cut() -> None:
    plain, asked = memcompile.compile(MODEL, chips=1, max_loss=None), memcompile.compile(MODEL, chips=1, batch=10)
    assert asked.placement.segments == ()
    assert np.array_equal(asked.placement.tiles.array, plain.placement.tiles.array)


def test_same_options_same_bytes() -> None:
    first, second = (encode_program(compiled_in_segments(50)) for _ in range(2))
    assert first == second
    assert encode_program(verify_program(decode_program(first, "here"))) == first


def test_several_chips_share_the_writing() -> None:
    one, three = reprogrammed(1), memcompile.compile(MODEL, small_target(), chips=3, batch=1)
    assert three.placement.chips == 3
    assert int(three.placement.tiles.array.max()) < 6
    passes = [program_cost(program).a_pass for program in (one, three)]
    assert passes[0] is not None
    assert passes[1] is not None
    assert 2.5 < passes[0].writing_us / passes[1].writing_us <= 3.0 + 1e-9


def test_parallel_windows_make_large_batches_faster() -> None:
    target = make_target(chip={"arrays": 2})
    plain, windows = (
        memcompile.compile(MODEL, target, chips=1, batch=10_000, settings=[f"cut_segments.parallel_windows={value}"])
        for value in ("false", "true")
    )
    assert all(set(replica.unrolling.window) == {1} for layer in plain.layers for replica in layer.replicas)
    assert windows.placement.certificates[0].value < plain.placement.certificates[0].value


# --- refusals and the report -----------------------------------------------------------------


def test_the_way_out_is_named_where_the_network_does_not_fit() -> None:
    with pytest.raises(CapacityError, match=r"use --chips \d+, --reprogram to write the network onto the chips part"):
        memcompile.compile(MODEL, small_target(), chips=1)
    silent = small_target().model_copy(update={"write_verify": None})
    with pytest.raises(CapacityError) as caught:
        memcompile.compile(MODEL, silent, chips=1)
    assert "--reprogram" not in str(caught.value)


def test_a_target_without_pulses_is_refused() -> None:
    silent = small_target().model_copy(update={"write_verify": None})
    with pytest.raises(UsageError, match=r"does not say what writing takes.*\[write_verify\]"):
        memcompile.compile(MODEL, silent, chips=1, batch=10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 10}, "give --chips N with --reprogram"),
        ({"batch": 0, "chips": 1}, "from 1 to 2"),
        ({"batch": 2**32 + 1, "chips": 1}, "from 1 to 2"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        memcompile.compile(MODEL, **options)


def test_facts_say_what_a_pass_takes(kept: Kept) -> None:
    program = reprogrammed(30)
    facts = program_facts(program)
    a_pass = facts["cost"]["pass"]
    assert (facts["segments"], facts["batch"]) == (len(program.placement.segments), 30)
    assert a_pass["time_us"] == pytest.approx(a_pass["writing_us"] + a_pass["computing_us"])
    assert facts["images_per_second"] == pytest.approx(30e6 / a_pass["time_us"])
    assert facts["pass_time_ns"] >= facts["pass_time_bound_ns"] > 0
    assert len(a_pass["segments"]) == facts["segments"]
    assert sum(each["cells"] for each in a_pass["segments"]) == facts["cells_used"]
    assert facts["cost"]["transfer"] is None
    assert 0 < facts["cell_utilisation"] <= 1
    assert a_pass["writing"]["endurance_share"] == a_pass["writing"]["most_pulses_of_a_cell"] / 1e11
    spans = [layer["segments"] for layer in facts["layers"]]
    assert spans[0][0] == 0
    assert spans[-1][1] == facts["segments"] - 1
    assert program_facts(kept.program(MODEL))["cost"]["pass"] is None


def test_the_command_line_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [str(MODEL), "-o", "cut.mcp", "--chips", "1", "--slices", "4", "--no-evaluation"]
    assert main([*command]) == 7
    assert "--reprogram" in capsys.readouterr().err
    assert main([*command, "--batch", "3"]) == 2
    assert "add --reprogram" in capsys.readouterr().err
    assert main([*command, "--reprogram"]) == 0
    told = capsys.readouterr().out
    assert "100 images a batch" in told
    assert "proven lower bound" in told
    assert "us writing" in told
    assert "endurance" in told
    assert main(["show", "cut.mcp"]) == 0
    assert "us computing" in capsys.readouterr().out
    assert main(["show", "cut.mcp", "--weight", "C3", "2", "40"]) == 0
    assert "segment" in capsys.readouterr().out
    assert main(["run", "cut.mcp", "--images", "4"]) == 0
    assert main(["export", "cut.mcp", "--npz", "cells.npz"]) == 0
    assert "segments written to" in capsys.readouterr().out
    assert main(["tune", "cut.mcp", "-o", "tuned.mcp"]) == 2
    assert "without --reprogram" in capsys.readouterr().err
