"""Life of a chip: accuracy against age, with and without refresh.

Ages are points in log time. A refresh fits the digital gain and offset of each line again and writes no cell, or writes
all cells again, which draws new errors and starts their age anew; lines are then fitted, too. A refreshed chip is
looked at just before refreshes, where it is at its worst: at the end of the interval that a point lies in, and of the
first intervals, in which most changes.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from memcompile.data.loader import Dataset
from memcompile.errors import DataError, UsageError
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.pulses import nominal_pulses
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.program.program import Program
from memcompile.progress.phases import AGE
from memcompile.report.emulated_chips import EmulatedChips, measured_accuracy, spread
from memcompile.runtime.emulator import Effects, Emulator

FIRST_INTERVALS = 3
"""Intervals between periodic refreshes that are always looked at."""

RefreshKind = Literal["scales", "writing"]
YEAR_S = 365.25 * 86_400.0
UNITS = ((2 * YEAR_S, YEAR_S, "years"), (2 * 86_400.0, 86_400.0, "days"), (7200.0, 3600.0, "h"), (120.0, 60.0, "min"))
"""Durations from the first number on are counted in units of the second."""


@dataclass(frozen=True)
class Refreshes:
    """Ages at which a chip is refreshed, in seconds: some that are given, or one after each period."""

    by: RefreshKind
    times_s: tuple[float, ...] = ()
    every_s: float = math.inf

    def count(self, age_s: float) -> int:
        """Number of refreshes up to an age."""
        if self.times_s:
            return bisect.bisect_right(self.times_s, age_s)
        # An age that is a whole number of periods but for rounding has had the last of them.
        return math.floor(age_s / self.every_s * (1 + 1e-12))

    def time_s(self, number: int) -> float:
        """Age at the n-th refresh, from 1; 0 for none, infinite beyond the last."""
        if number == 0:
            return 0.0
        if self.times_s:
            return self.times_s[number - 1] if number <= len(self.times_s) else math.inf
        return number * self.every_s

    @property
    def words(self) -> str:
        """Refreshes for people."""
        if self.times_s:
            return f"a refresh after {', '.join(map(age_text, self.times_s))}"
        return f"a refresh every {age_text(self.every_s)}"


@dataclass(frozen=True)
class Age:
    """Accuracy of some chips at one age, in shares; ``refreshes`` they have had, and the time since the last one."""

    age_s: float
    since_s: float
    refreshes: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over chips."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation from chip to chip, 0 of one."""
        return spread(np.array(self.accuracies))


@dataclass(frozen=True)
class Endurance:
    """Pulses of the cell that gets most, by nominal steps: of one writing from new, and of one refresh by writing."""

    first: int
    each: int
    limit: int | None

    def used(self, refreshes: int) -> float | None:
        """Share of the endurance that is used after some refreshes; None where the target gives none."""
        return None if self.limit is None else (self.first + refreshes * self.each) / self.limit


@dataclass(frozen=True)
class Life:
    """Accuracy of chips against age: without refresh, and with it if refreshes were asked for."""

    plain: tuple[Age, ...]
    refreshed: tuple[Age, ...]
    refreshes: Refreshes | None
    endurance: Endurance | None
    calibrated: bool


def log_ages(first_s: float, last_s: float, points: int) -> tuple[float, ...]:
    """Ages from the first to the last, evenly spaced in log time."""
    ages = np.geomspace(first_s, last_s, points)
    ages[0], ages[-1] = first_s, last_s
    return tuple(ages.tolist())


