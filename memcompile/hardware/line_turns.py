"""Turns of output lines that share converters or are not all read at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.target import Target


@dataclass(frozen=True)
class LineTurns:
    """Steps in which a tile reads its output lines, from the first to the last one.

    Lines are read in groups of ``at_once``; of a group ``a_step`` lines are converted in each step. A converter takes
    every n-th line, so any ``a_step`` neighbours are spread evenly over the converters, wherever the tile lies.
    """

    at_once: int
    a_step: int

    @classmethod
    def of(cls, target: Target) -> LineTurns:
        """The turns of a target's arrays."""
        at_once = target.array.columns_at_once or target.array.output_lines
        return cls(at_once, min(at_once, target.converters * target.adc.conversions_per_phase))

    @property
    def most_steps(self) -> int:
        """Steps of a group of lines that are read together."""
        return -(-self.at_once // self.a_step)

    def steps(self, widths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Steps of one product of a tile of so many output lines, elementwise."""
        groups, rest = np.divmod(np.asarray(widths, np.int64), self.at_once)
        found: NDArray[np.int64] = groups * self.most_steps - (-rest // self.a_step)
        return found

    def lines(self, width: int, turn: int) -> slice:
        """Output lines of a tile that are converted in one of its steps, counted from 0."""
        group, within = divmod(turn, self.most_steps)
        first = group * self.at_once + within * self.a_step
        return slice(first, min(first + self.a_step, (group + 1) * self.at_once, width))

    def narrower(self, steps: int, unit: int, most: int) -> tuple[int, ...]:
        """Columns of ``unit`` lines each, from 1 to ``most``, at which to cut tiles of no more than so many steps.

        As wide as that allows, and a whole fraction of ``most``: sizes of layers are often powers of two.
        """
        columns = np.arange(1, most + 1)
        widest = max(1, int(np.searchsorted(self.steps(columns * unit), steps, side="right")))
        halved = most
        while halved > widest:
            halved = -(-halved // 2)
        return tuple(dict.fromkeys((widest, halved)))


ONE_STEP = LineTurns(1 << 40, 1 << 40)
"""All lines at once, each with a converter of its own."""
