"""All conversions of one tile whose lines get several bits of an input in one phase.

Line sums are exact integer products; noise, rounding and the subtraction of pairs follow. The
compiled kernels and the NumPy code here do the same operations in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.effects.nonlinear_iv import Drive
from memcompile.runtime.executors.conversions import LineCounts, in_whole_blocks
from memcompile.runtime.executors.integer_product import IntegerMatrix
from memcompile.runtime.kernels.compiled import Workers, product_kernels
from memcompile.runtime.random_numbers import HALF_BLOCK, LINES_PER_BLOCK, ItemNoise, key_words

BLOCK_VALUES = 1 << 18
"""Sums of digits that a thread handles at once; some megabytes stay in a processor's caches."""
VARIANCE_BITS = 20
"""Resolution of variances of read noise that differ from cell to cell, relative to the largest."""


@dataclass(frozen=True, eq=False)
class DigitLines:
    """The output lines of one tile, prepared for conversion; all in converter units.

    A conversion of line l that gets digits d, with g the sum of d times its cells and z a standard
    Gaussian number, gives code = clip(floor(g + s * gain[l] * z + rounding[l]), min_code, max_code), where s is
    ``sigma`` * sqrt(sum of d^2), or the root of d^2 times ``variances`` if there are any. The gain
    is that of the converter; g has it already.
    """

    cells: IntegerMatrix
    variances: IntegerMatrix | None
    sigma: float
    gain: NDArray[np.float32]
    """[lines]: gain of the converter, with which noise is multiplied; no lines where all gains are one.

    Here and in the other arrays lines are filled up with zeros as :func:`filled` does.
    """
    rounding: NDArray[np.floating[Any]]
    """[lines]: one half plus the converter's offset. Currents are worked out in its type."""
    min_code: float
    """Zero, or below where lines carry the differences of pairs."""
    max_code: float
    counts: LineCounts
    """Counts of the lines, without those that fill up blocks."""
    drive: Drive | None = None
    """Drive of digits in place of themselves, where cells do not obey Ohm's law."""

    @property
    def step(self) -> float:
        """Unit of the sums of lines."""
        return self.cells.step * (self.drive.step if self.drive else 1.0)

    def sums(self, vectors: NDArray[np.uint8]) -> NDArray[np.integer[Any]]:
        """Exact sums of the drive of digits, [items, rows] to [items, digits of cells * lines]."""
        driven = vectors[None]
        sums = self.cells.wide_sums(self.drive.counts[driven]) if self.drive else self.cells.sums(driven)
        return sums.reshape(len(vectors), -1)

    @property
    def nbytes(self) -> int:
        """Memory of the matrices."""
        return self.cells.nbytes + (self.variances.nbytes if self.variances else 0)

    @property
    def noisy(self) -> bool:
        """True if any conversion is noisy."""
        return self.variances is not None or self.sigma > 0


def filled(values: NDArray[Any], dtype: Any = np.float64) -> NDArray[Any]:
    """Values of lines, [..., lines], with zeros up to one vector of the kernels, or to whole blocks of two."""
    return in_whole_blocks(values, dtype, HALF_BLOCK if values.shape[-1] <= HALF_BLOCK else LINES_PER_BLOCK)


def variance_matrix(variances: NDArray[np.float64]) -> IntegerMatrix:
    """Variances of read noise of cells, [matrices, rows, columns], to be multiplied with squares."""
    step = 2.0 ** (math.ceil(math.log2(variances.max())) - VARIANCE_BITS)
    return IntegerMatrix.of(np.rint(variances / step) * step, step)


