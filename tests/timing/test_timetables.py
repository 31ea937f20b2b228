"""Schedules of one image against a simulation, bounds against what is found, and what happens to a wrong one."""

from __future__ import annotations

from typing import Any

import factories
import models
import numpy as np
import onnx
import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stages import compiled

from memcompile.errors import ProgramError
from memcompile.ir.graph import MappedLayer, TileTable
from memcompile.passes.placement.timetables import ArrayTurns, one_image, pipeline, take_turn, take_turns
from memcompile.program.flow import program_flow
from memcompile.runtime.emulator import Emulator
from memcompile.timing.dataflow_steps import Flow
from memcompile.timing.timetable import Timetable, find_rhythms, tile_turns
from memcompile.verify.verifier import verify_program

READY = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(READY, st.sets(st.integers(0, 40)))
def test_turns_are_what_a_step_by_step_simulation_finds(ready: list[list[int]], busy: set[int]) -> None:
    steps = take_turns(np.array(sorted(busy), np.int64), [np.array(item) for item in ready])
    taken = np.concatenate(steps)
    assert len(set(taken.tolist())) == len(taken)
    assert not set(taken.tolist()) & busy
    for item, mine in zip(ready, steps, strict=True):
        assert (mine >= item).all()
        assert (np.diff(mine) > 0).all()
    # Whoever works in every step in which somebody can is done first: count the steps of such a simulation.
    turn, step, used = [0] * len(ready), 0, []
    while any(place < len(item) for place, item in zip(turn, ready, strict=True)):
        able = [n for n, item in enumerate(ready) if turn[n] < len(item) and max(item[: turn[n] + 1]) <= step]
        if able and step not in busy:
            turn[able[0]] += 1
            used.append(step)
        step += 1
    assert sorted(taken.tolist()) == used


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=9), min_size=1, max_size=5))
def test_rhythms_give_back_the_timetables(gaps: list[list[int]]) -> None:
    tables = [np.cumsum(item) - 1 for item in gaps]
    rhythms, pauses = find_rhythms(tables)
    target = factories.make_target()
    layer = factories.random_layer(np.random.default_rng(0), factories.Geometry(1, 1, layout="channels_last"), target)
    table = TileTable.of([layer]).with_columns(rhythm=np.array([rhythms.max()]))
    timetable = Timetable([layer], factories.Placement(1, table, pauses=pauses), target)
    for steps, rhythm in zip(tables, rhythms.tolist(), strict=True):
        assert np.array_equal(timetable.steps_of(int(steps[0]), rhythm, len(steps)), steps)


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Convolutions with pooling and residual connections between them, and at times a classifier."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    channels, size = draw(st.integers(1, 3)), draw(st.integers(5, 9))
    nodes, weights, value = [], {}, "x"
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["plain", "strided", "pooled", "residual"]))
        weights[f"w{number}"] = models.dyadic(rng, (channels, channels, 3, 3))
        strides = [2, 2] if kind == "strided" else [1, 1]
        made = f"c{number}"
        nodes.append(models.node("Conv", f"{value} w{number}", made, pads=[1, 1, 1, 1], strides=strides))
        if kind == "residual":
            nodes.append(models.node("Add", f"{made} {value}", f"a{number}"))
            made = f"a{number}"
        nodes.append(models.node("Relu", made, f"r{number}"))
        value = f"r{number}"
        if kind == "pooled":
            pool = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            nodes.append(models.node(pool, value, f"p{number}", kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 0]))
            value = f"p{number}"
    if draw(st.booleans()):
        nodes.append(models.node("GlobalAveragePool", value, "g"))
        nodes.append(models.node("Flatten", "g", "f"))
        weights["w"] = models.dyadic(rng, (channels, 4))
        nodes.append(models.node("MatMul", "f w", "y"))
    else:
        nodes.append(models.node("Identity", value, "y"))
    return models.float_model(nodes, ("N", channels, size, size), weights), (channels, size, size)


