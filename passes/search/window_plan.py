"""Chooses window and number of replicas of each layer for the shortest interval, by Lagrangian relaxation.

For an interval of T steps a layer with an option of W windows needs ceil(W / T) replicas. Two
resources are short, cells and steps; a price between them separates the choice into one minimum
per layer, and a sweep over prices visits the choices worth packing. The same prices give the
Lagrangian bound: the priced demand of any choice must not exceed the available arrays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.passes.packing.bounds import arrays_bound, packing_interval_bound
from memcompile.passes.packing.packing import Packing, TileShape, pack
from memcompile.passes.search.explore_windows import CopyOption


@dataclass(frozen=True)
class LayerKind:
    """Layers with the same options: the layer numbers, and the layouts of a replica."""

    members: tuple[int, ...]
    options: tuple[CopyOption, ...]


@dataclass(frozen=True)
class Choice:
    """An option with a number of replicas that share its windows evenly."""

    option: CopyOption
    copies: int


@dataclass(frozen=True)
class WindowPlan:
    """One choice per layer of each kind, and the packing that proves it fits."""

    kinds: tuple[LayerKind, ...]
    choices: tuple[tuple[Choice, ...], ...]
    packing: Packing

    @property
    def interval(self) -> int:
        """Largest sum of loads in an array."""
        return max((fill.load for fill, _ in self.packing.fills), default=0)


def tiles_of(choice: Choice) -> dict[tuple[int, int, int], int]:
    """Tiles of all replicas of a choice: (input lines, output lines, steps) to count."""
    counts: dict[tuple[int, int, int], int] = {}
    least, longer = divmod(choice.option.windows, choice.copies)
    for load, copies in ((least + 1, longer), (least, choice.copies - longer)):
        for height, width, count in choice.option.sizes if copies else ():
            counts[height, width, load] = counts.get((height, width, load), 0) + count * copies
    return counts


def shapes_of(choices: Iterable[Sequence[Choice]]) -> list[TileShape]:
    """All tiles of all layers, collected by size and load; ``choices`` holds those of each kind."""
    counts: dict[tuple[int, int, int], int] = {}
    for layers in choices:
        for choice, number in Counter(layers).items():
            for key, count in tiles_of(choice).items():
                counts[key] = counts.get(key, 0) + count * number
    return [TileShape(*key, count) for key, count in sorted(counts.items())]


WAYS = 8
"""Ways to count cells and steps in bounds."""
RESOURCES = ("cells", "output lines", "input lines", "whole arrays")
"""Resources counted by the first four ways; the other four also count a tile that fills an array as a whole array."""
BOUND_PRICES = np.linspace(0, 1, 21)
"""Prices of cells against steps that are tried in bounds: at 0 steps alone count, at 1 cells alone."""
MOST_NAMED = 3
"""Most layers named as the largest consumers of a short resource."""


@dataclass(frozen=True)
class _Uses:
    """Demand of one replica, float64 [options, WAYS].

    Tiles that count as a whole array at any price, arrays filled by the others, and the
    number of tiles whose steps count. In any array ``whole + price * part + (1 - price) * steps /
    interval`` sums to at most 1 for each way.
    """

    whole: NDArray[np.float64]
    part: NDArray[np.float64]
    working: NDArray[np.float64]


@dataclass(frozen=True)
class _Rates:
    """Least demand of each kind [prices, WAYS], steps [prices, options, WAYS], and the total of all layers."""

    prices: NDArray[np.float64]
    least: tuple[NDArray[np.float64], ...]
    steps: tuple[NDArray[np.float64], ...]
    total: NDArray[np.float64]


@dataclass(frozen=True)
class Shortage:
    """Resource that keeps an interval from being shorter.

    ``resource`` is one of :data:`RESOURCES`; ``steps_share``, 0..1, is the weight of the time on the
    converters beside it; ``shares`` are the layers' shares of the demand, by layer number.
    """

    resource: str
    steps_share: float
    shares: Mapping[int, float]

    def words(self, names: Sequence[str]) -> str:
        """One line: the resource, and the layers that take most of it."""
        steps = "time on the converters"
        what = steps if self.steps_share == 1 else self.resource
        if 0 < self.steps_share < 1:
            what = f"{self.resource} and {steps}"
        ranked = sorted(self.shares, key=lambda layer: (-self.shares[layer], layer))[:MOST_NAMED]
        return f"{what}; most of it: " + ", ".join(f"{names[layer]} {self.shares[layer]:.0%}" for layer in ranked)


class PriceTable:
    """Demand of every option of every layer kind as a function of the interval.

    Cells are counted in four ways that are all valid in bounds: as they are, or with tiles
    higher (wider) than half an array counted as whole columns (rows), because no two such tiles
    stand above (beside) each other, and smaller ones in that direction not at all. Each way comes
    twice: with the steps of all tiles, and with a tile that counts as a whole array priced as one,
    because its array's other steps are lost to all tiles that are counted.
    """

    def __init__(self, kinds: Sequence[LayerKind], lines: tuple[int, int]) -> None:
        self.kinds = kinds
        self.lines = lines
        self.windows = [np.array([option.windows for option in kind.options], np.int64) for kind in kinds]
        self.work = [np.array([option.work for option in kind.options], np.int64) for kind in kinds]
        self.uses = [_uses(kind.options, lines) for kind in kinds]
        self.spread = [np.array([_spread(option, lines) for option in kind.options], np.float64) for kind in kinds]
        self.layers = np.array([len(kind.members) for kind in kinds], np.int64)

    @property
    def areas(self) -> list[NDArray[np.float64]]:
        """Arrays that a replica of each option fills, per kind [options, the four ways to count cells]."""
        return [use.part[:, : WAYS // 2] for use in self.uses]

    def bound(self, interval: int) -> float:
        """Lagrangian bound: arrays that any choice with one window per layer needs for this interval."""
        return float(self._rates(interval).total.max())

    def shortage(self, interval: int) -> Shortage:
        """Return the scarcest of all counted resources for this interval."""
        rates = self._rates(interval)
        # Of ways with the same shortage, the one with the highest price of cells, then the plainest.
        dearest_first = rates.total[::-1]
        row, way = np.unravel_index(int(np.argmax(np.round(dearest_first, 9))), dearest_first.shape)
        price = len(BOUND_PRICES) - 1 - row
        shares = {
            member: float(least[price, way] / rates.total[price, way])
            for kind, least in zip(self.kinds, rates.least, strict=True)
            for member in kind.members
        }
        return Shortage(RESOURCES[way % len(RESOURCES)], float(1 - BOUND_PRICES[price]), shares)

    def survivors(self, interval: int, arrays: int) -> list[tuple[int, int, int, int]]:
        """Choices that no price rules out for this interval: (kind, option, replicas, steps of a replica).

        Numbers of replicas form ranges that widen with the number. An entry stands for its range in
        bounds: it has the fewest replicas and the fewest steps per replica of the range.
        """
        found = []
        rates = self._rates(interval)
        for kind, item in enumerate(self.kinds):
            for option in range(len(item.options)):
                windows = int(self.windows[kind][option])
                copies = fewest = -(-windows // interval)
                while copies <= windows and self._allowed(rates, kind, option, copies, arrays):
                    after = copies + 1 + (copies - fewest) // 4
                    found.append((kind, option, copies, max(1, windows // (after - 1))))
                    copies = after
        return found

    def _rates(self, interval: int) -> _Rates:
        """Priced demand of the cheapest choices, and of steps, for every price."""
        prices = BOUND_PRICES
        least, steps = [], []
        for kind, use in enumerate(self.uses):
            windows = self.windows[kind][:, None]
            step = (1 - prices)[:, None, None] * (use.working * (windows / interval))[None]
            area = -(-windows // interval) * (use.whole + prices[:, None, None] * use.part)
            least.append((area + step).min(axis=1))
            steps.append(step)
        total = sum(count * item for count, item in zip(self.layers, least, strict=True))
        return _Rates(prices, tuple(least), tuple(steps), np.asarray(total))

    def _allowed(self, rates: _Rates, kind: int, option: int, copies: int, arrays: int) -> bool:
        """Return True if the cheapest choices of all other layers leave room for this one at every price."""
        use = self.uses[kind]
        area = copies * (use.whole[option] + rates.prices[:, None] * use.part[option])
        own = area + rates.steps[kind][:, option]
        return bool((rates.total - rates.least[kind] + own <= arrays + 1e-6).all())

    def choices(self, interval: int, prices: Sequence[float]) -> list[tuple[Choice, ...]]:
        """The cheapest choice for each price of cells against steps, without repetition."""
        found: dict[tuple[int, ...], tuple[Choice, ...]] = {}
        for price in prices:
            numbers, picked = [], []
            for kind, item in enumerate(self.kinds):
                copies = -(-self.windows[kind] // interval)
                cost = price * copies * self.spread[kind] + (1 - price) * self.work[kind] / interval
                number = int(np.argmin(cost))
                numbers.append(number)
                picked.append(Choice(item.options[number], int(copies[number])))
            found.setdefault(tuple(numbers), tuple(picked))
        return list(found.values())


def _uses(options: Sequence[CopyOption], lines: tuple[int, int]) -> _Uses:
    """Demand of a replica of each option, counted in all ways."""
    whole, part, working = np.zeros((3, len(options), WAYS))
    for number, option in enumerate(options):
        for height, width, count in option.sizes:
            tall, wide = _half(height, lines[0]), _half(width, lines[1])
            high, broad = height / lines[0], width / lines[1]
            for way, area in enumerate((high * broad, tall * broad, high * wide, tall * wide)):
                part[number, way] += area * count
                working[number, way] += count
                if area == 1.0:
                    whole[number, 4 + way] += count
                elif area > 0.0:
                    part[number, 4 + way] += area * count
                    working[number, 4 + way] += count
    return _Uses(whole, part, working)


def _half(size: int, capacity: int) -> float:
    return 1.0 if 2 * size > capacity else 0.5 if 2 * size == capacity else 0.0


def _spread(option: CopyOption, lines: tuple[int, int]) -> float:
    """Arrays that a replica takes in practice: equal tiles in rows and columns, nothing between."""
    return sum(count / ((lines[0] // height) * (lines[1] // width)) for height, width, count in option.sizes)


PRICES = {
    "fast": (1.0, 0.8, 0.5, 0.2),
    "normal": (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0),
}


def interval_bound(table: PriceTable, arrays: int) -> int:
    """Lower bound for the interval with one window per layer and any number of replicas."""
    low, high = 1, max(int(table.windows[kind].max()) for kind in range(len(table.kinds)))
    while table.bound(high) > arrays + 1e-6:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        if table.bound(middle) > arrays + 1e-6:
            low = middle + 1
        else:
            high = middle
    return low


def try_interval(table: PriceTable, interval: int, arrays: int, prices: Sequence[float]) -> WindowPlan | None:
    """Return a plan that keeps this interval on these arrays; None if no price finds one."""
    for choices in table.choices(interval, prices):
        by_layer = tuple((choice,) * len(kind.members) for kind, choice in zip(table.kinds, choices, strict=True))
        shapes = shapes_of(by_layer)
        if arrays_bound(shapes, table.lines, interval) > arrays:
            continue
        packing = pack(shapes, table.lines, interval, arrays, enough=arrays)
        if packing is not None:
            return WindowPlan(tuple(table.kinds), by_layer, packing)
    return None


def shortest_interval(
    table: PriceTable, arrays: int, single: WindowPlan, bound: int, prices: Sequence[float]
) -> WindowPlan:
    """Bisect for the shortest interval that a plan reaches; ``single`` is the fallback."""
    best, low = single, bound
    while low < best.interval:
        middle = math.isqrt(low * best.interval) if best.interval > 4 * low else (low + best.interval) // 2
        plan = try_interval(table, middle, arrays, prices)
        if plan is None:
            low = middle + 1
        else:
            best = plan
    return best


def balanced(plan: WindowPlan, lines: tuple[int, int]) -> WindowPlan:
    """The same choices in no more arrays, packed for the shortest interval that first fit reaches."""
    shapes = shapes_of(plan.choices)
    low = packing_interval_bound(shapes, lines, plan.packing.arrays)
    best = plan
    while low < best.interval:
        middle = (low + best.interval) // 2
        packing = pack(shapes, lines, middle, plan.packing.arrays, enough=plan.packing.arrays)
        if packing is None:
            low = middle + 1
        else:
            best = WindowPlan(plan.kinds, plan.choices, packing)
    return best
