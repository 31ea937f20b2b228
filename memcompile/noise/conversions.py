"""Errors of converters, from input vectors of calibration data on cells with the spread of real ones.

The currents of a layer's lines have no distribution that a formula knows: activations are sparse and lines short. So
converters are given the currents of calibration inputs, each moved by a Gaussian number with the standard deviation
that errors and read noise of its driven cells add up to. Where that deviation is above half a code or so, the error is
that of any fine quantiser, code^2 / 12; where it is small, it is that of the levels themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter
from memcompile.hardware.target import Target
from memcompile.ir.quantizers import InputQuantizer
from memcompile.noise.cell_errors import read_variance, write_variance
from memcompile.noise.gaussians import Array

CONVERSIONS = 200_000
"""Conversions of a layer that are followed one by one, about; that sets how many input vectors are."""
LEAST_VECTORS = 32
"""Input vectors followed at least."""
KEPT_DRAWS, MOST_KEPT = 16, 2_000_000
"""Sets of Gaussian numbers that are kept, and numbers in a set at most."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Lines:
    """Cells of the output lines of one row tile of a matrix.

    ``levels`` are the levels of the cells in level steps, [rows, lines], the part of g_min included where a line does
    not carry a difference; ``counts`` is the weight of a line's code in the sum of its column, [lines], columns after
    each other; ``variance`` is the mean variance of what errors and read noise add to the cells of a line, in squares
    of level steps, [lines]; a column of weights has ``per_column`` lines.
    """

    levels: Floats
    counts: Floats
    variance: Floats
    per_column: int


def lines_of(cells: NDArray[np.floating], base: int, target: Target, variance: Array) -> Lines:
    """Lines of cell levels, [polarities, slices, rows, columns]; ``variance`` is [polarities, slices, columns]."""
    slices, columns = cells.shape[1], cells.shape[3]
    powers = float(base) ** np.arange(slices)
    if target.array.signed_lines:
        levels = (cells[0] - cells[1]).transpose(1, 2, 0)  # rows, columns, slices
        counts = np.tile(powers, columns)
        spread = variance.sum(axis=0).T
    else:
        low = target.cell.g_min_us / target.cell.level_step_us
        levels = (cells + low).transpose(2, 3, 1, 0)  # rows, columns, slices, polarities
        counts = np.tile(np.outer(powers, [1.0, -1.0]).ravel(), columns)
        spread = variance.transpose(2, 1, 0)
    return Lines(
        np.ascontiguousarray(levels.reshape(len(levels), -1), np.float32),
        counts.astype(np.float32),
        spread.reshape(-1).astype(np.float32),
        len(counts) // columns,
    )


def row_tiles(digits: NDArray[np.integer], base: int, rows: Sequence[int], target: Target) -> list[Lines]:
    """Lines of the row tiles of a matrix, with the spread of cells that were just written and are read.

    ``digits`` are the signed levels of its pairs, [slices, rows, columns]; ``rows`` are the edges of the tiles.
    """
    cells = np.maximum(np.stack([digits, -digits]), 0)
    spread = (write_variance(target) + read_variance(target))[cells]
    return list(_cut(cells, spread, base, rows, target))


def written_tiles(
    digits: NDArray[np.integer], base: int, rows: Sequence[int], target: Target, rng: np.random.Generator
) -> list[Lines]:
    """Lines of row tiles as in :func:`row_tiles`, whose cells err as on one chip, with the spread of reads alone."""
    cells = np.maximum(np.stack([digits, -digits]), 0)
    errors = np.sqrt(write_variance(target))[cells] * rng.standard_normal(cells.shape)
    return list(_cut(cells + errors, read_variance(target)[cells], base, rows, target))


def _cut(cells: NDArray[Any], variance: Array, base: int, rows: Sequence[int], target: Target) -> Iterator[Lines]:
    """Lines of row tiles of cells and their variance, both [polarities, slices, rows, columns]."""
    for begin, end in itertools.pairwise(rows):
        yield lines_of(cells[:, :, begin:end], base, target, variance[:, :, begin:end].mean(axis=2))


