"""All conversions of one tile: table look-ups, noise, rounding and shift-and-add.

The compiled kernels and the NumPy code here do the same float32 operations in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.compiled import Workers, kernels
from memcompile.runtime.random_numbers import LINES_PER_BLOCK, key_words, read_gaussians

TABLE_BYTES = 1 << 21
"""Memory of the tables that are used together; some megabytes stay in a processor's caches."""
SMALL_ROWS = 32
"""Rows of a tile up to which groups have eight rows, and its tables are small all the same."""
CACHE_LINE = 16
"""Values of float32 in a line of a processor's cache, and in a vector of the kernels."""
BLOCK_VALUES = 1 << 20
"""Conversions handled at once by the NumPy path; bounds its memory."""
MIN_ITEMS = 64
"""Items below which a second thread costs more than it brings."""


@dataclass(frozen=True, eq=False)
class TileLines:
    """The output lines of one tile, prepared for conversion; all in converter units.

    A conversion of line l with d driven input lines, g the sum of their cells, and z a standard
    Gaussian number gives code = clip(floor(g + s * gain[l] * z + rounding[l]), min_code, max_code), where
    s is ``sigma[d]``, or the root of the sum of the driven cells' variances if there are
    ``variances``. The gain is that of the converter; g has it already.
    """

    tables: NDArray[np.float32]
    """[groups of input lines, on/off patterns, lines and a cache line]: partial sums of each line.

    Lines are filled up with zeros to whole blocks of ``LINES_PER_BLOCK``, here and in the arrays below.
    One more cache line keeps entries from lying a power of two apart, where they would share few
    places of the cache.
    """
    variances: NDArray[np.float32]
    """The same for the variance of read noise; no groups where sigma says it all."""
    sigma: NDArray[np.float32]
    """[rows + 1]: read noise of a line by the number of driven input lines."""
    gain: NDArray[np.float32]
    """[lines]: what the converter multiplies noise with."""
    rounding: NDArray[np.float32]
    """[lines]: one half plus the converter's offset."""
    min_code: np.float32
    """Zero, or below where lines carry the differences of pairs."""
    max_code: np.float32
    count: int
    """Lines that there are."""
    first_line: int = 0
    """Where the lines begin in their tile; a multiple of ``LINES_PER_BLOCK``."""

    @property
    def noisy(self) -> bool:
        """Whether any conversion is noisy."""
        return bool(self.sigma.any() or self.variances.any())

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""
        return self.tables.nbytes + self.variances.nbytes

    @property
    def converts_idle_phases(self) -> bool:
        """Whether lines without current have a code other than zero, so that no phase may be skipped."""
        return bool((self.rounding >= 1).any() or (self.min_code < 0 and (self.rounding < 0).any()))


def group_rows(rows: int) -> int:
    """Input lines whose on/off patterns share a table.

    Tables of eight lines need the fewest sums. But 128 lines have 16 of them with 256 entries each,
    which a processor's caches do not hold; with six lines they are a third of that.
    """
    return 8 if rows <= SMALL_ROWS else 6


