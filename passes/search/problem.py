"""The mapping problem, its plans, and the bracket of plan and bound that each stage of the search narrows."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.graph import Replica, read_only
from memcompile.passes.packing.first_fit import Packing, TileShape
from memcompile.passes.search.explore_windows import ReplicaOption
from memcompile.passes.solving.bisection import bisect, first_true, halfway
from memcompile.passes.solving.clock import running_clock

WAYS = 8
"""Ways to count cells and steps in bounds."""
RESOURCES = ("cells", "output lines", "input lines", "whole arrays")
"""Resources counted by the first four ways; the other four also count a tile that fills an array as a whole array."""


@dataclass(frozen=True)
class LayerKind:
    """Layers with the same options: the layer numbers, and the layouts of a replica."""

    members: tuple[int, ...]
    options: tuple[ReplicaOption, ...]


@dataclass(frozen=True)
class Choice:
    """An option with a number of replicas that share its windows evenly.

    A tile works on its share of the windows, each for as many steps as its output lines take turns.
    """

    option: ReplicaOption
    copies: int

    @property
    def tiles(self) -> dict[tuple[int, int, int], int]:
        """Tiles of all replicas: (input lines, output lines, steps) to count."""
        counts = Counter[tuple[int, int, int]]()
        least, longer = divmod(self.option.windows, self.copies)
        sizes = list(zip(self.option.sizes, self.option.turns, strict=True))
        for windows, copies in ((least + 1, longer), (least, self.copies - longer)):
            for (height, width, count), turns in sizes if copies else ():
                counts[height, width, windows * turns] += count * copies
        return counts

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas; of n replicas, replica r computes windows r, r + n, r + 2 n, ..."""
        windows = np.arange(self.option.windows, dtype=np.int32)
        shares = (read_only(np.ascontiguousarray(windows[copy :: self.copies])) for copy in range(self.copies))
        return tuple(Replica(self.option.unrolling, self.option.cut, share) for share in shares)


Choices = tuple[tuple[Choice, ...], ...]
"""The choice of each layer, kind by kind."""


def shapes_of(choices: Iterable[Sequence[Choice]]) -> list[TileShape]:
    """All tiles of all layers, collected by size and load; ``choices`` holds those of each kind."""
    counts = Counter[tuple[int, int, int]]()
    for layers in choices:
        for choice, number in Counter(layers).items():
            for key, count in choice.tiles.items():
                counts[key] += count * number
    return [TileShape(*key, count) for key, count in sorted(counts.items())]


@dataclass(frozen=True)
class WindowPlan:
    """One rectangular window per layer: a choice for each layer of each kind, and the packing that proves it fits."""

    kinds: tuple[LayerKind, ...]
    choices: Choices
    packing: Packing

    @property
    def interval(self) -> int:
        """Steps of the array that works longest on an image."""
        return self.packing.longest_load

    @cached_property
    def replicas(self) -> tuple[tuple[Replica, ...], ...]:
        """Replicas of each layer, in layer order."""
        by_layer = {}
        for kind, choices in zip(self.kinds, self.choices, strict=True):
            shared = {choice: choice.replicas for choice in choices}
            by_layer.update({layer: shared[choice] for layer, choice in zip(kind.members, choices, strict=True)})
        return tuple(by_layer[number] for number in range(len(by_layer)))


@dataclass(frozen=True)
class NestedPlan:
    """Replicas of each layer, with nested windows; ``packing`` is None where first fit finds one of its own."""

    replicas: tuple[tuple[Replica, ...], ...]
    interval: int
    packing: Packing | None


@dataclass(frozen=True)
class Demand:
    """Demand of one replica, float64 [options, WAYS].

    Tiles that count as a whole array at any price, arrays filled by the others, and the steps of a window in
    all tiles whose steps count. In any array ``whole + price * part + (1 - price) * steps /
    interval`` sums to at most 1 for each way.
    """

    whole: NDArray[np.float64]
    part: NDArray[np.float64]
    working: NDArray[np.float64]

    @classmethod
    def of(cls, options: Sequence[ReplicaOption], lines: tuple[int, int]) -> Demand:
        """Count a replica of each option in all ways."""
        whole, part, working = np.zeros((3, len(options), WAYS))
        for number, option in enumerate(options):
            for (height, width, count), turns in zip(option.sizes, option.turns, strict=True):
                tall, wide = _half(height, lines[0]), _half(width, lines[1])
                high, broad = height / lines[0], width / lines[1]
                for way, area in enumerate((high * broad, tall * broad, high * wide, tall * wide)):
                    part[number, way] += area * count
                    working[number, way] += count * turns
                    if area == 1.0:
                        whole[number, 4 + way] += count
                    elif area > 0.0:
                        part[number, 4 + way] += area * count
                        working[number, 4 + way] += count * turns
        return cls(whole, part, working)


def _half(size: int, capacity: int) -> float:
    return 1.0 if 2 * size > capacity else 0.5 if 2 * size == capacity else 0.0


