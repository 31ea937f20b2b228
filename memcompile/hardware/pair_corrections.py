"""Writing pairs again: which of them, how often, and what error is left.

After writing, pairs of cells are read back. Where the error of a weight is above a limit, one of its two cells is
written against the measured value of the other one, which leaves the error of one write instead of two; cells take
turns, so that a stuck one is made up for. That goes on until the error is within the limit, ``MOST_CORRECTIONS`` times
at most. The limit is a multiple of the standard deviation of a write, such that weights take a given number of
corrections on average. Of several slices the lowest is corrected, and another one where those below cannot make up for
its error.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import CellSpec, Target

MOST_CORRECTIONS = 8
"""Corrections of one weight; one that cannot be reached would take any number."""
LEAST_LIMIT = 0.02
"""Limit of levels below which no error is worth a write."""
STEPS = 60
"""Halvings of the search for a limit."""

Array = NDArray[np.float64]


@lru_cache(maxsize=16)
def limit_sigmas(share: float) -> float:
    """Limit, in standard deviations of a write, at which weights take ``share`` corrections on average.

    The error of a pair that was just written has the variance of two writes, that of a corrected one of one.
    """
    low, high = 0.0, 10.0
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if corrections_at(middle) > share else (low, middle)
    return 0.5 * (low + high)


def corrections_at(limit: float) -> float:
    """Corrections of a weight on average with a limit in standard deviations of a write."""
    first, again = math.erfc(limit / 2.0), math.erfc(limit / math.sqrt(2.0))
    return first * math.fsum(again**turn for turn in range(MOST_CORRECTIONS))


def mean_correction_us(target: Target) -> tuple[Array, Array]:
    """Conductance from which a cell is moved by a correction on average, and to which, in microsiemens.

    A cell in the middle of the window is moved by the mean size of the errors of first writes above the limit.
    """
    spec, cell = target.programming, target.cell
    limit = limit_sigmas(spec.write_again_share) / math.sqrt(2.0)
    above = math.exp(-0.5 * limit**2) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(limit / math.sqrt(2.0)))
    levels_us = np.linspace(cell.g_min_us, cell.g_max_us, cell.levels)
    sigma_us = float(np.sqrt(np.square(spec.sigma_at_us(levels_us, cell.reference_us)).mean()))
    middle_us = np.array(0.5 * (cell.g_min_us + cell.g_max_us))
    return middle_us, middle_us + math.sqrt(2.0) * sigma_us * above


def accepted_errors(levels: Array, below: Array | None, base: Array | int, target: Target) -> tuple[Array, Array]:
    """Ends of the error that is left alone, held less wanted level, of pairs that are to hold some signed levels.

    Parameters
    ----------
    below
        Levels of the next slice, which takes what this one leaves times ``base``; None for the lowest slice.
    """
    if below is None:
        limits = _limits_levels(levels, target)
        return -limits, limits
    most = target.signed_levels + LEAST_LIMIT
    return (below - most) / base, (below + most) / base


def _limits_levels(levels: Array, target: Target) -> Array:
    """Limit of the lowest slice, in levels, by the root mean square of the standard deviations of both cells."""
    spec, cell = target.programming, target.cell
    powers = [np.square(spec.sigma_at_us(goals_us, cell.reference_us)) for goals_us in pair_goals_us(levels, target)]
    sigma_us = np.sqrt(0.5 * (powers[0] + powers[1]))
    limits: Array = np.maximum(limit_sigmas(spec.write_again_share) * sigma_us / cell.level_step_us, LEAST_LIMIT)
    return limits


def correction_goals_us(
    held_us: tuple[Array, Array],
    wanted_us: Array,
    moves: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    cell: CellSpec,
    *,
    minus_first: bool,
) -> tuple[NDArray[np.bool_], Array]:
    """Cell of each pair to write, and its goal, so that the pair holds a difference of conductances.

    Parameters
    ----------
    held_us
        Conductances of both cells, the one that adds first.
    wanted_us
        Difference that pairs are to hold, in microsiemens.
    moves
        Cells that are not stuck, which was seen when they were written first.
    minus_first
        Where both cells move and have the room, the one that is subtracted is written.

    Returns
    -------
    Mask of pairs whose subtracted cell is written, and goals, which may lie outside of the window.
    """
    of_plus, of_minus = held_us[1] + wanted_us, held_us[0] - wanted_us
    plus_fits, minus_fits = ((cell.g_min_us <= goals) & (goals <= cell.g_max_us) for goals in (of_plus, of_minus))
    by_minus = np.where(moves[0] & moves[1], minus_fits & (minus_first | ~plus_fits), moves[1])
    return by_minus, np.where(by_minus, of_minus, of_plus)


def pair_goals_us(levels: Array, target: Target) -> tuple[Array, Array]:
    """Conductances of both cells of pairs with signed levels: one above g_min, the other at it."""
    cell = target.cell
    plus, minus = (
        cell.g_min_us + np.clip(sign * levels, 0.0, cell.levels - 1) * cell.level_step_us for sign in (1.0, -1.0)
    )
    return plus, minus
