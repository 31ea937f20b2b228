"""The assignment of arrays to chips as a master problem: room, options and prices to begin with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.placement.chip_dive import Dive, Filled
from memcompile.passes.placement.chip_master import ChipMaster
from memcompile.passes.placement.chip_patterns import ChipPatterns, Counts, Options, Pattern, Prices
from memcompile.passes.placement.traffic import Traffic

FINE = 27_720
"""Units of room in an array: a multiple of 1 to 12, so that equal shares of an array fill it."""
COARSE = (1, 2, 3, 4, 6, 8, 12)
"""Units of room in an array of the dynamic program, of which it takes those that lose little."""
LOSS = 0.005
"""Share of the room of all tiles that does not matter if rounding loses it."""
MOST_ROOMS = 600
"""Most rooms of a chip in the dynamic program, over all measures, unless it has more arrays."""
MOST_OPTIONS = 300
"""Most options of a layer whose tiles of different room are different items."""
EACH_RANGE = 40
"""Most tiles of a layer on a chip whose numbers are options of their own; of more there are ranges."""


@dataclass(frozen=True, eq=False)
class ChipProblem:
    """Master problem with the contents of arrays.

    ``kind`` and ``item`` are those of each tile, [tiles]; tiles of a kind are interchangeable. ``contents`` are the
    tiles of each kind in an array, [contents, kinds], ``content`` the content of each array, [arrays].
    """

    traffic: Traffic
    master: ChipMaster
    arrays: Counts
    kind: Counts
    item: Counts
    contents: Counts
    content: Counts
    arrays_per_chip: int

    def prove(self, chip: NDArray[np.int64]) -> int:
        """Lower bound for what crosses, given the chip of each tile of some assignment."""
        self.master.add(self.columns_of(chip))
        self.master.start(self.first_prices())
        self.master.solve()
        return self.master.bound

    def dive(self, fit: bool) -> tuple[Counts, Counts]:
        """Chip of each array, [arrays], and for each tile the one whose place it takes, [tiles]; see :class:`Dive`."""
        tiles = np.zeros((int(self.item.max()) + 1, self.contents.shape[1]), np.int64)
        np.add.at(tiles, (self.item, self.kind), 1)
        counts = np.bincount(self.content, minlength=len(self.contents))
        filled = Dive(self.master, self.contents, counts, tiles, self.arrays_per_chip, fit).run()
        chip = self._chips_of_arrays(filled)
        return chip, self._places(filled, chip)

    def _chips_of_arrays(self, filled: Sequence[Filled]) -> Counts:
        """Chip of each array: arrays of a content are dealt in order."""
        chip = np.zeros(len(self.content), np.int64)
        amounts = np.stack([each.arrays for each in filled], axis=1)
        chip[np.argsort(self.content, kind="stable")] = np.concatenate(
            [np.repeat(np.arange(len(filled)), row) for row in amounts]
        )
        return chip

    def _places(self, filled: Sequence[Filled], chip: Counts) -> Counts:
        """For each tile the one whose place it takes: tiles of a layer and kind are dealt in order."""
        layer = self.traffic.tiles.layer
        amounts = np.stack([each.tiles for each in filled], axis=2)
        new_chip = np.zeros(len(layer), np.int64)
        order = np.lexsort((self.kind, self.item))
        new_chip[order] = np.concatenate(
            [np.repeat(np.arange(len(filled)), row) for row in amounts.reshape(-1, len(filled))]
        )
        taken = np.zeros(len(layer), np.int64)
        taken[np.lexsort((layer, new_chip, self.kind))] = np.lexsort((self.arrays, chip[self.arrays], self.kind))
        return taken

    def columns_of(self, chip: NDArray[np.int64]) -> list[Pattern]:
        """Patterns of an assignment, given the chip of each tile."""
        items, layers, chips = len(self.master.tiles), len(self.master.fewest_chips), self.master.chips
        tiles, home = np.zeros((chips, items), np.int64), np.zeros((chips, layers), np.int64)
        np.add.at(tiles, (chip, self.item), 1)
        home[self.traffic.homes(chip), np.arange(layers)] = 1
        return [self.master.patterns.pattern(*each) for each in zip(tiles, home, strict=True) if each[0].any()]

    def first_prices(self) -> Prices:
        """Prices that charge each further chip of a layer the smallest exchange.

        All but one of the chips that hold a layer are not its home and send sums; all but one are not where its
        input was made and receive inputs.
        """
        options, sources = self.master.patterns.options, self.master.patterns.sources
        layers = len(options)
        prices = Prices(np.zeros(len(self.master.tiles)), np.zeros(layers), np.zeros(layers))
        for layer, (each, source) in enumerate(zip(options, sources, strict=True)):
            if len(each.first) < 2:
                continue
            inputs, sums = int(each.exchange[0, 1, 1:].min()), int(each.exchange[1, 0, 1:].min())
            prices.chip[layer] = inputs + sums
            prices.home[layer] -= sums
            if source >= 0:
                prices.home[source] -= inputs
        return prices


def chip_problem(
    traffic: Traffic, arrays: NDArray[np.int64], size: Counts, kind: Counts, arrays_per_chip: int, chips: int
) -> ChipProblem:
    """The master problem of packed arrays.

    Parameters
    ----------
    arrays
        Array of each tile.
    size
        Number of each tile's size: its rows, lines and steps. Shares of arrays depend on them alone.
    kind
        Kind of each tile; those of a kind are interchangeable.
    """
    contents, content = contents_of(arrays, kind)
    counts = np.bincount(content)
    shares = fine_shares(contents_of(arrays, size)[0], np.bincount(size), cells_of_kinds(traffic, size))
    units = _units([share[size] for share in shares], arrays_per_chip)
    shares = shares[: len(units)]
    parts = np.split(np.arange(len(arrays)), traffic.edges[1:-1])
    most = [_most(contents, counts, kind[own], arrays_per_chip) for own in parts]
    capacity = [each * arrays_per_chip for each in units]
    options: list[Options] = []
    item = np.zeros(len(size), np.int64)
    for layer, (own, fit) in enumerate(zip(parts, most, strict=True)):
        room = np.stack([share[size[own]] for share in shares], axis=1)
        which = _items(size[own], room, units, capacity)
        first_item = sum(len(each.items) for each in options)
        item[own] = first_item + which
        options.append(_options(traffic, layer, which, first_item, room, units, capacity, int(fit[0])))
    tiles = np.bincount(item)
    fewest = np.array([np.searchsorted(fit, len(own)) + 1 for fit, own in zip(most, parts, strict=True)], np.int64)
    patterns = ChipPatterns(options, capacity, traffic.sources, traffic.joins)
    master = ChipMaster(patterns, tiles, fewest, chips)
    return ChipProblem(traffic, master, arrays, kind, item, contents, content, arrays_per_chip)


def contents_of(arrays: NDArray[np.int64], kind: Counts) -> tuple[Counts, Counts]:
    """Different contents of arrays, the tiles of each kind, [contents, kinds], and the content of each array."""
    held = np.zeros((int(arrays.max()) + 1, int(kind.max()) + 1), np.int32)
    np.add.at(held, (arrays, kind), 1)
    contents, content = np.unique(held, axis=0, return_inverse=True)
    return contents.astype(np.int64), content.ravel()


def cells_of_kinds(traffic: Traffic, kind: Counts) -> Counts:
    """Fewest cells of a tile of each kind, [kinds]."""
    cells = np.full(int(kind.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(cells, kind, traffic.cells)
    return cells


def _most(contents: Counts, counts: Counts, kind: Counts, arrays_per_chip: int) -> Counts:
    """Most tiles of a layer that 1, 2, 3 and so on chips hold, if all arrays hold as many of them as they can."""
    tiles = np.bincount(kind, minlength=contents.shape[1])
    held = np.repeat(np.minimum(contents, tiles).sum(axis=1), counts)
    most: Counts = np.cumsum(-np.sort(-held))
    edges = np.arange(arrays_per_chip, len(most) + arrays_per_chip, arrays_per_chip)
    return np.asarray(most[np.minimum(edges, len(most)) - 1])


def fine_shares(contents: Counts, numbers: Counts, cells: Counts) -> list[Counts]:
    """Units of an array that a tile of each kind takes at least, in two measures, [kinds].

    No array has more than ``FINE`` in either.

    The first are as large as they can be together, each at least its share of cells. The second are large for kinds
    whose share is small because other tiles fill the rest of their arrays.

    Parameters
    ----------
    contents
        Tiles of each kind in an array, [contents, kinds].
    numbers
        Tiles of each kind.
    cells
        Cells of a tile of each kind.
    """
    base = cells / max(1, int((contents @ cells).max()))
    first = _largest_shares(contents, numbers.astype(np.float64), base)
    missing = 1 / contents.max(axis=0) - first / FINE
    second = _largest_shares(contents, numbers * np.maximum(missing, 1e-6), np.zeros(len(base)))
    return [first, second] if (second > first).any() else [first]


def _largest_shares(contents: Counts, weights: NDArray[np.float64], least: NDArray[np.float64]) -> Counts:
    """Shares of an array with the largest weighted sum, in fine units, [kinds]."""
    # Imported here, because it takes time that networks on one chip need not wait for.
    from scipy.optimize import linprog  # noqa: PLC0415
    from scipy.sparse import csr_matrix  # noqa: PLC0415

    solution = linprog(
        -weights / weights.max(),
        A_ub=csr_matrix(contents.astype(np.float64)),
        b_ub=np.ones(len(contents)),
        bounds=np.stack([least, np.ones(len(least))], axis=1),
        method="highs",
    )
    share = least if solution.x is None else solution.x
    units: Counts = np.floor(FINE * share + 1e-3).astype(np.int64)
    over = int((contents @ units).max())
    return units * FINE // over if over > FINE else units


def _units(fine: Sequence[Counts], arrays_per_chip: int) -> tuple[int, ...]:
    """Units of room in an array of the dynamic program, for both measures or for the first alone.

    Parameters
    ----------
    fine
        Fine units of each tile, in each measure.
    """
    pairs = [
        pair
        for pair in itertools.product(COARSE, repeat=len(fine))
        if math.prod(arrays_per_chip * each + 1 for each in pair) <= MOST_ROOMS
    ]
    if not pairs:
        return _units(fine[:1], arrays_per_chip) if len(fine) > 1 else (1,)
    return min(pairs, key=lambda pair: (_loss(fine, pair), math.prod(pair)))


def _loss(fine: Sequence[Counts], units: Sequence[int]) -> float:
    """Share of the room of all tiles that is lost to rounding, to a precision of which more does not matter."""
    kept = [
        int((share * each // FINE).sum()) * FINE / each / int(share.sum())
        for share, each in zip(fine, units, strict=True)
    ]
    return round(sum(1 - each for each in kept) / LOSS) * LOSS


def _items(kind: Counts, room: Counts, units: Sequence[int], capacity: Sequence[int]) -> Counts:
    """Item of each tile of a layer: its kind, or one for all tiles if there would be too many options."""
    kinds, which, numbers = np.unique(kind, return_inverse=True, return_counts=True)
    which = which.ravel()
    sizes = np.array([room[which == number][0] * np.array(units) // FINE for number in range(len(kinds))])
    most = np.where(sizes > 0, np.array(capacity) // np.maximum(sizes, 1), numbers[:, None]).min(axis=1)
    if math.prod((np.minimum(most, numbers) + 1).tolist()) > MOST_OPTIONS:
        return np.zeros_like(which)
    return which


def _options(
    traffic: Traffic,
    layer: int,
    which: Counts,
    first_item: int,
    room: Counts,
    units: Sequence[int],
    capacity: Sequence[int],
    most: int,
) -> Options:
    """Options of a layer.

    Parameters
    ----------
    which
        Item of each tile, from 0.
    first_item
        Number of the first item.
    room
        Room of each tile in fine units, [tiles, measures].
    most
        Tiles that a chip holds at most.
    """
    count = int(which.max()) + 1
    cells = traffic.cells[traffic.edges[layer] : traffic.edges[layer + 1]]
    parts = [np.flatnonzero(which == number) for number in range(count)]
    # Of each item the smallest tiles first, in each measure and in cells.
    rooms = [np.concatenate([[[0] * room.shape[1]], np.cumsum(np.sort(room[part], axis=0), axis=0)]) for part in parts]
    sizes = [np.concatenate([[0], np.cumsum(np.sort(cells[part]))]) for part in parts]
    per_array, per_chip = np.array(units), np.array(capacity)
    fits = [min(most, int((each * per_array // FINE <= per_chip).all(axis=1).sum()) - 1) for each in rooms]
    if count == 1:
        first = _edges(fits[0])[:, None]
        last = np.append(first[1:] - 1, [[fits[0]]], axis=0)
    else:
        first = np.array(list(itertools.product(*(range(fit + 1) for fit in fits))), np.int64)
        last = first
    numbers = range(count)
    taken = np.add.reduce([rooms[number][first[:, number]] for number in numbers]) * per_array // FINE
    kept = (taken <= per_chip).all(axis=1) & (first.sum(axis=1) <= most)
    first, last, taken = first[kept], last[kept], taken[kept]
    held = np.add.reduce([sizes[number][first[:, number]] for number in numbers])
    both, sums, inputs = _exchange(traffic, layer, parts, first)
    table = np.array([[both, inputs], [sums, np.zeros_like(sums)]])
    # The home holds at least as many cells as any other chip.
    return Options(first_item + np.arange(count), first, last, taken, table, 2 * held <= cells.sum())


def _exchange(traffic: Traffic, layer: int, parts: Sequence[Counts], counts: Counts) -> Counts:
    """Least exchange of numbers of tiles of each item: with all of it, without inputs, without sums, [3, options]."""
    totals, which = np.unique(counts.sum(axis=1), return_inverse=True)
    whole = traffic.least_exchange(layer, np.concatenate(parts), totals)[:, which.ravel()]
    if len(parts) == 1:
        return whole
    each = []
    for number, part in enumerate(parts):
        numbers, which = np.unique(counts[:, number], return_inverse=True)
        each.append(traffic.least_exchange(layer, part, numbers)[:, which.ravel()])
    both, sums, inputs = np.max(np.concatenate([each, whole[None]]), axis=0)
    if traffic.have_own_columns(layer, parts):
        sums = np.maximum(sums, sum(one[1] for one in each))
    return np.stack([np.maximum(both, sums + inputs), sums, inputs])


def _edges(most: int) -> Counts:
    """First numbers of the ranges that numbers up to ``most`` are divided into."""
    if most <= EACH_RANGE:
        return np.arange(most + 1)
    spread = np.round(np.geomspace(EACH_RANGE // 2, most, EACH_RANGE // 2)).astype(np.int64)
    return np.unique(np.concatenate([np.arange(EACH_RANGE // 2), spread]))