@dataclass(frozen=True, eq=False)
class MappingProblem:
    """Layers and arrays: which window and how many replicas of each layer make the interval shortest.

    ``lines`` are the input lines and output lines of each of the ``arrays`` arrays. In bounds cells are
    counted in four ways: as they are, or with tiles higher (wider) than half an array counted as
    whole columns (rows), because no two such tiles stand above (beside) each other, and smaller
    ones in that direction not at all. Each way comes twice: with the steps of all tiles, and with a tile
    that counts as a whole array priced as one, because its array's other steps are lost to all
    tiles that are counted.
    """

    kinds: tuple[LayerKind, ...]
    lines: tuple[int, int]
    arrays: int

    @cached_property
    def layers(self) -> NDArray[np.int64]:
        """Layers of each kind."""
        return np.array([len(kind.members) for kind in self.kinds], np.int64)

    @cached_property
    def longest(self) -> list[NDArray[np.int64]]:
        """Steps of a window in the tile of a replica that takes most, per kind [options]."""
        return [np.array([option.longest for option in kind.options], np.int64) for kind in self.kinds]

    @cached_property
    def takes_turns(self) -> bool:
        """True if some tile takes several steps for a window."""
        return any(int(longest.max()) > 1 for longest in self.longest)

    def copies(self, interval: int) -> list[NDArray[np.int64]]:
        """Fewest replicas of each option that keep an interval, per kind [options]; 0 where none do."""
        found = []
        for windows, longest in zip(self.windows, self.longest, strict=True):
            held = interval // longest
            found.append(np.where(held > 0, -(-windows // np.maximum(held, 1)), 0))
        return found

    @cached_property
    def windows(self) -> list[NDArray[np.int64]]:
        """Windows of one image, per kind [options]."""
        return [np.array([option.windows for option in kind.options], np.int64) for kind in self.kinds]

    @cached_property
    def work(self) -> list[NDArray[np.int64]]:
        """Steps of one image summed over tiles, per kind [options]."""
        return [np.array([option.work for option in kind.options], np.int64) for kind in self.kinds]

    @property
    def least_interval(self) -> int:
        """Steps of one image if all arrays worked all the time, rounded down, 1 or more."""
        steps = sum(len(kind.members) * int(work.min()) for kind, work in zip(self.kinds, self.work, strict=True))
        return max(1, steps // self.arrays)

    @cached_property
    def demand(self) -> list[Demand]:
        """Demand of a replica of each option, per kind."""
        return [Demand.of(kind.options, self.lines) for kind in self.kinds]

    @cached_property
    def spread(self) -> list[NDArray[np.float64]]:
        """Arrays that a replica takes in practice, equal tiles in rows and columns; per kind [options]."""
        rows, columns = self.lines
        return [
            np.array([sum(n / ((rows // h) * (columns // w)) for h, w, n in option.sizes) for option in kind.options])
            for kind in self.kinds
        ]

    def on(self, arrays: int) -> MappingProblem:
        """The same layers on another number of arrays; what was counted of their options is kept."""
        found = copy.copy(self)
        object.__setattr__(found, "arrays", arrays)
        return found

    def plan(self, choices: Choices, packing: Packing | None) -> WindowPlan | None:
        """The plan of a packing; None without one."""
        return None if packing is None else WindowPlan(self.kinds, choices, packing)


@dataclass(frozen=True)
class Bracket:
    """Best plan so far, and a lower bound for the interval of any plan of its kind, with the method of its proof."""

    plan: WindowPlan | NestedPlan
    bound: int
    proof: str = ""

    def __post_init__(self) -> None:
        assert self.bound <= self.interval, "what is above a plan's interval is no bound"

    @property
    def interval(self) -> int:
        """Interval of the plan."""
        return self.plan.interval

    @property
    def gap(self) -> float:
        """Distance of the interval from the bound, as a share of the interval."""
        return (self.interval - self.bound) / self.interval if self.interval else 0.0

    def is_within(self, share: float) -> bool:
        """Return True if the gap is at most a share of the interval."""
        return self.interval - self.bound <= share * self.interval

    def raised(
        self, impossible: Callable[[int], bool], more: Callable[[int, int], bool] = lambda low, high: True
    ) -> Bracket:
        """Bisect for the bound: the first interval that is not shown to be impossible."""
        return replace(self, bound=first_true(self.bound, self.interval, lambda t: not impossible(t), more))

    def shortened(
        self,
        plan_for: Callable[[int], WindowPlan | None],
        more: Callable[[int, int], bool] = lambda low, high: True,
        middle: Callable[[int, int], int] = halfway,
        low: int = 0,
    ) -> Bracket:
        """Bisect for the plan: the shortest interval, from the bound or ``low`` on, for which one is found."""
        plan = self.plan

        def attempt(interval: int) -> int | None:
            nonlocal plan
            found = plan_for(interval)
            if found is None:
                return None
            plan = found
            return plan.interval

        bisect(max(self.bound, low), self.interval, attempt, more, middle)
        return replace(self, plan=plan)


def in_time(low: int, high: int) -> bool:
    """Return True as long as the running clock leaves time and work: an argument of bisections."""
    return not running_clock().is_over
