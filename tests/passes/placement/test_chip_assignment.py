"""Assignment of arrays to chips: what bounds it, and what the search keeps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from factories import make_target
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_graphs import chain, context_of, conv, dense, geometries

from memcompile.hardware.target import Target
from memcompile.ir.graph import DigitalNode, Graph
from memcompile.passes.place import Packed, Place
from memcompile.passes.placement.assign_arrays import Assigned, assign_arrays
from memcompile.passes.placement.chip_patterns import ChipPatterns, Options, Prices
from memcompile.passes.placement.chip_problem import chip_problem
from memcompile.passes.placement.chips import number_arrays
from memcompile.passes.placement.exchange import Assignment, Count, exchange
from memcompile.passes.placement.least_exchange import fewest_channels
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.replicate import Replicate
from memcompile.passes.solving.clock import Clock, running
from memcompile.passes.tile_matrices import TileMatrices

WORK = 0.05

layer_lists = st.lists(
    st.one_of(geometries(), st.builds(conv, st.integers(4, 6), st.just(3), st.integers(2, 4), st.just(4))),
    min_size=2,
    max_size=4,
)


def with_shortcut(graph: Graph) -> Graph:
    """The chain with a digital operator that reads the first and the last layer's output."""
    join = DigitalNode(name="join", inputs=("v1", graph.outputs[0]), outputs=("y",), nodes=())
    return graph.replace(nodes=(*graph.nodes, join), outputs=("y",))


def packed(layers: list[Any], target: Target, *, shortcut: bool = False) -> tuple[Traffic, Packed, int]:
    """Packed layers, and the number of chips."""
    graph, context = chain(layers, target), context_of(target)
    if shortcut:
        graph = with_shortcut(graph)
    for item in (TileMatrices(), Replicate(objective="arrays")):
        graph = item.run(graph, context)
    assert graph.placement is not None
    traffic = Traffic(graph, graph.placement.tiles)
    return traffic, Place().packed(graph, traffic, context), graph.placement.chips


def kinds(traffic: Traffic, found: Packed) -> tuple[np.ndarray, np.ndarray]:
    """Size and kind of each tile."""
    size = np.unique(found.sizes, axis=0, return_inverse=True)[1].ravel()
    facts = np.stack([size, traffic.tiles.layer, traffic.tiles.replica], axis=1)
    return size, np.unique(facts, axis=0, return_inverse=True)[1].ravel()


def assigned(traffic: Traffic, found: Packed, target: Target, chips: int) -> Assigned:
    with running(Clock(work_left=WORK)):
        return assign_arrays(traffic, found.places[:, 0], found.order, *kinds(traffic, found), target, chips)


def all_assignments(arrays: int, per_chip: int, chips: int) -> np.ndarray:
    """Every way to put arrays on chips, up to the order of chips."""

    def extended(begun: list[int]) -> list[list[int]]:
        if len(begun) == arrays:
            return [begun]
        used = max(begun, default=-1) + 1
        rooms = [chip for chip in range(min(used + 1, chips)) if begun.count(chip) < per_chip]
        return [each for chip in rooms for each in extended([*begun, chip])]

    return np.array(extended([]), np.int64)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(layer_lists, st.integers(1, 3), st.booleans())
def test_no_assignment_has_less_traffic_than_the_bound(layers: list[Any], per_chip: int, shortcut: bool) -> None:
    """Against all assignments of few arrays, each with some exchanges of tiles of a kind."""
    target = make_target(array={"input_lines": 10, "output_lines": 16}, chip={"arrays": per_chip})
    traffic, found, chips = packed(layers, target, shortcut=shortcut)
    arrays = np.unique(found.places[:, 0], return_inverse=True)[1].ravel()
    count = int(arrays.max()) + 1
    assume(chips > 1)
    assume(count <= 8)
    result = assigned(traffic, found, target, chips)
    _, kind = kinds(traffic, found)
    rng = np.random.default_rng(0)
    least = result.crossing
    for chip in all_assignments(count, per_chip, chips)[:100]:
        exchanged = np.empty(len(kind), np.int64)
        exchanged[np.lexsort((rng.random(len(kind)), kind))] = np.lexsort((arrays, kind))
        least = min(least, traffic.crossing(chip[arrays]), traffic.crossing(chip[arrays[exchanged]]))
    assert result.bound <= least


