"""Window, levels, error of writing and outliers of cells, from pairs of goal and measured conductance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.measurements.columns import Table, read_table
from memcompile.measurements.spread_fit import CONSTANT, NONE, PROPORTIONAL, Array, Choice, choose, polynomial, table

LEAST_PAIRS = 20
MOST_APART = 10.0
"""Factor by which medians of goals and of measurements may differ."""
TABLE_POINTS = 8
GROUP = 25
"""Pairs of neighbouring goals that are compared to find outliers."""
REPEATS = 8
"""Pairs a goal from which on those of one goal are compared with each other alone."""
OUTLIER = 6.0
"""Distance of an outlier from the line through its group, in standard deviations by the median absolute deviation."""
STUCK_SHARE = 0.05
"""Outliers so near an end of the window, as a share of it, count as stuck there."""
MOST_LEVELS = 128


@dataclass(frozen=True)
class Outlier:
    """A pair that the rest of its goals does not explain: its line, both conductances, and its distance."""

    line: int
    target_us: float
    measured_us: float
    deviations: float


@dataclass(frozen=True, eq=False)
class PairsFit:
    """Cells as pairs describe them.

    ``levels_measured`` says that goals were so many evenly spaced levels; if not, ``levels`` are as many as can be
    told apart, two standard deviations apart. ``choice`` is the error against g / g_max, in microsiemens.
    """

    name: str
    target_us: Array
    measured_us: Array
    lines: NDArray[np.int64]
    outliers: tuple[Outlier, ...]
    g_min_us: float
    g_max_us: float
    levels: int
    levels_measured: bool
    choice: Choice
    stuck_low: int
    stuck_high: int

    @property
    def count(self) -> int:
        """Number of pairs, outliers included."""
        return len(self.lines)

    def error_at_us(self, g_us: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the error of cells written to some goals, in microsiemens."""
        fit = self.choice.fit
        return fit.mean_at(g_us / self.g_max_us), fit.spread_at(g_us / self.g_max_us)

    def programming(self) -> dict[str, Any]:
        """Fields of ``[programming]``."""
        fit = self.choice.fit
        fields: dict[str, Any] = {"sigma_us": 0.0}
        spread = fit.spread.tolist()
        if fit.spread_form.kind == "constant":
            fields["sigma_us"] = spread[0]
        elif fit.spread_form.kind == "proportional":
            fields |= {"sigma_us": spread[0], "sigma_proportional_share": spread[1] / self.g_max_us}
        elif fit.spread_form.kind == "polynomial":
            fields["sigma_polynomial_us"] = spread
        else:
            fields["sigma_table_us"] = fit.spread_form.points(fit.spread, self.g_max_us)
        if fit.mean_form.kind == "table":
            fields["mean_table_us"] = fit.mean_form.points(fit.mean, self.g_max_us)
        elif fit.mean_form.kind != "none":
            fields["mean_polynomial_us"] = fit.mean.tolist()
        return fields


def read_pairs(path: Path) -> Table:
    """Pairs of a goal and a measured conductance; see :func:`memcompile.measurements.columns.read_table`."""
    return read_table(path, ("target", "measured"))


def fit_pairs(pairs: Table) -> PairsFit:
    """Fit cells to pairs of goal and measured conductance.

    Raises
    ------
    DataError
        There are too few pairs, or all have one goal.
    """
    target_us, measured_us = pairs.columns["target"], pairs.columns["measured"]
    if pairs.count < LEAST_PAIRS:
        raise DataError(
            f"{pairs.name} has {pairs.count} pairs; a spread against conductance needs {LEAST_PAIRS} or more"
        )
    aimed_at, held = float(np.median(target_us)), float(np.median(measured_us))
    if not aimed_at / MOST_APART <= held <= aimed_at * MOST_APART:
        raise DataError(
            f"{pairs.name}: half of the cells were aimed at {aimed_at:.4g} uS or more and half of them hold "
            f"{held:.4g} uS or less; is a unit wrong, or are columns of different cells?"
        )
    distances = _distances(target_us, measured_us - target_us)
    odd = np.abs(distances) > OUTLIER
    outliers = tuple(
        Outlier(int(pairs.lines[row]), float(target_us[row]), float(measured_us[row]), float(distances[row]))
        for row in np.flatnonzero(odd)
    )
    goals, errors = target_us[~odd], (measured_us - target_us)[~odd]
    low, high = float(goals.min()), float(goals.max())
    if low == high:
        raise DataError(f"all pairs of {pairs.name} have the goal {low:g} uS; a window needs goals from low to high")
    x = goals / high
    choice = choose(
        x,
        errors,
        (NONE, CONSTANT, polynomial(1), polynomial(2), table(x, TABLE_POINTS)),
        (CONSTANT, PROPORTIONAL, polynomial(2), polynomial(4), table(x, TABLE_POINTS)),
    )
    levels = _levels_aimed_at(goals)
    spread = float(choice.fit.spread_at(x).mean())
    told = min(max(math.floor((high - low) / (2 * spread)) + 1, 2), MOST_LEVELS) if spread > 0 else MOST_LEVELS
    near = STUCK_SHARE * (high - low)
    return PairsFit(
        name=pairs.name,
        target_us=target_us,
        measured_us=measured_us,
        lines=pairs.lines,
        outliers=outliers,
        g_min_us=low,
        g_max_us=high,
        levels=levels or told,
        levels_measured=levels is not None,
        choice=choice,
        stuck_low=sum(item.measured_us <= low + near for item in outliers),
        stuck_high=sum(item.measured_us >= high - near for item in outliers),
    )


def _distances(target_us: Array, errors_us: Array) -> Array:
    """Distance of each error from the line through its neighbours by goal, in standard deviations."""
    distances = np.zeros(len(errors_us))
    order = np.argsort(target_us, kind="stable")
    whole = _deviation(errors_us)
    _, counts = np.unique(target_us, return_counts=True)
    repeated = len(counts) * REPEATS <= len(order)
    cuts = np.cumsum(counts)[:-1] if repeated else np.arange(GROUP, len(order) - GROUP + 1, GROUP)
    for group in np.split(order, cuts):
        level = errors_us[group] - _slope(target_us[group], errors_us[group]) * target_us[group]
        deviation = _deviation(level) or whole
        if deviation > 0:
            distances[group] = (level - np.median(level)) / deviation
    return distances


def _slope(x: Array, y: Array) -> float:
    """Median slope between all pairs of numbers (Theil and Sen), 0 where all states are one."""
    if x.min() == x.max():
        return 0.0
    a, b = np.triu_indices(len(x), 1)
    apart = x[a] != x[b]
    return float(np.median((y[a] - y[b])[apart] / (x[a] - x[b])[apart]))


def _deviation(values: Array) -> float:
    """Standard deviation by the median absolute deviation, which outliers do not move."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _levels_aimed_at(goals_us: NDArray[np.float64]) -> int | None:
    """Number of evenly spaced levels that were aimed at, None if goals are not such levels."""
    levels, counts = np.unique(goals_us, return_counts=True)
    if not 2 <= len(levels) <= MOST_LEVELS or counts.mean() < 3:
        return None
    steps = np.diff(levels)
    return len(levels) if float(np.ptp(steps)) <= 0.02 * float(steps.mean()) else None
