"""Proven bounds over all choices within an accuracy budget: chips and steps that no mapping goes below.

The bound of a mapping holds for the slices that it has. Here each layer may have any slices that are tried, and any
window, as long as the sum of noise is within the limit: a further row in the integer program of the mapping search. A
layer with some slices is taken to have the least noise that is known of it, with the windows of the first mapping or
without any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memcompile.accuracy.layer_options import LayerOption
from memcompile.hardware.line_turns import LineTurns
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Geometry
from memcompile.passes.packing.tiling import tile_limits
from memcompile.passes.replicate import lines_of, may_nest
from memcompile.passes.search.explore_windows import ReplicaOption, explore_windows
from memcompile.passes.search.multiple_choice_knapsack import Cuts, FurtherRow, Knapsack
from memcompile.passes.search.problem import LayerKind, MappingProblem, in_time
from memcompile.passes.solving.bisection import first_true
from memcompile.passes.solving.clock import Clock, running

UNITS = 1_000_000
"""Units in which the limit of noise is counted."""
TINY = 1e-30
"""Least limit by which noise is divided."""
SOLVE_WORK, WORK = 0.1, 2.0
"""Limits of one integer program, in the solver's deterministic time, and of all of them."""


@dataclass(frozen=True)
class ChoiceBound:
    """Chips that no choice as quiet goes below, and steps that none goes below on the chips of the mapping."""

    chips: int
    steps: int


@dataclass(frozen=True, eq=False)
class ChoiceFamily:
    """All choices of slices and windows whose noise is within a limit.

    Parameters
    ----------
    geometries
        Of each layer.
    options
        Options of each layer that a budget chooses from; one of each together are within ``limit``.
    windows
        Whether layers may have parallel windows.
    """

    geometries: Sequence[Geometry]
    options: Sequence[Sequence[LayerOption]]
    limit: float
    target: Target
    windows: bool = True

    def bound(self, chips: int, steps: int, least_steps: int) -> ChoiceBound:
        """Bounds below a mapping with some steps on some chips.

        Parameters
        ----------
        least_steps
            Bound on these chips whatever the noise.
        """
        problem, row = self._program(chips)
        least_steps = min(least_steps, steps)
        if problem.takes_turns:  # tiles may be cut in more ways than the integer program knows
            return ChoiceBound(1, least_steps)
        ends = zip(problem.windows, problem.longest, strict=True)
        one_replica = max(int((windows * longest).max()) for windows, longest in ends)

        def possible(there: MappingProblem, interval: int, cuts: Cuts) -> bool:
            return not Knapsack(there, interval, cuts, row).is_impossible(SOLVE_WORK)

        def enough(number: int) -> bool:
            there = problem.on(number * self.target.chip.arrays)
            return possible(there, one_replica, Cuts(there))

        cuts = Cuts(problem)
        with running(Clock(work_left=WORK)):
            fewest = first_true(1, chips, enough, in_time)
            if not may_nest(problem):  # one layer may mix windows, which the integer program does not know
                least_steps = first_true(least_steps, steps, lambda number: possible(problem, number, cuts), in_time)
        return ChoiceBound(fewest, least_steps)

    def _program(self, chips: int) -> tuple[MappingProblem, FurtherRow]:
        """Layers with the windows of all numbers of slices as options, and the noise of each as a row."""
        arrays, kinds, weights = chips * self.target.chip.arrays, [], []
        known: dict[tuple[Geometry, int], tuple[ReplicaOption, ...]] = {}
        for number, (geometry, options) in enumerate(zip(self.geometries, self.options, strict=True)):
            found, noise = list[ReplicaOption](), list[int]()
            for slices, least in _least_noise(options).items():
                key = geometry, slices
                if key not in known:
                    known[key] = self._replicas(geometry, slices, arrays)
                found += known[key]
                # Rounded down, so that no choice within the limit is refused.
                noise += [int(UNITS * min(least / max(self.limit, TINY), 2.0))] * len(known[key])
            kinds.append(LayerKind((number,), tuple(found)))
            weights.append(np.array(noise, np.int64))
        return MappingProblem(tuple(kinds), lines_of(self.target), arrays), FurtherRow(weights, UNITS)

    def _replicas(self, geometry: Geometry, slices: int, arrays: int) -> tuple[ReplicaOption, ...]:
        """Layouts of a replica of a layer with some slices."""
        limits, lines = tile_limits(self.target, slices), slices * self.target.array.lines_per_pair
        turns = LineTurns.of(self.target)
        found = explore_windows(geometry, *limits, lines, arrays * self.target.array.crossings, turns)
        return tuple(option for option in found if self.windows or option.unrolling.window_outputs == 1)


def _least_noise(options: Iterable[LayerOption]) -> dict[int, float]:
    """Least noise of a layer by its number of slices."""
    found: dict[int, float] = {}
    for option in options:
        slices = option.plan.slices.count
        found[slices] = min(option.noise, found.get(slices, math.inf))
    return found