def summed_variances(matrix: IntegerMatrix, squares: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Squares below 2^16 times variances, [matrices, items, rows] to [matrices, items, columns].

    Bytes are multiplied one after the other, because integer products take bytes.
    """
    low = matrix.values(matrix.sums((squares & 0xFF).astype(np.uint8)))
    high = matrix.values(matrix.sums((squares >> 8).astype(np.uint8)))
    total: NDArray[np.float64] = low + 256.0 * high
    return total


def convert_digits(
    lines: DigitLines,
    digits: NDArray[np.uint8],
    phase: int,
    weight: int,
    noise: ItemNoise,
    totals: NDArray[np.signedinteger[Any]],
    columns: slice,
    workers: Workers,
) -> None:
    """Convert one phase, shift, subtract pairs on two lines, combine slices; adds to ``totals`` in place.

    Parameters
    ----------
    lines
        Lines of one tile.
    digits
        Digits on the tile's input lines, [batch * windows, rows].
    phase
        Number of the phase.
    weight
        Weight of a one in this phase.
    noise
        Keys of the read noise, with the phase.
    totals
        [batch * windows, columns of the replica], contiguous: sums of codes.
    columns
        Those of the tile.
    """
    block = max(1, BLOCK_VALUES // (lines.cells.digits * lines.cells.columns))
    compiled, key, kind = product_kernels(), key_words(noise.seed), lines.rounding.dtype.type
    counts = lines.counts
    factors = (weight * counts.factors).astype(totals.dtype)

    def work(begin: int, end: int) -> None:
        for first in range(begin, end, block):
            last = min(first + block, end)
            vectors = np.ascontiguousarray(digits[first:last])
            sums, spread, deviation = lines.sums(vectors), _spread(lines, vectors), _deviation(lines, vectors)
            if compiled is None:
                jitter = np.zeros((1, len(lines.rounding)), np.float32)
                if lines.noisy:
                    z = filled(noise.gaussians(len(factors), first, last, phase), np.float32)
                    z = lines.gain * z if len(lines.gain) else z
                    jitter = (spread if len(spread) else deviation[:, None]) * z
                totals[first:last, columns] += weight * counts.sums(_codes(lines, sums, jitter))
                continue
            compiled.convert_sums(
                sums,
                lines.cells.digits,
                kind(lines.cells.base),
                kind(lines.step),
                deviation,
                spread,
                lines.gain,
                lines.rounding,
                lines.noisy,
                kind(lines.min_code),
                kind(lines.max_code),
                counts.each,
                counts.columns,
                factors,
                noise.windows,
                noise.images,
                phase,
                np.uint64(noise.stream),
                key,
                totals,
                columns.start,
                np.empty(LINES_PER_BLOCK, kind),
                first,
                last,
            )

    workers.each_range(len(totals), work)


def _spread(lines: DigitLines, vectors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation of read noise that differs between lines, [items, lines]; no items if none does."""
    if lines.variances is None:
        return np.zeros((0, len(lines.rounding)), np.float32)
    if lines.drive is not None:
        squares, step = lines.drive.squares()
        total = step * lines.variances.values(lines.variances.wide_sums(squares[vectors][None]))[0]
    else:
        total = summed_variances(lines.variances, np.square(vectors[None].astype(np.uint16)))[0]
    spread: NDArray[np.float32] = np.sqrt(total).astype(np.float32)
    return spread


def _deviation(lines: DigitLines, vectors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Standard deviation of read noise that all lines share, [items]."""
    if not lines.sigma:
        return np.zeros(len(vectors), np.float32)
    compiled = product_kernels()
    if compiled is not None and lines.drive is None:
        made: NDArray[np.float32] = compiled.deviations(vectors, lines.sigma)
        return made
    if lines.drive is not None:
        squares, step = lines.drive.squares()
        total = step * squares[vectors].sum(axis=1, dtype=np.float64)
    else:
        total = np.square(vectors.astype(np.int64)).sum(axis=1)
    deviation: NDArray[np.float32] = (lines.sigma * np.sqrt(total)).astype(np.float32)
    return deviation


def _codes(lines: DigitLines, sums: NDArray[np.integer[Any]], jitter: NDArray[np.float32]) -> NDArray[Any]:
    """Output codes of lines, [items, lines]."""
    kind = lines.rounding.dtype.type
    current = lines.cells.values(sums, kind) * kind(lines.step / lines.cells.step) + jitter
    value = np.minimum(np.maximum(current + lines.rounding, kind(lines.min_code)), kind(lines.max_code))
    return np.floor(value)[:, : len(lines.counts.columns)]
