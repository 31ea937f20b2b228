"""Placed and scheduled tiles: the tile table, and the part of it that is on the arrays at one time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.arrays import read_only
from memcompile.ir.certificate import Certificate
from memcompile.ir.geometry import Unrolling


class _Copy(Protocol):
    """Fields of a replica that the tile table needs."""

    @property
    def unrolling(self) -> Unrolling: ...

    @property
    def cut(self) -> Cut: ...


class _Layer(Protocol):
    """Fields of a layer that the tile table needs."""

    @property
    def replicas(self) -> Sequence[_Copy]: ...


@dataclass(frozen=True)
class Cut:
    """Cut of each weight matrix of a replica: tile edges along rows and along columns.

    ``rows`` and ``columns`` start with 0 and end with the matrix size.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def tiles(self) -> int:
        """Tiles of one matrix."""
        return (len(self.rows) - 1) * (len(self.columns) - 1)


TILE_COLUMNS = (
    "layer",
    "replica",
    "matrix",
    "row_begin",
    "row_end",
    "column_begin",
    "column_end",
    "segment",
    "array",
    "input_line",
    "output_line",
    "start",
    "rhythm",
    "slot",
    "lag",
)


@dataclass(frozen=True, eq=False)
class TileTable:
    """All tiles of a program, one row a tile, each column an int32 array.

    ``layer`` counts the crossbar layers in graph order, ``replica`` and ``matrix`` within the layer. Rows and columns
    are the block of the weight matrix. ``segment`` is the same for tiles that are on the arrays at one time; it is 0
    where all are there at once. ``array`` counts over all chips, ``input_line`` and ``output_line`` are the block's
    first lines; column j, slice s, polarity p sits on output line
    ``output_line + 2 * slices * (j - column_begin) + 2 * s + p``, or, where both cells of a pair are at one crossing,
    on ``output_line + slices * (j - column_begin) + s``.

    For one image alone ``start`` is its first step and ``rhythm`` says where it pauses. In the steady state ``slot`` is
    its first step of the interval; steps beyond the end of the interval go on at its beginning. ``lag`` says how many
    intervals before that step the image entered on which the tile then begins to work. Undecided entries are -1.
    """

    layer: NDArray[np.int32]
    replica: NDArray[np.int32]
    matrix: NDArray[np.int32]
    row_begin: NDArray[np.int32]
    row_end: NDArray[np.int32]
    column_begin: NDArray[np.int32]
    column_end: NDArray[np.int32]
    segment: NDArray[np.int32]
    array: NDArray[np.int32]
    input_line: NDArray[np.int32]
    output_line: NDArray[np.int32]
    start: NDArray[np.int32]
    rhythm: NDArray[np.int32]
    slot: NDArray[np.int32]
    lag: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.layer)

    @classmethod
    def of(cls, layers: Iterable[_Layer]) -> TileTable:
        """List the tiles of layers, in order of layer, replica, matrix, rows, columns; not placed."""
        blocks: list[NDArray[np.int32]] = [np.zeros((0, 7), np.int32)]
        for number, layer in enumerate(layers):
            for copy, replica in enumerate(layer.replicas):
                cut = replica.cut
                matrix, row, column = (
                    part.ravel()
                    for part in np.meshgrid(
                        np.arange(replica.unrolling.matrices),
                        np.arange(len(cut.rows) - 1),
                        np.arange(len(cut.columns) - 1),
                        indexing="ij",
                    )
                )
                rows, columns = np.array(cut.rows), np.array(cut.columns)
                block = np.stack(
                    [
                        np.full_like(matrix, number),
                        np.full_like(matrix, copy),
                        matrix,
                        rows[row],
                        rows[row + 1],
                        columns[column],
                        columns[column + 1],
                    ],
                    axis=1,
                )
                blocks.append(block.astype(np.int32))
        table = np.concatenate(blocks)
        known = {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(TILE_COLUMNS[:7])}
        known["segment"] = np.zeros(len(table), np.int32)
        unset = np.full(len(table), -1, np.int32)
        return cls(**{name: read_only(known.get(name, unset)) for name in TILE_COLUMNS})

    def with_columns(self, **columns: NDArray[np.signedinteger[Any]]) -> TileTable:
        """Return a table with some columns replaced."""
        return replace(self, **{name: read_only(np.asarray(value, np.int32)) for name, value in columns.items()})

    def take(self, rows: NDArray[np.int64]) -> TileTable:
        """A table of some of the tiles, in the order given."""
        return TileTable(**{name: read_only(getattr(self, name)[rows]) for name in TILE_COLUMNS})

    @property
    def heights(self) -> NDArray[np.int32]:
        """Input lines of each tile."""
        return self.row_end - self.row_begin

    def widths(self, column_lines: NDArray[np.int32]) -> NDArray[np.int32]:
        """Output lines of each tile, given those of a column of weights in each layer."""
        return ((self.column_end - self.column_begin) * column_lines[self.layer]).astype(np.int32)


