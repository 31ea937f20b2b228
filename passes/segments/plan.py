"""Cuts a network into segments: exact dynamic programming over the cut points, and a lower bound.

The tiles of all layers form one line, in network order. Segments are stretches of this line, so
that nothing is read before it is complete, in any network. The cheapest way to
cut the first j tiles is the cheapest way to cut the first i and one segment from i to j, for the
best i: Bellman's recursion, which finds the best of all cuts for the given cost of a segment. A cheap
lower bound of that cost prunes most segments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.segments.costs import SegmentChoice, SegmentCosts, Stretch, running
from memcompile.passes.solving.clock import running_clock

MOST_SEGMENTS_TRIED = 400_000
"""Most segments evaluated; larger networks are cut inside of layers only every few tiles."""

CutPoint = tuple[int, int]
"""Layer, and the tile of the layer before which the cut lies."""


@dataclass(frozen=True)
class PlannedSegment:
    """Stretches of a segment, and the choice made for it."""

    stretches: tuple[Stretch, ...]
    choice: SegmentChoice


def plan_segments(costs: SegmentCosts) -> tuple[PlannedSegment, ...]:
    """The cheapest cut."""
    points = cut_points(costs)
    least = LeastCosts.of(costs, points)

    def choice(first: int, last: int) -> SegmentChoice | None:
        return costs.of(stretches_between(costs, points[first], points[last]))

    def cost_ns(first: int, last: int) -> float:
        found = choice(first, last)
        return np.inf if found is None else found.cost_ns

    found = []
    for first, last in itertools.pairwise(cheapest_path(len(points), least.edges_to, cost_ns)):
        chosen = choice(first, last)
        assert chosen is not None, "the path goes over segments that fit"
        found.append(PlannedSegment(stretches_between(costs, points[first], points[last]), chosen))
    return tuple(found)


def cheapest_path(
    count: int,
    edges_to: Callable[[int], tuple[NDArray[np.int64], NDArray[np.float64]]],
    length_of: Callable[[int, int], float],
) -> list[int]:
    """Shortest path from point 0 to the last of some points in a line, along edges that lead forwards.

    Parameters
    ----------
    edges_to
        Function from a point to the points where its edges begin, and a lower bound for the length of each.
    length_of
        Length of the edge from one point to another; called only where the bound does not exclude the edge.
    """
    length, before = np.full(count, np.inf), np.zeros(count, np.int64)
    length[0] = 0.0
    for last in range(1, count):
        firsts, least = edges_to(last)
        at_least = length[firsts] + least
        for place in np.argsort(at_least, kind="stable").tolist():
            # Once the time is up, any edge is accepted.
            if at_least[place] >= length[last] or (length[last] < np.inf and running_clock().is_over):
                break
            first = int(firsts[place])
            total = length[first] + length_of(first, last)
            if total < length[last]:
                length[last], before[last] = total, first
    assert np.isfinite(length[-1]), "the edges lead to the last point"
    path = [count - 1]
    while path[-1]:
        path.append(int(before[path[-1]]))
    return path[::-1]


@dataclass(frozen=True, eq=False)
class LeastCosts:
    """Lower bounds for segments between cut points, from sums over all tiles before each point.

    ``cells``, ``work`` (steps of an image, summed over tiles) and ``write_ns`` are [points]; so is
    ``torn``: the windows of the layer that is cut there, whose two parts have one replica each, else 0.
    """

    costs: SegmentCosts
    cells: NDArray[np.int64]
    work: NDArray[np.int64]
    write_ns: NDArray[np.float64]
    torn: NDArray[np.int64]

    @classmethod
    def of(cls, costs: SegmentCosts, points: Sequence[CutPoint]) -> LeastCosts:
        """Sum up the stretches between neighbouring cut points."""
        between = [stretches_between(costs, first, last) for first, last in itertools.pairwise(points)]
        sizes = np.array([costs.cells_and_work(stretch) for (stretch,) in between], np.int64).reshape(-1, 2)
        times = np.array([costs.write_ns(stretch) for (stretch,) in between])
        torn = np.array([costs.layers[layer].windows if tile else 0 for layer, tile in points], np.int64)
        return cls(costs, running(sizes[:, 0]), running(sizes[:, 1]), running(times), torn)

    def edges_to(self, last: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Begins of the segments that may end at a point, and lower bounds for their costs."""
        begin = int(np.searchsorted(self.cells, self.cells[last] - self.costs.cells))
        firsts = np.arange(begin, last)
        interval = -(-(self.work[last] - self.work[firsts]) // self.costs.arrays)
        interval = np.maximum(interval, np.maximum(self.torn[firsts], self.torn[last]))
        return firsts, self.write_ns[last] - self.write_ns[firsts] + self.costs.interval_ns * interval


def cut_points(costs: SegmentCosts) -> list[CutPoint]:
    """Possible cuts of the line of tiles, ascending: before each layer, and inside layers as often as is affordable."""
    tiles = sum(layer.tiles for layer in costs.layers)
    cells = sum(costs.cells_and_work(Stretch(number, 0, layer.tiles))[0] for number, layer in enumerate(costs.layers))
    together = tiles * costs.cells / cells  # tiles of a full segment, on average
    every = max(1, round(min(np.sqrt(tiles * together / MOST_SEGMENTS_TRIED), together / 4)))
    points = [(number, tile) for number, layer in enumerate(costs.layers) for tile in range(0, layer.tiles, every)]
    return [*points, (len(costs.layers), 0)]


def stretches_between(costs: SegmentCosts, first: CutPoint, last: CutPoint) -> tuple[Stretch, ...]:
    """Stretches between two cut points, layer by layer."""
    ends = [
        (layer, first[1] if layer == first[0] else 0, last[1] if layer == last[0] else costs.layers[layer].tiles)
        for layer in range(first[0], min(last[0] + 1, len(costs.layers)))
    ]
    return tuple(Stretch(*item) for item in ends if item[1] < item[2])
