"""Bounds against values: whatever is proven of a mapping holds for every mapping that any objective finds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
import pytest
from factories import make_target
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_graphs import chain, context_of, conv, dense, paired
from packing_problems import MOST_TILES, fewest_by_brute_force, options_of, single_plan, small_layers, turns_of_lines

from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Certificate, DigitalNode, Graph, MappedLayer, Node, OnnxNode, Placement, TensorType
from memcompile.passes import replicate as replicate_module
from memcompile.passes.packing.first_fit import TileShape
from memcompile.passes.place import Place
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.replicate import Objective, Replicate
from memcompile.passes.schedule import Schedule
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.search.layer_graph import mapped_layers
from memcompile.passes.search.nested_bound import is_impossible, nested_bound
from memcompile.passes.search.nested_windows import nested, whole_windows
from memcompile.passes.search.problem import Bracket, LayerKind, MappingProblem
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.verify.verifier import find_violations

pytestmark = pytest.mark.usefixtures("few_exchanges")

Shape = tuple[int, ...]
"""Of a value, for one image: channels first, or one vector."""


def digital(name: str, reads: Sequence[str], makes: str, operator: str) -> DigitalNode:
    node = OnnxNode(
        name=f"{name}_op", inputs=tuple(reads), outputs=(makes,), op_type=operator, domain="", attributes={}, proto=b""
    )
    return DigitalNode(name=name, inputs=tuple(reads), outputs=(makes,), nodes=(node,))


shapes = st.one_of(
    st.tuples(st.integers(2, 60)), st.builds(lambda c, s: (c, s, s), st.integers(1, 4), st.integers(3, 8))
)


@st.composite
def layers_for(draw: st.DrawFn, shape: Shape) -> Geometry:
    if len(shape) == 1:
        return dense(shape[0], draw(st.integers(1, 70)))
    kernel = draw(st.integers(1, min(3, *shape[1:])))  # outputs without elements never become layers
    groups = draw(st.sampled_from([1, shape[0]]))
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, kernel - 1))
    return Geometry(
        shape[0], groups * draw(st.integers(1, 6)), (kernel, kernel), shape[1:], groups, (stride,) * 2, (1, 1),
        (pad,) * 2, (pad,) * 2,
    )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn, most: int = 6) -> Graph:
    """Layers and digital operators in any order, with several inputs and values that are read again."""
    values = {f"x{n}": draw(shapes) for n in range(draw(st.integers(1, 2)))}
    inputs, nodes = tuple(values), list[Node]()
    target = make_target()
    for n in range(draw(st.integers(1, most))):
        name, makes = f"n{n}", f"v{n}"
        kind = draw(st.sampled_from(["layer", "layer", "elementwise", "join"]))
        read = draw(st.sampled_from(sorted(values)))
        if kind == "layer":
            geometry = draw(layers_for(values[read]))
            nodes.append(paired(name, read, makes, geometry, target, 1))
            image = geometry.layout == "channels_first"
            values[makes] = (geometry.out_channels, *geometry.output_size) if image else (geometry.out_channels,)
        elif kind == "elementwise":
            nodes.append(digital(name, [read], makes, "Relu"))
            values[makes] = values[read]
        else:
            others = draw(st.lists(st.sampled_from(sorted(values)), max_size=2))
            nodes.append(digital(name, [read, *others], makes, "Custom"))
            values[makes] = draw(shapes)
    read_somewhere = {value for node in nodes for value in node.inputs}
    return Graph(
        name="net",
        inputs=inputs,
        outputs=tuple(value for value in values if value not in read_somewhere and value not in inputs),
        nodes=tuple(nodes),
        constants={},
        types={name: TensorType("float32", (None, *values[name])) for name in inputs},
        observed_shapes={name: (1, *shape) for name, shape in values.items() if name not in inputs},
        opsets=(("", 13),),
    )


small_targets = st.builds(
    lambda rows, pairs, kind, arrays, sharing, driven: make_target(
        array={
            "input_lines": rows,
            "output_lines": 2 * pairs,
            "pairs": kind,
            "rows_at_once": max(1, rows // driven),
        },
        chip={"arrays": arrays},
        adc={"lines_per_converter": min(sharing, 2 * pairs)},
    ),
    st.integers(2, 24),
    st.integers(2, 24),
    st.sampled_from(["output_lines", "crossings"]),
    st.integers(1, 6),
    st.sampled_from([1, 1, 2, 5, 48]),
    st.sampled_from([1, 1, 2, 3]),
)


def mapped_for(tiled: Graph, target: Target, chips: int, replicate: Replicate) -> tuple[Placement, bool]:
    """The placement, which breaks no rule, and whether some step yields several output positions."""
    context = context_of(target, chips=chips)
    graph = tiled
    for item in (replicate, Place(), Schedule()):
        graph = item.run(graph, context)
    assert find_violations(graph, target) == []
    assert graph.placement is not None
    copies = [copy for layer in mapped_layers(graph) for copy in layer.replicas]
    return graph.placement, any(copy.unrolling.window_outputs > 1 for copy in copies)


def values_of(certificate: Certificate, placements: Sequence[Placement]) -> list[int]:
    """Values of a certificate's quantity in other mappings of the same network on the same chips."""
    if certificate.quantity == "latency":
        return [placement.latency_steps for placement in placements]
    if certificate.quantity == "initiation_interval":
        return [placement.initiation_interval_steps for placement in placements]
    return []  # of arrays and of values across chips bounds hold for the tiles or arrays of one mapping


