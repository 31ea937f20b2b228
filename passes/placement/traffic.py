"""Counts the values that cross from chip to chip, with a lower bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, MappedLayer, Replica, TileTable, read_values
from memcompile.passes.search.layer_graph import mapped_layers, values_from_layers


class Traffic:
    """Values that cross chips for one image, once each tile has its array.

    The sums of a layer meet on its *home*, the chip that holds most of its cells; the digital
    operators that follow work there, those with several sources on the home of the last of them in
    graph order. Counted are

    - the input values of a layer that a chip's tiles read (the channels of their rows at the
      positions of their replica's windows), for each chip that is not where the value was made;
    - the sums that a chip other than the home sends there: for each replica, one value per window
      for each column the chip holds tiles of. Row tiles of one column on one chip are added
      before they are sent;
    - whole values that digital operators read from another chip, such as the shortcut of a
      residual block.
    """

    def __init__(self, graph: Graph, tiles: TileTable) -> None:
        self._graph = graph
        self._layers = mapped_layers(graph)
        self._inside = values_from_layers(graph)
        self._order = {node.name: place for place, node in enumerate(graph.nodes)}
        self.tiles = tiles
        self._edges = np.searchsorted(tiles.layer, np.arange(len(self._layers) + 1))
        self._cells = (tiles.heights * (tiles.column_end - tiles.column_begin)).astype(np.int64)
        self._reads = [LayerReads(layer) for layer in self._layers]

    def crossing(self, chip: NDArray[np.int64]) -> int:
        """Values that cross chips for an image, given the chip of each tile."""
        if not len(chip) or chip.min() == chip.max():
            return 0
        made_on: dict[str, int] = {}
        numbers = {layer.name: number for number, layer in enumerate(self._layers)}
        total = 0
        for node in self._graph.nodes:
            read = [value for value in read_values(node) if value in self._inside]
            if isinstance(node, MappedLayer):
                home = self._home(numbers[node.name], chip)
                if self._reads_inside(node):
                    total += self._inputs_sent(numbers[node.name], chip, made_on[node.inputs[0]])
                total += self._sums_sent(numbers[node.name], chip, home)
            elif read:
                last = max(read, key=lambda value: self._order[self._graph.producers[value].name])
                home = made_on[last]
                total += sum(self._size(value) for value in read if made_on[value] != home)
            else:
                continue
            made_on.update(dict.fromkeys(node.outputs, home))
        return total

    def sent_by_layer(self, chip: NDArray[np.int64]) -> NDArray[np.int64]:
        """Inputs and sums of each layer that cross, as if its input were made on the chip of its first tile."""
        sent = np.zeros(len(self._layers), np.int64)
        for number, layer in enumerate(self._layers):
            if self._reads_inside(layer):
                sent[number] = self._inputs_sent(number, chip, int(chip[self._slice(number)][0]))
            sent[number] += self._sums_sent(number, chip, self._home(number, chip))
        return sent

    def bound(self, arrays: NDArray[np.int64], arrays_per_chip: int) -> int:
        """Lower bound for the values that cross chips, over all assignments of these arrays to chips.

        A layer with tiles in n arrays lies on at least ceil(n / arrays_per_chip) chips. All but
        one of them are not its home and send at least the sums of the smallest tile; all but one
        are not where its input was made and receive at least what the smallest tile reads.

        Parameters
        ----------
        arrays
            Array of each tile.
        """
        total = 0
        for number, price in enumerate(self.further_chip()):
            own = np.unique(arrays[self._slice(number)])
            total += price * (-(-len(own) // arrays_per_chip) - 1)
        return total

    def further_chip(self) -> list[int]:
        """Lower bound for the values that each chip beyond the first costs, per layer."""
        return [self._further_chip(number, layer) for number, layer in enumerate(self._layers)]

    def _further_chip(self, number: int, layer: MappedLayer) -> int:
        here, tiles = self._slice(number), self.tiles
        windows = np.array([len(replica.windows) for replica in layer.replicas], np.int64)
        sums = int((windows[tiles.replica[here]] * (tiles.column_end - tiles.column_begin)[here]).min())
        if not self._reads_inside(layer):
            return sums
        begin, end = self._reads[number].channels(tiles, here)
        positions = self._reads[number].positions_of_copies()[tiles.replica[here]]
        return sums + int((positions * (end - begin)).min())

    def _home(self, number: int, chip: NDArray[np.int64]) -> int:
        here = self._slice(number)
        return int(np.bincount(chip[here], self._cells[here]).argmax())

    def _slice(self, number: int) -> slice:
        return slice(int(self._edges[number]), int(self._edges[number + 1]))

    def _reads_inside(self, layer: MappedLayer) -> bool:
        """Return True if the input of a layer is computed on a chip."""
        return layer.inputs[0] in self._inside

    def _size(self, value: str) -> int:
        """Elements of a value per image; of a value that was not observed, those of its known dimensions."""
        shape = self._graph.observed_shapes.get(value)
        if shape is not None:
            batching = self._graph.batching
            return math.prod(shape if batching is not None and batching.one_by_one else shape[1:])
        producer = self._graph.producers.get(value)
        if isinstance(producer, MappedLayer):
            return producer.geometry.out_channels * producer.geometry.positions
        kind = self._graph.types.get(value)
        return math.prod(size or 1 for size in kind.shape[1:]) if kind else 0

    def _inputs_sent(self, number: int, chip: NDArray[np.int64], source: int) -> int:
        here = self._slice(number)
        reads = self._reads[number]
        begin, end = reads.channels(self.tiles, here)
        facts = np.stack([chip[here], self.tiles.replica[here], begin, end], axis=1)
        distinct = np.unique(facts[facts[:, 0] != source], axis=0)
        edges = np.flatnonzero(np.diff(distinct[:, 0], prepend=-1, append=-1))
        return sum(reads.values(distinct[first:last, 1:]) for first, last in itertools.pairwise(edges))

    def _sums_sent(self, number: int, chip: NDArray[np.int64], home: int) -> int:
        here, tiles = self._slice(number), self.tiles
        facts = (chip, tiles.replica, tiles.matrix, tiles.column_begin, tiles.column_end)
        keys = np.stack([fact[here] for fact in facts], axis=1)
        distinct = np.unique(keys[keys[:, 0] != home], axis=0)
        windows = np.array([len(replica.windows) for replica in self._layers[number].replicas], np.int64)
        return int((windows[distinct[:, 1]] * (distinct[:, 4] - distinct[:, 3])).sum())


class LayerReads:
    """Input values that the replicas of one layer read."""

    def __init__(self, layer: MappedLayer) -> None:
        self._layer = layer
        self._masks: dict[int, NDArray[np.bool_]] = {}
        self._counts: dict[frozenset[int], int] = {}

    def channels(self, tiles: TileTable, here: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First input channel of each tile's rows, and the one after the last; padding of a bundle has none."""
        geometry = self._layer.geometry
        inputs = np.array([replica.unrolling.window_inputs for replica in self._layer.replicas], np.int64)
        bundles = np.array([replica.unrolling.bundle for replica in self._layer.replicas], np.int64)
        first = tiles.matrix[here] * bundles[tiles.replica[here]] * (geometry.in_channels // geometry.groups)
        taps = inputs[tiles.replica[here]]
        begin = first + tiles.row_begin[here] // taps
        end = first + -(-tiles.row_end[here] // taps)
        return np.minimum(begin, geometry.in_channels), np.minimum(end, geometry.in_channels)

    def positions_of_copies(self) -> NDArray[np.int64]:
        """Input positions that each replica reads, [replicas]."""
        return np.array([self.positions(frozenset((copy,))) for copy in range(len(self._layer.replicas))], np.int64)

    def values(self, reads: NDArray[np.int64]) -> int:
        """Distinct values in reads [n, 3] of (replica, first channel, channel after the last)."""
        edges = np.unique(reads[:, 1:])
        total = 0
        for begin, end in itertools.pairwise(edges.tolist()):
            copies = frozenset(reads[(reads[:, 1] <= begin) & (reads[:, 2] >= end), 0].tolist())
            total += (end - begin) * self.positions(copies) if copies else 0
        return total

    def positions(self, copies: frozenset[int]) -> int:
        """Distinct input positions that some replicas read together."""
        if copies not in self._counts:
            mask = np.zeros(math.prod(self._layer.geometry.input_size), bool)
            for copy in copies:
                mask |= self._mask(copy)
            self._counts[copies] = int(mask.sum())
        return self._counts[copies]

    def _mask(self, copy: int) -> NDArray[np.bool_]:
        if copy not in self._masks:
            self._masks[copy] = read_positions(self._layer.replicas[copy])
        return self._masks[copy]


def read_positions(replica: Replica) -> NDArray[np.bool_]:
    """Mask of the input positions (row-major) that the windows of a replica read: [positions]; padding is not read."""
    unrolling, geometry = replica.unrolling, replica.unrolling.geometry
    corner = np.unravel_index(replica.windows, unrolling.grid)
    mask = np.zeros(geometry.input_size, bool)
    for offset in itertools.product(*unrolling.offsets):
        where = [
            place * count * stride + shift - pad
            for place, count, stride, shift, pad in zip(
                corner, unrolling.window, geometry.strides, offset, geometry.pads_begin, strict=True
            )
        ]
        inside = np.logical_and.reduce(
            [(at >= 0) & (at < size) for at, size in zip(where, geometry.input_size, strict=True)]
        )
        mask[tuple(at[inside] for at in where)] = True
    return mask.ravel()
