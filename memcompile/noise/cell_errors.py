"""Errors of weights, by cause, from the errors that their cells have.

A weight is the sum over slices of base^s times the difference of a pair. All errors here are in units of the integer
weight, which are steps of the least significant slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.aging_sections import DriftSpec
from memcompile.hardware.closed_loop import LEAST_STEP_SHARE, write
from memcompile.hardware.conditions import Conditions
from memcompile.hardware.pair_corrections import MOST_CORRECTIONS, accepted_errors
from memcompile.hardware.target import CellSpec, Target, WriteVerifySpec
from memcompile.noise.cause import Cause
from memcompile.noise.gaussians import Array, clipped_moments, moments_between, nodes, normal_share

PULSE_GOALS = 161
"""Goals between the ends of the window for which closed-loop programming is run pulse by pulse."""
PULSE_CELLS = 256
"""Cells written to each of them."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Mean and variance of independent errors, of one shape."""

    mean: Array
    variance: Array


def weight_errors(
    digits: NDArray[np.integer], base: int, blank: NDArray[np.bool_], target: Target, age: Conditions
) -> dict[Cause, Errors]:
    """Errors of the weights of a matrix with slices.

    Parameters
    ----------
    digits
        Signed levels of the pairs, [slices, ..., rows, columns], the least significant slice first.
    base
        Value of a step of a slice in steps of the one below.
    blank
        Places that hold no weight, as in the matrix of a parallel window, [..., rows, columns].
    age
        Since the cells were written.

    Returns
    -------
    Errors by cause, each [..., rows, columns]; causes without size are left out.
    """
    kinds, places = _kinds(digits, blank)
    found = {}
    for cause, errors in _errors_of_kinds(kinds[:, :-1].T.astype(np.float64), kinds[:, -1] > 0, base, target, age):
        if errors.mean.any() or errors.variance.any():
            found[cause] = Errors(errors.mean[places], errors.variance[places])
    return found


