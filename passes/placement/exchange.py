"""Exchanges arrays between chips, and tiles of a kind between arrays, such that fewer values cross: local search.

Simulated annealing with a fixed seed and a counted number of exchanges. What crosses is counted anew only for the
layers that an exchange touches, on the two chips that take part, and for those whose home it moves.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.placement.traffic import Traffic
from memcompile.passes.solving.clock import running_clock

EXCHANGES = 40_000
"""Most exchanges that are tried."""
MOVE_WORK = 1.5e-5
"""Work of an exchange, and again of each tile that moves."""
MOST_TILES = 5_000
"""Most tiles for which exchanges are tried; more have too many for the few that are tried to gain anything."""
WARM, COLD = 0.003, 0.0003
"""Increase that is accepted with a probability of 1 / e at the beginning and at the end, as a share of the traffic."""
TILES_SHARE = 0.5
"""Share of exchanges of single tiles."""

Move = tuple[int, int]
"""A tile and its new chip."""


@dataclass
class _OnChip:
    """Part of a layer on a chip: cells, and how often each row block and each unit occurs, with their exchange."""

    cells: int = 0
    reads: dict[int, int] = field(default_factory=dict)
    mask: int = 0
    units: dict[int, int] = field(default_factory=dict)
    sums: int = 0
    inputs: int = 0


class Count:
    """The values that cross chips, kept up to date move by move.

    Parameters
    ----------
    chip
        Chip of each tile.
    """

    def __init__(self, traffic: Traffic, chip: NDArray[np.int64]) -> None:
        self.traffic, self.chip = traffic, chip.tolist()
        self.layer: list[int] = traffic.tiles.layer.tolist()
        self._cells: list[int] = traffic.cells.tolist()
        layers = range(len(traffic.layers))
        self.readers = [[layer for layer in layers if traffic.sources[layer] == source] for source in layers]
        self.joined: list[list[tuple[int, int]]] = [[] for _ in layers]
        for (first, second), size in traffic.joins.items():
            self.joined[first].append((second, size))
            self.joined[second].append((first, size))
        self._read, self._unit = ([0] * len(chip) for _ in range(2))
        self._unit_sums: list[list[int]] = []
        self._inputs: list[dict[int, int]] = [{0: 0} for _ in layers]
        self._row_blocks = []
        for layer in layers:
            here = slice(int(traffic.edges[layer]), int(traffic.edges[layer + 1]))
            blocks, self._read[here] = _numbered(traffic.row_blocks(layer))
            units, self._unit[here] = _numbered(traffic.units(layer))
            self._row_blocks.append(blocks)
            self._unit_sums.append(traffic.unit_sums(layer, units).tolist())
        self._on: list[dict[int, _OnChip]] = [{} for _ in layers]
        for tile, number in enumerate(self.chip):
            self._put(tile, number)
        for layer in layers:
            for item in self._on[layer].values():
                item.inputs = self._inputs_of(layer, item.mask)
        self.home = [min(on, key=lambda number: (-on[number].cells, number)) for on in self._on]

    def total(self) -> int:
        """Values that cross chips."""
        joins = sum(
            size for (first, second), size in self.traffic.joins.items() if self.home[first] != self.home[second]
        )
        return joins + sum(self._sent(layer) for layer in range(len(self._on)))

    def move(self, moves: list[Move]) -> int:
        """Move tiles, and return by how much the traffic grows."""
        touched: dict[int, set[int]] = {}
        for tile, number in moves:
            touched.setdefault(self.layer[tile], set()).update((self.chip[tile], number))
        before = sum(self._sent(layer) for layer in touched)
        for tile, number in moves:
            self._take(tile)
            self._put(tile, number)
            self.chip[tile] = number
        moved = {}
        for layer, numbers in touched.items():
            on = self._on[layer]
            for number in numbers & on.keys():
                on[number].inputs = self._inputs_of(layer, on[number].mask)
            home = self._new_home(layer, numbers)
            if home != self.home[layer]:
                moved[layer] = home
        return self._moved_homes(moved, touched) + sum(self._sent(layer) for layer in touched) - before

    def _moved_homes(self, moved: dict[int, int], touched: dict[int, set[int]]) -> int:
        """Move homes, and return by how much what other layers and digital operators receive grows."""
        if not moved:
            return 0
        readers = {reader for layer in moved for reader in self.readers[layer]} - touched.keys()
        pairs = {(*sorted((layer, other)), size) for layer in moved for other, size in self.joined[layer]}

        def received() -> int:
            joins = sum(size for first, second, size in pairs if self.home[first] != self.home[second])
            return joins + sum(self._sent(layer) for layer in readers)

        before = received()
        for layer, home in moved.items():
            self.home[layer] = home
        return received() - before

    def _new_home(self, layer: int, changed: set[int]) -> int:
        """The chip with most cells of a layer after those of some chips changed; the first of equals."""
        on, home = self._on[layer], self.home[layer]
        rivals = on if home in changed else [home, *(changed & on.keys())]
        return min(rivals, key=lambda number: (-on[number].cells, number))

    def _sent(self, layer: int) -> int:
        """Inputs and sums of a layer that cross."""
        on, home, source = self._on[layer], self.home[layer], self.traffic.sources[layer]
        sent = sum([item.sums + item.inputs for item in on.values()])
        if home in on:
            sent -= on[home].sums
        if source >= 0 and self.home[source] in on:
            sent -= on[self.home[source]].inputs
        return sent

    def _put(self, tile: int, number: int) -> None:
        layer, read, unit = self.layer[tile], self._read[tile], self._unit[tile]
        item = self._on[layer].setdefault(number, _OnChip())
        item.cells += self._cells[tile]
        item.reads[read] = item.reads.get(read, 0) + 1
        item.mask |= 1 << read
        item.units[unit] = item.units.get(unit, 0) + 1
        if item.units[unit] == 1:
            item.sums += self._unit_sums[layer][unit]

    def _take(self, tile: int) -> None:
        layer, read, unit, number = self.layer[tile], self._read[tile], self._unit[tile], self.chip[tile]
        item = self._on[layer][number]
        item.cells -= self._cells[tile]
        item.reads[read] -= 1
        if not item.reads[read]:
            item.mask &= ~(1 << read)
        item.units[unit] -= 1
        if not item.units[unit]:
            item.sums -= self._unit_sums[layer][unit]
        if not item.cells:
            del self._on[layer][number]

    def _inputs_of(self, layer: int, mask: int) -> int:
        """Values that some row blocks read, given as bits."""
        known = self._inputs[layer]
        if mask not in known:
            blocks = [number for number in range(mask.bit_length()) if mask >> number & 1]
            known[mask] = self.traffic.inputs_read(layer, self._row_blocks[layer][blocks])
        return known[mask]


def _numbered(facts: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Different rows, and the number of each row's."""
    rows, number = np.unique(facts, axis=0, return_inverse=True)
    return rows, number.ravel().tolist()


