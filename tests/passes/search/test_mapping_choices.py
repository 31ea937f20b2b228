"""Windows and copies of all layers together: bounds and plans against brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packing_problems import (
    LINES,
    MOST_TILES,
    check,
    fewest_by_brute_force,
    options_of,
    shape_lists,
    single_plan,
    small_layers,
    turns_of_lines,
)

from memcompile.hardware.line_turns import LineTurns
from memcompile.ir.geometry import Geometry
from memcompile.passes.packing import cutting_stock
from memcompile.passes.packing.cutting_stock import pack_around_full, pack_mixed
from memcompile.passes.packing.first_fit import TileShape, pack
from memcompile.passes.search import column_generation as generation
from memcompile.passes.search import multiple_choice_knapsack
from memcompile.passes.search.branch_and_price import branch, branch_and_price
from memcompile.passes.search.column_generation import MasterProblem
from memcompile.passes.search.explore_windows import explore_windows
from memcompile.passes.search.lagrangian import IMPOSSIBLE, Shortage, fewest_arrays, lagrangian_relaxation
from memcompile.passes.search.multiple_choice_knapsack import (
    LIMITS,
    Cuts,
    Knapsack,
    Limits,
    coarse_knapsack,
    pack_solutions,
)
from memcompile.passes.search.problem import Bracket, Choice, LayerKind, MappingProblem, WindowPlan, shapes_of


def shortest_by_brute_force(kinds: list[LayerKind], lines: tuple[int, int], arrays: int, longest: int) -> int:
    """Shortest interval over all options, copies and distributions with few tiles."""
    ways = [
        [
            [TileShape(*key, 1) for key, count in Choice(option, copies).tiles.items() for _ in range(count)]
            for option in kind.options
            for copies in range(1, option.windows + 1)
            if copies * option.tiles <= MOST_TILES
        ]
        for kind in kinds
    ]
    best = longest
    for picked in itertools.product(*ways):
        tiles = [tile for item in picked for tile in item]
        if len(tiles) > MOST_TILES:
            continue
        low = max(tile.load for tile in tiles)
        for interval in range(low, best):
            if fewest_by_brute_force(tiles, lines, interval) <= arrays:
                best = interval
                break
    return best


@settings(max_examples=40, deadline=None)
@given(st.lists(small_layers, min_size=1, max_size=2), st.integers(0, 2), turns_of_lines)
def test_no_bound_exceeds_what_brute_force_finds(layers: list[Geometry], spare: int, turns: LineTurns) -> None:
    lines = (4, 4)
    kinds = [LayerKind((n,), options_of(item, lines, 8, turns, (1,))) for n, item in enumerate(layers)]
    single = single_plan(kinds, lines)
    arrays = single.packing.arrays + spare
    assume(sum(kind.options[0].tiles for kind in kinds) <= MOST_TILES)
    problem = MappingProblem(tuple(kinds), lines, arrays)
    shortest = shortest_by_brute_force(kinds, lines, arrays, single.interval)
    relaxed = lagrangian_relaxation(problem, Bracket(single, 1), "normal")
    assert relaxed.bound <= shortest
    cuts = Cuts(problem)
    for interval in range(shortest, single.interval + 1):
        assert not Knapsack(problem, interval, cuts).is_impossible(1.0)
        assert branch(MasterProblem(problem, interval), 200).impossible is not True
    knapsack = coarse_knapsack(problem, replace(relaxed, plan=single), "normal")
    assert relaxed.bound <= knapsack.bound <= shortest
    bracket = branch_and_price(problem, replace(knapsack, plan=single), "normal")
    assert knapsack.bound <= bracket.bound <= shortest
    for plan in (relaxed.plan, knapsack.plan, bracket.plan):
        assert isinstance(plan, WindowPlan)
        assert bracket.bound <= plan.interval <= single.interval
        if sum(shape.count for shape in shapes_of(plan.choices)) <= MOST_TILES:
            assert shortest <= plan.interval  # with more tiles it may be shorter than what brute force looks at
        assert plan.packing.arrays <= arrays
        check(plan.packing, shapes_of(plan.choices), lines, plan.interval)


@settings(max_examples=40, deadline=None)
@given(st.lists(small_layers, min_size=1, max_size=2), turns_of_lines, st.integers(1, 12))
def test_options_that_keep_no_interval_loosen_no_bound(layers: list[Geometry], turns: LineTurns, interval: int) -> None:
    lines = (4, 4)
    kinds = [LayerKind((n,), options_of(item, lines, 8, turns, (1,))) for n, item in enumerate(layers)]
    possible = [tuple(option for option in kind.options if option.longest <= interval) for kind in kinds]
    found = fewest_arrays(MappingProblem(tuple(kinds), lines, 8), interval)
    if not all(possible):
        assert found >= IMPOSSIBLE
        return
    left = tuple(LayerKind(kind.members, options) for kind, options in zip(kinds, possible, strict=True))
    assert found == fewest_arrays(MappingProblem(left, lines, 8), interval)


def test_what_no_number_of_replicas_keeps_is_short_of_time() -> None:
    """Two lines of each column, one converted a step: an interval of one step is too short for any tile."""
    kinds = [LayerKind((0,), options_of(Geometry(4, 2, layout="channels_last"), (4, 4), 8, LineTurns(4, 1), (1,)))]
    shortage = Shortage.of(MappingProblem(tuple(kinds), (4, 4), 8), 1)
    assert shortage.words(["fc"]) == "time on the converters; most of it: fc 100%"


@settings(max_examples=100, deadline=None)
@given(shape_lists, st.integers(1, 3), st.integers(10, 30))
def test_packing_around_full_tiles_is_valid(shapes: list[TileShape], full: int, interval: int) -> None:
    shapes = [shape for shape in shapes if (shape.height, shape.width) != LINES]
    shapes.append(TileShape(*LINES, 10, full))
    arrays = full + sum(shape.count for shape in shapes)
    packing = pack_around_full(shapes, LINES, arrays, interval, 1.0)
    assert packing is not None
    assert packing.arrays <= arrays
    check(packing, shapes, LINES, interval)
    assert pack_around_full(shapes, LINES, full - 1, interval, 1.0) is None


@settings(max_examples=100, deadline=None)
@given(shape_lists, st.integers(1, 8), st.integers(10, 30))
def test_packing_by_patterns_is_valid_in_any_number_of_arrays(
    shapes: list[TileShape], arrays: int, interval: int
) -> None:
    packing = pack_around_full(shapes, LINES, arrays, interval, 1.0)
    if packing is None:
        assert arrays < sum(shape.count for shape in shapes)
        return
    assert packing.arrays <= arrays
    check(packing, shapes, LINES, interval)
    tiles = [replace(shape, count=1) for shape in shapes for _ in range(shape.count)]
    if len(tiles) <= MOST_TILES:
        assert fewest_by_brute_force(tiles, LINES, interval) <= packing.arrays


def test_a_dive_that_fails_leaves_the_next_one_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first dive fills some arrays, then gives up; the second one begins anew."""
    keep, dives = cutting_stock._Dive._keep, []

    def keep_once(dive: cutting_stock._Dive, amounts: NDArray[np.float64], most_at_once: int) -> None:
        keep(dive, amounts, most_at_once)
        dives.append(most_at_once)
        if len(dives) == 1:
            dive.left = dive.left + 100  # more than the arrays at hand hold

    monkeypatch.setattr(cutting_stock._Dive, "_keep", keep_once)
    shapes = [TileShape(4, 5, 4, 9), TileShape(4, 3, 3, 8), TileShape(4, 2, 2, 7)]
    packing = pack_around_full(shapes, LINES, 12, 9, 1.0)
    assert dives[-1] == 1
    assert packing is not None
    check(packing, shapes, LINES, 9)


