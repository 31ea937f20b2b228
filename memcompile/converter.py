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
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.target import Target

NOISE_PER_ROUNDING = 128
"""Standard deviations of the rounding error of a conductance in one of a cell's read noise, at least."""


@dataclass(frozen=True)
class Converter:
    """Units, grid and resolution of one conversion.

    One level step of a cell is ``codes_per_level / levels_per_code`` units; one of the two is 1.
    Continuous cells have no grid (None).
    ``max_code`` is None for a converter that is exact and has no end of range; ``min_code`` is 0, or
    -max_code where a line carries the difference of a pair. ``highest_digit`` is the largest input digit, which
    gets the read voltage.
    """

    codes_per_level: int
    levels_per_code: int
    unit_us: float
    grid_bits: int | None
    max_code: int | None
    highest_digit: int = 1
    signed: bool = False

    @classmethod
    def adc(cls, target: Target, range_share: float | None = None, read_sigma_us: float = 0.0) -> Converter:
        """The target's ADC, whose range is a share of the largest current of a line.

        ``range_share`` is that share; the target's when None. ``read_sigma_us`` is read noise that
        every cell has at least. In level steps times digits the range is F = range_share * input_lines
        * highest_digit * g_max / level_step, for codes from 0 to N = 2^bits - 1. If k = floor(N / F) is at
        least 1, one code is 1/k level step and an array without errors is converted exactly: the part of
        the current that comes from g_min is the same on both lines of a pair, so both are rounded
        alike. Otherwise one code is m = ceil(F / N) steps.

        A line that carries the difference of a pair has codes from -N to N with N = 2^(bits - 1) - 1, and g_max -
        g_min in place of g_max. There m is odd: no sum of level steps lies half way between two codes,
        which would all be rounded upwards.
        """
        signed = target.array.signed_lines
        codes = (1 << (target.adc.bits - signed)) - 1
        share = target.adc.range_share if range_share is None else range_share
        reach = Fraction(codes) / (_range_levels(target) * Fraction(share))
        per_level = max(1, math.floor(reach))
        per_code = 1 if reach >= 1 else math.ceil(1 / reach)
        per_code += signed and per_code % 2 == 0
        unit_us = target.cell.level_step_us * per_code / per_level
        digit = target.input.highest_digit
        if digit > 1:
            grid_bits = _noise_bits(19 + math.floor(math.log2(unit_us / target.cell.g_max_us)), unit_us, read_sigma_us)
        elif signed:
            # Sums may leave the range on their way to a small difference.
            grid_bits = 22 - math.ceil(math.log2(_range_levels(target) * per_level / per_code))
        else:
            grid_bits = 23 - target.adc.bits
        return cls(per_level, per_code, unit_us, max(grid_bits, 0), codes, digit, signed)

    @classmethod
    def exact(cls, target: Target, read_sigma_us: float = 0.0) -> Converter:
        """No converter: currents in level steps, on a grid that double precision sums exactly."""
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
        per_level = Fraction(self.codes_per_level, self.levels_per_code)
        base = _ratio(target) * per_level * (1 << self.grid_bits)
        return self.to_grid(levels.astype(np.float64) * float(per_level)) + math.floor(base) / (1 << self.grid_bits)

    def convert(self, current: NDArray[np.float64]) -> NDArray[np.float64]:
        """Output code of line currents in units: clip(floor(current + 1/2), min_code, max_code).

        Rounding half up, unlike half to even, does not depend on the part that both lines of a
        pair share.
        """
        if self.max_code is None:
            return current
        return np.clip(np.floor(current + 0.5), self.min_code, self.max_code)

    def to_levels(self, sums: NDArray[Any]) -> NDArray[np.float64]:
        """Sums of codes as sums of level steps; exact where one code is 1/k level step."""
        if self.levels_per_code == self.codes_per_level == 1:
            return sums.astype(np.float64, copy=False)
        return sums.astype(np.float64) * self.levels_per_code / self.codes_per_level

    def in_levels(self, sums: NDArray[Any]) -> NDArray[np.float64]:
        """Sums as level steps, which they are if float64; else they are codes."""
        return sums if sums.dtype == np.float64 else self.to_levels(sums)

    def factor_to_levels(self, sums: NDArray[Any]) -> tuple[float, float]:
        """What makes level steps of the same sums: a factor and a divisor."""
        return (1.0, 1.0) if sums.dtype == np.float64 else (float(self.levels_per_code), float(self.codes_per_level))


def _noise_bits(finest: int, unit_us: float, read_sigma_us: float) -> int:
    """Bits of a grid on which rounding, uniform over a step, is lost in the read noise that every cell has."""
    if not read_sigma_us:
        return finest
    step_us = read_sigma_us / NOISE_PER_ROUNDING * math.sqrt(12)
    return max(0, min(finest, math.ceil(math.log2(unit_us / step_us))))


def _ratio(target: Target) -> Fraction:
    """g_min in level steps, exactly."""
    low, high = Fraction(target.cell.g_min_us), Fraction(target.cell.g_max_us)
    return low * target.signed_levels / (high - low)


def _range_levels(target: Target) -> Fraction:
    """Largest current of a line in level steps times digits, exactly: of all its cells at g_max, or of the pairs."""
    of_input = target.signed_levels if target.array.signed_lines else _ratio(target) + target.signed_levels
    return Fraction(of_input) * target.array.input_lines * target.input.highest_digit
