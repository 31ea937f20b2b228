"""Proposes window and replicas of each layer for a short latency of one image.

Where layers overlap little, their steps add up, and arrays are shared out among them: a price per
array separates that into one minimum per layer. Where they overlap well the slowest layer dominates,
and the plan of the shortest interval is as good; the best of all plans is found by scheduling
each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memcompile.passes.packing.bounds import arrays_bound
from memcompile.passes.packing.first_fit import pack
from memcompile.passes.search.problem import Choice, MappingProblem, WindowPlan, shapes_of

PRICES = np.geomspace(1e-3, 1e5, 65)
"""Prices of an array in steps."""


def latency_plans(problem: MappingProblem) -> list[WindowPlan]:
    """Plans that fit, from a bisection over the price of an array, most replicas first."""
    plans: list[WindowPlan] = []
    low, high = 0, len(PRICES) - 1
    while low <= high:
        middle = (low + high) // 2
        plan = _fitting(problem, _cheapest(problem, float(PRICES[middle])))
        if plan is None:
            low = middle + 1
        else:
            plans.append(plan)
            high = middle - 1
    return plans[::-1]


def _fitting(problem: MappingProblem, choices: Sequence[Choice]) -> WindowPlan | None:
    """Pack such that the tiles of a layer rarely wait for each other; None if they do not fit."""
    by_layer = tuple((choice,) * len(kind.members) for kind, choice in zip(problem.kinds, choices, strict=True))
    shapes = shapes_of(by_layer)
    if arrays_bound(shapes, problem.lines, None) > problem.arrays:
        return None
    # An array that works no longer than the slowest layer seldom holds two tiles of one layer.
    steps = max(-(-choice.option.windows // choice.copies) * choice.option.longest for choice in choices)
    total = sum(shape.load * shape.count for shape in shapes)
    while True:
        packing = pack(shapes, problem.lines, steps, problem.arrays, enough=problem.arrays)
        if packing is not None:
            return problem.plan(by_layer, packing)
        if steps >= total:
            return None
        steps = min(2 * steps, total)


def _cheapest(problem: MappingProblem, price: float) -> list[Choice]:
    """Choice with the least steps plus price times arrays, per layer kind."""
    picked = []
    for kind, item in enumerate(problem.kinds):
        windows, spread, longest = problem.windows[kind], problem.spread[kind], problem.longest[kind]
        ideal = np.sqrt(windows * longest / (price * spread))
        best: tuple[float, int, int] | None = None
        for copies in (np.floor(ideal), np.ceil(ideal)):
            number = np.clip(copies, 1, windows).astype(np.int64)
            cost = -(-windows // number) * longest + price * number * spread
            option = int(np.argmin(cost))
            # Replicas that do not shorten the largest share are of no use.
            useful = -(-int(windows[option]) // -(-int(windows[option]) // int(number[option])))
            if best is None or float(cost[option]) < best[0]:
                best = (float(cost[option]), option, useful)
        assert best is not None
        picked.append(Choice(item.options[best[1]], best[2]))
    return picked
