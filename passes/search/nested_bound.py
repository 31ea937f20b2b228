"""Lower bound for the interval of a small network with any mixture of nested windows.

Benders decomposition mixes nested windows within a layer, which bounds for one window per layer do not
cover, and it lists neither all windows nor all numbers of replicas, so its infeasibility is no
bound either. Here every layer takes any chain of nested windows, among all its options, with any
number of replicas. Only the total capacity of all arrays is counted, in all ways of
:class:`MappingProblem`. One window per layer is a chain of one, so the bound holds for the plans of all
searches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from memcompile.ir.pass_contract import Effort
from memcompile.passes.search.nested_windows import cover
from memcompile.passes.search.problem import WAYS, Bracket, LayerKind, MappingProblem, in_time
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver

MOST_OPTIONS = 64
"""Most options of a layer; beyond, the bound counts steps only: chains grow with pairs of options."""
LIMIT = 0.25
"""Deterministic time to rule out one interval."""


def nested_bound(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Bound by bisection: the first interval that no mixture of windows is shown to miss."""
    steps = sum(len(kind.members) * _least_steps(kind) for kind in problem.kinds)
    bracket = replace(bracket, bound=max(bracket.bound, -(-steps // problem.arrays)))
    if max(len(kind.options) for kind in problem.kinds) > MOST_OPTIONS:
        return bracket
    return bracket.raised(lambda interval: is_impossible(problem, interval, LIMIT), in_time)


def _least_steps(kind: LayerKind) -> int:
    """Steps of all tiles of a layer if its best window were everywhere, without edges."""
    positions = kind.options[0].unrolling.geometry.positions
    return min(-(-option.tile_steps * positions // option.unrolling.window_outputs) for option in kind.options)


def is_impossible(problem: MappingProblem, interval: int, limit: float) -> bool:
    """Return True if no mixture of windows and no number of replicas keeps the interval; False if undecided.

    An impossible interval makes all shorter ones impossible.

    Parameters
    ----------
    limit
        In the solver's deterministic time.
    """
    arrays, cells = problem.arrays, problem.lines[0] * problem.lines[1]
    model = cp_sat.new_model()
    taken: list[cp_sat.LinearExprT] = []
    area: list[list[int]] = [[] for _ in range(WAYS)]
    steps: list[list[int]] = [[] for _ in range(WAYS)]
    for kind, demand in zip(problem.kinds, problem.demand, strict=True):
        # Areas are counts of halves of lines times lines, so they are integer numbers of cells.
        filled = np.rint((demand.whole + demand.part) * cells).astype(np.int64).tolist()
        idle = np.rint(demand.whole * interval).astype(np.int64).tolist()
        working = np.rint(demand.working).astype(np.int64).tolist()
        for _ in kind.members:
            for number, count in cover(model, dict(enumerate(kind.options))).items():
                copies = model.new_int_var(0, kind.options[number].windows, "")
                model.add(count <= interval // kind.options[number].longest * copies)
                taken += [copies, count]
                for way in range(WAYS):
                    area[way] += [filled[number][way], 0]
                    steps[way] += [idle[number][way], working[number][way]]
    for way in range(WAYS):
        model.add(cp_sat.LinearExpr.weighted_sum(taken, area[way]) <= arrays * cells)
        model.add(cp_sat.LinearExpr.weighted_sum(taken, steps[way]) <= arrays * interval)
    return Solver(limit).solve(model) == cp_sat.INFEASIBLE