def test_narrow_tiles_shorten_the_interval_where_lines_take_turns() -> None:
    """Four columns of two lines, one converted a step: 8 steps in one tile, 2 in each of four that lie apart."""
    layer, turns = Geometry(4, 4, layout="channels_last"), LineTurns(8, 1)
    found = {}
    for narrower in ((), (1,)):
        kinds = [LayerKind((0,), options_of(layer, (4, 8), 4, turns, narrower))]
        problem, single = MappingProblem(tuple(kinds), (4, 8), 4), single_plan(kinds, (4, 8))
        bracket = lagrangian_relaxation(problem, Bracket(single, 1), "fast")
        found[narrower] = bracket.bound, bracket.interval
    assert found == {(): (8, 8), (1,): (2, 2)}


def depthwise_beside_full_tiles() -> list[LayerKind]:
    """Depthwise kernels of nine rows, and pointwise ones that fill sixteen rows and all columns."""
    lines = (16, 128)
    depthwise = Geometry(64, 64, (3, 3), (18, 18), 64, (1, 1), (1, 1), (0, 0), (0, 0))
    pointwise = Geometry(64, 128, (1, 1), (4, 4), 1, (1, 1), (1, 1), (0, 0), (0, 0))
    return [LayerKind((n,), options_of(item, lines, 16)) for n, item in enumerate((depthwise, pointwise))]


