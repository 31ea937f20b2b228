"""Tiling, replication, placement and schedule of whole networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_graphs import chain, context_of, conv, dense, geometries, image_of, mapped, paired

from memcompile.errors import CapacityError
from memcompile.hardware.target import FIELDS, Target, load_target
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import Graph, MappedLayer, TiledLayer
from memcompile.ir.printer import print_graph
from memcompile.passes import replicate
from memcompile.passes.replicate import Replicate
from memcompile.passes.search.layer_graph import mapped_layers, tile_loads
from memcompile.passes.solving.clock import Clock, running
from memcompile.passes.tile_matrices import TileMatrices
from memcompile.timing.timetable import Timetable

pytestmark = pytest.mark.usefixtures("few_exchanges")

FIVE_LAYERS = (conv(28, 3, 1, 8), conv(9, 3, 8, 12), dense(192, 10))


@st.composite
def targets(draw: st.DrawFn) -> Target:
    rows, columns = draw(st.integers(2, 24)), 2 * draw(st.integers(2, 24))
    pairs = draw(st.sampled_from(["output_lines", "crossings"]))
    array = {"input_lines": rows, "output_lines": columns, "pairs": pairs}
    if draw(st.booleans()):
        array |= {"rows_at_once": draw(st.integers(1, rows)), "columns_at_once": draw(st.integers(1, columns))}
    adc = {"lines_per_converter": draw(st.sampled_from([1, 1, 2, columns // 2, columns]))}
    adc["conversions_per_phase"] = draw(st.sampled_from([1, 1, 3]))
    return make_target(array=array, adc=adc, chip={"arrays": draw(st.integers(1, 9))})


def check_independently(graph: Graph, target: Target, slices: int) -> None:
    """Cells, lines, steps and sums, counted cell by cell and step by step."""
    placement = graph.placement
    assert placement is not None
    tiles, layers = placement.tiles, mapped_layers(graph)
    loads, timetable = tile_loads(layers, tiles, target), Timetable(layers, placement, target)
    arrays = placement.chips * target.chip.arrays
    lines_of_weight = slices if target.array.pairs == "crossings" else 2 * slices
    cells = np.zeros((arrays, target.array.input_lines, target.array.output_lines), np.int8)
    alone = np.zeros((arrays, placement.latency_steps), np.int8)
    steady = np.zeros((arrays, placement.initiation_interval_steps), np.int8)
    held: dict[tuple[int, int], int] = {}
    for i in range(len(tiles)):
        height = int(tiles.row_end[i] - tiles.row_begin[i])
        width = int(tiles.column_end[i] - tiles.column_begin[i]) * lines_of_weight
        line, output, array = int(tiles.input_line[i]), int(tiles.output_line[i]), int(tiles.array[i])
        block = cells[array, line : line + height, output : output + width]
        assert block.shape == (height, width)
        block += 1
        alone[array, timetable.steps(i)] += 1
        turns = (tiles.slot[i] + np.arange(loads[i])) % placement.initiation_interval_steps
        steady[array, turns] += 1
        assert len(np.unique(turns)) == loads[i]
        key = (int(tiles.layer[i]), int(tiles.replica[i]))
        held[key] = held.get(key, 0) + height * width // lines_of_weight
    assert cells.max(initial=0) <= 1
    assert alone.max(initial=0) <= 1
    assert steady.max(initial=0) <= 1
    assert alone.sum() == steady.sum() == loads.sum()
    for number, layer in enumerate(layers):
        for copy, replica in enumerate(layer.replicas):
            unrolling = replica.unrolling
            assert held[number, copy] == unrolling.matrices * unrolling.rows * unrolling.columns
        positions = np.concatenate(
            [replica.unrolling.window_positions()[replica.windows].ravel() for replica in layer.replicas]
        )
        assert sorted(positions[positions >= 0]) == list(range(layer.geometry.positions))
    for certificate in placement.certificates:
        assert 0 <= certificate.bound <= certificate.value
        assert certificate.method


@settings(max_examples=60, deadline=None)
@given(
    st.lists(geometries(), min_size=1, max_size=3), targets(), st.integers(1, 2), st.sampled_from(["fast", "normal"])
)
def test_random_networks_are_mapped_without_conflict(
    layers: list[Geometry], target: Target, slices: int, effort: str
) -> None:
    graph = mapped(chain(layers, target, slices), context_of(target, slices), Replicate(effort=effort))
    check_independently(graph, target, slices)


@settings(max_examples=25, deadline=None)
@given(geometries(), targets(), st.integers(0, 6))
def test_more_chips_never_lengthen_the_interval(layer: Geometry, target: Target, spare: int) -> None:
    auto = mapped(chain([layer], target), context_of(target))
    assert auto.placement is not None
    more = mapped(chain([layer], target), context_of(target, chips=auto.placement.chips + spare))
    check_independently(more, target, 1)
    assert more.placement is not None
    assert more.placement.initiation_interval_steps <= auto.placement.initiation_interval_steps


@settings(max_examples=25, deadline=None)
@given(st.lists(geometries(), min_size=1, max_size=3), targets())
def test_fewest_arrays_takes_one_copy(layers: list[Geometry], target: Target) -> None:
    graph = mapped(chain(layers, target), context_of(target), Replicate(objective="arrays"))
    check_independently(graph, target, 1)
    assert all(len(layer.replicas) == 1 for layer in mapped_layers(graph))


@settings(max_examples=25, deadline=None)
@given(st.lists(geometries(), min_size=1, max_size=3), targets(), st.integers(0, 4))
def test_latency_is_never_longer_than_with_the_other_objectives(
    layers: list[Geometry], target: Target, spare: int
) -> None:
    auto = mapped(chain(layers, target), context_of(target), Replicate(objective="arrays"))
    assert auto.placement is not None
    context = context_of(target, chips=auto.placement.chips + spare)
    graph = mapped(chain(layers, target), context, Replicate(objective="latency", effort="fast"))
    check_independently(graph, target, 1)
    assert graph.placement is not None
    (certificate,) = [item for item in graph.placement.certificates if item.quantity == "latency"]
    assert certificate.value == graph.placement.latency_steps
    assert graph.placement.latency_steps <= auto.placement.latency_steps


def test_five_layer_network_reaches_a_proven_interval_on_eight_arrays() -> None:
    target = make_target()
    graph = mapped(chain(FIVE_LAYERS, target), context_of(target, chips=1))
    check_independently(graph, target, 1)
    assert graph.placement is not None
    (interval,) = [item for item in graph.placement.certificates if item.quantity == "initiation_interval"]
    assert (interval.value, interval.bound) == (43, 43)
    assert "CP-SAT" in interval.method


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("pimcomp", 9216 * 128 * 64),
        ("neurram", 48 * 256 * 128),
        ("hermes", 64 * 256 * 256),
        ("vwsdk", 512 * 512),
        ("isaac", 168 * 12 * 8 * 128 * 64),
    ],
)
def test_built_in_targets_hold_the_published_number_of_weights(name: str, weights: int) -> None:
    target = load_target(name)
    assert target.chip.arrays * target.array.cells // 2 == weights
    parts = {"array": target.array, "chip": target.chip, "cell": target.cell}
    split = (field.split(".") for field in FIELDS)
    used = {f"{part}.{name}" for part, name in split if part in parts and getattr(parts[part], name) is not None}
    missing = used - set(target.sources)
    assert not missing
    check_independently(
        mapped(chain(FIVE_LAYERS, target), context_of(target, chips=1), Replicate(effort="fast")), target, 1
    )


def test_one_position_a_step_is_an_option() -> None:
    target = make_target()
    graph = mapped(chain(FIVE_LAYERS, target), context_of(target), Replicate(parallel_windows=False))
    assert all(replica.unrolling.window_outputs == 1 for layer in mapped_layers(graph) for replica in layer.replicas)


def test_accuracy_is_throughput_with_one_position_a_step() -> None:
    target = make_target()
    accurate = mapped(chain(FIVE_LAYERS, target), context_of(target), Replicate(objective="accuracy"))
    plain = mapped(chain(FIVE_LAYERS, target), context_of(target), Replicate(parallel_windows=False))
    assert print_graph(accurate) == print_graph(plain)
    assert accurate.placement is not None
    assert accurate.placement.initiation_interval_steps == 117


@settings(max_examples=25, deadline=None)
@given(st.lists(geometries(), min_size=1, max_size=3), targets(), st.integers(0, 4))
def test_a_search_that_is_cut_short_is_valid_and_not_better(layers: list[Geometry], target: Target, spare: int) -> None:
    one = mapped(chain(layers, target), context_of(target), Replicate(objective="arrays"))
    assert one.placement is not None
    context = context_of(target, chips=one.placement.chips + spare)
    found = {}
    for limit in (1e-9, math.inf):
        graph = mapped(chain(layers, target), context, Replicate(time_limit_s=limit))
        check_independently(graph, target, 1)
        assert graph.placement is not None
        (found[limit],) = [c for c in graph.placement.certificates if c.quantity == "initiation_interval"]
    assert found[1e-9].bound <= found[math.inf].value <= found[1e-9].value


def test_a_latency_search_that_is_cut_short_still_finds_a_mapping() -> None:
    target = make_target()
    replicate = Replicate(objective="latency", time_limit_s=1e-9)
    check_independently(mapped(chain(FIVE_LAYERS, target), context_of(target), replicate), target, 1)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_all_searches_together_spend_no_more_work_than_there_is(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit the searches for such a chain of strided layers take many times the work."""
    target = make_target()
    layers = [conv(61, 3, 3, 16, 2), conv(30, 3, 16, 24, 1, 1), conv(30, 3, 24, 24, 2), conv(14, 5, 24, 32)]
    tiled = TileMatrices().run(chain(layers, target), context_of(target))
    monkeypatch.setitem(replicate.WORK, "normal", 0.5)
    found = []
    for _ in range(2):
        with running(Clock(work_left=1000.0)) as clock:
            found.append(print_graph(Replicate(objective).run(tiled, context_of(target))))
        assert 0.2 < 1000.0 - clock.work_left < 1.0
    assert found[0] == found[1]


