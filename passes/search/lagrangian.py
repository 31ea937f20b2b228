"""Lagrangian relaxation: a price between cells and steps separates the choice into one minimum per layer.

For an interval of T steps a layer with an option of W windows, each of n steps in a tile, needs
ceil(W / floor(T / n)) replicas. Two resources are short, cells and steps. At any price the demand
of the cheapest choices must not exceed the available arrays, which bounds the interval, rules out
single choices, and names the scarcest resource; a sweep over prices visits the choices worth packing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.pass_contract import Effort
from memcompile.passes.packing.bounds import arrays_bound, packing_interval_bound
from memcompile.passes.packing.first_fit import pack
from memcompile.passes.search.problem import (
    RESOURCES,
    WAYS,
    Bracket,
    Choice,
    MappingProblem,
    WindowPlan,
    shapes_of,
)

BOUND_PRICES = np.linspace(0, 1, 21)
"""Prices of cells against steps that are tried in bounds: at 0 steps alone count, at 1 cells alone."""
FEW_PRICES = (1.0, 0.8, 0.5, 0.2)
MANY_PRICES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
PARTS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Parts of an interval that a tile takes at most, where output lines take turns."""
MOST_NAMED = 3
"""Most layers named as the largest consumers of a short resource."""
ROUNDING = 1e-6
"""Arrays by which rounding may exceed the available ones."""
IMPOSSIBLE = 1e12
"""Arrays whose steps an option takes that keeps an interval with no number of replicas."""


def lagrangian_relaxation(problem: MappingProblem, bracket: Bracket, effort: Effort) -> Bracket:
    """Bound at all prices; plans with the cheapest choices at some."""
    bracket = bracket.raised(lambda interval: fewest_arrays(problem, interval) > problem.arrays + ROUNDING)
    prices = FEW_PRICES if effort == "fast" else MANY_PRICES
    return bracket.shortened(lambda interval: _plan_for(problem, interval, prices), middle=_middle)


def _middle(low: int, high: int) -> int:
    """Geometric mean of ends that are far apart."""
    return math.isqrt(low * high) if high > 4 * low else (low + high) // 2


def _plan_for(problem: MappingProblem, interval: int, prices: Sequence[float]) -> WindowPlan | None:
    """A plan that keeps this interval; None if no price finds one."""
    for choices in _cheapest_choices(problem, interval, prices):
        by_layer = tuple((choice,) * len(kind.members) for kind, choice in zip(problem.kinds, choices, strict=True))
        shapes = shapes_of(by_layer)
        if arrays_bound(shapes, problem.lines, interval) > problem.arrays:
            continue
        packing = pack(shapes, problem.lines, interval, problem.arrays, enough=problem.arrays)
        if packing is not None:
            return problem.plan(by_layer, packing)
    return None


