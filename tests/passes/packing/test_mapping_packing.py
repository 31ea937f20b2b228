"""Packing of tiles into arrays: heuristic, bounds and exact search against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_problems import LINES, check, fewest_by_brute_force, fits_by_brute_force, shape_lists

from memcompile.passes.packing.bounds import arrays_bound, packing_interval_bound, transformed
from memcompile.passes.packing.exact import arrange, pack_exactly
from memcompile.passes.packing.filling import Filling, greedy_patterns, patterns_near_relaxed
from memcompile.passes.packing.first_fit import Fill, Packing, TileShape, _insert, fill_array, group_tiles, pack
from memcompile.passes.packing.knapsack import Knapsack, fitted
from memcompile.passes.packing.shelves import distribute_on_shelves


@settings(max_examples=200, deadline=None)
@given(shape_lists, st.integers(10, 30))
def test_first_fit_is_valid_and_not_below_the_bound(shapes: list[TileShape], interval: int) -> None:
    packing = pack(shapes, LINES, interval, None)
    assert packing is not None
    check(packing, shapes, LINES, interval)
    assert arrays_bound(shapes, LINES, interval) <= packing.arrays
    assert pack(shapes, LINES, interval, packing.arrays) is not None
    assert packing_interval_bound(shapes, LINES, packing.arrays) <= interval


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(TileShape, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.just(1)),
        min_size=1,
        max_size=5,
    ),
    st.integers(6, 14),
)
def test_bound_and_exact_search_agree_with_brute_force(tiles: list[TileShape], interval: int) -> None:
    lines = (4, 4)
    sizes = np.array([(tile.height, tile.width, tile.load) for tile in tiles])
    shapes, _ = group_tiles(*sizes.T)
    fewest = fewest_by_brute_force(tiles, lines, interval)
    assert arrays_bound(shapes, lines, interval) <= fewest
    heuristic = pack(shapes, lines, interval, None)
    assert heuristic is not None
    assert heuristic.arrays >= fewest
    for arrays in range(1, fewest + 1):
        exact = pack_exactly(shapes, lines, arrays, interval, effort=1.0)
        if arrays < fewest:
            assert exact.packing is None
        elif exact.packing is not None:
            check(exact.packing, shapes, lines, interval)
            assert exact.packing.arrays <= arrays
        else:
            assert not exact.impossible


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5))
def test_arranging_one_array_agrees_with_brute_force(tiles: list[tuple[int, int]]) -> None:
    shapes = [TileShape(height, width, 1, 1) for height, width in tiles]
    expected = fits_by_brute_force(tiles, (4, 5))
    found = arrange(shapes, [1] * len(shapes), (4, 5), effort=5.0)
    assert (found is not None) == expected
    if fill_array(shapes, [(n, 1) for n in range(len(shapes))], (4, 5)) is not None:
        assert expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=6))
def test_free_rectangles_are_all_that_cannot_be_larger(tiles: list[tuple[int, int]]) -> None:
    fill, free_cells = Fill((), ((0, 0, *LINES),), 0), np.ones(LINES, bool)
    for height, width in tiles:
        added = _insert(fill, 0, TileShape(height, width, 1, 1), 10)
        if added is None:
            break
        fill = added
        _, line, output = fill.tiles[-1]
        free_cells[line : line + height, output : output + width] = False
    boxes = [
        (top, left, bottom, right)
        for top, bottom in itertools.combinations(range(LINES[0] + 1), 2)
        for left, right in itertools.combinations(range(LINES[1] + 1), 2)
        if free_cells[top:bottom, left:right].all()
    ]
    largest = [
        box
        for box in boxes
        if not any(o != box and o[0] <= box[0] and o[1] <= box[1] and o[2] >= box[2] and o[3] >= box[3] for o in boxes)
    ]
    assert fill.free == tuple(sorted((y, x, end - y, side - x) for y, x, end, side in largest))


@settings(max_examples=60, deadline=None)
@given(shape_lists, st.integers(10, 30))
def test_tiles_on_shelves_are_placed_without_conflict(shapes: list[TileShape], interval: int) -> None:
    arrays = sum(shape.count for shape in shapes)
    fills = distribute_on_shelves(shapes, LINES, arrays, interval, effort=1.0)
    assert fills is not None
    check(Packing(tuple((fill, 1) for fill in fills if fill.tiles)), shapes, LINES, interval)


def test_shelves_hold_low_tiles_above_each_other() -> None:
    """Columns of their own for all tiles would take more than the 128 output lines."""
    shapes = [TileShape(8, 64, 1, 2), TileShape(6, 40, 1, 1), TileShape(10, 24, 1, 2), TileShape(16, 16, 1, 1)]
    fills = distribute_on_shelves(shapes, (16, 128), 1, 100, effort=1.0)
    assert fills is not None
    check(Packing(((fills[0], 1),)), shapes, (16, 128), 100)
    assert distribute_on_shelves([*shapes, TileShape(1, 10, 1, 1)], (16, 128), 1, 6, effort=1.0) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_what_fits_still_fits_under_every_dual_feasible_function(capacity: int, sizes: list[int]) -> None:
    sizes = [size for size in sizes if size <= capacity] or [1]
    while sum(sizes) > capacity:
        sizes.pop()
    assert (transformed(sizes, capacity).sum(axis=1) <= capacity).all()


def test_a_knapsack_is_tightened_by_the_functions_that_show_what_does_not_fit() -> None:
    """Beside a tile of 11 lines two of 6 lines stand above each other; the cells would do for a third."""
    sizes = np.array([(6, 64, 1), (11, 64, 1)])
    knapsack = Knapsack.of(sizes, (16, 128), 1000, np.array([3, 1]))
    tighter = knapsack.tightened(np.array([3, 1]))
    assert tighter is not None
    assert tighter.matrix[-1] @ [3, 1] > tighter.limits[-1]
    assert tighter.matrix[-1] @ [2, 1] <= tighter.limits[-1]
    assert tighter.tightened(np.array([2, 1])) is None


@settings(max_examples=60, deadline=None)
@given(shape_lists, st.integers(10, 30))
def test_no_content_of_an_array_breaks_the_knapsack(shapes: list[TileShape], interval: int) -> None:
    sizes = np.array([(shape.height, shape.width, shape.load) for shape in shapes])
    asked = np.array([shape.count for shape in shapes])
    knapsack = Knapsack.of(sizes, LINES, interval, asked)
    packing = pack(shapes, LINES, interval, None)
    assert packing is not None
    prices = np.linspace(0.2, 1.0, len(shapes))
    dearest, content = knapsack.dearest(prices)
    assert prices @ content <= dearest + 1e-6
    for fill, _ in packing.fills:
        counts = np.bincount([number for number, _, _ in fill.tiles], minlength=len(shapes))
        assert (knapsack.matrix @ counts <= np.array(knapsack.limits)).all()
        assert (counts <= knapsack.most).all()
        held = counts[knapsack.conflicts.shapes] > 0
        assert (knapsack.conflicts.sizes @ counts <= knapsack.conflicts.limits)[held].all()
        assert prices @ counts <= dearest + 1e-6


def test_a_low_tile_across_the_array_leaves_no_room_for_tiles_too_high_to_stand_above_it() -> None:
    sizes = np.array([(8, 128, 1), (9, 2, 1)])
    knapsack = Knapsack.of(sizes, (16, 128), 1000, np.array([1, 256]))
    assert knapsack.dearest(np.array([1.0, 1.0]))[0] == pytest.approx(
        64, abs=1e-3
    )  # 64 columns of pairs, or the wide one
    assert knapsack.dearest(np.array([40.0, 1.0]))[1].tolist() == [0, 64]
    wide = Filling(knapsack)
    assert wide.room(1) == 64
    wide.add(0, 1)
    assert wide.room(1) == 0
    high = Filling(knapsack)
    high.add(1, 1)
    assert (high.room(0), high.room(1)) == (0, 63)


def test_an_array_holds_no_more_tiles_of_a_shape_than_are_asked_for() -> None:
    sizes = np.array([(8, 128, 1), (8, 64, 1)])
    counts = Knapsack.of(sizes, (16, 128), 1000, np.array([1, 8])).dearest(np.array([1.0, 0.1]))[1]
    assert counts.tolist() == [1, 2]


def test_many_equal_tiles_are_packed_at_once() -> None:
    shapes = [TileShape(16, 128, 7, 200_000), TileShape(16, 32, 3, 40_000), TileShape(8, 64, 1, 10_000)]
    packing = pack(shapes, (16, 128), 100, None)
    assert packing is not None
    assert packing.arrays == arrays_bound(shapes, (16, 128), 100) == 212_500


@settings(max_examples=60, deadline=None)
@given(shape_lists, st.integers(10, 30), st.data())
def test_greedy_patterns_are_worth_it_and_keep_the_knapsack(
    shapes: list[TileShape], interval: int, data: st.DataObject
) -> None:
    sizes = np.array([(shape.height, shape.width, shape.load) for shape in shapes])
    knapsack = Knapsack.of(sizes, LINES, interval, np.array([shape.count for shape in shapes]))
    prices = np.array([data.draw(st.floats(0.0, 1.0)) for _ in shapes])
    limit, _ = knapsack.dearest(prices)
    for rule in (greedy_patterns, patterns_near_relaxed):
        found = rule(knapsack, prices)
        assert len({content.tobytes() for content in found}) == len(found)
        for content in found:
            assert 1 < prices @ content <= limit + 1e-6
            assert (knapsack.matrix @ content <= np.array(knapsack.limits)).all()
            assert (content <= knapsack.most).all()
            held = content[knapsack.conflicts.shapes] > 0
            assert (knapsack.conflicts.sizes @ content <= knapsack.conflicts.limits)[held].all()


def test_the_relaxed_knapsack_balances_what_equal_weights_of_limits_do_not() -> None:
    """Wide tiles of few steps use lines, narrow ones steps: together they use both, worth more than either alone."""
    sizes = np.array([(16, 64, 1), (16, 2, 100), (9, 2, 40)])
    knapsack = Knapsack.of(sizes, (16, 128), 1_600, np.array([10, 100, 100]))
    alone = [1 / knapsack.most[0], 1 / knapsack.most[1], 1 / knapsack.most[2]]
    prices = np.array([1.0, 1.0, 0.9]) * alone
    (best,) = {float(prices @ knapsack.dearest(prices)[1])}
    found = patterns_near_relaxed(knapsack, prices)
    assert max(float(prices @ content) for content in found) == pytest.approx(best, rel=0.05)
    assert best > 1.4
    assert patterns_near_relaxed(knapsack, np.zeros(3)) == greedy_patterns(knapsack, np.zeros(3)) == []


def test_known_contents_are_cut_to_what_is_asked_for_and_to_the_interval() -> None:
    sizes = np.array([(16, 2, 100), (9, 2, 40), (8, 8, 1)])
    content = {(16, 2, 100): 5, (9, 2, 40): 20, (8, 8, 1): 3, (4, 4, 7): 9}
    assert fitted(content, sizes, np.array([8, 15, 2]), 2_000).tolist() == [5, 15, 2]
    assert fitted(content, sizes, np.array([8, 15, 2]), 700).tolist() == [5, 5, 0]
    assert fitted(content, sizes, np.array([8, 15, 2]), 450).tolist() == [4, 1, 2]