def test_arrays_that_a_tile_fills_lend_no_steps_to_others() -> None:
    """Eight arrays are full; depthwise kernels share what is left, and only its steps count."""
    kinds = depthwise_beside_full_tiles()
    problem, single = MappingProblem(tuple(kinds), (16, 128), 10), single_plan(kinds, (16, 128))
    # Two arrays hold 64 kernels with windows of 1 x 2 (four output lines each): 128 steps for each.
    bound = lagrangian_relaxation(problem, Bracket(single, 1), "fast").bound
    assert bound >= 64 * 128 // 2
    for stage in (coarse_knapsack, branch_and_price):
        found = stage(problem, Bracket(single, bound), "normal")
        assert (found.interval, found.bound) == (4_096, 4_096)


def test_branching_rules_out_what_halves_of_choices_allow() -> None:
    """Both layers of a kind half in a wide window would keep six steps; whole choices do not."""
    lines, arrays = (8, 8), 2
    alike, other = Geometry(1, 1, (4,), (11,)), Geometry(1, 2, (3,), (9,))
    kinds = [LayerKind((0, 1), options_of(alike, lines, 4)), LayerKind((2,), options_of(other, lines, 4))]
    problem, single = MappingProblem(tuple(kinds), lines, arrays), single_plan(kinds, lines)
    assert MasterProblem(problem, 6).possible(100)[0]
    assert branch(MasterProblem(problem, 6), 100).impossible
    bracket = branch_and_price(problem, Bracket(single, 1), "normal")
    one_by_one = [LayerKind((member,), kind.options) for kind in kinds for member in kind.members]
    shortest = shortest_by_brute_force(one_by_one, lines, arrays, single.interval)
    assert 7 <= bracket.bound <= shortest <= bracket.interval