def life_of(
    program: Program,
    dataset: Dataset,
    ages_s: Sequence[float],
    *,
    seeds: int = 3,
    seed: int = 0,
    refreshes: Refreshes | None = None,
    calibrate: bool = True,
    progress: ProgressBar = no_progress,
) -> Life:
    """Measure the accuracy of emulated chips at some ages.

    Parameters
    ----------
    ages_s
        Rising ages since programming, in seconds, above 0.
    seeds, seed
        Number of chips, and the seed of the first; one chip if the program is transferred to one.
    refreshes
        When and how chips are refreshed.
    calibrate
        Fit the lines of new chips on calibration samples.

    Raises
    ------
    DataError
        There are no labels.
    UsageError
        Cells do not age, or chips cannot be refreshed so.
    """
    if dataset.labels is None:
        raise DataError(f"{dataset.name} has no labels, so there is no accuracy to follow; give data with labels")
    check_aging(program)
    chips = _AgingChips(program, dataset, calibrate, refreshes)
    numbers = [program.chip.seed] if program.chip is not None else range(seed, seed + seeds)
    worst = () if refreshes is None else worst_ages(refreshes, ages_s)
    plain, refreshed = [[] for _ in ages_s], [[] for _ in worst]  # type: list[list[float]], list[list[float]]
    with progress(AGE, len(numbers) * (len(ages_s) + len(worst))) as advance:
        for number in numbers:
            for place, age_s in enumerate(ages_s):
                plain[place].append(chips.accuracy(number, Conditions(age_s), NEW))
                advance(1)
            for place, (age_s, count) in enumerate(worst):
                refreshed[place].append(chips.refreshed_accuracy(number, age_s, count))
                advance(1)
    return Life(
        tuple(Age(age, age, 0, tuple(each)) for age, each in zip(ages_s, plain, strict=True)),
        tuple(
            Age(age, age - (refreshes.time_s(count) if refreshes else 0.0), count, tuple(each))
            for (age, count), each in zip(worst, refreshed, strict=True)
        ),
        refreshes,
        _endurance(program, refreshes, numbers[0]),
        not chips.obstacle,
    )


def check_aging(program: Program) -> None:
    """Raise UsageError unless the cells of a program change with time."""
    target = program.target
    aging = (target.relaxation, target.retention, target.drift, target.flicker_noise)
    if target.cell.continuous or not program.layers or all(section is None for section in aging):
        raise UsageError(
            f"cells of {target.name} do not change with time; give the target [relaxation], [retention], [drift] or "
            "[flicker_noise], or a device that has them, such as --set cell.device=pcm when compiling"
        )


