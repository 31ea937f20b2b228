"""Multiple-choice knapsack of an accuracy budget: one option a layer, the sum of noise within a limit, the least cost.

No interval is shorter than the steps of arrays and of cells, shared evenly by those there are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from memcompile.accuracy.layer_options import LayerOption
from memcompile.hardware.target import Target
from memcompile.passes.solving import cp_sat
from memcompile.passes.solving.solver import Solver

UNITS = 1_000_000
"""Units in which the knapsack counts the limit of noise."""
FRACTIONS = 16
"""Parts of a step in which it counts the interval."""
KNAPSACK_WORK = 2.0
"""Limit of a solve, in the solver's deterministic time."""
TINY = 1e-30
"""Least limit by which noise is divided."""


def pick_options(
    options: Sequence[Sequence[LayerOption]],
    limit: float,
    target: Target,
    chips: int | None = None,
    filled: float = 1.0,
) -> list[int]:
    """Number of the option of each layer, a multiple-choice knapsack.

    Noise is within a limit, with the fewest cells, or with the fewest steps on a number of chips of which a share of
    the cells is ``filled``. Where nothing is within the limit, it is the least noise that the chips have room for, and
    where they have no room for anything, the fewest cells.
    """
    knapsack = _Knapsack(options, target, None if chips is None else chips * target.chip.arrays, filled)
    for stages in (("limit", "room"), ("room",), ()):
        found = knapsack.solved(limit if "limit" in stages else None, room="room" in stages)
        if found is not None:
            return found
    raise AssertionError("one option of each layer is always a choice")


def pick_on_fewest_chips(
    options: Sequence[Sequence[LayerOption]], limit: float, target: Target, filled: float = 1.0
) -> list[int]:
    """Number of the option of each layer within a limit, with few steps on the fewest chips that have enough cells."""
    fewest = pick_options(options, limit, target)
    cells = sum(own[pick].cells for own, pick in zip(options, fewest, strict=True))
    chips = max(1, math.ceil(cells / (target.chip.arrays * target.array.cells)))
    return pick_options(options, limit, target, chips, filled)


class _Knapsack:
    """Models of one choice for each layer, on some arrays or on as many as it takes (None)."""

    def __init__(
        self, options: Sequence[Sequence[LayerOption]], target: Target, arrays: int | None, filled: float
    ) -> None:
        self.options, self.target, self.arrays, self.filled = options, target, arrays, filled

    def solved(self, limit: float | None, *, room: bool) -> list[int] | None:
        """Cheapest choice within a limit of noise, or the quietest; None if there is none.

        Without ``room`` the arrays hold any number of cells, and the choice is that of the fewest.
        """
        model = cp_sat.new_model()
        picks = [[model.new_bool_var("") for _ in own] for own in self.options]
        pairs = list(zip(itertools.chain(*picks), itertools.chain(*self.options), strict=True))
        for own in picks:
            model.add_exactly_one(own)

        def total(value: Callable[[LayerOption], int]) -> Any:
            return sum(pick * value(option) for pick, option in pairs)

        unit = limit if limit is not None else max(option.noise for _, option in pairs)
        noise = total(lambda option: math.ceil(UNITS * min(option.noise / max(unit, TINY), 2.0)))
        cells = total(lambda option: option.cells)
        if limit is not None:
            # Each is rounded up, so that a choice that uses all of the limit may be refused by a unit a layer.
            model.add(noise <= UNITS + len(self.options))
        if room and self.arrays is not None:
            model.add(cells <= int(self.filled * self.arrays * self.target.array.cells))
        if limit is None and room:
            model.minimize(noise)
        elif self.arrays is None or not room:
            model.minimize(cells)
        else:
            model.minimize(self._steps(model, total) * (1 + self.arrays * self.target.array.cells) + cells)
        solver = Solver(KNAPSACK_WORK)
        if solver.solve(model) not in (cp_sat.OPTIMAL, cp_sat.FEASIBLE):
            return None
        return [next(number for number, pick in enumerate(own) if solver.value(pick)) for own in picks]

    def _steps(self, model: cp_sat.CpModel, total: Callable[[Callable[[LayerOption], int]], Any]) -> Any:
        """Interval in parts of a step: no shorter than arrays are busy, and than cells are taken."""
        assert self.arrays is not None
        most = sum(max(option.array_steps for option in own) for own in self.options)
        steps = model.new_int_var(0, FRACTIONS * most, "")
        model.add(total(lambda option: FRACTIONS * option.array_steps) <= self.arrays * steps)
        cells = self.arrays * self.target.array.cells
        model.add(total(lambda option: FRACTIONS * option.cell_steps) <= cells * steps)
        return steps