def test_light_and_heavy_tiles_share_arrays_where_first_fit_sorts_them() -> None:
    """Tiles of a depthwise network: arrays of equal tiles run out of lines or of steps, mixed ones use both."""
    light = [(9, 2, 9, 384), (9, 2, 36, 704), (9, 2, 144, 32), (12, 4, 72, 64), (15, 4, 288, 16), (16, 4, 1, 16)]
    heavy = [(16, 8, 144, 32), (16, 8, 576, 8), (11, 16, 2304, 1), (16, 16, 2304, 1), (16, 64, 576, 3)]
    shapes = [TileShape(*item) for item in (*light, *heavy, (16, 64, 1152, 1), (16, 128, 5, 3))]
    # 2,480 steps a array are 99.9 % of those of 26 arrays; three arrays are full.
    steps = sum(shape.load * shape.count for shape in shapes[:-1])
    assert pack(shapes, (16, 128), 2_700, 29) is None
    for interval in (2_700, 2_492):
        assert steps <= 26 * interval
        packing = pack_around_full(shapes, (16, 128), 29, interval, 1.0)
        assert packing is not None
        check(packing, shapes, (16, 128), interval)
    assert pack_around_full(shapes, (16, 128), 29, steps // 26 - 1, 1.0) is None
    # Four such networks on four times as many arrays are packed in the same way.
    four = [replace(shape, count=4 * shape.count) for shape in shapes]
    packing = pack_mixed(four, (16, 128), 4 * 29, 2_700, 1.0)
    assert packing is not None
    check(packing, four, (16, 128), 2_700)
    assert pack_mixed(four, (16, 128), 4 * 29, steps // 26 - 1, 1.0) is None


def test_the_last_search_gives_up_after_a_number_of_intervals_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def in_vain(problem: MappingProblem, interval: int, limits: Limits, cuts: Cuts) -> None:
        tried.append(interval)

    monkeypatch.setattr(multiple_choice_knapsack, "_plan_for", in_vain)
    kinds = depthwise_beside_full_tiles()
    problem, single = MappingProblem(tuple(kinds), (16, 128), 10), single_plan(kinds, (16, 128))
    assert pack_solutions(problem, Bracket(single, 1), LIMITS["normal"], failures=3).plan is single
    assert len(tried) == 3


@pytest.mark.parametrize("idle", [0.0, 0.1])
def test_proposals_leave_the_steps_asked_for(idle: float) -> None:
    kinds = depthwise_beside_full_tiles()
    problem = MappingProblem(tuple(kinds), (16, 128), 12)
    choices = Knapsack(problem, 4_000, Cuts(problem)).propose(idle, 1.0)
    assert choices is not None
    tiles = shapes_of(choices)
    # Both kinds of rows of the programme, counted from the tiles.
    full = sum(tile.count for tile in tiles if (tile.height, tile.width) == (16, 128))
    rest = [tile for tile in tiles if (tile.height, tile.width) != (16, 128)]
    assert full * 4_000 + sum(tile.load * tile.count for tile in rest) <= 12 * 4_000 * (1 - idle)
    assert full * 128 + sum(tile.width * tile.count for tile in rest if tile.height > 8) <= 12 * 128
    assert [len(layers) for layers in choices] == [len(kind.members) for kind in kinds]


def test_cutting_planes_count_tiles_that_leave_no_room_beside_them() -> None:
    """Three tiles of 7 x 7 lines have fewer cells than two arrays of 12 x 12, but no two fit one array."""
    layer = Geometry(7, 7, layout="channels_last")
    kinds = [LayerKind((0, 1, 2), explore_windows(layer, 12, 12, 1, 2 * 144))]
    problem = MappingProblem(tuple(kinds), (12, 12), 2)
    assert kinds[0].options[0].sizes == ((7, 7, 1),)
    cuts = Cuts(problem)
    pair = cuts.violated_by([np.array([3])])
    assert pair is not None
    assert cuts.demand(pair)[0].tolist() == [144]
    assert cuts.violated_by([np.array([2])]) is None


def test_knapsacks_are_cut_where_thirds_of_arrays_are_counted() -> None:
    """Tiles of 5 x 5 lines: four in an array of 12 x 12 lines, not five, so that two arrays do not hold nine."""
    kinds = [LayerKind(tuple(range(9)), explore_windows(Geometry(5, 5, layout="channels_last"), 12, 12, 1, 288))]
    two, three = (MappingProblem(tuple(kinds), (12, 12), arrays) for arrays in (2, 3))
    cuts = Cuts(two)
    assert Knapsack(two, 9, cuts).is_impossible(1.0)
    assert len(cuts.found) == 1
    assert not Knapsack(three, 9, Cuts(three)).is_impossible(1.0)


def test_an_interval_below_every_choice_is_impossible() -> None:
    kinds = depthwise_beside_full_tiles()
    problem = MappingProblem(tuple(kinds), (16, 128), 10)
    assert Knapsack(problem, 100, Cuts(problem)).is_impossible(1.0)
    assert Knapsack(problem, 100, Cuts(problem)).propose(0.0, 1.0) is None


def test_a_programme_of_too_many_shapes_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [LayerKind((0,), options_of(Geometry(1, 2, (2,), (7,)), (4, 4), 8))]
    problem = MappingProblem(tuple(kinds), (4, 4), 2)
    assert MasterProblem(problem, 6).possible(20)[0] is True
    monkeypatch.setattr(generation, "MOST_SHAPES", 0)
    assert MasterProblem(problem, 6).possible(20) == (None, 0)
    assert branch(MasterProblem(problem, 6), 20).impossible is None


def test_what_is_above_a_plan_is_no_bound() -> None:
    single = single_plan(depthwise_beside_full_tiles(), (16, 128))
    with pytest.raises(AssertionError, match="no bound"):
        Bracket(single, single.interval + 1)