@st.composite
def token_networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Layers on tokens with normalisation, attention and means between them, and sizes that the network computes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    tokens, width = draw(st.integers(2, 4)), 4
    weights: dict[str, NDArray[Any]] = {"ones": np.ones(width, np.float32)}
    weights |= {"two": np.array([2]), "rest": np.array([-1])}
    nodes = [models.node("Shape", "x", "size", end=2), models.node("Concat", "size two rest", "heads", axis=0)]
    nodes.append(models.node("Concat", "size rest", "joined", axis=0))
    value = "x"
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["plain", "normalised", "attention", "soft", "turned"]))
        weights[f"w{number}"] = models.dyadic(rng, (width, width))
        nodes.append(models.node("MatMul", f"{value} w{number}", f"m{number}"))
        value, name = f"m{number}", f"v{number}"
        if kind == "normalised":
            nodes.append(models.node("LayerNormalization", f"{value} ones", name))
        elif kind == "attention":
            nodes.append(models.node("Reshape", f"{value} heads", f"h{number}"))
            nodes.append(models.node("Transpose", f"h{number}", f"q{number}", perm=[0, 2, 1, 3]))
            nodes.append(models.node("Transpose", f"h{number}", f"k{number}", perm=[0, 2, 3, 1]))
            nodes.append(models.node("MatMul", f"q{number} k{number}", f"s{number}"))
            nodes.append(models.node("Softmax", f"s{number}", f"p{number}", axis=-1))
            nodes.append(models.node("MatMul", f"p{number} q{number}", f"a{number}"))
            nodes.append(models.node("Transpose", f"a{number}", f"t{number}", perm=[0, 2, 1, 3]))
            nodes.append(models.node("Reshape", f"t{number} joined", name))
        elif kind == "soft":
            nodes.append(models.node("Softmax", value, name, axis=draw(st.sampled_from([1, 2]))))
        elif kind == "turned":
            nodes.append(models.node("CumSum", f"{value} one", name))
            weights["one"] = np.array(1)
        else:
            nodes.append(models.node("Relu", value, name))
        value = name
    weights["w"] = models.dyadic(rng, (width, 3))
    if draw(st.booleans()):
        nodes.append(models.node("ReduceMean", value, "mean", axes=[1], keepdims=draw(st.sampled_from([0, 1]))))
        value = "mean"
    nodes.append(models.node("MatMul", f"{value} w", "y"))
    return models.float_model(nodes, ("N", tokens, width), weights), (tokens, width)


@settings(max_examples=24, deadline=None)
@given(networks() | token_networks(), st.sampled_from(["throughput", "latency", "arrays"]))
def test_a_program_run_step_by_step_gives_what_it_gives_layer_by_layer(
    network: tuple[onnx.ModelProto, tuple[int, ...]], objective: str
) -> None:
    _, program, x = compiled(*network, objective)
    verify_program(program)
    for certificate in program.placement.certificates:
        assert certificate.bound <= certificate.value
    # The same dependencies from the graph and from the digital models of the program.
    turns = tile_turns(program.layers, program.placement.tiles, program.target)
    again = one_image(program_flow(program), program.placement.tiles, turns)
    assert again.latency == program.placement.latency_steps
    # Every step reads only what exists: else the walk raises.
    fast, literal = (Emulator.ideal(program, executor).run(x[:2])["y"] for executor in ("fast", "literal"))
    assert np.array_equal(fast, literal)


def test_a_schedule_that_reads_too_early_is_caught_by_verifier_and_emulator() -> None:
    _, program, x = compiled(models.conv_bn(), (2, 6, 6), "arrays")
    tiles = program.placement.tiles
    # Every tile in an array of its own, so that nothing but the data can be in the way.
    array = np.arange(len(tiles))
    free = one_image(program_flow(program), tiles.with_columns(array=array), np.ones(len(tiles), np.int64))
    rhythms, pauses = find_rhythms(free.tables)
    start = np.array([table[0] for table in free.tables])[free.table]
    tiles = tiles.with_columns(array=array, start=start, rhythm=rhythms[free.table], lag=tiles.layer)
    steps = 1 + max(int(table[-1]) for table in free.tables)
    apart = stages.replaced(program.placement, tiles=tiles, pauses=pauses, chips=len(tiles), latency_steps=steps)
    in_time = stages.replaced(program, placement=apart)
    verify_program(in_time)
    assert np.array_equal(Emulator.ideal(in_time, "literal").run(x[:1])["y"], Emulator.ideal(program).run(x[:1])["y"])
    last = tiles.with_columns(start=start - (tiles.layer == 2))
    early = stages.replaced(program, placement=stages.replaced(apart, tiles=last))
    with pytest.raises(ProgramError, match="inputs-exist"):
        verify_program(early)
    with pytest.raises(ProgramError, match=r"reads inputs of window .* before they exist"):
        Emulator.ideal(early, "literal").run(x[:1])


def test_layers_overlap_as_soon_as_their_inputs_exist() -> None:
    """Two 3x3 convolutions of 8x8 without padding: 36 steps, and the last window of the second one step later."""
    rng = np.random.default_rng(1)
    weights = {"a": models.dyadic(rng, (2, 1, 3, 3)), "b": models.dyadic(rng, (1, 2, 3, 3))}
    nodes = [models.node("Conv", "x a", "h"), models.node("Relu", "h", "r"), models.node("Conv", "r b", "y")]
    graph, program, _ = compiled(models.float_model(nodes, ("N", 1, 8, 8), weights), (1, 8, 8), "arrays")
    flow = Flow.of_graph(graph)
    first, second = (layer for layer in flow.layers if isinstance(layer, MappedLayer))
    assert [len(layer.replicas[0].windows) for layer in (first, second)] == [36, 16]
    apart = np.arange(len(program.placement.tiles))
    alone = one_image(flow, program.placement.tiles.with_columns(array=apart), np.ones(len(apart), np.int64))
    tables = [alone.tables[alone.table[np.flatnonzero(program.placement.tiles.layer == n)[0]]] for n in (0, 1)]
    assert np.array_equal(tables[0], np.arange(36))
    # Window (i, j) needs position (i + 2, j + 2) of a 6 x 6 output, worked on in step 6 (i + 2) + j + 2.
    assert np.array_equal(tables[1], [6 * (i + 2) + j + 3 for i in range(4) for j in range(4)])
    assert alone.latency == 37