@settings(max_examples=10, deadline=None, derandomize=True)
@given(layer_lists, st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_no_numbering_of_larger_chips_has_less_traffic(layers: list[Any], per_chip: int, seed: int) -> None:
    target = make_target(array={"input_lines": 8, "output_lines": 8}, chip={"arrays": per_chip})
    traffic, found, chips = packed(layers, target, shortcut=bool(seed % 2))
    assume(chips > 1)
    result = assigned(traffic, found, target, chips)
    numbers, before = number_arrays(found.places[:, 0], found.order, traffic, per_chip, chips)
    assert result.bound <= result.crossing <= before
    rng = np.random.default_rng(seed)
    for _ in range(5):
        other = rng.permutation(chips * per_chip)[numbers].astype(np.int64)
        assert result.bound <= traffic.crossing(other // per_chip)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(layer_lists, st.integers(1, 6))
def test_arrays_keep_what_they_hold_of_each_replica(layers: list[Any], per_chip: int) -> None:
    target = make_target(array={"input_lines": 12, "output_lines": 16}, chip={"arrays": per_chip})
    traffic, found, chips = packed(layers, target)
    assume(chips > 1)
    result = assigned(traffic, found, target, chips)
    assert result.crossing == traffic.crossing(result.array // per_chip)
    assert sorted(result.taken.tolist()) == list(range(len(result.taken)))
    _, kind = kinds(traffic, found)
    assert (kind[result.taken] == kind).all()
    old, new = (np.unique(each, return_inverse=True)[1] for each in (found.places[:, 0][result.taken], result.array))
    # Tiles that took places in one array of the packing are in one array.
    assert len({*zip(old.tolist(), new.tolist(), strict=True)}) == len(np.unique(old)) == len(np.unique(new))
    assert result.array.max() < chips * per_chip
    assert np.bincount(np.unique(result.array) // per_chip).max() <= per_chip


@settings(max_examples=10, deadline=None, derandomize=True)
@given(layer_lists, st.integers(0, 2**32 - 1), st.booleans())
def test_moves_change_the_count_by_what_they_say(layers: list[Any], seed: int, shortcut: bool) -> None:
    target = make_target(array={"input_lines": 12, "output_lines": 16}, chip={"arrays": 2})
    traffic, _, _ = packed(layers, target, shortcut=shortcut)
    rng = np.random.default_rng(seed)
    chip = rng.integers(0, 3, len(traffic.tiles))
    count = Count(traffic, chip)
    total = count.total()
    assert total == traffic.crossing(chip)
    for _ in range(8):
        tiles = rng.permutation(len(chip))[: rng.integers(1, 4)]
        moves = [(int(tile), int(rng.integers(0, 3))) for tile in tiles]
        total += count.move(moves)
        for tile, number in moves:
            chip[tile] = number
        assert total == traffic.crossing(chip)


def test_exchanges_bring_scattered_layers_together() -> None:
    """Two layers, dealt round all chips."""
    target = make_target(array={"input_lines": 16, "output_lines": 64}, chip={"arrays": 4})
    traffic, found, chips = packed([dense(64, 64), dense(64, 64)], target)
    size, kind = kinds(traffic, found)
    arrays = np.unique(found.places[:, 0], return_inverse=True)[1].ravel()
    scattered = Assignment(arrays, np.arange(int(arrays.max()) + 1) % chips)
    with running(Clock(work_left=1.0)):
        better = exchange(traffic, kind, scattered, 4, chips)
        bound = chip_problem(traffic, arrays, size, kind, 4, chips).prove(scattered.tile_chip)
    assert bound <= traffic.crossing(better.tile_chip) < 0.8 * traffic.crossing(scattered.tile_chip)


def test_the_same_input_gives_the_same_assignment() -> None:
    target = make_target(array={"input_lines": 12, "output_lines": 16}, chip={"arrays": 3})
    first, second = (assigned(*packed([conv(6, 3, 2, 4), conv(4, 3, 4, 6)], target)[:2], target, 3) for _ in range(2))
    assert (first.array == second.array).all()
    assert (first.taken == second.taken).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=7))
def test_the_fewest_channels_are_those_of_the_best_row_tiles(steps: list[tuple[int, int]]) -> None:
    """Against all subsets, for tiles whose first and last channels ascend."""
    begin = np.cumsum([first for first, _ in steps])
    end = np.maximum.accumulate(begin + [length for _, length in steps])
    found = fewest_channels(begin, end)
    spans = [set(range(a, b)) for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
    for count in range(len(spans) + 1):
        subsets = itertools.combinations(spans, count)
        assert found[count] == min(len(set().union(*some)) for some in subsets)


@pytest.mark.parametrize("limit", [1, 3])
def test_fewest_channels_of_many_row_tiles_stay_below(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, end = np.array([0, 0, 1, 3, 4]), np.array([1, 2, 4, 5, 6])
    exact = fewest_channels(begin, end)
    monkeypatch.setattr("memcompile.passes.placement.least_exchange.MOST_ROW_TILES", limit)
    rough = fewest_channels(begin, end)
    assert (rough <= exact).all()
    assert rough[-1] > 0


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_cheapest_pattern_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity, sources, joins = (4, 3), [-1, 0, 1, 0], {(0, 2): 7, (1, 3): 5}
    options = []
    for layer in range(4):
        first = np.arange(3)[:, None]
        room = first * rng.integers(0, 3, 2)
        exchange = rng.integers(0, 20, (2, 2, 3)) * (first[:, 0] > 0)
        options.append(Options(np.array([layer]), first, first, room, exchange, np.array([True, True, bool(seed % 2)])))
    patterns = ChipPatterns(options, capacity, sources, joins)
    prices = Prices(*(rng.integers(-5, 15, 4).astype(float) for _ in range(3)))
    value, pattern = patterns.cheapest(prices)
    best = np.inf
    for tiles in itertools.product(range(3), repeat=4):
        counts = np.array(tiles)
        if (sum(each.room[n] for each, n in zip(options, tiles, strict=True)) > capacity).any():
            continue
        for home in itertools.product(range(2), repeat=4):
            met = np.array(home)
            if any(
                (m and not n) or (not m and not each.away[n]) for each, n, m in zip(options, tiles, home, strict=True)
            ):
                continue
            paid = prices.tile @ counts + prices.home @ met + prices.chip @ (counts > 0)
            best = min(best, patterns.cost(counts, met) - paid)
    assert value == best
    paid = prices.tile @ pattern.tiles + prices.home @ pattern.home + prices.chip @ (pattern.tiles > 0)
    assert pattern.cost - paid == best
