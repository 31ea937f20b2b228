"""The converter of an output line and the units line currents are counted in.

Currents are counted in *converter units*: one unit is the current that the voltage of input digit 1
drives through ``unit_us`` microsiemens, so currents and conductances share their numbers. Conductances
are held on a grid of 2^-grid_bits units, chosen such that every sum of a line below twice the
full range is exact in its floating-point type, in any order. That makes results independent of
how sums are formed. With one bit a phase the grid is 2^-24 of the range and sums are exact in single
precision; with more it is about 2^-19 of g_max and they are exact in double precision. Where a
product is formed from digits of conductances, read noise allows for a coarser grid with fewer digits:
the standard deviation of a cell's rounding error stays below 1/``NOISE_PER_ROUNDING`` of that of its read
noise. All are far below any effect.

The ratio of a code to a level step is one of integers. Codes of all phases and tiles of a layer are added up as
integers, and one multiplication and one division turn the sum into level steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target

NOISE_PER_ROUNDING = 128
"""Least ratio of a cell's read noise to the rounding error of its conductance, both as standard deviations."""
LARGEST_TERM = 1 << 32
"""Limit of the smaller integer in the ratio of a code to a level step: nine digits, exact as floats."""


@dataclass(frozen=True)
class Converter:
    """Units, grid and resolution of one conversion.

    One level step of a cell is ``codes_per_level / levels_per_code`` units, which are codes.
    Continuous cells have no grid (None).
    ``max_code`` is None for a converter that is exact and has no end of range; ``min_code`` is 0, or
    -max_code where a line carries the difference of a pair. ``highest_digit`` is the largest input digit, which
    gets the read voltage. ``half`` is added to a current before it is rounded down.
    """

    codes_per_level: int
    levels_per_code: int
    unit_us: float
    grid_bits: int | None
    max_code: int | None
    highest_digit: int = 1
    signed: bool = False
    half: float = 0.5

    @classmethod
    def adc(cls, target: Target, range_share: float | None = None, read_sigma_us: float = 0.0) -> Converter:
        """The target's ADC, whose range is a share of the largest current of a line.

        ``range_share`` is that share; the target's when None. ``read_sigma_us`` is read noise that
        every cell has at least. In level steps times digits the range is F = range_share * lines * highest_digit *
        g_max / level_step with the input lines that are driven together, for codes from 0 to N = 2^bits - 1: one
        code is F / N. A line that carries the difference of a pair has codes from -N to N with N = 2^(bits - 1) -
        1, and g_max - g_min in place of g_max. An aligned range has larger codes, see :func:`_aligned`.
        """
        signed = target.array.signed_lines
        codes = (1 << (target.adc.bits - signed)) - 1
        reach = codes / _range_levels(target, range_share)
        size = _aligned(reach, signed) if target.adc.range == "aligned" else _in_whole_terms(reach)
        unit_us = target.cell.level_step_us * size.denominator / size.numerator
        digit = target.input.highest_digit
        if digit > 1:
            grid_bits = _noise_bits(19 + math.floor(math.log2(unit_us / target.cell.g_max_us)), unit_us, read_sigma_us)
        elif signed:
            # Sums may leave the range on their way to a small difference.
            grid_bits = 22 - math.ceil(math.log2(_range_levels(target, 1.0) * size))
        else:
            grid_bits = 23 - target.adc.bits
        made = cls(size.numerator, size.denominator, unit_us, max(grid_bits, 0), codes, digit, signed)
        return replace(made, half=0.5 if target.adc.range == "aligned" else 0.5 + made._guard(target))

    @classmethod
    def exact(cls, target: Target, read_sigma_us: float = 0.0) -> Converter:
        """Converter that does not round: currents in level steps, on a grid that double precision sums exactly."""
        grid_bits = None if target.cell.continuous else _noise_bits(16, target.cell.level_step_us, read_sigma_us)
        digit, signed = target.input.highest_digit, target.array.signed_lines
        return cls(1, 1, target.cell.level_step_us, grid_bits, None, digit, signed)

    def ranged(self, target: Target, range_share: float | None, read_sigma_us: float = 0.0) -> Converter:
        """The converter of a layer with a range of its own; this one where there is none (None) or no converter."""
        if range_share is None or self.max_code is None:
            return self
        return Converter.adc(target, range_share, read_sigma_us)

    @property
    def min_code(self) -> int | None:
        """The lowest code; None where there is no end of range."""
        if self.max_code is None:
            return None
        return -self.max_code if self.signed else 0

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Floating-point type in which line sums on the grid are exact."""
        return np.float32 if self.max_code is not None and self.highest_digit == 1 else np.float64

    def to_grid(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Round to the nearest point of the grid."""
        if self.grid_bits is None:
            return value
        scale = float(1 << self.grid_bits)
        return np.rint(value * scale) / scale

    def nominal(self, levels: NDArray[Any], target: Target) -> NDArray[np.float64]:
        """Conductance of cells without errors, in units on the grid.

        The part from g_min is rounded down to the grid, the same for every cell, so that pairs
        cancel exactly and full lines stay inside the range.
        """
        if self.grid_bits is None:
            return levels.astype(np.float64) + float(_ratio(target))
        per_level, lowest = self.nominal_terms(target)
        return self.to_grid(levels.astype(np.float64) * per_level) + lowest

    def nominal_terms(self, target: Target) -> tuple[float, float]:
        """Units of a level step, which are rounded to the grid after multiplication, and of the lowest level."""
        return _nominal_terms(self, target.cell.g_min_us, target.cell.g_max_us, target.signed_levels)

    @property
    def _per_level(self) -> Fraction:
        return Fraction(self.codes_per_level, self.levels_per_code)

    def _guard(self, target: Target) -> float:
        """Shift that keeps exact currents half way between two codes from being rounded down.

        Cells are on the grid, and a line may be off by the sum of their rounding errors. The exact current plus one
        half is a multiple of some fraction of a code: a shift of more than the error and less than that fraction leaves
        all codes those of exact arithmetic. Zero where there is no such shift.
        """
        assert self.grid_bits is not None
        grid, whole = 1 << self.grid_bits, self._per_level
        level = np.arange(target.cell.levels)
        on_grid = self.to_grid(level.astype(np.float64) * float(whole))
        error = max(abs(Fraction(held) - int(n) * whole) for n, held in zip(level, on_grid.tolist(), strict=True))
        base = Fraction(0) if self.signed else _ratio(target) * whole
        error += base - Fraction(math.floor(base * grid), grid)
        error *= target.array.driven_lines * self.highest_digit
        guard = Fraction(math.ceil(error * grid), grid)
        between = Fraction(1, 2 * math.lcm(whole.denominator, base.denominator))
        return float(guard) if error + guard < between else 0.0

    def convert(self, current: NDArray[np.float64]) -> NDArray[np.float64]:
        """Output code of line currents in units: clip(floor(current + 1/2), min_code, max_code).

        Rounding half up, unlike half to even, does not depend on the part that both lines of a
        pair share.
        """
        if self.max_code is None:
            return current
        return np.clip(np.floor(current + self.half), self.min_code, self.max_code)

    def to_levels(self, sums: NDArray[Any]) -> NDArray[np.float64]:
        """Sums of codes as sums of level steps."""
        if self.levels_per_code == self.codes_per_level == 1:
            return sums.astype(np.float64, copy=False)
        return sums.astype(np.float64) * float(self.levels_per_code) / float(self.codes_per_level)

    def in_levels(self, sums: NDArray[Any]) -> NDArray[np.float64]:
        """Sums as level steps, which they are if float64; else they are codes."""
        return sums if sums.dtype == np.float64 else self.to_levels(sums)

    def factor_to_levels(self, sums: NDArray[Any]) -> tuple[float, float]:
        """Factor and divisor that turn such sums into level steps."""
        return (1.0, 1.0) if sums.dtype == np.float64 else (float(self.levels_per_code), float(self.codes_per_level))


