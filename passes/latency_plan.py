"""Chooses window and copies of each layer so that one image alone takes few steps.

Layers follow each other, so the steps of the layers on a path add up, and arrays are shared out
among them. A price per array turns that into one minimum per layer (Lagrangian relaxation): for
any price, what the layers of a path and the arrays then cost, less the price of all arrays, is a
bound for the steps of that path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from memcompile.passes.packing import pack
from memcompile.passes.packing_bounds import arrays_bound
from memcompile.passes.window_plan import Choice, PriceTable, WindowPlan, shapes_of

PRICES = np.geomspace(1e-3, 1e5, 65)
"""Steps an array may cost."""


def latency_plans(table: PriceTable, arrays: int) -> list[WindowPlan]:
    """Plans that fit, from a bisection over the price of an array, most copies first."""
    plans: list[WindowPlan] = []
    low, high = 0, len(PRICES) - 1
    while low <= high:
        middle = (low + high) // 2
        plan = _fitting(table, _cheapest(table, float(PRICES[middle])), arrays)
        if plan is None:
            low = middle + 1
        else:
            plans.append(plan)
            high = middle - 1
    return plans[::-1]


def _fitting(table: PriceTable, choices: Sequence[Choice], arrays: int) -> WindowPlan | None:
    """Pack so that the tiles of a layer rarely wait for each other; None if it does not fit."""
    by_layer = tuple((choice,) * len(kind.members) for kind, choice in zip(table.kinds, choices, strict=True))
    shapes = shapes_of(by_layer)
    if arrays_bound(shapes, table.lines, None) > arrays:
        return None
    # An array that works no longer than the slowest layer seldom holds two tiles of one layer.
    steps = max(-(-choice.option.windows // choice.copies) for choice in choices)
    total = sum(shape.load * shape.count for shape in shapes)
    while True:
        packing = pack(shapes, table.lines, steps, arrays, enough=arrays)
        if packing is not None:
            return WindowPlan(tuple(table.kinds), by_layer, packing)
        if steps >= total:
            return None
        steps = min(2 * steps, total)


def _cheapest(table: PriceTable, price: float) -> list[Choice]:
    """Per layer kind: the choice with the fewest steps plus price times arrays."""
    picked = []
    for kind, item in enumerate(table.kinds):
        windows, spread = table.windows[kind], table.spread[kind]
        ideal = np.sqrt(windows / (price * spread))
        best: tuple[float, int, int] | None = None
        for copies in (np.floor(ideal), np.ceil(ideal)):
            number = np.clip(copies, 1, windows).astype(np.int64)
            cost = -(-windows // number) + price * number * spread
            option = int(np.argmin(cost))
            # Copies that do not shorten the largest share are of no use.
            useful = -(-int(windows[option]) // -(-int(windows[option]) // int(number[option])))
            if best is None or float(cost[option]) < best[0]:
                best = (float(cost[option]), option, useful)
        assert best is not None
        picked.append(Choice(item.options[best[1]], best[2]))
    return picked


def latency_bound(table: PriceTable, arrays: int, sources: Sequence[tuple[int, ...]]) -> int:
    """Steps that one image alone needs on ``arrays`` arrays whatever the windows and copies.

    Parameters
    ----------
    sources
        Per layer: the layers it waits for.
    """
    kind_of = {layer: kind for kind, item in enumerate(table.kinds) for layer in item.members}
    best = 0.0
    for price in PRICES.tolist():
        costs, idle = [], []
        for kind in range(len(table.kinds)):
            windows, area = table.windows[kind].astype(np.float64), price * table.areas[kind][:, 0]
            copies = np.clip(np.sqrt(windows / area), 1, windows)
            costs.append(float((windows / copies + area * copies).min()))
            idle.append(float(area.min()))
        # Layers off the path still need the arrays of one copy.
        longest: list[float] = []
        for layer, before in enumerate(sources):
            own = costs[kind_of[layer]] - idle[kind_of[layer]]
            longest.append(own + max((longest[number] for number in before), default=0.0))
        needed = sum(idle[kind_of[layer]] for layer in range(len(sources)))
        best = max(best, max(longest) + needed - price * arrays)
    return max(1, math.ceil(best - 1e-6))
