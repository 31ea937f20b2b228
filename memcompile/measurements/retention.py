"""Changes of cells after writing, from reads at several times: relaxation, drift, or change with ln t.

The law is chosen by the likelihood of cells that it was not fitted to.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.measurements.columns import Table, read_table
from memcompile.measurements.spread_fit import (
    CONSTANT,
    FOLDS,
    Array,
    Candidate,
    SpreadFit,
    chosen,
    fit,
    folds,
    gaussian_test,
    log_density,
    polynomial,
    standardised,
    table,
)

LEAST_CHANGES = 20
MOST_TIMES = 32
STATES = 4
"""Points of a table against conductance."""
GRID, ZOOMS = 40, 4
"""Time constants that are tried at once, and times that the grid closes in on the best one."""
RESAMPLES = 40
"""Draws of cells that standard errors are taken from."""


@dataclass(frozen=True, eq=False)
class Changes:
    """Conductances of cells when new and later, in microsiemens, and the time of the later read in seconds.

    ``reference_s`` is the time of the first read; 0 where it is not known.
    """

    start_us: Array
    later_us: Array
    time_s: Array
    cell: Array
    reference_s: float

    def of(self, rows: NDArray[Any]) -> Changes:
        """Some of the changes."""
        return Changes(self.start_us[rows], self.later_us[rows], self.time_s[rows], self.cell[rows], self.reference_s)

    @property
    def change_us(self) -> Array:
        """Change of each conductance."""
        return self.later_us - self.start_us

    def logs(self, reference_s: float) -> Array:
        """ln(t / reference) of each later read."""
        logs: Array = np.log(self.time_s / reference_s)
        return logs

    def exponents(self) -> Array | None:
        """Exponent nu of each change g (t / reference)^-nu; None if conductances or times are not above 0."""
        if self.reference_s <= 0 or min(self.start_us.min(), self.later_us.min()) <= 0:
            return None
        nu: Array = -np.log(self.later_us / self.start_us) / self.logs(self.reference_s)
        return nu


class Law(ABC):
    """A law of change, fitted to some cells."""

    name: ClassVar[str]
    size: ClassVar[int]
    """Number of fitted numbers."""
    section: ClassVar[str]
    """Section of a target that says the same."""

    @classmethod
    @abstractmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """The law fitted to changes, None if it does not apply to them."""

    @abstractmethod
    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances, in microsiemens."""

    def fields(self) -> dict[str, Any]:
        """Fields of the section."""
        return dict(vars(self))

    def numbers(self) -> dict[str, float]:
        """Fitted numbers, by name with unit."""
        return {name: value for name, value in self.fields().items() if name != "reference_s"}

    def log_likelihoods(self, changes: Changes) -> Array:
        """Logarithm of the density of each later conductance."""
        return log_density(changes.later_us, *self.moments(changes))


@dataclass(frozen=True)
class Relaxation(Law):
    """Spread that grows to a final size with one time constant."""

    name = "relaxation with a time constant"
    size = 2
    section = "relaxation"
    sigma_us: float
    time_constant_s: float

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Maximum likelihood over time constants, each with its best final size."""
        square, times = np.square(changes.change_us), changes.time_s

        def best(log_constant: float) -> tuple[float, float]:
            grown = np.maximum(-np.expm1(-times / math.exp(log_constant)), 1e-12)
            variance = float((square / grown).mean())
            return 0.5 * float(np.log(np.maximum(variance * grown, 1e-18)).mean()) + 0.5, math.sqrt(variance)

        low, high = math.log(times.min() / 10), math.log(times.max() * 10)
        constant = low
        for _ in range(ZOOMS):
            grid = np.linspace(low, high, GRID).tolist()
            constant = min(grid, key=lambda value: best(value)[0])
            low, high = constant - (high - low) / GRID, constant + (high - low) / GRID
        return cls(best(constant)[1], math.exp(constant))

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances."""
        grown: Array = np.sqrt(-np.expm1(-changes.time_s / self.time_constant_s))
        return changes.start_us, self.sigma_us * grown


@dataclass(frozen=True)
class LogTime(Law):
    """Mean and spread that are straight lines in ln t."""

    name = "straight lines in ln t"
    size = 4
    section = "retention"
    reference_s: float
    mean_us: float
    mean_per_ln_us: float
    sigma_us: float
    sigma_per_ln_us: float

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Weighted least squares and maximum likelihood in ln t."""
        reference_s = changes.reference_s or float(changes.time_s.min())
        logs = changes.logs(reference_s)
        if np.ptp(logs) == 0:
            return None
        found = fit(logs, changes.change_us, polynomial(1), polynomial(1))
        if found.spread[0] < 0:
            return None  # no spread at the reference time, where the section starts
        return cls(reference_s, *found.mean.tolist(), *found.spread.tolist())

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances."""
        logs = changes.logs(self.reference_s)
        spread = np.maximum(self.sigma_us + self.sigma_per_ln_us * logs, 0.0)
        return changes.start_us + self.mean_us + self.mean_per_ln_us * logs, spread