@settings(max_examples=5, deadline=None)
@given(networks(), small_targets, st.integers(0, 2))
def test_no_bound_exceeds_what_any_objective_finds(graph: Graph, target: Target, spare: int) -> None:
    tiled = TileMatrices().run(graph, context_of(target))
    one = Replicate(objective="arrays").run(tiled, context_of(target)).placement
    assert one is not None
    assume(0 < len(one.tiles) < 200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(replicate_module.WORK, "normal", 0.4)  # some networks would take all there is
        every = {
            (objective, effort): mapped_for(tiled, target, one.chips + spare, Replicate(objective, effort))
            for objective, effort in (*itertools.product(get_args(Objective), ["normal"]), ("throughput", "fast"))
        }
    for (objective, _), (placement, _) in every.items():
        # What is proven for one output position a step is for such mappings.
        alike = [other for other, windows in every.values() if objective != "accuracy" or not windows]
        for certificate in placement.certificates:
            assert certificate.bound <= certificate.value
            if "given copies" in certificate.method:
                continue
            assert certificate.bound <= min(values_of(certificate, alike), default=certificate.bound)


@settings(max_examples=30, deadline=None)
@given(networks(), small_targets, st.integers(0, 2**32 - 1))
def test_no_numbering_of_arrays_has_less_traffic_than_the_bound(graph: Graph, target: Target, seed: int) -> None:
    context, per_chip = context_of(target), target.chip.arrays
    for item in (TileMatrices(), Replicate(objective="arrays"), Place()):
        graph = item.run(graph, context)
    placement = graph.placement
    assert placement is not None
    assume(placement.chips > 1)
    tiles = placement.tiles
    traffic = Traffic(graph, tiles)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        numbers = rng.permutation(placement.chips * per_chip)[tiles.array].astype(np.int64)
        assert traffic.bound(numbers, per_chip) <= traffic.crossing(numbers // per_chip)


def test_what_digital_operators_make_of_network_inputs_crosses_no_chips() -> None:
    target = make_target(chip={"arrays": 3})
    plain = chain([dense(784, 10)], target)
    first = digital("first", ["x"], "v0", "Relu")
    types = {"x": TensorType("float32", (None, 784))}
    led = plain.replace(nodes=(first, *plain.nodes), inputs=("x",), types=types)
    found = []
    for graph in (plain, led):
        placement, _ = mapped_for(TileMatrices().run(graph, context_of(target)), target, 5, Replicate(effort="fast"))
        (certificate,) = [item for item in placement.certificates if item.quantity == "crossing_values"]
        found.append((certificate.value, certificate.bound))
    assert found[0] == found[1]
    assert found[0][1] > 0


def test_an_input_made_of_both_is_made_on_a_chip() -> None:
    """The sum of a layer's output and of a network input is read where the layer's sums meet."""
    target = make_target(chip={"arrays": 1})
    first, second = paired("a", "x", "p", dense(16, 64), target, 1), paired("b", "q", "y", dense(64, 10), target, 1)
    join = digital("join", ["x", "p"], "q", "Custom")
    graph = chain([], target).replace(
        nodes=(first, join, second), inputs=("x",), outputs=("y",), types={"x": TensorType("float32", (None, 16))}
    )
    for item in (TileMatrices(), Replicate(objective="arrays"), Place()):
        graph = item.run(graph, context_of(target))
    assert graph.placement is not None
    tiles = graph.placement.tiles
    assert [isinstance(node, MappedLayer) for node in graph.nodes] == [True, False, True]
    assert tiles.layer.tolist() == [0, 1, 1, 1, 1]
    apart = np.arange(5)
    traffic = Traffic(graph, tiles)
    # Four row tiles of the second layer read 16 inputs each, and three of them send their sums to the fourth.
    assert traffic.crossing(apart) == 64 + 3 * 10
    assert traffic.bound(apart, 1) == 3 * (16 + 10)


@pytest.mark.parametrize(("objective", "quantity"), [("throughput", "initiation_interval"), ("latency", "latency")])
def test_the_bound_knows_all_windows_of_a_layer(objective: str, quantity: str) -> None:
    """Three groups on wide arrays: the best windows are not among the few that Benders decomposition mixes."""
    target = make_target(array={"input_lines": 22, "output_lines": 34, "pairs": "crossings"}, chip={"arrays": 3})
    layer = Geometry(3, 9, (2, 2), (7, 7), 3, (1, 1), (1, 1), (1, 1), (1, 1))
    tiled = TileMatrices().run(chain([layer], target), context_of(target))
    placement, _ = mapped_for(tiled, target, 2, Replicate(objective))
    (certificate,) = [item for item in placement.certificates if item.quantity == quantity]
    assert certificate.bound <= certificate.value == 4


def mixtures(options: Sequence[ReplicaOption]) -> Iterator[dict[int, int]]:
    """Number of windows of each option, for one option or two that nest."""
    for inner, option in enumerate(options):
        yield {inner: option.windows}
        for outer, larger in enumerate(options):
            ratio = nested(larger, option)
            for count in range(1, whole_windows(larger) + 1 if ratio else 0):
                if option.windows > ratio * count:
                    yield {outer: count, inner: option.windows - ratio * count}


def partitions(total: int, most: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a number as a sum, the largest parts first."""
    if total == 0:
        yield ()
    for part in range(min(total, most), 0, -1):
        for rest in partitions(total - part, part):
            yield (part, *rest)


def tiles_of_mixtures(options: Sequence[ReplicaOption]) -> Iterator[list[TileShape]]:
    """Tiles of all copies, for every mixture and every way to share its windows among few copies."""
    for counts in mixtures(options):
        shared = [[(number, loads) for loads in partitions(count, count)] for number, count in counts.items()]
        for parts in itertools.product(*shared):
            tiles = [
                TileShape(height, width, load * turns, 1)
                for number, loads in parts
                for load in loads
                for (height, width, count), turns in zip(options[number].sizes, options[number].turns, strict=True)
                for _ in range(count)
            ]
            if len(tiles) <= MOST_TILES:
                yield tiles


@settings(max_examples=15, deadline=None)
@given(st.lists(small_layers, min_size=1, max_size=2), st.integers(0, 2), turns_of_lines)
def test_the_nested_bound_exceeds_no_mixture_found_by_brute_force(
    layers: list[Geometry], spare: int, turns: LineTurns
) -> None:
    lines = (4, 4)
    kinds = [LayerKind((n,), options_of(item, lines, 8, turns, (1,))) for n, item in enumerate(layers)]
    single = single_plan(kinds, lines)
    arrays, shortest = single.packing.arrays + spare, single.interval
    for picked in itertools.product(*(tiles_of_mixtures(kind.options) for kind in kinds)):
        tiles = [tile for item in picked for tile in item]
        if len(tiles) > MOST_TILES or max(tile.load for tile in tiles) >= shortest:
            continue
        for interval in range(max(tile.load for tile in tiles), shortest):
            if fewest_by_brute_force(tiles, lines, interval) <= arrays:
                shortest = interval
                break
    problem = MappingProblem(tuple(kinds), lines, arrays)
    assert not is_impossible(problem, shortest, 1.0)
    assert nested_bound(problem, Bracket(single, 1), "normal").bound <= shortest


def test_the_nested_bound_counts_steps_cells_and_whole_arrays() -> None:
    """Two layers that fill an array with each copy, one position a step."""
    options = options_of(conv(6, 4, 1, 4), (16, 8), 4)
    kinds = [LayerKind((0, 1), options[:1])]
    assert (options[0].windows, options[0].sizes) == (9, ((16, 8, 1),))
    start = Bracket(single_plan(kinds, (16, 8)), 1)
    assert start.interval == 9
    problems = [MappingProblem(tuple(kinds), (16, 8), arrays) for arrays in (2, 3, 4, 6)]
    assert [nested_bound(problem, start, "normal").bound for problem in problems] == [9, 9, 5, 3]