def test_tokens_pass_normalisation_one_by_one_and_attention_together() -> None:
    """Five layers of an array each on six tokens: one token behind the other, but for the products of attention."""
    rng = np.random.default_rng(1)
    weights = {name: models.dyadic(rng, (4, 4)) for name in "abcde"} | {"g": np.ones(4, np.float32)}
    weights["rest"] = np.array([-1])
    nodes = [
        models.node("MatMul", "x a", "h"),
        models.node("LayerNormalization", "h g", "n"),
        models.node("MatMul", "n b", "q"),
        models.node("Transpose", "q", "k", perm=[0, 2, 1]),
        models.node("MatMul", "q k", "s"),
        models.node("Softmax", "s", "p", axis=-1),
        models.node("MatMul", "p q", "v"),
        models.node("MatMul", "v c", "w"),
        models.node("Shape", "w", "size", end=2),
        models.node("Concat", "size rest", "target", axis=0),
        models.node("Reshape", "w target", "r"),
        models.node("Gelu", "r", "u"),
        models.node("MatMul", "u d", "z"),
        models.node("MatMul", "z e", "y"),
    ]
    model = models.float_model(nodes, ("N", 6, 4), weights, opset=20)
    graph, program, _ = compiled(model, (6, 4), "arrays")
    tiles = program.placement.tiles
    alone = one_image(Flow.of_graph(graph), tiles.with_columns(array=np.arange(len(tiles))), np.ones(len(tiles), int))
    first = [alone.tables[alone.table[np.flatnonzero(tiles.layer == number)[0]]].tolist() for number in range(5)]
    assert first == [[start + token for token in range(6)] for start in (0, 1, 7, 8, 9)]


def test_nothing_is_read_of_what_is_empty() -> None:
    """Samples of a signal less those before them, and the first as it is: for one sample there are no others."""
    weights = {"a": np.ones((1, 2), np.float32), "b": np.array([1]), "e": np.array([9]), "d": np.array([1])}
    nodes = [
        models.node("Slice", "x b e d", "later"),
        models.node("Concat", "x later", "all", axis=1),
        models.node("MatMul", "all a", "y"),
    ]
    _, program, x = compiled(models.float_model(nodes, ("N", 1), weights), (1,), "arrays")
    assert program.placement.latency_steps == 1
    fast, literal = (Emulator.ideal(program, executor).run(x[:2])["y"] for executor in ("fast", "literal"))
    assert np.array_equal(fast, literal)


def leaves_room(busy: set[int], interval: int, step: int, load: int, left: int) -> bool:
    """Return True if the turns from a step on are free, and enough others in a row for the remaining load."""
    taken = {(step + turn) % interval for turn in range(load)}
    free = [phase not in busy | taken for phase in range(interval)]
    runs = [all(free[(phase + turn) % interval] for turn in range(left)) for phase in range(interval)]
    return not taken & busy and (any(runs) or not left)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 40)), min_size=1, max_size=6), st.integers(0, 8))
def test_turns_of_the_steady_state_are_the_earliest_that_leave_room(tiles: list[tuple[int, int]], spare: int) -> None:
    interval = sum(load for load, _ in tiles) + spare
    turns = ArrayTurns(((0, interval),), interval - spare)
    busy: set[int] = set()
    for load, earliest in tiles:
        left = turns.left - load
        begin, turns = take_turn(turns, earliest, load, interval)
        steps = range(earliest, earliest + interval)
        assert begin == next(step for step in steps if leaves_room(busy, interval, step, load, left))
        busy |= {(begin + turn) % interval for turn in range(load)}
    assert len(busy) == interval - spare
    assert sum(length for _, length in turns.gaps) == spare


def test_layers_overlap_in_the_pipeline_as_well() -> None:
    """The same two convolutions, each in arrays of its own: the second is not a whole interval late."""
    rng = np.random.default_rng(1)
    weights = {"a": models.dyadic(rng, (2, 1, 3, 3)), "b": models.dyadic(rng, (1, 2, 3, 3))}
    nodes = [models.node("Conv", "x a", "h"), models.node("Relu", "h", "r"), models.node("Conv", "r b", "y")]
    graph, program, _ = compiled(models.float_model(nodes, ("N", 1, 8, 8), weights), (1, 8, 8), "arrays")
    flow, placed = Flow.of_graph(graph), program.placement.tiles
    tiles = placed.with_columns(array=np.arange(len(placed)))
    loads = np.where(tiles.layer == 0, 36, 16)
    steady = pipeline(flow, tiles, loads, np.ones(len(tiles), np.int64))
    assert steady.interval == 36
    begin = steady.lag * steady.interval + steady.slot
    # Its 16 windows in a row: the last one needs the last of 36 outputs, and so the first can begin in step 21.
    assert begin[tiles.layer == 0].tolist() == [0]
    assert set(begin[tiles.layer == 1].tolist()) == {21}
    assert steady.latency == 37