def worst_ages(refreshes: Refreshes, ages_s: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """Ages to look at a refreshed chip, and refreshes that it has had just before each.

    Ages before the first refresh; then ends of intervals: of those with one of the ages, of the first ones, and of all
    where refreshes are given one by one.
    """
    last_s, before = ages_s[-1], [(age, 0) for age in ages_s if refreshes.count(age) == 0]
    counts = {refreshes.count(age) for age in ages_s} | set(range(len(refreshes.times_s) or FIRST_INTERVALS))
    last = refreshes.count(last_s)
    if last and refreshes.time_s(last) >= last_s:
        counts.add(last - 1)  # the last age ends an interval and begins none
    ends = [(min(refreshes.time_s(count + 1), last_s), count) for count in counts if refreshes.time_s(count) < last_s]
    return tuple(sorted({*before, *ends}))


class _AgingChips:
    """Chips of a program, with their lines fitted under some conditions."""

    def __init__(self, program: Program, dataset: Dataset, calibrate: bool, refreshes: Refreshes | None) -> None:
        self.program, self.dataset, self.refreshes = program, dataset, refreshes
        self._chips = EmulatedChips(program, dataset, calibrate=calibrate)
        self.obstacle = self._chips.obstacle
        self._check_refresh()
        self._fitted: dict[tuple[int, Conditions], Program] = {}

    def _check_refresh(self) -> None:
        if self.refreshes is None:
            return
        if self.program.chip is not None:
            raise UsageError(
                "the program is on a chip that was tuned; `memcompile refresh` fits its scales at one age, and run "
                "--time follows the result"
            )
        if self.program.placement.segments:
            raise UsageError("the arrays of this program are written anew for each batch, so that nothing is refreshed")
        if self.refreshes.by == "scales" and self.obstacle:
            raise UsageError(
                f"a refresh of scales fits lines as a calibration does, and chips are not calibrated: {self.obstacle}; "
                "refresh by writing"
            )

    def refreshed_accuracy(self, seed: int, age_s: float, count: int) -> float:
        """Accuracy of a chip at an age, after so many refreshes."""
        assert self.refreshes is not None
        at_s = self.refreshes.time_s(count)
        if self.refreshes.by == "writing":
            return self.accuracy(seed, Conditions(age_s - at_s, writes=count), Conditions(writes=count))
        return self.accuracy(seed, Conditions(age_s), Conditions(at_s))

    def accuracy(self, seed: int, now: Conditions, fitted: Conditions) -> float:
        """Share of right answers of a chip whose lines were fitted under other conditions."""
        return measured_accuracy(Emulator(self._chip(seed, fitted), seed, **vars(now)), self.dataset)

    def _chip(self, seed: int, fitted: Conditions) -> Program:
        key = seed, fitted
        if key not in self._fitted:
            # One chip is followed after the other.
            self._fitted = {known: chip for known, chip in self._fitted.items() if known[0] == seed}
            self._fitted[key] = self._chips.chip(seed, conditions=fitted).used
        return self._fitted[key]


def _endurance(program: Program, refreshes: Refreshes | None, seed: int) -> Endurance | None:
    """Pulses of the cell that gets most; None where cells are not written again or the target has no pulses."""
    spec, cell = program.target.write_verify, program.target.cell
    if refreshes is None or refreshes.by != "writing" or spec is None:
        return None
    first = each = 0
    working = replace(Effects(), stuck_cells=False, dead_lines=False)
    later = Emulator(program, seed, effects=working, time_s=refreshes.time_s(1)).machine.devices
    for array in np.unique(program.placement.tiles.array).tolist():
        goals_us = cell.g_min_us + later.levels(array).astype(np.float64) * cell.level_step_us
        aged_us = later.array(array).astype(np.float64) * later.converter.unit_us
        lowest_us = np.full(goals_us.shape, cell.g_min_us)
        first = max(first, int(nominal_pulses(lowest_us, goals_us, spec)[0].max(initial=0)))
        each = max(each, int(nominal_pulses(aged_us, goals_us, spec)[0].max(initial=0)))
    return Endurance(first, each, spec.endurance_pulses)


# --- what it says -----------------------------------------------------------------------------------


def time_above_s(ages: Sequence[Age], accuracy: float) -> float:
    """Age up to which the mean accuracy is not below one: between two points linear in ln t, infinite if it never is.

    0 if it is below from the first point on.
    """
    below = next((place for place, age in enumerate(ages) if age.mean < accuracy), None)
    if below is None:
        return math.inf
    if below == 0:
        return 0.0
    before, after = ages[below - 1], ages[below]
    share = (before.mean - accuracy) / (before.mean - after.mean)
    return math.exp(math.log(before.age_s) + share * math.log(max(after.age_s / before.age_s, 1.0)))


def age_text(age_s: float) -> str:
    """A duration in the unit that people use for it, with two or three digits."""
    for least, unit, name in UNITS:
        if age_s >= least * (1 - 1e-9):
            return f"{age_s / unit:.3g} {name}"
    return f"{age_s:.3g} s"


def life_sentence(life: Life, accuracy: float) -> str:
    """Sentence on the time that chips stay above an accuracy."""
    parts = [_stays(life.plain, accuracy, "without refresh")]
    if life.refreshes is not None:
        parts.append(_stays(life.refreshed, accuracy, f"with {life.refreshes.words}"))
    return f"stays above {100 * accuracy:.2f} % {', '.join(parts)}"


def _stays(ages: Sequence[Age], accuracy: float, how: str) -> str:
    time_s = time_above_s(ages, accuracy)
    if time_s == math.inf:
        return f"for all of {age_text(ages[-1].age_s)} {how}"
    return f"for {age_text(time_s)} {how}" if time_s else f"at no time {how}"
