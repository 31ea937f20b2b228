"""Buffer sizes against counting, step by step, what is still to be read."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import models
import numpy as np
import pytest
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_graphs import chain, context_of, mapped
from stages import compiled

from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, MappedLayer
from memcompile.passes.replicate import Replicate
from memcompile.passes.search.layer_graph import tile_loads
from memcompile.program.flow import program_flow
from memcompile.timing.buffers import Buffer, buffer_sizes
from memcompile.timing.dataflow_steps import Flow
from memcompile.timing.timetable import Timetable

pytestmark = pytest.mark.usefixtures("few_exchanges")

Lives = dict[str, list[tuple[int, int]]]


@st.composite
def convolutions(draw: st.DrawFn) -> list[Geometry]:
    """Two or three convolutions in a row over one axis or two."""
    rank = draw(st.integers(1, 2))
    channels, size, layers = draw(st.integers(1, 3)), [draw(st.integers(4, 7)) for _ in range(rank)], []
    for _ in range(draw(st.integers(2, 3))):
        kernel = [draw(st.integers(1, min(3, length))) for length in size]
        stride, pad = [draw(st.integers(1, 2)) for _ in size], [draw(st.integers(0, 1)) for _ in size]
        makes, ones = draw(st.integers(1, 3)), (1,) * rank
        geometry = Geometry(channels, makes, tuple(kernel), tuple(size), 1, tuple(stride), ones, tuple(pad), tuple(pad))
        layers.append(geometry)
        channels, size = makes, list(geometry.output_size)
    return layers


def reads_of(layer: MappedLayer, copy: int, window: int) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Input positions that a window reads, and output positions it makes, by the definition of a convolution."""
    unrolling, geometry = layer.replicas[copy].unrolling, layer.geometry
    corner = [int(at) for at in np.unravel_index(window, unrolling.grid)]
    axes = zip(corner, unrolling.window, strict=True)
    # Outputs of a window that lie outside the layer's output are computed too, from what they would read.
    outputs = list(itertools.product(*(range(at * count, (at + 1) * count) for at, count in axes)))
    made = {place for place in outputs if all(at < size for at, size in zip(place, geometry.output_size, strict=True))}
    read = set()
    for place, tap in itertools.product(outputs, itertools.product(*(range(taps) for taps in geometry.kernel))):
        steps = zip(place, geometry.strides, tap, geometry.pads_begin, strict=True)
        at = tuple(p * stride + t - pad for p, stride, t, pad in steps)
        if all(0 <= a < size for a, size in zip(at, geometry.input_size, strict=True)):
            read.add(at)
    return read, made


def lives(layers: tuple[MappedLayer, ...], graph: Graph, steps_of: dict[int, np.ndarray]) -> Lives:
    """From which step until which each element of each value is held, one tile and window after the other."""
    assert graph.placement is not None
    tiles, found = graph.placement.tiles, Lives()
    exists = dict.fromkeys(np.ndindex(*layers[0].geometry.input_size), 0)
    for number, layer in enumerate(layers):
        last, made_at = dict.fromkeys(exists, -1), dict[tuple[int, ...], int]()
        for row in np.flatnonzero(tiles.layer == number).tolist():
            copy = int(tiles.replica[row])
            for window, step in zip(layer.replicas[copy].windows.tolist(), steps_of[row].tolist(), strict=True):
                read, made = reads_of(layer, copy, window)
                for place in read:
                    last[place] = max(last[place], step)
                for place in made:
                    made_at[place] = max(made_at.get(place, 0), step + 1)
        held = [(begin, last[place] + 1) for place, begin in exists.items() if last[place] > begin]
        found[f"v{number}"] = held * layer.geometry.in_channels
        exists = made_at
    return found


