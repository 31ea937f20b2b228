"""All conversions of one tile: table look-ups, noise, rounding and shift-and-add.

The compiled kernels and the NumPy code here do the same float32 operations in the same order; only sums of cells are
formed in another one, for they are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.kernels.compiled import PHASES, Workers, kernels
from memcompile.runtime.random_numbers import HALF_BLOCK, LINES_PER_BLOCK, key_words, read_gaussians

TABLE_VALUES = 256 << 10
"""Partial sums of a block of lines at most: a megabyte, as large as the cache of its own that a core of a server has.

Most of what is looked up lies in the nearest cache all the same, for zeros are the most frequent pattern.
"""
SMALLEST_TABLES = 2
"""Rows of a table, for tiles so tall that no tables fit; one row takes as much memory and twice the sums."""
BLOCK_VALUES = 1 << 20
"""Conversions handled at once by the NumPy path; bounds its memory."""
MIN_ITEMS = 64
"""Items below which a second thread costs more than it brings."""


@dataclass(frozen=True, eq=False)
class LineCounts:
    """Weights of the codes of a tile's output lines in the sums of its columns."""

    each: np.uint64
    """Lines of a column where the first counts all and a second is subtracted; 0 where there are several slices."""
    columns: NDArray[np.uint64]
    """The column of each line, [lines]."""
    factors: NDArray[np.int64]
    """Weight of a code of each line in its column, [lines]."""

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, lines: int, columns: int, base: int, slices: int) -> LineCounts:
        """Lines of a pair follow each other, then slices, whose digits count powers of a base, then columns."""
        per_column, powers = lines // columns, np.int64(base) ** np.arange(slices)
        signs = np.array([1, -1])[: per_column // len(powers)]
        return cls(
            np.uint64(per_column if len(powers) == 1 else 0),
            np.repeat(np.arange(columns, dtype=np.uint64), per_column),
            np.tile(np.outer(powers, signs).ravel(), columns),
        )

    def sums(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Sums of the columns, [items, columns], of the codes of lines, [items, lines]."""
        counted = codes.astype(np.int64) * self.factors
        total: NDArray[np.int64] = counted.reshape(len(codes), int(self.columns[-1]) + 1, -1).sum(axis=2)
        return total


@dataclass(frozen=True, eq=False)
class TileLines:
    """The output lines of one tile, prepared for conversion; all in converter units.

    A conversion of line l with d driven input lines, g the sum of their cells, and z a standard
    Gaussian number gives code = clip(floor(g + s * gain[l] * z + rounding[l]), min_code, max_code), where
    s is ``sigma[d]``, or the root of the sum of the driven cells' variances if there are
    ``variances``. The gain is that of the converter; g has it already.
    """

    cells: NDArray[np.float32]
    """[vectors of lines, rows, lines of a vector]; a vector is half a block, the last one is filled up with zeros.

    Lines of the arrays below are filled up to whole blocks of ``LINES_PER_BLOCK``.
    """
    variances: NDArray[np.float32]
    """The same for the variance of read noise; no vectors where sigma says it all."""
    sigma: NDArray[np.float32]
    """[rows + 1]: read noise of a line by the number of driven input lines."""
    gain: NDArray[np.float32]
    """[lines]: gain of the converter, with which noise is multiplied; no lines where all gains are one."""
    rounding: NDArray[np.float32]
    """[lines]: number added to a current before it is rounded down, one half plus the converter's offset."""
    min_code: np.float32
    """Zero, or below where lines carry the differences of pairs."""
    max_code: np.float32
    counts: LineCounts
    """Counts of the lines, without those that fill up blocks."""

    @cached_property
    def noisy(self) -> bool:
        """True if any conversion is noisy."""
        return bool(self.sigma.any() or self.variances.any())

    @property
    def nbytes(self) -> int:
        """Memory of the cells."""
        return self.cells.nbytes + self.variances.nbytes

    @property
    def kinds(self) -> int:
        """Kinds of tables of partial sums: of currents, and of variances if there are any."""
        return 2 if len(self.variances) else 1

    @cached_property
    def converts_idle_phases(self) -> bool:
        """True if lines without current have a code other than zero, so that no phase may be skipped."""
        return bool((self.rounding >= 1).any() or (self.min_code < 0 and (self.rounding < 0).any()))


def rows_per_table(rows: int, look_ups: int, kinds: int) -> int:
    """Input lines whose on/off patterns share a table of partial sums.

    The more there are, the fewer sums a look-up takes, and the more it takes to fill the tables. All tables of a
    block of lines have to stay in a core's cache.

    Parameters
    ----------
    look_ups
        Phases of items that the tables are filled for.
    kinds
        Two where variances of read noise have tables as well.
    """

    def sums(each: int) -> int:
        return -(-rows // each) * ((1 << each) + look_ups)

    fits = [each for each in range(1, 9) if -(-rows // each) * (LINES_PER_BLOCK << each) * kinds <= TABLE_VALUES]
    return min(fits or [SMALLEST_TABLES], key=sums)


def in_whole_blocks(values: NDArray[Any], dtype: Any = np.float32, block: int = LINES_PER_BLOCK) -> NDArray[Any]:
    """Values of lines, [..., lines], with zeros up to whole blocks of so many lines."""
    lines = values.shape[-1]
    filled = np.zeros((*values.shape[:-1], -(-lines // block) * block), dtype)
    filled[..., :lines] = values
    return filled


def in_vectors(cells: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Values of cells, [rows, lines], as in :attr:`TileLines.cells`."""
    rows, lines = cells.shape
    if not lines:
        return np.zeros((0, rows, HALF_BLOCK), np.float32)  # a view would keep all cells in memory
    whole = cells if lines % HALF_BLOCK == 0 else in_whole_blocks(cells, block=HALF_BLOCK)
    vectors = whole.reshape(rows, whole.shape[1] // HALF_BLOCK, HALF_BLOCK).transpose(1, 0, 2)
    return np.ascontiguousarray(vectors, np.float32)


@dataclass(frozen=True, eq=False)
class Phases:
    """Input lines of a tile that each bit phase drives, for all windows of a layer.

    There are always ``PHASES``; those beyond the input's bits are not used.
    """

    patterns: NDArray[np.uint8]
    """[batch, windows, groups of rows, phases], the first row in the lowest bit."""
    driven: NDArray[np.uint16]
    """[batch, windows, phases]: number of driven lines."""
    each: int
    """Rows of a group."""


def pack_phases(
    images: NDArray[np.uint8], starts: NDArray[np.int64], places: NDArray[np.int64], each: int, workers: Workers
) -> Phases:
    """Cut input vectors out of images, and into bit planes.

    Parameters
    ----------
    images
        Padded images, flat, [batch, bytes]; negative numbers as two's complement.
    starts, places
        Row r of window w reads ``starts[w] + places[r]``, or nothing where ``places`` is -1; [windows], and [rows] with
        at most 65,535 rows.
    each
        Rows of a group, at most eight.
    """
    batch, rows, windows = len(images), len(places), len(starts)
    groups = -(-rows // each)
    assert rows < 1 << 16, "driven lines are counted in 16 bits"
    compiled = kernels()
    if compiled is None:
        padded = np.zeros((batch, groups * each, windows), np.uint8)
        read = np.flatnonzero(places >= 0)
        padded[:, read] = images[:, starts + places[read, None]]
        grouped = padded.reshape(batch, groups, each, 1, windows).transpose(0, 4, 1, 3, 2)
        planes = grouped >> np.arange(PHASES, dtype=np.uint8)[:, None] & 1
        patterns = np.packbits(planes, axis=-1, bitorder="little")[..., 0]
        return Phases(patterns, planes.sum(axis=(2, 4), dtype=np.uint16), each)
    words = np.empty((batch, windows, groups), np.uint64)
    counts = np.empty((batch, windows, 2), np.uint64)

    def work(begin: int, end: int) -> None:
        compiled.pack_phases(images, starts, places, each, words, counts, begin, end)

    workers.each_range(batch * -(-windows // compiled.SPAN), work)
    return Phases(words.view(np.uint8).reshape(batch, windows, groups, PHASES), counts.view(np.uint16), each)


def convert_tile(
    lines: TileLines,
    inputs: Phases,
    weights: NDArray[np.float32],
    windows: NDArray[np.int64],
    images: NDArray[np.int64],
    stream: int,
    seed: int,
    totals: NDArray[np.int64],
    workers: Workers,
) -> None:
    """Convert, shift and add, subtract pairs on two lines, combine slices; adds to ``totals`` in place.

    Parameters
    ----------
    lines
        Lines of one tile, whole columns.
    inputs
        Driven lines of all windows.
    weights
        Weight of a one in each phase, [phases].
    windows
        Windows to work on.
    images
        Number of each image, [batch]; images and windows key the noise with ``stream`` and ``seed``.
    totals
        [batch * windows to work on, columns], sums of codes.
    """
    compiled = kernels()
    if compiled is None:
        _convert_in_numpy(lines, inputs, weights, windows, images, stream, seed, totals)
        return
    room = LINES_PER_BLOCK * (1 + lines.kinds * inputs.patterns.shape[2] * ((1 << inputs.each) + 1))

    def work(begin: int, end: int) -> None:
        compiled.convert_items(
            lines.cells,
            lines.variances,
            lines.sigma,
            lines.gain,
            lines.rounding,
            lines.noisy,
            lines.converts_idle_phases,
            lines.min_code,
            lines.max_code,
            inputs.patterns,
            inputs.driven,
            np.uint64(inputs.each),
            weights,
            lines.counts.each,
            lines.counts.columns,
            lines.counts.factors,
            windows,
            images,
            np.uint64(stream),
            key_words(seed),
            totals,
            workers.room(room),
            begin,
            end,
        )

    workers.each_range(len(totals), work, MIN_ITEMS)


def _convert_in_numpy(
    lines: TileLines,
    inputs: Phases,
    weights: NDArray[np.float32],
    windows: NDArray[np.int64],
    images: NDArray[np.int64],
    stream: int,
    seed: int,
    totals: NDArray[np.int64],
) -> None:
    items, width = len(totals), len(lines.counts.columns)
    image, window = np.divmod(np.arange(items), len(windows))
    window = windows[window]
    codes = np.zeros((items, width), np.float32)
    block = max(1, BLOCK_VALUES // width)
    for phase, weight in enumerate(weights):
        driven = inputs.driven[image, window, phase]
        busy = np.arange(items) if lines.converts_idle_phases else np.flatnonzero(driven)
        for begin in range(0, len(busy), block):
            rows = busy[begin : begin + block]
            patterns = inputs.patterns[image[rows], window[rows], :, phase]
            bits = np.unpackbits(patterns[..., None], axis=-1, count=inputs.each, bitorder="little")
            on = bits.reshape(len(rows), -1)[:, : lines.cells.shape[1]].astype(np.float32)
            current = _line_sums(on, lines.cells, width)
            if lines.noisy:
                z = read_gaussians(width, window[rows], images[image[rows]], stream, seed, phase)
                scale = lines.sigma[driven[rows]][:, None]
                if len(lines.variances):
                    scale = np.sqrt(_line_sums(on, lines.variances, width))
                current += scale * (lines.gain[:width] * z if len(lines.gain) else z)
            value = np.minimum(np.maximum(current + lines.rounding[:width], lines.min_code), lines.max_code)
            codes[rows] += weight * np.floor(value)
    totals += lines.counts.sums(codes)


def _line_sums(on: NDArray[np.float32], cells: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Sums of each line over the rows that are on, [items, lines]; exact, see :mod:`memcompile.hardware.converter`."""
    with np.errstate(over="ignore"):  # the converter clips what becomes infinite, as in the compiled kernels
        sums: NDArray[np.float32] = on @ cells.transpose(1, 0, 2).reshape(cells.shape[1], -1)[:, :width]
    return sums