def lines_at_once(rows: int, column_lines: int) -> int:
    """Output lines of a tile to convert together: whole columns whose tables stay in a processor's cache."""
    whole, each = math.lcm(LINES_PER_BLOCK, column_lines), group_rows(rows)
    return max(1, TABLE_BYTES // (-(-rows // each) * (4 << each) * whole)) * whole


def in_whole_blocks(values: NDArray[Any], dtype: Any = np.float32, block: int = LINES_PER_BLOCK) -> NDArray[Any]:
    """Values of lines, [..., lines], with zeros up to whole blocks of so many lines."""
    lines = values.shape[-1]
    filled = np.zeros((*values.shape[:-1], -(-lines // block) * block), dtype)
    filled[..., :lines] = values
    return filled


def _aligned_zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros that begin with a cache line: a vector that straddles two takes twice as long to load."""
    size = math.prod(shape)
    room = np.zeros(size + CACHE_LINE, np.float32)
    first = -room.ctypes.data % (4 * CACHE_LINE) // 4
    return room[first : first + size].reshape(shape)


def pattern_sums(cells: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Sums over all subsets of the rows of a group, as in :attr:`TileLines.tables`; cells are [rows, lines]."""
    filled = in_whole_blocks(cells)
    rows, lines = filled.shape
    each = group_rows(rows)
    groups = -(-rows // each)
    padded = np.zeros((groups * each, lines), np.float32)
    padded[:rows] = filled
    grouped = padded.reshape(groups, each, 1, lines)
    tables = _aligned_zeros((groups, 1 << each, lines + CACHE_LINE))
    for bit in range(each):
        size = 1 << bit
        tables[:, size : 2 * size, :lines] = tables[:, :size, :lines] + grouped[:, bit]
    return tables


@dataclass(frozen=True, eq=False)
class Phases:
    """Which of a tile's input lines each bit phase drives, for all windows of a layer.

    There are always eight phases; those beyond the input's bits are not used.
    """

    patterns: NDArray[np.uint8]
    """[batch, windows, groups of rows, 8 phases], the first row in the lowest bit."""
    driven: NDArray[np.uint16]
    """[batch, windows, 8 phases]: number of driven lines."""


def pack_phases(vectors: NDArray[np.uint8], workers: Workers) -> Phases:
    """Cut input vectors into bit planes.

    Parameters
    ----------
    vectors
        [batch, rows, windows], at most 65,535 rows; negative numbers as two's complement.
    """
    batch, rows, windows = vectors.shape
    each = group_rows(rows)
    groups = -(-rows // each)
    assert rows < 1 << 16, "driven lines are counted in 16 bits"
    compiled = kernels()
    if compiled is None:
        padded = np.zeros((batch, groups * each, windows), np.uint8)
        padded[:, :rows] = vectors
        grouped = padded.reshape(batch, groups, each, 1, windows).transpose(0, 4, 1, 3, 2)
        planes = grouped >> np.arange(8, dtype=np.uint8)[:, None] & 1
        patterns = np.packbits(planes, axis=-1, bitorder="little")[..., 0]
        return Phases(patterns, planes.sum(axis=(2, 4), dtype=np.uint16))
    words = np.empty((batch, windows, groups), np.uint64)
    counts = np.empty((batch, windows, 2), np.uint64)
    spans = batch * -(-windows // compiled.SPAN)
    workers.each_range(spans, lambda begin, end: compiled.pack_phases(vectors, each, words, counts, begin, end))
    return Phases(words.view(np.uint8).reshape(batch, windows, groups, 8), counts.view(np.uint16))


def convert_tile(
    lines: TileLines,
    inputs: Phases,
    weights: NDArray[np.float32],
    powers: NDArray[np.int64],
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
        What a one counts in each phase, [phases].
    powers
        What a digit counts in each slice, [slices].
    windows
        Windows to work on.
    images
        Number of each image, [batch]; images and windows key the noise with ``stream`` and ``seed``.
    totals
        [batch * windows to work on, columns], sums of codes.
    """
    compiled = kernels()
    if compiled is None:
        _convert_in_numpy(lines, inputs, weights, powers, windows, images, stream, seed, totals)
        return
    batch, grid, groups, _ = inputs.patterns.shape
    patterns = inputs.patterns.view(np.uint64).reshape(batch * grid, groups)
    driven = inputs.driven.view(np.uint64).reshape(batch * grid, 2)

    def work(begin: int, end: int) -> None:
        compiled.convert_items(
            lines.tables,
            lines.variances,
            lines.sigma,
            lines.gain,
            lines.rounding,
            lines.noisy,
            lines.converts_idle_phases,
            lines.min_code,
            lines.max_code,
            patterns,
            driven,
            weights,
            powers,
            lines.count,
            windows,
            images,
            grid,
            np.uint64(lines.first_line),
            np.uint64(stream),
            key_words(seed),
            totals,
            begin,
            end,
        )

    workers.each_range(len(totals), work, MIN_ITEMS)


def _convert_in_numpy(
    lines: TileLines,
    inputs: Phases,
    weights: NDArray[np.float32],
    powers: NDArray[np.int64],
    windows: NDArray[np.int64],
    images: NDArray[np.int64],
    stream: int,
    seed: int,
    totals: NDArray[np.int64],
) -> None:
    items, width = len(totals), len(lines.gain)
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
            current = _look_up(lines.tables[..., :width], patterns)
            if lines.noisy:
                z = read_gaussians(width, window[rows], images[image[rows]], stream, seed, phase, lines.first_line)
                current += _noise_scale(lines, patterns, driven[rows], width) * (lines.gain * z)
            value = np.minimum(np.maximum(current + lines.rounding, lines.min_code), lines.max_code)
            codes[rows] += weight * np.floor(value)
    totals += digits_of(codes[:, : lines.count], totals.shape[1], len(powers)).astype(np.int64) @ powers


def digits_of(codes: NDArray[Any], columns: int, slices: int) -> NDArray[Any]:
    """Codes of pairs, [items, columns, slices], of those of lines; two lines of a pair are subtracted."""
    pairs = codes.reshape(len(codes), columns, slices, -1)
    return pairs[..., 0] if pairs.shape[3] == 1 else pairs[..., 0] - pairs[..., 1]


def _noise_scale(
    lines: TileLines, patterns: NDArray[np.uint8], driven: NDArray[np.uint16], width: int
) -> NDArray[np.float32]:
    """Standard deviation of read noise before the converter, [items, lines] or [items, 1]."""
    if len(lines.variances):
        scale: NDArray[np.float32] = np.sqrt(_look_up(lines.variances[..., :width], patterns))
        return scale
    return lines.sigma[driven][:, None]


def _look_up(tables: NDArray[np.float32], patterns: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Sum the groups' table rows in order, [items, lines]."""
    total: NDArray[np.float32] = tables[0][patterns[:, 0]]
    for group in range(1, len(tables)):
        total += tables[group][patterns[:, group]]
    return total
