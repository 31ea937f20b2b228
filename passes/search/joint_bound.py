"""Lower bound for the interval of a small network with any mixture of nested windows.

The joint model mixes nested windows within a layer, which bounds for one window per layer do not
cover, and it lists neither all windows nor all numbers of replicas, so its infeasibility is no
bound either. Here every layer takes any chain of nested windows, among all its options, with any
number of replicas. Only the total capacity of all arrays is counted, in all ways of
:class:`PriceTable`. One window per layer is a chain of one, so the bound holds for the plans of all
searches.
"""

from __future__ import annotations

import numpy as np

from memcompile.passes.search.joint_model import cover
from memcompile.passes.search.window_plan import WAYS, LayerKind, PriceTable
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.clock import FOREVER, Clock
from memcompile.passes.solving.solver import Solver

MOST_OPTIONS = 64
"""Most options of a layer; beyond, the bound counts steps only: chains grow with pairs of options."""
LIMIT = 0.25
"""Deterministic time to rule out one interval."""


def joint_bound(table: PriceTable, arrays: int, high: int, clock: Clock = FOREVER) -> int:
    """The first interval that is not ruled out; at most ``high``, an interval that is kept."""
    low = min(high, max(1, -(-least_steps(table) // arrays)))
    if max(len(kind.options) for kind in table.kinds) > MOST_OPTIONS:
        return low
    while low < high and not clock.is_over:
        middle = (low + high) // 2
        if is_impossible(table, arrays, middle, LIMIT):
            low = middle + 1
        else:
            high = middle
    return low


def least_steps(table: PriceTable) -> int:
    """Steps of all tiles if every layer had its best window everywhere, without edges."""
    return sum(len(kind.members) * _least_steps(kind) for kind in table.kinds)


def _least_steps(kind: LayerKind) -> int:
    positions = kind.options[0].unrolling.geometry.positions
    return min(-(-option.tiles * positions // option.unrolling.window_outputs) for option in kind.options)


def is_impossible(table: PriceTable, arrays: int, interval: int, effort: float) -> bool:
    """Return True if no mixture of windows and no number of replicas keeps the interval; False if undecided.

    An impossible interval makes all shorter ones impossible.

    Parameters
    ----------
    effort
        Limit in the solver's deterministic time.
    """
    cells = table.lines[0] * table.lines[1]
    model = cp_sat.CpModel()
    taken: list[cp_sat.LinearExprT] = []
    area: list[list[int]] = [[] for _ in range(WAYS)]
    steps: list[list[int]] = [[] for _ in range(WAYS)]
    for kind, use in zip(table.kinds, table.uses, strict=True):
        # Areas are counts of halves of lines times lines, so they are integer numbers of cells.
        filled = np.rint((use.whole + use.part) * cells).astype(np.int64).tolist()
        idle = np.rint(use.whole * interval).astype(np.int64).tolist()
        working = np.rint(use.working).astype(np.int64).tolist()
        for _ in kind.members:
            for number, count in cover(model, dict(enumerate(kind.options))).items():
                copies = model.new_int_var(0, kind.options[number].windows, "")
                model.add(count <= interval * copies)
                taken += [copies, count]
                for way in range(WAYS):
                    area[way] += [filled[number][way], 0]
                    steps[way] += [idle[number][way], working[number][way]]
    for way in range(WAYS):
        model.add(cp_sat.LinearExpr.weighted_sum(taken, area[way]) <= arrays * cells)
        model.add(cp_sat.LinearExpr.weighted_sum(taken, steps[way]) <= arrays * interval)
    return Solver(effort).solve(model) == cp_sat.INFEASIBLE
