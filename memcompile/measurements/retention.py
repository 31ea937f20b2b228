"""How cells change after writing, from reads at several times: relaxation, drift, or change with the logarithm of time.

The law is chosen by the likelihood of cells that it was not fitted to.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    polynomial,
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
LOG_2_PI = math.log(2 * math.pi)


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


class Law(ABC):
    """A law of change, fitted to some cells."""

    name: ClassVar[str]
    size: ClassVar[int]

    @classmethod
    @abstractmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """The law fitted to changes, None if it does not apply to them."""

    @abstractmethod
    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances, in microsiemens."""

    @abstractmethod
    def sections(self) -> dict[str, dict[str, Any]]:
        """Sections of a target that say the same."""

    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """What was fitted, by name with unit."""

    def log_likelihoods(self, changes: Changes) -> Array:
        """Logarithm of the density of each later conductance."""
        mean, spread = self.moments(changes)
        spread = np.maximum(spread, 1e-9)
        density: Array = -0.5 * ((changes.later_us - mean) / spread) ** 2 - np.log(spread) - 0.5 * LOG_2_PI
        return density


@dataclass(frozen=True)
class Relaxation(Law):
    """Spread that grows to a final size with one time constant."""

    name: ClassVar[str] = "relaxation with a time constant"
    size: ClassVar[int] = 2
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

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section ``relaxation``."""
        return {"relaxation": {"sigma_us": self.sigma_us, "time_constant_s": self.time_constant_s}}

    def numbers(self) -> dict[str, float]:
        """Final size and time constant."""
        return {"sigma_us": self.sigma_us, "time_constant_s": self.time_constant_s}


@dataclass(frozen=True)
class LogTime(Law):
    """Mean and spread that are straight lines in ln t."""

    name: ClassVar[str] = "straight lines in ln t"
    size: ClassVar[int] = 4
    reference_s: float
    mean_us: float
    mean_per_ln_us: float
    sigma_us: float
    sigma_per_ln_us: float

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Weighted least squares and maximum likelihood in ln t."""
        reference_s = changes.reference_s or float(changes.time_s.min())
        logs = np.log(changes.time_s / reference_s)
        if np.ptp(logs) == 0:
            return None
        found = fit(logs, changes.change_us, polynomial(1), polynomial(1))
        if found.spread[0] < 0:
            return None  # no spread at the reference time, where the section starts
        return cls(reference_s, *found.mean.tolist(), *found.spread.tolist())

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances."""
        logs = np.log(changes.time_s / self.reference_s)
        spread = np.maximum(self.sigma_us + self.sigma_per_ln_us * logs, 0.0)
        return changes.start_us + self.mean_us + self.mean_per_ln_us * logs, spread

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section ``retention``."""
        return {"retention": {"reference_s": self.reference_s, **self.numbers()}}

    def numbers(self) -> dict[str, float]:
        """Values at the reference time, and slopes."""
        names = ("mean_us", "mean_per_ln_us", "sigma_us", "sigma_per_ln_us")
        return {name: getattr(self, name) for name in names}


def _exponents(changes: Changes) -> tuple[Array, Array] | None:
    """Exponent of each change, and ln(t / reference); None if conductances or times are not above 0."""
    if changes.reference_s <= 0 or min(changes.start_us.min(), changes.later_us.min()) <= 0:
        return None
    logs = np.log(changes.time_s / changes.reference_s)
    return -np.log(changes.later_us / changes.start_us) / logs, logs