def no_pauses() -> NDArray[np.int32]:
    """A table of pauses without any."""
    return read_only(np.zeros((0, 3), np.int32))


@dataclass(frozen=True)
class Segment:
    """Tiles that are on the arrays at one time, until the next segment is written over them.

    A batch of images runs through a segment before the next one is written. ``latency_steps`` is
    that of one image alone, ``pipelined_latency_steps`` of one that others follow at the interval.
    """

    initiation_interval_steps: int
    latency_steps: int = 0
    pipelined_latency_steps: int = 0

    def steps(self, images: int) -> int:
        """Steps of so many images: one after the other or as a pipeline, whichever takes fewer."""
        pipeline = (images - 1) * self.initiation_interval_steps + self.pipelined_latency_steps
        return min(images * self.latency_steps, pipeline)


@dataclass(frozen=True, eq=False)
class Placement:
    """Placed and scheduled tiles with the solver's certificates.

    ``pauses`` are rows (rhythm, window, steps), int32 and ascending: for one image alone, a tile of this rhythm waits
    so many steps before this window of its replica; rhythm 0 has no pauses. ``pipelined_latency_steps`` is the latency
    of an image in the steady state.

    ``segments`` are empty where all tiles are on the arrays at once. Else the arrays are written
    anew for each of them, once for each ``batch`` of images; every segment counts its steps from
    its own beginning, and interval and latencies of the placement are sums over the segments.
    """

    chips: int
    tiles: TileTable
    certificates: tuple[Certificate, ...] = ()
    initiation_interval_steps: int = 0
    latency_steps: int = 0
    pipelined_latency_steps: int = 0
    pauses: NDArray[np.int32] = field(default_factory=no_pauses)
    crossing_values: int = 0
    segments: tuple[Segment, ...] = ()
    batch: int = 0

    def parts(self) -> Iterator[Part]:
        """Parts that are on the arrays at one time, segment by segment."""
        if not self.segments:
            yield Part(self, np.arange(len(self.tiles)), None)
            return
        order = np.argsort(self.tiles.segment, kind="stable")
        edges = np.searchsorted(self.tiles.segment[order], np.arange(len(self.segments) + 1))
        for number, segment in enumerate(self.segments):
            rows = order[edges[number] : edges[number + 1]]
            tiles = self.tiles.take(rows)
            alone = replace(
                self,
                tiles=tiles,
                initiation_interval_steps=segment.initiation_interval_steps,
                latency_steps=segment.latency_steps,
                pipelined_latency_steps=segment.pipelined_latency_steps,
                segments=(),
                batch=0,
            )
            yield Part(alone, rows, range(int(tiles.layer.min()), int(tiles.layer.max()) + 1))


@dataclass(frozen=True, eq=False)
class Part:
    """Part of the network that is on the arrays at one time, as a placement of its own.

    ``rows`` are its tiles' numbers in the whole table; ``layers`` run from the first to the last that
    has a tile here, None where all tiles of the network are here.
    """

    placement: Placement
    rows: NDArray[np.int64]
    layers: range | None