class Drift(Law):
    """Drift g (t / reference)^-nu, nu ~ N(mean, sigma) a cell."""

    section = "drift"
    reference_s: float

    @abstractmethod
    def exponents_at(self, start_us: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of nu of cells that start at some conductances."""

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances, to the first order in the spread."""
        logs = changes.logs(self.reference_s)
        nu, spread = self.exponents_at(changes.start_us)
        mean: Array = changes.start_us * np.exp(-nu * logs)
        return mean, mean * spread * logs

    def log_likelihoods(self, changes: Changes) -> Array:
        """Density of the exponent, by that of the conductance."""
        nu = changes.exponents()
        if nu is None:
            return np.full(len(changes.time_s), -np.inf)
        of_exponents = log_density(nu, *self.exponents_at(changes.start_us))
        return of_exponents - np.log(changes.later_us * changes.logs(self.reference_s))


@dataclass(frozen=True)
class PowerLaw(Drift):
    """Drift with one distribution of nu."""

    name = "power law"
    size = 2
    exponent_mean: float
    exponent_sigma: float
    reference_s: float

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Mean and spread of the exponents."""
        nu = changes.exponents()
        return None if nu is None else cls(float(nu.mean()), float(nu.std()), changes.reference_s)

    def exponents_at(self, start_us: Array) -> tuple[Array, Array]:
        """The same for all cells."""
        return np.full(start_us.shape, self.exponent_mean), np.full(start_us.shape, self.exponent_sigma)


@dataclass(frozen=True, eq=False)
class PowerLawByConductance(Drift):
    """Drift whose exponents depend on the conductance: tables that are linear in ln g."""

    name = "power law by conductance"
    size = 2 * STATES
    reference_s: float
    exponents: SpreadFit

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Mean and spread of the exponents against ln g."""
        nu = changes.exponents()
        if nu is None or len(np.unique(changes.start_us)) < 2 * STATES:
            return None
        state = np.log(changes.start_us)
        form = table(state, STATES)
        return cls(changes.reference_s, fit(state, nu, form, form))

    def exponents_at(self, start_us: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of nu, by the tables."""
        state = np.log(start_us)
        return self.exponents.mean_at(state), self.exponents.spread_at(state)

    def _tables(self) -> dict[str, list[list[float]]]:
        """Points [conductance, value] of the mean and of the spread of nu."""
        at_us = np.exp(self.exponents.mean_form.knots)
        values = (("mean", self.exponents.mean), ("sigma", self.exponents.spread))
        return {name: np.stack([at_us, value], axis=1).tolist() for name, value in values}

    def fields(self) -> dict[str, Any]:
        """Tables of the exponents."""
        tables = {f"exponent_{name}_table": points for name, points in self._tables().items()}
        return {"exponent_mean": 0.0, "exponent_sigma": 0.0, **tables, "reference_s": self.reference_s}

    def numbers(self) -> dict[str, float]:
        """Exponents at the points of the tables."""
        return {
            f"exponent_{name} at {at_us:.3g} uS": value
            for name, points in self._tables().items()
            for at_us, value in points
        }


@dataclass(frozen=True, eq=False)
class ByTime(Law):
    """Mean and spread of the change at each measured time, against the conductance."""

    name = "table by time and conductance"
    size = 8 * STATES
    section = "retention"
    reference_s: float
    times_s: tuple[float, ...]
    changes: tuple[SpreadFit, ...]

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Mean and spread at each time."""
        times = np.unique(changes.time_s)
        if not 1 <= len(times) <= MOST_TIMES:
            return None
        form = table(changes.start_us, STATES) if len(np.unique(changes.start_us)) >= 2 * STATES else CONSTANT
        fits = []
        for time_s in times:
            here = changes.of(changes.time_s == time_s)
            if len(here.time_s) < 4 * STATES:
                return None
            fits.append(fit(here.start_us, here.change_us, form, form))
        return cls(changes.reference_s or float(times[0]) / 10, tuple(times.tolist()), tuple(fits))

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances, as the target interpolates them."""
        logs, now = np.log((self.reference_s, *self.times_s)), np.log(changes.time_s)
        means = np.stack([0 * changes.start_us, *(item.mean_at(changes.start_us) for item in self.changes)])
        spreads = np.stack([0 * changes.start_us, *(item.spread_at(changes.start_us) for item in self.changes)])
        place = np.clip(np.searchsorted(logs, now, side="right") - 1, 0, len(logs) - 2)
        share = np.clip((now - logs[place]) / np.diff(logs)[place], 0.0, 1.0)
        rows = np.arange(len(now))
        mean = (1 - share) * means[place, rows] + share * means[place + 1, rows]
        variance = (1 - share) * spreads[place, rows] ** 2 + share * spreads[place + 1, rows] ** 2
        return changes.start_us + mean, np.sqrt(variance)

    def fields(self) -> dict[str, Any]:
        """Tables by time and conductance."""
        return {
            "reference_s": self.reference_s,
            "times_s": list(self.times_s),
            "conductances_us": list(self.changes[0].mean_form.knots or (0.0,)),
            "mean_table_us": [item.mean.tolist() for item in self.changes],
            "sigma_table_us": [item.spread.tolist() for item in self.changes],
        }

    def numbers(self) -> dict[str, float]:
        """Mean and spread of the change at each time, over all conductances."""
        found: dict[str, float] = {}
        for time_s, item in zip(self.times_s, self.changes, strict=True):
            found |= {f"mean_us after {time_s:g} s": float(item.mean.mean())}
            found |= {f"sigma_us after {time_s:g} s": float(item.spread.mean())}
        return found


LAWS: tuple[type[Law], ...] = (PowerLaw, Relaxation, LogTime, PowerLawByConductance, ByTime)


@dataclass(frozen=True, eq=False)
class RetentionFit:
    """The law that was chosen, its numbers with standard errors, and how it compares with the others."""

    name: str
    changes: Changes
    law: Law
    errors: Mapping[str, float]
    candidates: tuple[Candidate, ...]
    held_out: float
    ks_distance: float
    ks_p: float


def read_retention(path: Path) -> Table:
    """Reads of cells at several times; see :func:`memcompile.measurements.columns.read_table`."""
    return read_table(path, ("time", "measured"), ("cell", "initial", "target"))


def fit_retention(reads: Table) -> RetentionFit:
    """Fit a law of change to reads of cells at several times.

    Raises
    ------
    DataError
        The table does not say what cells held when they were new, or too few were read again.
    """
    changes = _changes(reads)
    fold = folds(changes.cell)
    compared = [found for kind in LAWS if (found := _held_out(kind, changes, fold)) is not None]
    if not compared:
        raise DataError(
            f"no law fits the reads of {reads.name}; give {LEAST_CHANGES} cells or more at two times or more"
        )
    candidates = tuple(candidate for _, candidate in compared)
    law, best = compared[chosen(candidates)]
    residuals = standardised(changes.later_us, *law.moments(changes))
    return RetentionFit(
        reads.name,
        changes,
        law,
        _standard_errors(law, changes),
        candidates,
        best.mean,
        *gaussian_test(residuals),
    )


def _held_out(kind: type[Law], changes: Changes, fold: NDArray[np.int64]) -> tuple[Law, Candidate] | None:
    """A law with the likelihood of cells that it was not fitted to; None if it does not apply to all or to the rest."""
    law, held = kind.fitted(changes), np.full(len(fold), -np.inf)
    if law is None:
        return None
    for number in range(FOLDS):
        test = fold == number
        of_rest = kind.fitted(changes.of(~test)) if test.any() and not test.all() else None
        if of_rest is not None:
            held[test] = of_rest.log_likelihoods(changes.of(test))
    return (law, Candidate(kind.name, kind.size, held)) if np.isfinite(held).all() else None


def _changes(reads: Table) -> Changes:
    """Later reads of cells beside what they held when they were new."""
    time_s, measured_us, cell = reads.columns["time"], reads.columns["measured"], reads.of("cell")
    start_us, reference_s = reads.of("initial"), 0.0
    later = time_s > 0
    if start_us is None:
        if cell is None:
            raise DataError(
                f"{reads.name} does not say what each cell held when it was new; add a column cell, so that its first "
                "read counts, or a column initial_us"
            )
        order = np.lexsort((time_s, cell))
        _, first = np.unique(cell[order], return_index=True)
        firsts = order[first]
        start_us = measured_us[firsts][cell.astype(np.int64)]
        reference_s = float(np.median(time_s[firsts]))
        later = time_s > np.maximum(time_s[firsts][cell.astype(np.int64)], reference_s)
    if later.sum() < LEAST_CHANGES:
        raise DataError(
            f"{reads.name} has {int(later.sum())} reads after the first ones; a law of change needs {LEAST_CHANGES}"
        )
    groups = np.arange(len(time_s), dtype=np.float64) if cell is None else cell
    return Changes(start_us, measured_us, time_s, groups, reference_s).of(later)


def _standard_errors(law: Law, changes: Changes) -> dict[str, float]:
    """Standard deviations of what is fitted to cells drawn anew with replacement; reads of a cell stay together."""
    names, of = np.unique(changes.cell, return_inverse=True)
    rows = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    rng, keys = np.random.default_rng(0), tuple(law.numbers())
    found: list[Sequence[float]] = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[cell] for cell in rng.integers(0, len(names), len(names))])
        again = type(law).fitted(changes.of(drawn))
        numbers = () if again is None else tuple(again.numbers().values())
        if len(numbers) == len(keys):
            found.append(numbers)
    if len(found) < RESAMPLES // 2:
        return {}
    return dict(zip(keys, np.std(np.array(found), axis=0, ddof=1).tolist(), strict=True))