def _kinds(digits: NDArray[np.integer], blank: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different weights, [kinds, slices + 1] with the flag of blank ones last, and the kind at each place."""
    span = 2 * int(np.abs(digits).max(initial=0)) + 1
    key = blank.astype(np.int64)
    for digit in digits:
        key = key * span + digit + span // 2
    numbers, places = np.unique(key, return_inverse=True)
    kinds = np.zeros((len(numbers), len(digits) + 1), np.int64)
    for column in range(len(digits) - 1, -1, -1):
        numbers, rest = np.divmod(numbers, span)
        kinds[:, column] = rest - span // 2
    kinds[:, -1] = numbers
    return kinds, places.reshape(blank.shape)


def _errors_of_kinds(
    digits: Array, blank: NDArray[np.bool_], base: int, target: Target, age: Conditions
) -> Iterator[tuple[Cause, Errors]]:
    """Errors by cause of weights with some digits, [slices, kinds]."""
    if target.cell.continuous:
        return
    yield Cause.PROGRAMMING, _programming(digits, blank, base, target)
    yield Cause.STUCK_CELLS, _stuck(digits, base, target)
    for cause, (mean_us, variance_us) in _aging(digits, target, age).items():
        powers = float(base) ** np.arange(len(digits))[:, None]
        step_us = target.cell.level_step_us
        mean = (powers * (mean_us[0] - mean_us[1])).sum(axis=0) / step_us
        variance = (np.square(powers) * variance_us.sum(axis=0)).sum(axis=0) / step_us**2
        yield cause, Errors(mean, variance)


# --- programming ----------------------------------------------------------------------------------


def cell_error_us(goals_us: Array, target: Target) -> tuple[Array, Array]:
    """Mean and variance of what writing leaves in cells, max(g + mean(g) + sigma(g) z, 0) - g, in uS and uS^2."""
    if target.emulated_pulses is not None:
        return _pulse_error_us(goals_us, target)
    spec, cell = target.programming, target.cell
    mean, variance = clipped_moments(
        goals_us + spec.mean_at_us(goals_us, cell.reference_us), spec.sigma_at_us(goals_us, cell.reference_us)
    )
    return mean - goals_us, variance


def read_variance(target: Target) -> Array:
    """Variance of the read noise of a cell at each level, in squares of level steps, [levels]."""
    variance: Array = np.square(target.read_noise.sigma_at_us(_levels_us(target)) / target.cell.level_step_us)
    return variance


def write_variance(target: Target) -> Array:
    """Mean square of the error that writing leaves in a cell at each level, in squares of level steps, [levels]."""
    mean_us, variance_us = cell_error_us(_levels_us(target), target)
    square: Array = (np.square(mean_us) + variance_us) / target.cell.level_step_us**2
    return square


def _levels_us(target: Target) -> Array:
    """Conductances of the levels, [levels]: there are few, so that what depends on them is computed once."""
    cell = target.cell
    levels_us: Array = cell.g_min_us + np.arange(cell.levels, dtype=np.float64) * cell.level_step_us
    return levels_us


def _pulse_error_us(goals_us: Array, target: Target) -> tuple[Array, Array]:
    """Error that pulses leave, between goals for which some cells were written pulse by pulse."""
    spec = target.emulated_pulses
    assert spec is not None
    table_us, mean_us, variance_us = _pulse_table(spec, target.cell)
    return np.interp(goals_us, table_us, mean_us), np.interp(goals_us, table_us, variance_us)


@lru_cache(maxsize=8)
def _pulse_table(spec: WriteVerifySpec, cell: CellSpec) -> tuple[Array, Array, Array]:
    """Goals, and mean and variance of the error of cells written to each of them from the lowest level."""
    goals_us = np.linspace(cell.g_min_us, cell.g_max_us, PULSE_GOALS)
    rng = np.random.default_rng(0)
    share = np.maximum(1.0 + spec.device_sigma_share * rng.standard_normal(PULSE_CELLS), LEAST_STEP_SHARE)
    goals = np.repeat(goals_us, PULSE_CELLS)
    shares = np.tile(share, PULSE_GOALS)
    start = np.full(goals.shape, cell.g_min_us)
    written = write(start, goals, shares, spec, cell, lambda pulse, cells: rng.standard_normal(len(cells)))
    errors = (written.cells_us - goals).reshape(PULSE_GOALS, PULSE_CELLS)
    return goals_us, errors.mean(axis=1), errors.var(axis=1)


def _pair_error(levels: Array, blank: NDArray[np.bool_], target: Target) -> tuple[Array, Array]:
    """Mean and variance of the error of pairs that are to hold some signed levels, in levels, [..., kinds]."""
    cell, share = target.cell, target.programming.blank_share
    mean, variance = np.zeros(levels.shape), np.zeros(levels.shape)
    for sign in (1, -1):
        written = np.clip(sign * levels, 0.0, cell.levels - 1)
        of_cell, spread = cell_error_us(cell.g_min_us + written * cell.level_step_us, target)
        kept = np.where(blank & (written == 0), share, 1.0)
        mean += sign * kept * of_cell / cell.level_step_us
        variance += np.square(kept) * spread / cell.level_step_us**2
    return mean, variance


def _corrected_error(
    levels: Array,
    mean: Array,
    variance: Array,
    ends: tuple[Array, Array],
    target: Target,
) -> tuple[Array, Array]:
    """Mean and variance of the error of pairs, [..., kinds], once those beyond the ends were written again.

    ``mean`` and ``variance`` are those of a first write. A correction leaves the error of one write, and the cell
    further from the lowest level is mostly the one that has room for it.
    """
    cell = target.cell
    goals_us = cell.g_min_us + np.clip(np.abs(levels), 0.0, cell.levels - 1) * cell.level_step_us
    mean_us, variance_us = cell_error_us(goals_us, target)
    again = np.sign(levels) * mean_us / cell.level_step_us, np.sqrt(variance_us) / cell.level_step_us
    first_share, *first = moments_between(mean, np.sqrt(variance), ends)
    share, *within = moments_between(*again, ends)
    whole = again[0], np.square(again[0]) + np.square(again[1])
    tries = sum((1.0 - share) ** turn for turn in range(MOST_CORRECTIONS))
    failed = (1.0 - share) ** (MOST_CORRECTIONS - 1)
    first_moment, second_moment = (
        start + (1.0 - first_share) * (tries * inside + failed * (all_of - inside))
        for start, inside, all_of in zip(first, within, whole, strict=True)
    )
    return first_moment, np.maximum(second_moment - np.square(first_moment), 0.0)


def _programming(digits: Array, blank: NDArray[np.bool_], base: int, target: Target) -> Errors:
    """Error of weights whose slices are written one after the other, each with the error of those above it.

    What a slice leaves is taken for a Gaussian number with its mean and variance, over which the goals of the next
    slice are averaged.
    """
    most, again = target.signed_levels, target.programming.write_again_share > 0
    points, weights = nodes()
    left, spread = np.zeros(digits.shape[1]), np.zeros(digits.shape[1])
    for place in range(len(digits) - 1, -1, -1):
        # Steps that the slice is to hold, its own and those left by the slices above: [nodes, kinds].
        goals = digits[place] + base * (left + np.sqrt(spread) * points[:, None])
        if again:
            # Slices above were written until this one can make up for them.
            goals = np.clip(goals, -most, most)
        mean, variance = _pair_error(goals, blank, target)
        if again:
            below = None if place == 0 else digits[place - 1]
            ends = accepted_errors(goals, below, base, target)
            mean, variance = _corrected_error(goals, mean, variance, ends, target)
        missing = goals - np.clip(goals, -most, most) - mean
        left = weights @ missing
        spread = np.maximum(weights @ (np.square(missing) + variance) - np.square(left), 0.0)
    apart = blank & (target.programming.blank_share * base < 1)
    powers = float(base) ** np.arange(len(digits))
    _, alone = _pair_error(np.zeros(1), np.ones(1, bool), target)
    return Errors(np.where(apart, 0.0, -left), np.where(apart, alone * np.square(powers).sum(), spread))


# --- stuck cells ----------------------------------------------------------------------------------


def _stuck(digits: Array, base: int, target: Target) -> Errors:
    """Error of weights one of whose cells is stuck, to the first power of the shares.

    The slices below take up what they reach, and the other cell does where the lowest slice is written again.
    """
    faults, most = target.faults, target.signed_levels
    again = target.programming.write_again_share > 0
    mean, power = np.zeros(digits.shape[1]), np.zeros(digits.shape[1])
    for place in range(len(digits)):
        plus, minus = np.maximum(digits[place], 0.0), np.maximum(-digits[place], 0.0)
        for share, level in ((faults.stuck_low_share, 0), (faults.stuck_high_share, most)):
            for held, reach in ((level - minus, (level - most, level)), (plus - level, (-level, most - level))):
                left = _left_below(digits, place, digits[place] - held, base, most)
                if again:
                    best = _left_below(digits, place, digits[place] - np.clip(digits[place], *reach), base, most)
                    left = np.where(np.abs(best) < np.abs(left), best, left)
                mean -= share * left
                power += share * np.square(left)
    return Errors(mean, np.maximum(power - np.square(mean), 0.0))


def _left_below(digits: Array, place: int, left: Array, base: int, most: int) -> Array:
    """Rest of the error of a slice that those below it leave, [kinds]."""
    for below in range(place - 1, -1, -1):
        goal = digits[below] + base * left
        left = goal - np.clip(goal, -most, most)
    return left


# --- after writing --------------------------------------------------------------------------------


def _aging(digits: Array, target: Target, age: Conditions) -> Mapping[Cause, tuple[Array, Array]]:
    """Mean and variance of what moves cells after writing, both [polarities, slices, kinds], in uS and uS^2."""
    cell = target.cell
    levels = np.maximum(np.stack([digits, -digits]), 0.0)
    cells_us = cell.g_min_us + levels * cell.level_step_us
    found: dict[Cause, tuple[Array, Array]] = {}
    relaxation, retention, drift, disturb = target.relaxation, target.retention, target.drift, target.read_disturb
    if relaxation is not None and age.time_s > 0:
        grown = math.sqrt(-math.expm1(-age.time_s / relaxation.time_constant_s))
        sigma_us = relaxation.final_sigma_at_us(cells_us, cell.reference_us) * grown
        mean, variance = clipped_moments(cells_us, sigma_us)
        found[Cause.RELAXATION] = mean - cells_us, variance
    if retention is not None and age.time_s >= retention.reference_s:
        changed_us = cells_us + retention.mean_at_us(cells_us, age.time_s)
        mean, variance = clipped_moments(changed_us, retention.sigma_at_us(cells_us, age.time_s))
        found[Cause.RETENTION] = mean - cells_us, variance
    if drift is not None and age.time_s > drift.reference_s:
        first, second = drift_moments(drift, cells_us, age.time_s)
        found[Cause.DRIFT] = (first - 1) * cells_us, (second - np.square(first)) * np.square(cells_us)
    if target.flicker_noise is not None:
        found[Cause.FLICKER_NOISE] = np.zeros(cells_us.shape), _flicker_variance(cells_us, target, age)
    if disturb is not None and age.reads > 0:
        millions = age.reads / 1e6
        sigma_us = np.full(cells_us.shape, millions * disturb.sigma_us)
        mean, variance = clipped_moments(cells_us + millions * disturb.shift_us, sigma_us, 0.0, cell.g_max_us)
        found[Cause.READ_DISTURB] = mean - cells_us, variance
    return found


def drift_moments(drift: DriftSpec, goals_us: Array, time_s: float) -> tuple[Array, Array]:
    """First and second moment of the factor (t / t0)^-nu of cells written to some goals."""
    decades = math.log(time_s / drift.reference_s)
    if not drift.tabulated:
        # With a Gaussian nu it is log-normal.
        first = math.exp(-drift.exponent_mean * decades + 0.5 * (drift.exponent_sigma * decades) ** 2)
        second = math.exp(-2 * drift.exponent_mean * decades + 2 * (drift.exponent_sigma * decades) ** 2)
        return np.full(goals_us.shape, first), np.full(goals_us.shape, second)
    mean, sigma = drift.mean_at(goals_us), drift.sigma_at(goals_us)
    return _folded_power(mean, sigma, decades), _folded_power(mean, sigma, 2 * decades)


def _folded_power(mean: Array, sigma: Array, rate: float) -> Array:
    """E[exp(-rate |X|)] of X ~ N(mean, sigma^2)."""
    ratio = mean / np.maximum(sigma, 1e-12)
    shift = rate * sigma
    half = 0.5 * np.square(shift)
    power: Array = np.exp(half - rate * mean) * normal_share(ratio - shift)
    return power + np.exp(half + rate * mean) * normal_share(-ratio - shift)


def _flicker_variance(cells_us: Array, target: Target, age: Conditions) -> Array:
    """Variance of noise in proportion to the conductance, the residual one of cells at the lowest level included."""
    assert target.flicker_noise is not None
    if target.emulated_pulses is not None:
        mean_us, variance = _pulse_error_us(cells_us, target)
        sigma_us = np.sqrt(variance)
    else:
        # Before it is cut off at 0, where cells of the lowest level may be.
        mean_us = target.programming.mean_at_us(cells_us, target.cell.reference_us)
        sigma_us = target.programming.sigma_at_us(cells_us, target.cell.reference_us)
    points, weights = nodes()
    written_us = np.maximum((cells_us + mean_us)[..., None] + sigma_us[..., None] * points, 0.0)
    noise: Array = np.square(written_us * target.flicker_noise.share_at(written_us, age.time_s)) @ weights
    if target.drift is not None and age.time_s > target.drift.reference_s:
        noise = noise * drift_moments(target.drift, cells_us, age.time_s)[1]
    return noise