def _noise_bits(finest: int, unit_us: float, read_sigma_us: float) -> int:
    """Bits of a grid on which rounding, uniform over a step, is lost in the read noise that every cell has."""
    if not read_sigma_us:
        return finest
    step_us = read_sigma_us / NOISE_PER_ROUNDING * math.sqrt(12)
    return max(0, min(finest, math.ceil(math.log2(unit_us / step_us))))


def aligned_share(target: Target, range_share: float) -> float:
    """The longest range up to another one whose codes are aligned, as a share of the largest line current."""
    codes = (1 << (target.adc.bits - target.array.signed_lines)) - 1
    steps = _range_levels(target, range_share) / codes
    if steps >= 1:
        whole = math.floor(steps)
        size = Fraction(whole - (target.array.signed_lines and whole % 2 == 0))
    else:
        size = Fraction(1, math.ceil(1 / steps))
    return min(range_share, float(codes * size / _range_levels(target, 1.0)))


def _aligned(reach: Fraction, signed: bool) -> Fraction:
    """Codes per level step, an integer or one over an integer, for a range of ``reach`` or longer.

    If k = floor(reach) is at least 1, one code is 1/k level step and an array without errors is converted exactly:
    the part of the current that comes from g_min is the same on both lines of a pair, so both are rounded
    alike. Otherwise one code is m = ceil(1 / reach) steps, an odd number where lines are signed: no sum of level steps
    lies half way between two codes then, which would all be rounded upwards.
    """
    if reach >= 1:
        return Fraction(math.floor(reach))
    steps = math.ceil(1 / reach)
    return Fraction(1, steps + (signed and steps % 2 == 0))


def _in_whole_terms(ratio: Fraction) -> Fraction:
    """The nearest ratio of integers of which the smaller one is at most ``LARGEST_TERM``."""
    if ratio < 1:
        return 1 / (1 / ratio).limit_denominator(LARGEST_TERM)
    return ratio.limit_denominator(LARGEST_TERM)


def _ratio(target: Target) -> Fraction:
    """g_min in level steps, exactly."""
    return _lowest_in_steps(target.cell.g_min_us, target.cell.g_max_us, target.signed_levels)


def _lowest_in_steps(g_min_us: float, g_max_us: float, steps: int) -> Fraction:
    low, high = Fraction(g_min_us), Fraction(g_max_us)
    return low * steps / (high - low)


@lru_cache(maxsize=256)
def _nominal_terms(converter: Converter, g_min_us: float, g_max_us: float, steps: int) -> tuple[float, float]:
    """See :meth:`Converter.nominal_terms`; plain numbers are hashed faster than fractions and targets."""
    assert converter.grid_bits is not None
    per_level = Fraction(converter.codes_per_level, converter.levels_per_code)
    grid = 1 << converter.grid_bits
    return float(per_level), math.floor(_lowest_in_steps(g_min_us, g_max_us, steps) * per_level * grid) / grid


def _range_levels(target: Target, range_share: float | None) -> Fraction:
    """End of a range in level steps times digits, exactly; that of the target when None.

    The largest current of a line is that of all its cells at g_max, or of the differences of pairs.
    """
    of_input = target.signed_levels if target.array.signed_lines else _ratio(target) + target.signed_levels
    share = Fraction(target.adc.range_share if range_share is None else range_share)
    return Fraction(of_input) * target.array.driven_lines * target.input.highest_digit * share