def limit_of(layers: list[Geometry], target: Target, chips: int) -> str:
    graph = mapped(chain(layers, target), context_of(target, chips=chips))
    assert graph.placement is not None
    (interval,) = [c for c in graph.placement.certificates if c.quantity == "initiation_interval"]
    return interval.limited_by


def test_the_interval_says_what_limits_it() -> None:
    target = make_target(chip={"arrays": 1})
    # Two layers that fill an array each leave nothing for further copies.
    assert limit_of([conv(6, 4, 1, 64), conv(3, 1, 16, 64)], target, 2) == "cells; most of it: layer0 50%, layer1 50%"
    # One position needs a step of each of two tiles, and more copies fit than there are steps.
    assert limit_of([conv(12, 3, 1, 1)], target, 1) == "time on the converters; most of it: layer0 100%"
    assert limit_of([dense(16, 10)], target, 1) == "nothing: no image takes less than a step"
    five = limit_of(FIVE_LAYERS, make_target(), 1)
    assert five == "cells and time on the converters; most of it: layer0 47%, layer1 46%, layer2 8%"


def test_same_input_gives_the_same_mapping() -> None:
    target = make_target()
    texts = {print_graph(mapped(chain(FIVE_LAYERS, target), context_of(target))) for _ in range(3)}
    assert len(texts) == 1


