"""Small problems of packing and of windows: random instances, answers by brute force, a check of packings."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from memcompile.hardware.line_turns import ONE_STEP, LineTurns
from memcompile.ir.geometry import Geometry
from memcompile.passes.packing.first_fit import Packing, TileShape
from memcompile.passes.search.explore_windows import ReplicaOption, explore_windows
from memcompile.passes.search.problem import Choice, LayerKind, WindowPlan, shapes_of
from memcompile.passes.search.single_replicas import fewest_arrays

LINES = (6, 8)
shape_lists = st.lists(
    st.builds(TileShape, st.integers(1, 6), st.integers(1, 8), st.integers(1, 10), st.integers(1, 3)),
    min_size=1,
    max_size=4,
    unique_by=lambda shape: (shape.height, shape.width, shape.load),
)


def fits_by_brute_force(tiles: list[tuple[int, int]], lines: tuple[int, int]) -> bool:
    """Try every corner for every tile."""
    cells = np.zeros(lines, bool)

    def place(rest: list[tuple[int, int]]) -> bool:
        if not rest:
            return True
        height, width = rest[0]
        for line, output in itertools.product(range(lines[0] - height + 1), range(lines[1] - width + 1)):
            block = cells[line : line + height, output : output + width]
            if not block.any():
                block[...] = True
                if place(rest[1:]):
                    return True
                block[...] = False
        return False

    return sum(h * w for h, w in tiles) <= lines[0] * lines[1] and place(sorted(tiles, reverse=True))


def fewest_by_brute_force(tiles: list[TileShape], lines: tuple[int, int], interval: int) -> int:
    """Fewest arrays over all partitions of a few tiles."""
    best = len(tiles)

    def extend(groups: list[list[TileShape]], rest: list[TileShape]) -> None:
        nonlocal best
        if len(groups) >= best and rest:
            return
        if not rest:
            best = min(best, len(groups))
            return
        for number in range(len(groups) + 1):
            wider = [list(group) for group in groups] + ([[]] if number == len(groups) else [])
            group = wider[number]
            group.append(rest[0])
            if sum(tile.load for tile in group) <= interval and fits_by_brute_force(
                [(tile.height, tile.width) for tile in group], lines
            ):
                extend(wider, rest[1:])

    extend([], tiles)
    return best


def check(packing: Packing, shapes: list[TileShape], lines: tuple[int, int], interval: int) -> None:
    """No overlap, no load above the interval, every tile exactly once."""
    heights = np.repeat([s.height for s in shapes], [s.count for s in shapes])
    widths = np.repeat([s.width for s in shapes], [s.count for s in shapes])
    loads = np.repeat([s.load for s in shapes], [s.count for s in shapes])
    edges = np.cumsum([0, *(s.count for s in shapes)])
    members = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
    places = packing.expand(members, len(heights))
    assert places.min() >= 0
    assert places[:, 0].max() == packing.arrays - 1
    cells = np.zeros((packing.arrays, *lines), np.int8)
    busy = np.zeros(packing.arrays, np.int64)
    for (array, line, output), height, width, load in zip(places, heights, widths, loads, strict=True):
        block = cells[array, line : line + height, output : output + width]
        assert block.shape == (height, width)
        block += 1
        busy[array] += load
    assert cells.max() == 1
    assert busy.max() <= interval


MOST_TILES = 6
"""Tiles of all copies that brute force distributes."""


def options_of(
    geometry: Geometry,
    lines: tuple[int, int],
    arrays: int,
    turns: LineTurns = ONE_STEP,
    narrower: tuple[int, ...] = (),
) -> tuple[ReplicaOption, ...]:
    return explore_windows(geometry, lines[0], lines[1] // 2, 2, arrays * lines[0] * lines[1], turns, narrower)


def single_plan(kinds: list[LayerKind], lines: tuple[int, int]) -> WindowPlan:
    """One copy of every layer, with the fewest cells."""
    choices = tuple((Choice(kind.options[0], 1),) * len(kind.members) for kind in kinds)
    return WindowPlan(tuple(kinds), choices, fewest_arrays(shapes_of(choices), lines))


turns_of_lines = st.sampled_from([ONE_STEP, LineTurns(4, 2), LineTurns(4, 1), LineTurns(3, 2)])
"""Of arrays of four output lines: all at once, or in turns of some."""

small_layers = st.builds(
    lambda groups, columns, kernel, positions: Geometry(
        groups, groups * columns, (kernel,), (positions + kernel - 1,), groups
    ),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 6),
)