@dataclass(frozen=True)
class PowerLaw(Law):
    """Drift g (t / reference)^-nu, with one distribution of nu."""

    name: ClassVar[str] = "power law"
    size: ClassVar[int] = 2
    reference_s: float
    exponent_mean: float
    exponent_sigma: float

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Mean and spread of the exponents."""
        found = _exponents(changes)
        return None if found is None else cls(changes.reference_s, float(found[0].mean()), float(found[0].std()))

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances, to the first order in the spread."""
        logs = np.log(changes.time_s / self.reference_s)
        mean: Array = changes.start_us * np.exp(-self.exponent_mean * logs)
        return mean, mean * self.exponent_sigma * logs

    def log_likelihoods(self, changes: Changes) -> Array:
        """Density of the exponent, by that of the conductance."""
        found = _exponents(changes)
        if found is None:
            return np.full(len(changes.time_s), -np.inf)
        nu, logs = found
        spread = max(self.exponent_sigma, 1e-9)
        density: Array = -0.5 * ((nu - self.exponent_mean) / spread) ** 2 - math.log(spread) - 0.5 * LOG_2_PI
        return density - np.log(changes.later_us * logs)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section ``drift``."""
        return {"drift": {**self.numbers(), "reference_s": self.reference_s}}

    def numbers(self) -> dict[str, float]:
        """Mean and spread of the exponent."""
        return {"exponent_mean": self.exponent_mean, "exponent_sigma": self.exponent_sigma}


@dataclass(frozen=True, eq=False)
class PowerLawByConductance(Law):
    """Drift whose exponents depend on the conductance: tables that are linear in ln g."""

    name: ClassVar[str] = "power law by conductance"
    size: ClassVar[int] = 2 * STATES
    reference_s: float
    exponents: SpreadFit

    @classmethod
    def fitted(cls, changes: Changes) -> Law | None:
        """Mean and spread of the exponents against ln g."""
        found = _exponents(changes)
        if found is None or len(np.unique(changes.start_us)) < 2 * STATES:
            return None
        state = np.log(changes.start_us)
        form = table(state, STATES)
        return cls(changes.reference_s, fit(state, found[0], form, form))

    def moments(self, changes: Changes) -> tuple[Array, Array]:
        """Mean and standard deviation of the later conductances, to the first order in the spread."""
        logs, state = np.log(changes.time_s / self.reference_s), np.log(changes.start_us)
        mean: Array = changes.start_us * np.exp(-self.exponents.mean_at(state) * logs)
        return mean, mean * self.exponents.spread_at(state) * logs

    def log_likelihoods(self, changes: Changes) -> Array:
        """Density of the exponent, by that of the conductance."""
        found = _exponents(changes)
        if found is None:
            return np.full(len(changes.time_s), -np.inf)
        of_exponents = self.exponents.log_likelihoods(np.log(changes.start_us), found[0])
        return of_exponents - np.log(changes.later_us * found[1])

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section ``drift`` with tables."""
        at_us = np.exp(self.exponents.mean_form.knots).tolist()
        tables = {
            "exponent_mean_table": [list(point) for point in zip(at_us, self.exponents.mean.tolist(), strict=True)],
            "exponent_sigma_table": [list(point) for point in zip(at_us, self.exponents.spread.tolist(), strict=True)],
        }
        return {"drift": {"exponent_mean": 0.0, "exponent_sigma": 0.0, **tables, "reference_s": self.reference_s}}

    def numbers(self) -> dict[str, float]:
        """Exponents at the points of the tables."""
        at_us = np.exp(self.exponents.mean_form.knots).tolist()
        found: dict[str, float] = {}
        for name, values in (("mean", self.exponents.mean), ("sigma", self.exponents.spread)):
            found |= {f"exponent_{name} at {g:.3g} uS": value for g, value in zip(at_us, values.tolist(), strict=True)}
        return found


@dataclass(frozen=True, eq=False)
class ByTime(Law):
    """Mean and spread of the change at each measured time, against the conductance."""

    name: ClassVar[str] = "table by time and conductance"
    size: ClassVar[int] = 8 * STATES
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

    def sections(self) -> dict[str, dict[str, Any]]:
        """Section ``retention`` with tables."""
        form = self.changes[0].mean_form
        knots = form.knots or (0.0,)
        return {
            "retention": {
                "reference_s": self.reference_s,
                "times_s": list(self.times_s),
                "conductances_us": list(knots),
                "mean_table_us": [item.mean.tolist() for item in self.changes],
                "sigma_table_us": [item.spread.tolist() for item in self.changes],
            }
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
    sections: dict[str, dict[str, Any]] = field(repr=False)


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
    laws, candidates = [], []
    for kind in LAWS:
        held = np.zeros(len(fold))
        law = kind.fitted(changes)
        for number in range(FOLDS):
            test = fold == number
            of_rest = kind.fitted(changes.of(~test)) if law is not None and test.any() and not test.all() else None
            held[test] = -np.inf if of_rest is None else of_rest.log_likelihoods(changes.of(test))
        if law is not None and np.isfinite(held).all():
            laws.append(law)
            candidates.append(Candidate(kind.name, kind.size, held))
    if not laws:
        raise DataError(
            f"no law fits the reads of {reads.name}; give {LEAST_CHANGES} cells or more at two times or more"
        )
    place = chosen(candidates)
    law = laws[place]
    mean, spread = law.moments(changes)
    residuals = (changes.later_us - mean) / np.maximum(spread, 1e-12)
    return RetentionFit(
        reads.name,
        changes,
        law,
        _standard_errors(law, changes),
        tuple(candidates),
        candidates[place].mean,
        *gaussian_test(residuals),
        law.sections(),
    )


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