def vectors_followed(lines: int, phases: int) -> int:
    """Input vectors that are followed through the conversions of a layer."""
    return max(LEAST_VECTORS, CONVERSIONS // max(lines * phases, 1))


@dataclass(frozen=True, eq=False)
class ConverterErrors:
    """Errors of the sums of columns, all in integer weights times input steps, [vectors, columns].

    ``moved`` is what the Gaussian numbers themselves add, ``rounded`` that and what a converter without end of range
    makes of it, ``converted`` the same with the end of range.
    """

    moved: Array
    rounded: Array
    converted: Array

    @property
    def added(self) -> Array:
        """Error of converters alone."""
        return self.converted - self.moved

    @property
    def cut_off(self) -> Array:
        """Error of the end of range alone."""
        return self.converted - self.rounded


@dataclass(frozen=True, eq=False)
class PhaseCurrents:
    """Currents of the lines of a row tile in one phase, in level steps, [vectors, lines].

    ``weight`` is that of the phase and ``spread`` the standard deviation of what errors and read noise of driven cells
    add to each current.
    """

    weight: int
    currents: Floats
    spread: Floats


@dataclass(frozen=True, eq=False)
class MatrixCurrents:
    """Currents of one matrix on some input vectors; converters of any range can be tried on them.

    ``counts`` and ``per_column`` are those of its :class:`Lines`.
    """

    phases: list[PhaseCurrents]
    counts: Floats
    per_column: int

    @classmethod
    def of(
        cls, vectors: Floats, tiles: Sequence[Lines], cut: tuple[int, ...], quantizer: InputQuantizer
    ) -> MatrixCurrents:
        """Those of input vectors, [vectors, rows]; ``tiles`` are the matrix's row tiles, whose edges are ``cut``."""
        whole, phases = vectors.astype(np.int16), []
        for lines, (begin, end) in zip(tiles, itertools.pairwise(cut), strict=True):
            for phase, weight in enumerate(quantizer.phase_weights):
                driven = quantizer.digits(whole[:, begin:end], phase).astype(np.float32)
                spread = np.sqrt(np.square(driven).sum(axis=1)[:, None] * lines.variance)
                phases.append(PhaseCurrents(weight, driven @ lines.levels, spread))
        return cls(phases, tiles[0].counts, tiles[0].per_column)

    def errors(self, converter: Converter, seed: int) -> ConverterErrors:
        """Errors of the converters of the matrix."""
        codes_per_level = converter.codes_per_level / converter.levels_per_code
        total = np.zeros((3, *self.phases[0].currents.shape))
        normal = _normal_numbers(seed, len(self.phases), total.shape[1:])
        for phase, numbers in zip(self.phases, normal, strict=True):
            currents = phase.currents * np.float32(codes_per_level)
            moved = phase.spread * np.float32(codes_per_level)
            moved *= numbers
            codes = currents + moved
            codes += np.float32(converter.half)
            np.floor(codes, out=codes)
            total[0] += phase.weight * moved
            total[1] += phase.weight * (codes - currents)
            np.clip(codes, converter.min_code, converter.max_code, out=codes)
            codes -= currents
            total[2] += phase.weight * codes
        counted = (total * self.counts / codes_per_level).reshape(3, len(total[0]), -1, self.per_column)
        return ConverterErrors(*counted.sum(axis=3))


def _normal_numbers(seed: int, count: int, shape: tuple[int, ...]) -> Iterator[Floats]:
    """Gaussian numbers, ``count`` times ``shape``; kept, if they are few, because choices of a layer get the same."""
    if count * math.prod(shape) <= MOST_KEPT:
        yield from _kept_numbers(seed, count, shape)
        return
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.standard_normal(shape, np.float32)


@lru_cache(maxsize=KEPT_DRAWS)
def _kept_numbers(seed: int, count: int, shape: tuple[int, ...]) -> Floats:
    numbers = np.random.default_rng(seed).standard_normal((count, *shape), np.float32)
    numbers.setflags(write=False)
    return numbers
