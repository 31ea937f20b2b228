"""Sections of a target file about changes of cells after they were written."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from memcompile.hardware.target_sections import FiniteFloat, NonNegativeFloat, PositiveFloat, Section

LEAST_G_US = 1e-9
"""Smaller conductances count as this one where a logarithm is taken."""

Point = Annotated[tuple[FiniteFloat, FiniteFloat], Field(strict=False)]
Points = Annotated[tuple[Point, ...], Field(strict=False, max_length=256)]
PositivePoint = Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)]
Row = Annotated[tuple[FiniteFloat, ...], Field(strict=False, max_length=256)]
Rows = Annotated[tuple[Row, ...], Field(strict=False, max_length=64)]

Array = NDArray[np.float64]


class RelaxationSpec(Section):
    """Spread after programming: g + N(0, sigma^2 * (1 - exp(-t / time_constant)))."""

    sigma_us: NonNegativeFloat
    """Final standard deviation, in microsiemens."""
    sigma_polynomial_us: Annotated[tuple[FiniteFloat, ...], Field(strict=False, max_length=16)] = ()
    """Instead: sigma = max(0, c0 + c1 x + c2 x^2 + ...) with x = g / g_max, in microsiemens."""
    time_constant_s: PositiveFloat
    """Time constant, in seconds."""

    def final_sigma_at_us(self, g_us: Array, reference_us: float) -> Array:
        """Final standard deviation at some conductances, in microsiemens."""
        if not self.sigma_polynomial_us:
            return np.full(g_us.shape, self.sigma_us)
        return polynomial_us(g_us / reference_us, self.sigma_polynomial_us)


class RetentionSpec(Section):
    """Change with the logarithm of time: g + mean + sigma * z after the reference time, z ~ N(0, 1) a cell and write.

    mean = mean_us + mean_per_ln_us * ln(t / reference) and sigma likewise, whatever the conductance; or both from
    tables of some times and of conductances that were aimed at.
    """

    reference_s: PositiveFloat
    """Time after programming up to which nothing changes, in seconds."""
    mean_us: FiniteFloat = 0.0
    """Mean change at the reference time, in microsiemens."""
    mean_per_ln_us: FiniteFloat = 0.0
    """Mean change by each factor e of time, in microsiemens."""
    sigma_us: NonNegativeFloat = 0.0
    """Standard deviation at the reference time, in microsiemens."""
    sigma_per_ln_us: FiniteFloat = 0.0
    """Increase of the standard deviation by each factor e of time, in microsiemens; it is never below 0."""
    times_s: Annotated[tuple[PositiveFloat, ...], Field(strict=False, max_length=64)] = ()
    """Instead: rising times after the reference time, in seconds, each with a row of both tables."""
    conductances_us: Annotated[tuple[NonNegativeFloat, ...], Field(strict=False, max_length=256)] = ()
    """Rising conductances aimed at, in microsiemens, each with a column of both tables; linear between, flat beyond."""
    mean_table_us: Rows = ()
    """Mean changes in microsiemens, linear in ln t between the times, from 0 at the reference time; then constant."""
    sigma_table_us: Rows = ()
    """Standard deviations in microsiemens; their squares are linear in ln t between the times, likewise."""

    def mean_at_us(self, goals_us: Array, time_s: float) -> Array:
        """Mean change of cells written to some goals, in microsiemens."""
        if not self.times_s:
            return np.full(goals_us.shape, self.mean_us + self.mean_per_ln_us * self._factors(time_s))
        return self._interpolated(np.array(self.mean_table_us), goals_us, time_s)

    def sigma_at_us(self, goals_us: Array, time_s: float) -> Array:
        """Standard deviation of the change, in microsiemens."""
        if not self.times_s:
            return np.full(goals_us.shape, max(self.sigma_us + self.sigma_per_ln_us * self._factors(time_s), 0.0))
        # Squares, so that a table of the spread gained since writing and one of the whole spread say the same.
        variance = self._interpolated(np.square(self.sigma_table_us), goals_us, time_s)
        sigma: Array = np.sqrt(variance)
        return sigma

    def _factors(self, time_s: float) -> float:
        return math.log(time_s / self.reference_s)

    def _interpolated(self, rows: Array, goals_us: Array, time_s: float) -> Array:
        logs = np.log((self.reference_s, *self.times_s))
        of_time = [np.interp(math.log(time_s), logs, (0.0, *column)) for column in rows.T]
        table: Array = np.asarray(np.interp(goals_us, self.conductances_us, of_time), np.float64)
        return table


class DriftSpec(Section):
    """Slow change: g * (t / reference)^-nu after the reference time, nu ~ N(mean, sigma) per cell.

    With a table, nu is the magnitude of that number.
    """

    exponent_mean: Annotated[float, Field(ge=-1, le=1)]
    """Mean of nu; negative where conductances rise."""
    exponent_sigma: NonNegativeFloat
    """Standard deviation of nu from cell to cell."""
    exponent_mean_table: Points = ()
    """Instead of the mean: [conductance aimed at, mean of nu] in microsiemens; linear in ln g between, flat beyond."""
    exponent_sigma_table: Points = ()
    """Instead of sigma: [conductance aimed at, standard deviation of nu], likewise."""
    reference_s: PositiveFloat
    """Time after programming up to which nothing drifts, in seconds."""

    @property
    def tabulated(self) -> bool:
        """True if exponents depend on the conductance."""
        return bool(self.exponent_mean_table or self.exponent_sigma_table)

    def mean_at(self, goals_us: Array) -> Array:
        """Mean of nu of cells written to some goals."""
        return _by_log(goals_us, self.exponent_mean_table or ((1.0, self.exponent_mean),))

    def sigma_at(self, goals_us: Array) -> Array:
        """Standard deviation of nu of cells written to some goals."""
        return _by_log(goals_us, self.exponent_sigma_table or ((1.0, self.exponent_sigma),))


class FlickerNoiseSpec(Section):
    """Accumulated 1/f noise: g * (1 + share * sqrt(ln((t + t_r) / (2 t_r))) * z), z ~ N(0, 1) a cell and time.

    It stays for all reads of a run: it is what has gathered from the first read to time t.
    """

    share_table: Annotated[tuple[PositivePoint, ...], Field(strict=False, min_length=1, max_length=256)]
    """[conductance after writing, share] in microsiemens, rising; linear in logarithms between, flat beyond."""
    read_s: PositiveFloat
    """Duration t_r of a read, in seconds."""
    first_read_s: PositiveFloat
    """Time of the first read after programming, in seconds; earlier times count as this one."""

    def share_at(self, written_us: Array, time_s: float) -> Array:
        """Standard deviation of the noise at a time, as a share of the conductance."""
        at_us, shares = np.log(np.array(self.share_table).T)
        share = np.exp(np.interp(np.log(np.maximum(written_us, LEAST_G_US)), at_us, shares))
        time_s = max(time_s, self.first_read_s)
        grown: Array = share * math.sqrt(max(math.log((time_s + self.read_s) / (2 * self.read_s)), 0.0))
        return grown


class ReadDisturbSpec(Section):
    """Shift of a cell with each read: g + reads / 10^6 * N(shift, sigma), one number a cell."""

    shift_us: FiniteFloat
    """Mean shift by a million reads, in microsiemens; positive where reads raise conductances."""
    sigma_us: NonNegativeFloat = 0.0
    """Standard deviation of that shift from cell to cell, in microsiemens."""


def _by_log(g_us: Array, points: tuple[tuple[float, float], ...]) -> Array:
    at_us, values = np.array(points).T
    found: Array = np.asarray(np.interp(np.log(np.maximum(g_us, LEAST_G_US)), np.log(at_us), values), np.float64)
    return found


def table_at(g_us: Array, points: tuple[tuple[float, float], ...]) -> Array:
    """Values of a table of points at some conductances, linear between and flat beyond."""
    at_us, values = np.array(points).T
    found: Array = np.asarray(np.interp(g_us, at_us, values), np.float64)
    return found


def polynomial_us(x: Array, coefficients: tuple[float, ...]) -> Array:
    """max(0, c0 + c1 x + c2 x^2 + ...)."""
    value: Array = np.maximum(np.polynomial.polynomial.polyval(x, coefficients), 0.0)
    return value