@dataclass(frozen=True, eq=False)
class Assignment:
    """Array of each tile, [tiles], and chip of each array, [arrays]."""

    array: NDArray[np.int64]
    chip: NDArray[np.int64]

    @property
    def tile_chip(self) -> NDArray[np.int64]:
        """Chip of each tile."""
        return self.chip[self.array]


def exchange(
    traffic: Traffic, kind: NDArray[np.int64], start: Assignment, arrays_per_chip: int, chips: int
) -> Assignment:
    """The best assignment that exchanges of arrays and of tiles of a kind lead to, never a worse one.

    Parameters
    ----------
    kind
        Kind of each tile; tiles of a kind take each other's places.
    """
    if len(kind) > MOST_TILES:
        return start
    search = _Annealing(traffic, kind, start, arrays_per_chip, chips)
    return search.run()


class _Annealing:
    """Simulated annealing. Empty places of chips are arrays without tiles."""

    def __init__(
        self, traffic: Traffic, kind: NDArray[np.int64], start: Assignment, arrays_per_chip: int, chips: int
    ) -> None:
        self.random = Random(0)
        self.count = Count(traffic, start.tile_chip)
        self.used, self.kind = len(start.chip), kind.tolist()
        empty = arrays_per_chip - np.bincount(start.chip, minlength=chips)
        self.chip = [*start.chip.tolist(), *np.repeat(np.arange(chips), empty).tolist()]
        self.array = start.array.tolist()
        self.tiles: list[list[int]] = [[] for _ in self.chip]
        for tile, array in enumerate(self.array):
            self.tiles[array].append(tile)
        self.arrays: list[list[int]] = [[] for _ in range(chips)]
        for array, number in enumerate(self.chip):
            self.arrays[number].append(array)
        edges, sources = traffic.edges.tolist(), traffic.sources
        self.members = [range(first, last) for first, last in itertools.pairwise(edges)]
        count = self.count
        self.related = [
            [
                layer,
                *([source] if source >= 0 else []),
                *count.readers[layer],
                *(other for other, _ in count.joined[layer]),
            ]
            for layer, source in enumerate(sources)
        ]

    def run(self) -> Assignment:
        """Anneal; returns the best assignment on the way."""
        total = least = self.count.total()
        best = self._assignment()
        warm, tries = WARM * total, EXCHANGES
        for number in range(tries):
            if running_clock().is_over or not least:
                break
            limit = warm * (COLD / WARM) ** (number / tries)
            pair = self._pair()
            if pair is None:
                running_clock().spend(MOVE_WORK / 10)
                continue
            grown = self._swap(*pair)
            if grown > 0 and self.random.random() >= math.exp(-grown / limit):
                self._swap(*pair)
                continue
            total += grown
            if total < least:
                least, best = total, self._assignment()
        return best

    def _assignment(self) -> Assignment:
        return Assignment(np.array(self.array, np.int64), np.array(self.chip[: self.used], np.int64))

    def _one_of(self, length: int) -> int:
        return int(self.random.random() * length)

    def _pair(self) -> tuple[bool, int, int] | None:
        """Two tiles (True) or two arrays to swap: one, and one on a chip that has to do with its layer."""
        tile = self._one_of(len(self.array))
        related = self.related[self.count.layer[tile]]
        members = self.members[related[self._one_of(len(related))]]
        here, there = self.count.chip[tile], self.count.chip[members[self._one_of(len(members))]]
        single = self.random.random() < TILES_SHARE
        if here == there:
            return None
        arrays = self.arrays[there]
        if not single:
            return False, self.array[tile], arrays[self._one_of(len(arrays))]
        alike = [other for array in arrays for other in self.tiles[array] if self.kind[other] == self.kind[tile]]
        return (True, tile, alike[self._one_of(len(alike))]) if alike else None

    def _swap(self, single: bool, first: int, second: int) -> int:
        """Swap two tiles or two arrays; returns by how much the traffic grows. A second time it undoes the first."""
        chips = (self.count.chip[first], self.count.chip[second]) if single else (self.chip[first], self.chip[second])
        sets = ([first], [second]) if single else (self.tiles[first], self.tiles[second])
        moves = [(tile, chips[1]) for tile in sets[0]] + [(tile, chips[0]) for tile in sets[1]]
        running_clock().spend(MOVE_WORK * (1 + len(moves)))
        if single:
            arrays = self.array[first], self.array[second]
            for tile, old, new in ((first, *arrays), (second, *arrays[::-1])):
                self.tiles[old].remove(tile)
                self.tiles[new].append(tile)
                self.array[tile] = new
        else:
            for array, old, new in ((first, *chips), (second, *chips[::-1])):
                self.arrays[old].remove(array)
                self.arrays[new].append(array)
                self.chip[array] = new
        return self.count.move(moves)
