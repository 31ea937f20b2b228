"""Counts the values that cross from chip to chip, with a lower bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Graph, MappedLayer, Replica, TileTable, read_values
from memcompile.passes.placement.least_exchange import UNREACHED, MatrixTiles, fewest_channels, least_exchange
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
        self.layers = mapped_layers(graph)
        self._inside = values_from_layers(graph)
        self._order = {node.name: place for place, node in enumerate(graph.nodes)}
        self.tiles = tiles
        self.edges = np.searchsorted(tiles.layer, np.arange(len(self.layers) + 1))
        self.cells = (tiles.heights * (tiles.column_end - tiles.column_begin)).astype(np.int64)
        self._reads = [LayerReads(layer) for layer in self.layers]
        self.sources, self.joins = self._walk()

    def _walk(self) -> tuple[list[int], dict[tuple[int, int], int]]:
        """Layer on whose home each layer's input is made, -1 for one from outside; and the values that are joined.

        A joined value is read by a digital operator that works on the home of one layer while the value is made on
        the home of another: by the pair of these layers, the elements of all such values.
        """
        made_by: dict[str, int] = {}
        sources: list[int] = []
        joins: dict[tuple[int, int], int] = {}
        for node in self._graph.nodes:
            read = [value for value in read_values(node) if value in self._inside]
            if isinstance(node, MappedLayer):
                home = len(sources)
                sources.append(made_by[node.inputs[0]] if self._reads_inside(node) else -1)
            elif read:
                last = max(read, key=lambda value: self._order[self._graph.producers[value].name])
                home = made_by[last]
                for value in read:
                    if made_by[value] != home:
                        pair = made_by[value], home
                        joins[pair] = joins.get(pair, 0) + self._size(value)
            else:
                continue
            made_by.update(dict.fromkeys(node.outputs, home))
        return sources, joins

    def crossing(self, chip: NDArray[np.int64]) -> int:
        """Values that cross chips for an image, given the chip of each tile."""
        if not len(chip) or chip.min() == chip.max():
            return 0
        homes = self.homes(chip)
        total = sum(size for (first, second), size in self.joins.items() if homes[first] != homes[second])
        for number, source in enumerate(self.sources):
            total += self.sent(number, chip, int(homes[source]) if source >= 0 else -1, int(homes[number]))
        return total

    def sent(self, number: int, chip: NDArray[np.int64], source: int, home: int) -> int:
        """Inputs and sums of a layer that cross; -1 is the source of inputs from outside, which do not count."""
        sums = self._sums_sent(number, chip, home)
        return sums + self._inputs_sent(number, chip, source) if self.sources[number] >= 0 else sums

    def homes(self, chip: NDArray[np.int64]) -> NDArray[np.int64]:
        """Home of each layer, [layers], given the chip of each tile."""
        return np.array([self._home(number, chip) for number in range(len(self.layers))], np.int64)

    def sent_by_layer(self, chip: NDArray[np.int64]) -> NDArray[np.int64]:
        """Inputs and sums of each layer that cross, as if its input were made on the chip of its first tile."""
        sent = np.zeros(len(self.layers), np.int64)
        for number, layer in enumerate(self.layers):
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

    def least_exchange(self, number: int, which: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fewest values that n of some tiles of a layer exchange with other chips, see :func:`least_exchange`.

        Parameters
        ----------
        which
            Places of these tiles among those of the layer.
        """
        matrices, part = np.unique(self.tiles.matrix[self._slice(number)][which], return_inverse=True)
        each = [self._matrix_tiles(number, which[part.ravel() == one]) for one in range(len(matrices))]
        return least_exchange(list(dict(each).values()), len(matrices), counts)

    def have_own_columns(self, number: int, parts: Sequence[NDArray[np.int64]]) -> bool:
        """Return True if no sums of tiles of different parts of a layer are added before they are sent."""
        tiles, here = self.tiles, self._slice(number)
        facts = np.stack([tiles.replica, tiles.matrix, tiles.column_begin], axis=1)[here]
        units = [{tuple(row) for row in facts[part].tolist()} for part in parts]
        return sum(map(len, units)) == len(set().union(*units))

    def _matrix_tiles(self, number: int, own: NDArray[np.int64]) -> tuple[tuple[bytes, ...], MatrixTiles]:
        """Tiles of one matrix of a layer, and a key that is the same for matrices that are alike."""
        here, tiles = self._slice(number), self.tiles
        units, unit = np.unique(self.units(number)[own], axis=0, return_inverse=True)
        unit = unit.ravel()
        sums = np.concatenate([[0], np.cumsum(np.sort(self.unit_sums(number, units)))])
        inputs = np.zeros(int(np.bincount(unit).max()) + 1, np.int64)
        key: tuple[bytes, ...] = (sums.tobytes(), inputs.tobytes())
        bundles = {replica.unrolling.bundle for replica in self.layers[number].replicas}
        # Matrices of different bundles share channels; their inputs are not charged.
        if self.sources[number] >= 0 and len(bundles) == 1:
            begin, end = (side[own] for side in self._reads[number].channels(tiles, here))
            positions = self._reads[number].positions_of_copies()
            inputs += UNREACHED
            cuts: dict[tuple[bytes, bytes], int] = {}
            for one, copy in enumerate(units[:, 0].tolist()):
                rows = unit == one
                cut = (begin[rows] - begin.min()).tobytes(), (end[rows] - begin.min()).tobytes()
                cuts[cut] = min(cuts.get(cut, UNREACHED), int(positions[copy]))
            for (first, last), fewest in cuts.items():
                channels = fewest_channels(np.frombuffer(first, np.int64), np.frombuffer(last, np.int64))
                np.minimum(inputs[: len(channels)], channels * fewest, out=inputs[: len(channels)])
            key = (sums.tobytes(), inputs.tobytes())
        return key, MatrixTiles(len(own), sums, inputs)

    def row_blocks(self, number: int) -> NDArray[np.int64]:
        """Replica, first channel and the one after the last of what each tile of a layer reads, [tiles, 3]."""
        here = self._slice(number)
        return np.stack([self.tiles.replica[here], *self._reads[number].channels(self.tiles, here)], axis=1)

    def inputs_read(self, number: int, blocks: NDArray[np.int64]) -> int:
        """Different values from chips that some row blocks of a layer read, given as :meth:`row_blocks`."""
        return self._reads[number].values(blocks) if self.sources[number] >= 0 else 0

    def units(self, number: int) -> NDArray[np.int64]:
        """Replica, matrix and columns whose sums each tile of a layer adds to, [tiles, 4]."""
        tiles = self.tiles
        facts = (tiles.replica, tiles.matrix, tiles.column_begin, tiles.column_end)
        return np.stack([fact[self._slice(number)] for fact in facts], axis=1)

    def unit_sums(self, number: int, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums that leave a chip for each unit of which it has tiles, [units]."""
        windows = np.array([len(replica.windows) for replica in self.layers[number].replicas], np.int64)
        sums: NDArray[np.int64] = windows[units[:, 0]] * (units[:, 3] - units[:, 2])
        return sums

    def further_chip(self) -> list[int]:
        """Lower bound for the values that each chip beyond the first costs, per layer."""
        return [self._further_chip(number, layer) for number, layer in enumerate(self.layers)]

    def _further_chip(self, number: int, layer: MappedLayer) -> int:
        here, tiles = self._slice(number), self.tiles
        sums = int(self.unit_sums(number, self.units(number)).min())
        if not self._reads_inside(layer):
            return sums
        begin, end = self._reads[number].channels(tiles, here)
        positions = self._reads[number].positions_of_copies()[tiles.replica[here]]
        return sums + int((positions * (end - begin)).min())

    def _home(self, number: int, chip: NDArray[np.int64]) -> int:
        here = self._slice(number)
        return int(np.bincount(chip[here], self.cells[here]).argmax())

    def _slice(self, number: int) -> slice:
        return slice(int(self.edges[number]), int(self.edges[number + 1]))

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
        reads, blocks = self._reads[number], self.row_blocks(number)
        own = chip[self._slice(number)]
        if len(self.layers[number].replicas) == 1:
            return int(reads.positions_of_copies()[0]) * _covered(own, blocks[:, 1], blocks[:, 2], source)
        facts = np.concatenate([own[:, None], blocks], axis=1)
        distinct = np.unique(facts[facts[:, 0] != source], axis=0)
        edges = np.flatnonzero(np.diff(distinct[:, 0], prepend=-1, append=-1))
        return sum(reads.values(distinct[first:last, 1:]) for first, last in itertools.pairwise(edges))

    def _sums_sent(self, number: int, chip: NDArray[np.int64], home: int) -> int:
        keys = np.concatenate([chip[self._slice(number), None], self.units(number)], axis=1)
        distinct = np.unique(keys[keys[:, 0] != home], axis=0)
        return int(self.unit_sums(number, distinct[:, 1:]).sum())


def _covered(chip: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64], source: int) -> int:
    """Channels that lie in an interval of some chip other than the source, counted for each chip."""
    away = chip != source
    chip, begin, end = chip[away], begin[away], end[away]
    order = np.lexsort((begin, chip))
    # Chips lie apart on one axis.
    offset = chip[order] * (int(end.max(initial=0)) + 1)
    begin, end = begin[order] + offset, end[order] + offset
    covered = np.maximum.accumulate(np.concatenate([[-1], end]))[:-1]
    return int(np.maximum(end - np.maximum(begin, covered), 0).sum())


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
        if len(self._layer.replicas) == 1:
            begin, end = reads[:, 1], reads[:, 2]
            return self.positions(frozenset((0,))) * _covered(np.zeros_like(begin), begin, end, -1)
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