def _cheapest_choices(problem: MappingProblem, interval: int, prices: Sequence[float]) -> list[tuple[Choice, ...]]:
    """The cheapest choice of each kind for each price of cells against steps, without repetition.

    Where output lines take turns, also with more replicas, whose tiles take a half, a third, ... of the interval: their
    steps, multiples of the turns, leave less of it over than those of tiles that take nearly all.
    """
    found: dict[tuple[tuple[int, int], ...], tuple[Choice, ...]] = {}
    for part in PARTS if problem.takes_turns else PARTS[:1]:
        fewest = problem.copies(interval // part)
        if any(not copies.any() for copies in fewest):
            break
        for price in prices:
            numbers, picked = [], []
            for kind, item in enumerate(problem.kinds):
                copies = fewest[kind]
                cost = price * copies * problem.spread[kind] + (1 - price) * problem.work[kind] / interval
                number = int(np.argmin(np.where(copies > 0, cost, np.inf)))
                numbers.append((number, int(copies[number])))
                picked.append(Choice(item.options[number], int(copies[number])))
            found.setdefault(tuple(numbers), tuple(picked))
    return list(found.values())


def balanced(plan: WindowPlan, lines: tuple[int, int]) -> WindowPlan:
    """The same choices in no more arrays, packed for the shortest interval that first fit reaches."""
    shapes, arrays = shapes_of(plan.choices), plan.packing.arrays

    def packed(interval: int) -> WindowPlan | None:
        packing = pack(shapes, lines, interval, arrays, enough=arrays)
        return None if packing is None else replace(plan, packing=packing)

    found = Bracket(plan, packing_interval_bound(shapes, lines, arrays)).shortened(packed).plan
    assert isinstance(found, WindowPlan)
    return found


@dataclass(frozen=True)
class _Rates:
    """Least demand of each kind [prices, WAYS], steps [prices, options, WAYS], and the total of all layers."""

    least: tuple[NDArray[np.float64], ...]
    steps: tuple[NDArray[np.float64], ...]
    total: NDArray[np.float64]


def _rates(problem: MappingProblem, interval: int) -> _Rates:
    """Priced demand of the cheapest choices, and of steps, for every price."""
    least, steps = [], []
    for windows, copies, demand in zip(problem.windows, problem.copies(interval), problem.demand, strict=True):
        working = demand.working * (windows[:, None] / interval)
        working[copies == 0] = IMPOSSIBLE
        step = (1 - BOUND_PRICES)[:, None, None] * working[None]
        area = copies[:, None] * (demand.whole + BOUND_PRICES[:, None, None] * demand.part)
        least.append((area + step).min(axis=1))
        steps.append(step)
    total = sum(count * item for count, item in zip(problem.layers, least, strict=True))
    return _Rates(tuple(least), tuple(steps), np.asarray(total))


def fewest_arrays(problem: MappingProblem, interval: int) -> float:
    """Lagrangian bound: arrays that any choice with one window per layer needs for this interval."""
    return float(_rates(problem, interval).total.max())


def survivors(problem: MappingProblem, interval: int) -> list[tuple[int, int, int, int]]:
    """Choices that no price rules out for this interval: (kind, option, replicas, windows of a replica).

    Numbers of replicas form ranges that widen with the number. An entry stands for its range in
    bounds: it has the fewest replicas and the fewest windows per replica of the range.
    """
    found = []
    rates = _rates(problem, interval)
    for kind, least in enumerate(problem.copies(interval)):
        for option, fewest in enumerate(least.tolist()):
            windows = int(problem.windows[kind][option])
            copies = fewest or windows + 1
            while copies <= windows and _is_allowed(problem, rates, kind, option, copies):
                after = copies + 1 + (copies - fewest) // 4
                found.append((kind, option, copies, max(1, windows // (after - 1))))
                copies = after
    return found


def _is_allowed(problem: MappingProblem, rates: _Rates, kind: int, option: int, copies: int) -> bool:
    """Return True if the cheapest choices of all other layers leave room for this one at every price."""
    demand = problem.demand[kind]
    area = copies * (demand.whole[option] + BOUND_PRICES[:, None] * demand.part[option])
    own = area + rates.steps[kind][:, option]
    return bool((rates.total - rates.least[kind] + own <= problem.arrays + ROUNDING).all())


@dataclass(frozen=True)
class Shortage:
    """Resource that keeps an interval from being shorter.

    ``resource`` is one of :data:`RESOURCES`; ``steps_share``, 0..1, is the weight of the time on the
    converters beside it; ``shares`` are the layers' shares of the demand, by layer number.
    """

    resource: str
    steps_share: float
    shares: Mapping[int, float]

    @classmethod
    def of(cls, problem: MappingProblem, interval: int) -> Shortage:
        """Find the scarcest of all counted resources for an interval."""
        rates = _rates(problem, interval)
        # Of ways with the same shortage, the one with the highest price of cells, then the plainest.
        dearest_first = rates.total[::-1]
        row, way = np.unravel_index(int(np.argmax(np.round(dearest_first, 9))), (len(BOUND_PRICES), WAYS))
        price = len(BOUND_PRICES) - 1 - row
        shares = {
            member: float(least[price, way] / rates.total[price, way])
            for kind, least in zip(problem.kinds, rates.least, strict=True)
            for member in kind.members
        }
        return cls(RESOURCES[way % len(RESOURCES)], float(1 - BOUND_PRICES[price]), shares)

    def words(self, names: Sequence[str]) -> str:
        """One line: the resource, and the layers that take most of it."""
        steps = "time on the converters"
        what = steps if self.steps_share == 1 else self.resource
        if 0 < self.steps_share < 1:
            what = f"{self.resource} and {steps}"
        ranked = sorted(self.shares, key=lambda layer: (-self.shares[layer], layer))[:MOST_NAMED]
        return f"{what}; most of it: " + ", ".join(f"{names[layer]} {self.shares[layer]:.0%}" for layer in ranked)
