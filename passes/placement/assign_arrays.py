"""Assigns arrays to chips such that few values cross chips, with a lower bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target
from memcompile.passes.placement.chip_problem import ChipProblem, chip_problem
from memcompile.passes.placement.chips import number_arrays
from memcompile.passes.placement.deal_tiles import deal_tiles
from memcompile.passes.placement.exchange import Assignment, exchange
from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.solving.clock import running, running_clock

BOUND_SHARE = 0.6
"""Share of the work for the bound and its patterns."""
DIVE_SHARE = 0.5
"""Share of the work that is then left for filling chips by patterns."""
MOST_TILES = 30_000
"""Most tiles of a search; of more, the numbering along the pipeline and the smallest exchange of each layer are all."""
MOST_CONTENTS = 1_000
"""Most different contents of arrays with which chips are filled by patterns."""


@dataclass(frozen=True, eq=False)
class Assigned:
    """Number of the array of each tile, array a lying on chip a // arrays per chip, and the tile whose place it takes.

    Both are [tiles]; ``crossing`` values cross chips, and no assignment of the arrays has fewer than ``bound``,
    as ``method`` proves.
    """

    array: NDArray[np.int64]
    taken: NDArray[np.int64]
    crossing: int
    bound: int
    method: str = "chips each layer needs at least, for these arrays"


def assign_arrays(
    traffic: Traffic,
    arrays: NDArray[np.int64],
    order: NDArray[np.int64],
    size: NDArray[np.int64],
    kind: NDArray[np.int64],
    target: Target,
    chips: int,
) -> Assigned:
    """Assign packed arrays to chips, and tiles of a kind to the places of that kind.

    The best numbering along the pipeline is improved as far as the clock allows.

    Parameters
    ----------
    arrays
        Array of each tile, as packed.
    order
        Tiles along the pipeline, see :func:`~memcompile.passes.placement.chips.pipeline`.
    size
        Number of each tile's size: its rows, lines and steps.
    kind
        Kind of each tile; those of a kind are interchangeable.
    """
    per_chip = target.chip.arrays
    numbers, crossing = number_arrays(arrays, order, traffic, per_chip, chips)
    same = np.arange(len(numbers))
    if chips == 1 or not len(numbers):
        return Assigned(numbers, same, crossing, 0)
    simple = traffic.bound(numbers, per_chip)
    if len(numbers) > MOST_TILES:
        return Assigned(numbers, same, crossing, simple)
    packed = _without_gaps(numbers)
    start = Assignment(packed, _chips_of(packed, numbers // per_chip))
    problem = chip_problem(traffic, packed, size, kind, per_chip, chips)
    with running(running_clock().part(BOUND_SHARE)):
        bound = max(simple, problem.prove(start.tile_chip))
    least, best = crossing, start
    for found in _candidates(problem, start):
        value = traffic.crossing(found.tile_chip)
        if value < least:
            least, best = value, found
    if least > bound:
        best = exchange(traffic, kind, best, per_chip, chips)
    method = "contents of chips by column generation, for these arrays" if bound > simple else Assigned.method
    if best is start:
        return Assigned(numbers, same, crossing, bound, method)
    array = _numbered(best, per_chip)
    return Assigned(array, _places(packed, best, kind), traffic.crossing(array // per_chip), bound, method)


def _candidates(problem: ChipProblem, start: Assignment) -> Iterator[Assignment]:
    """Assignments to begin the search with."""
    found = [start]
    if len(problem.contents) <= MOST_CONTENTS:
        for fit in (True, False):
            if not running_clock().is_over:
                with running(running_clock().part(DIVE_SHARE)):
                    chip, taken = problem.dive(fit)
                found.append(Assignment(start.array[taken], chip))
    for each in found:
        dealt = deal_tiles(problem.traffic, problem.kind, each.tile_chip)
        yield Assignment(each.array[dealt], each.chip)


def _without_gaps(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(numbers, return_inverse=True)[1].ravel().astype(np.int64)


def _chips_of(arrays: NDArray[np.int64], chip: NDArray[np.int64]) -> NDArray[np.int64]:
    """Chip of each array, given those of tiles."""
    found = np.zeros(int(arrays.max()) + 1, np.int64)
    found[arrays] = chip
    return found


def _numbered(assignment: Assignment, per_chip: int) -> NDArray[np.int64]:
    """Numbers of the arrays of tiles: chips in the order of their first tiles, and so the arrays of a chip."""
    first = np.full(len(assignment.chip), len(assignment.array))
    np.minimum.at(first, assignment.array, np.arange(len(assignment.array)))
    first_of_chip = np.full(int(assignment.chip.max()) + 1, len(assignment.array))
    np.minimum.at(first_of_chip, assignment.chip, first)
    place = np.argsort(np.argsort(first_of_chip, kind="stable"), kind="stable")[assignment.chip]
    order = np.lexsort((first, place))
    within = np.arange(len(order)) - np.searchsorted(place[order], place[order], "left")
    number = np.empty(len(order), np.int64)
    number[order] = place[order] * per_chip + within
    return number[assignment.array]


def _places(arrays: NDArray[np.int64], best: Assignment, kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each tile the one whose place in the packing it takes: one of its kind in the array it is now in."""
    taken = np.empty(len(arrays), np.int64)
    taken[np.lexsort((best.array, kind))] = np.lexsort((arrays, kind))
    return taken