def most(held: list[tuple[int, int]], period: int, steady: bool) -> int:
    """Most elements held in any step, of one image, or of all images that follow each other."""
    ends = max((end for _, end in held), default=0)
    counts = np.zeros(ends + period, np.int64)
    for begin, end in held:
        counts[begin:end] += 1
    if not steady:
        return int(counts.max(initial=0))
    return max(int(counts[step::period].sum()) for step in range(period))


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(0, 3), st.sampled_from(["throughput", "arrays"]), st.sampled_from([1, 32, 128]))
def test_buffers_hold_what_is_still_to_be_read(
    geometries: list[Geometry], spare: int, objective: str, sharing: int
) -> None:
    target = make_target(chip={"arrays": 1}, adc={"lines_per_converter": sharing})
    graph = chain(geometries, target)
    fewest = mapped(graph, context_of(target), Replicate(objective="arrays")).placement
    assert fewest is not None
    context = context_of(target, chips=fewest.chips + spare)
    graph = mapped(graph, context, Replicate(objective=objective, effort="fast"))
    placement, flow = graph.placement, Flow.of_graph(graph)
    assert placement is not None
    tiles, timetable = placement.tiles, Timetable(flow.layers, placement, target)
    loads, interval = tile_loads(flow.layers, tiles, target), placement.initiation_interval_steps
    last = {row: slice(int(turns) - 1, None, int(turns)) for row, turns in enumerate(timetable.turns)}
    alone = {row: timetable.steps(row)[last[row]] for row in range(len(tiles))}
    begin = tiles.lag.astype(np.int64) * interval + tiles.slot
    steady = {row: (begin[row] + np.arange(loads[row]))[last[row]] for row in range(len(tiles))}
    sizes = buffer_sizes(flow, placement, target)
    want = []
    one, many = lives(flow.layers, graph, alone), lives(flow.layers, graph, steady)
    for name in one:
        figures = most(one[name], placement.latency_steps, False), most(many[name], interval, True)
        want += [Buffer(name, *figures)] if any(figures) else []
    assert sorted(sizes.values, key=lambda item: item.value) == want
    assert sizes.alone == most([life for held in one.values() for life in held], placement.latency_steps, False)
    assert sizes.steady == most([life for held in many.values() for life in held], interval, True)


def test_pooling_holds_what_it_has_not_yet_seen_together() -> None:
    """A 1x1 convolution makes 4 x 4 values, one a step from step 1 on, and pooling 2 x 2 takes them four by four."""
    rng = np.random.default_rng(0)
    nodes = [models.node("Conv", "x a", "h"), models.node("MaxPool", "h", "y", kernel_shape=[2, 2], strides=[2, 2])]
    model = models.float_model(nodes, ("N", 1, 4, 4), {"a": models.dyadic(rng, (1, 1, 1, 1))})
    _, program, _ = compiled(model, (1, 4, 4), "arrays")
    assert program.placement.latency_steps == 16
    sizes = {item.value: item for item in buffer_sizes(program_flow(program), program.placement, program.target).values}
    # In step 5 the first row and one more value are there; the second value of row two completes the first window.
    assert sizes["h"] == Buffer("h", 5, 5)
    # All of the image is there in step 0, and its first value is read then.
    assert sizes["x"] == Buffer("x", 15, 15)


@pytest.mark.parametrize(("behind", "kept"), [("Softmax", 20), ("CumSum", 24)])
def test_normalising_over_tokens_waits_for_the_last_one(behind: str, kept: int) -> None:
    """Six tokens of four values, one a step; softmax along them needs all, layer normalisation each by itself.

    Of a running sum no shape is known: all that the layer reads of it is held until it has read the last of it.
    """
    rng = np.random.default_rng(0)
    weights = {name: models.dyadic(rng, (4, 4)) for name in "ab"} | {"g": np.ones(4, np.float32)}
    if behind == "CumSum":
        weights["along"] = np.array(1)
    nodes = [
        models.node("MatMul", "x a", "h"),
        models.node("LayerNormalization", "h g", "n"),
        models.node("Softmax", "n", "p", axis=1) if behind == "Softmax" else models.node("CumSum", "n along", "p"),
        models.node("MatMul", "p b", "y"),
    ]
    _, program, _ = compiled(models.float_model(nodes, ("N", 6, 4), weights), (6, 4), "arrays")
    apart = program.placement.tiles.with_columns(array=np.arange(2), start=np.array([0, 6]), lag=np.zeros(2, int))
    placement = replace(program.placement, tiles=apart, latency_steps=12)
    sizes = {item.value: item for item in buffer_sizes(program_flow(program), placement, program.target).values}
    # Five tokens wait for the sixth before it, and five for their turn behind it.
    assert [sizes[name].alone for name in "xnp"] == [20, 20, kept]
    assert "h" not in sizes


def test_samples_of_a_run_that_are_alike_take_no_memory_of_their_own() -> None:
    """A run of ten million samples waits for as many values, of eight bytes each if they were counted one by one."""
    rng = np.random.default_rng(0)
    model = models.float_model([models.node("Conv", "x a", "y")], (1, 1, 4, 4), {"a": models.dyadic(rng, (1, 1, 2, 2))})
    _, program, _ = compiled(model, (1, 4, 4), "arrays")
    flow, samples = program_flow(program), 10**7
    many = replace(flow, inputs={"x": replace(flow.inputs["x"], shape=(samples, 1, 4, 4))})
    alone = buffer_sizes(flow, program.placement, program.target).alone
    assert alone > 0
    tracemalloc.start()
    assert buffer_sizes(many, program.placement, program.target).alone == samples * alone
    assert tracemalloc.get_traced_memory()[1] < samples
    tracemalloc.stop()