def test_budget_too_small_says_what_is_needed() -> None:
    target = make_target()
    layers = [conv(16, 3, 16, 16), dense(2048, 64), dense(64, 10)]
    with pytest.raises(CapacityError) as caught:
        mapped(chain(layers, target, slices=2), context_of(target, slices=2, chips=2))
    message = str(caught.value)
    needed = mapped(chain(layers, target, slices=2), context_of(target, slices=2), Replicate(objective="arrays"))
    assert needed.placement is not None
    used = len(np.unique(needed.placement.tiles.array))
    assert f"needs {used} arrays, 2 chips have 16" in message
    assert "largest layers: layer1 (256 arrays)" in message
    assert f"--chips {-(-used // 8)}" in message
    assert "fewer --slices" in message


def test_a_weight_wider_than_an_array_is_refused() -> None:
    target = make_target(array={"output_lines": 4})
    with pytest.raises(CapacityError, match=r"6 source lines.*has 4.*--slices 2"):
        TileMatrices().run(chain([dense(4, 4)], target, slices=3), context_of(target, slices=3))


def test_a_network_without_crossbar_layers_uses_nothing() -> None:
    target = make_target()
    graph = mapped(chain([], target), context_of(target))
    placement = graph.placement
    assert placement is not None
    assert (placement.chips, len(placement.tiles), placement.initiation_interval_steps) == (0, 0, 0)


def test_groups_share_a_diagonal_only_when_asked() -> None:
    target = make_target(array={"input_lines": 32, "output_lines": 64})
    geometry = Geometry(6, 6, (3, 3), (8, 8), 6, (1, 1), (1, 1), (1, 1), (1, 1))
    bundled = TileMatrices().run(chain([geometry], target), context_of(target)).nodes[0]
    apart = TileMatrices(bundle_groups=False).run(chain([geometry], target), context_of(target)).nodes[0]
    assert isinstance(bundled, TiledLayer)
    assert isinstance(apart, TiledLayer)
    assert (bundled.unrolling.bundle, bundled.unrolling.matrices) == (3, 2)
    assert (apart.unrolling.bundle, apart.unrolling.matrices) == (1, 6)


def test_one_chip_has_no_crossing_values() -> None:
    target = make_target(chip={"arrays": 8})
    layers = [dense(16, 64), dense(64, 64)]
    graph = mapped(chain(layers, target), context_of(target, chips=1), Replicate(objective="arrays"))
    assert graph.placement is not None
    assert graph.placement.crossing_values == 0


def test_layers_wait_for_all_they_depend_on() -> None:
    target = make_target(chip={"arrays": 64})
    a, b = paired("a", "x", "p", dense(16, 16), target, 1), paired("b", "x", "q", dense(16, 16), target, 1)
    c = paired("c", "p", "y", dense(16, 16), target, 1)
    graph = chain([], target).replace(
        nodes=(a, b, c), inputs=("x",), outputs=("y", "q"), types={"x": image_of(a.geometry)}
    )
    graph = mapped(graph, context_of(target), Replicate(objective="arrays"))
    placement = graph.placement
    assert placement is not None
    assert placement.tiles.start[2] >= placement.tiles.start[0] + 1
    assert isinstance(graph.nodes[0], MappedLayer)
